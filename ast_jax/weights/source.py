"""A checkpoint as read, of any family: arrays under our paths, and the facts that come with them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import abstract, family, variables
from ast_jax.models.base import misfits
from ast_jax.objectives import stated_activation
from ast_jax.weights import layouts, published
from ast_jax.weights.model_card import stated_config, stated_front_end


@dataclasses.dataclass
class Source:
    """A checkpoint as read. `model` holds the fields of its family's Config under which `arrays` fit as they
    are.

    An image model is described as the tagger it would be, without a head; a ViT as the AST whose
    "spectrograms" have its images' size, patches side by side, its kernel [p, p, 3, D] still in colour.
    """

    # as the user named it
    where: str
    layout: str
    # a model of images; else one of sounds
    image: bool
    arrays: dict[str, np.ndarray]
    model: dict[str, Any]
    label_names: list[str] | None = None
    mean: float | None = None
    std: float | None = None
    # None: nobody says
    activation: str | None = None
    channels: str = "mean"
    notes: list[str] = dataclasses.field(default_factory=list)
    family: str = "ast"
    has_head: bool = True
    # None: its model's own
    front_end: FrontEnd | None = None
    thresholds: list[float | None] | None = None
    frame_thresholds: list[float | None] | None = None

    @property
    def config(self) -> Any:
        """Of its family's Config."""
        return family(self.family).Config(**self.model)

    def as_audioset(self) -> "Source":
        """Itself, a tagger of several labels a clip; with AudioSet's classes, in the order of its release, if
        it has so many. Says so, or that nobody names its classes.
        """
        self.activation, count = "sigmoid", self.model["num_classes"]
        if count == len(audioset := published.labels("audioset")):
            self.label_names = audioset
            self.notes.append(f"{count} classes: taken as AudioSet's, in the order of its release")
        else:
            self.notes.append(f"its {count} classes have no names in the file: --labels gives them")
        return self


def our_source(
    where: str,
    arrays: Mapping[str, Any],
    card: dict,
    *,
    layout: str = "ast_jax",
    loss: str | None = None,
) -> Source:
    """Our arrays under our paths, with their card, of any family; `loss` is what a run of ours was trained
    with.
    """
    config, family = stated_config(card, where), str(card.get("family", "ast"))
    front_end = stated_front_end(card, config, where)
    rows = [layouts.same(path) for path in variables(abstract(family, config))]
    found = fitted(where, family, config, rows, arrays)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return Source(
        where,
        layout,
        False,
        found,
        fields,
        label_names=card.get("label_names"),
        mean=card.get("mean"),
        std=card.get("std"),
        activation=stated_activation(card, loss),
        channels=card.get("channels", "mean"),
        family=family,
        front_end=front_end,
        thresholds=card.get("thresholds"),
        frame_thresholds=card.get("frame_thresholds"),
    )


def known(facts: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """What is known of a file that it does not say itself, or else is asked for, or else the default."""
    return facts.get(name, facts.get("asked", {}).get(name, default))


def unlike(stated: Mapping[str, Any], wanted: Mapping[str, tuple]) -> list[str]:
    """Where a file says another word than those that are computed here, a few words each; what it does not
    say is taken for one of them.
    """
    return [
        f"{key} {stated[key]!r}, not {' or '.join(map(repr, values))}"
        for key, values in wanted.items()
        if key in stated and stated[key] not in values
    ]


def hold(where: str, name: str, stated: Mapping[str, Any], wanted: Mapping[str, tuple]) -> None:
    """Raises InputError where a file of a directory is `unlike` what is wanted."""
    if other := unlike(stated, wanted):
        raise InputError(f"{where}: its {name} has {', '.join(other)}: not what is computed here")


def fitted(
    where: str,
    family: str,
    config: Any,
    rows: list[layouts.Row],
    arrays: Mapping[str, Any],
    *,
    unused: tuple[str, ...] = (),
    part: str = "",
    without: str | tuple[str, ...] = "",
) -> dict[str, np.ndarray]:
    """What a family's key table makes of a file's arrays: every key accounted for, in the shapes of a model
    of this configuration, or of the `part` of it whose paths begin so, or of all but those.

    Raises InputError: all that does not fit, in one line.
    """
    whole = variables(abstract(family, config))
    left = lambda path: bool(without) and path.startswith(without)
    wanted = {path: value for path, value in whole.items() if path.startswith(part) and not left(path)}
    check = lambda found: misfits(wanted, found)
    return layouts.read(rows, arrays, where=where, unused=unused, check=check)
