"""A checkpoint as read: parameters under our paths, and the facts that come with them, held against each other.

Positions are [1, P + f t, D], P class and distillation tokens first.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features import SAMPLE_RATE
from ast_jax.models import ASTConfig
from ast_jax.weights import layouts

CARD = "model_card.json"  # beside our parameters, or inside their file
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}  # of the ViT family; a state dict does not say


def model_card(
    model: ASTConfig,
    *,
    label_names: Sequence[str],
    mean: float,
    std: float,
    multi_label: bool,
    channels: str,
    sample_rate_hz: int = SAMPLE_RATE,
) -> dict[str, Any]:
    """What it takes to use the weights: what model_card.json says, in a run as in a converted directory."""
    return {
        "model": dataclasses.asdict(model),
        "label_names": list(label_names),
        "mean": mean,
        "std": std,
        "multi_label": multi_label,
        "sample_rate_hz": sample_rate_hz,
        "channels": channels,
    }


@dataclasses.dataclass
class Source:
    """A checkpoint as read. `model` holds the ASTConfig fields under which `params` fit as they are.

    An image model is described as the AST it would be: its grid over image-sized "spectrograms", patches side by side,
    a kernel [p, p, 3, D] still in colour, no head.
    """

    where: str  # as the user named it
    layout: str
    image: bool  # an ImageNet ViT; else an AST
    params: dict[str, np.ndarray]
    model: dict[str, Any]
    label_names: list[str] | None = None
    mean: float | None = None
    std: float | None = None
    multi_label: bool | None = None
    channels: str = "mean"
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def config(self) -> ASTConfig:
        return ASTConfig(**self.model)

    @property
    def has_head(self) -> bool:
        return "head/kernel" in self.params

    def structure(self) -> dict[str, Any]:
        """What a model must share with this source to start from it, for building one that follows."""
        names = ("width", "depth", "num_heads", "mlp_ratio", "distilled", "norm_eps")
        return {name: self.model[name] for name in names if name in self.model}


def image_source(
    where: str, layout: str, params: dict, side: int, facts: dict, eps: float, notes: list[str]
) -> Source:
    """An ImageNet ViT of `side` x `side` patches as the AST it would be."""
    patch = params["patch_embed/kernel"].shape[:2]
    model = shapes(where, params, facts) | {
        "patch_shape": patch,
        "strides": patch,
        "num_mel_bins": side * patch[0],
        "num_frames": side * patch[1],
        "norm_eps": eps,
    }
    return Source(where, layout, True, params, model, notes=notes)


def our_source(where: str, params: Mapping[str, Any], card: dict, layout: str = "ast_jax") -> Source:
    """Our parameters under our paths, with their card."""
    stated = get(card, "model", where, dict)
    model: dict[str, Any] = {
        k: tuple(value) if isinstance(value, list) else value for k, value in stated.items()
    }
    fields = {field.name: type(field.default) for field in dataclasses.fields(ASTConfig)}
    if unknown := model.keys() - fields.keys():
        raise InputError(
            f"{where}: its model card has unknown fields {', '.join(sorted(unknown))}, a newer version's?"
        )
    if isinstance(model.get("remat"), bool):  # cards from before there were policies
        model["remat"] = "blocks" if model["remat"] else "none"
    model = {key: get(model, key, where, kind) for key, kind in fields.items()}
    rows = layouts.ours(model["depth"], distilled=model["distilled"])
    params = layouts.read(rows, params, where=where)
    check(where, model, params)
    facts: dict[str, Any] = {name: card.get(name) for name in ("label_names", "mean", "std", "multi_label")}
    return Source(where, layout, False, params, model, channels=card.get("channels", "mean"), **facts)


def shapes(where: str, params: Mapping[str, np.ndarray], facts: dict) -> dict[str, Any]:
    """The ASTConfig fields that the arrays' shapes tell."""
    width, hidden = params["blocks/0/mlp/fc1/kernel"].shape
    if hidden % width:
        raise InputError(
            f"{where}: the MLP is {hidden} wide, no multiple of the model's {width}: such models are not offered"
        )
    heads = facts.get("num_heads", _HEADS.get(width))
    if heads is None:
        raise InputError(f"{where} is {width} wide and does not say its number of heads: give num_heads")
    return {
        "width": width,
        "depth": depth(params, r"blocks/(\d+)/"),
        "num_heads": heads,
        "mlp_ratio": hidden // width,
        "distilled": "dist_token" in params,
    }


def depth(arrays: Mapping[str, Any], pattern: str) -> int:
    """How many different block numbers the names have; a gap among them shows as unfilled."""
    return len({found[1] for key in arrays if (found := re.search(pattern, key))}) or 1


def check(where: str, model: dict, params: Mapping[str, np.ndarray]) -> None:
    """What the configuration says against what the arrays are."""
    found: dict[str, Any] = {
        "width": params["norm/scale"].size,
        "mlp_ratio": params["blocks/0/mlp/fc1/bias"].size / params["norm/scale"].size,
    }
    if "num_frames" in model:
        found["num_tokens"] = params["pos_embed"].shape[1]
        found["patch_shape"] = params["patch_embed/kernel"].shape[:2]
        found["num_classes"] = params["head/bias"].size if "head/bias" in params else model.get("num_classes")
        model = model | {"num_tokens": ASTConfig(**model).num_tokens}
    wrong = [
        f"{key} {value} where its config says {model[key]}"
        for key, value in found.items()
        if key in model and model[key] != value
    ]
    if wrong:
        raise InputError(f"{where} does not fit its config: the arrays have {', '.join(wrong)}")


def get(config: Mapping[str, Any], key: str, where: str, kind: type = int) -> Any:
    """A field that a config must have, of the type that it must have; an int may stand for a float."""
    if key not in config:
        raise InputError(f"{where}: its config lacks {key}")
    value = config[key]
    if isinstance(value, bool) != (kind is bool) or not isinstance(
        value, (int, float) if kind is float else kind
    ):
        raise InputError(f"{where}: its config has {key} {value!r}, wanted {kind.__name__}")
    return value
