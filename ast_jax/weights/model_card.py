"""model_card.json: what it takes to use a model's arrays. The one place that writes it and that reads it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd, from_card
from ast_jax.models import base
from ast_jax.weights.budget import shown

# beside our arrays, or inside their file
CARD = "model_card.json"


def model_card(
    model: Any,
    *,
    label_names: Sequence[str],
    front_end: FrontEnd,
    activation: str,
    channels: str,
    multi_label: bool | None = None,
    thresholds: Sequence[float | None] | None = None,
    frame_thresholds: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """The card of `model`, which may be abstract.

    `activation` (objectives.ACTIVATIONS) makes scores of logits. `thresholds` say from which score on each
    class is found in a clip, `frame_thresholds` in a step of time; None where nobody has chosen one.
    """
    card = {
        "family": base.family_name(model),
        "model": dataclasses.asdict(model.config),
        "label_names": list(label_names),
        "front_end": front_end.card(),
        "mean": front_end.mean,
        "std": front_end.std,
        "sample_rate_hz": front_end.sample_rate_hz,
        "channels": channels,
        "activation": activation,
        "multi_label": activation == "sigmoid" if multi_label is None else multi_label,
    }
    if front_end.spread != type(front_end).spread:
        card["spread"] = front_end.spread
    chosen = {"thresholds": thresholds, "frame_thresholds": frame_thresholds}
    return card | {name: list(own) for name, own in chosen.items() if own is not None}


def stated_config(card: Mapping[str, Any], where: str) -> Any:
    """The configuration that a card states, of its family's class; an int may stand for a float, a list for a
    tuple.

    Raises InputError: fields that are missing, unknown, of another type or out of range.
    """
    kind = base.family(str(card.get("family", "ast"))).Config
    stated = get(card, "model", where, dict)
    upgrade = getattr(kind, "upgraded", lambda stated: dict(stated))
    stated = {key: _tuples(value) for key, value in upgrade(stated).items()}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := stated.keys() - fields.keys():
        raise InputError(
            f"{where}: its model card has unknown fields {', '.join(sorted(unknown))}, a newer version's?"
        )
    for name, field in fields.items():
        if name not in stated:
            if field.default is dataclasses.MISSING or name in ("num_classes", "num_frames"):
                raise InputError(f"{where}: its config lacks {name}")
        elif field.default is not None and field.default is not dataclasses.MISSING:
            get(stated, name, where, type(field.default))
    return kind(**stated)


def stated_front_end(card: Mapping[str, Any], config: Any, where: str) -> FrontEnd:
    """The front end that a card states, with its mean and std if it has both; AudioSet's kind where it states
    none.
    """
    front_end = from_card(card.get("front_end"), num_mel_bins=getattr(config, "num_mel_bins", 128))
    if "spread" in card:
        front_end = dataclasses.replace(front_end, spread=get(card, "spread", where, float))
    if card.get("mean") is None or card.get("std") is None:
        return front_end
    mean, std = (get(card, key, where, float) for key in ("mean", "std"))
    return front_end.with_statistics(mean, std)


def get(config: Mapping[str, Any], key: str, where: str, kind: type = int, *, most: int = 0) -> Any:
    """A field that a config must have, of the type that it must have; an int may stand for a float.

    With `most` it is 1 to that.
    """
    if key not in config:
        raise InputError(f"{where}: its config lacks {key}")
    value = config[key]
    if isinstance(value, bool) != (kind is bool) or not isinstance(
        value, (int, float) if kind is float else kind
    ):
        raise InputError(f"{where}: its config has {key} {shown(value)}, wanted {kind.__name__}")
    if most and not (isinstance(value, int | float) and 1 <= value <= most):
        raise InputError(f"{where}: its config has {key} {value}, wanted 1 to {most}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
