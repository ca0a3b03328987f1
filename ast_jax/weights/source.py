"""A checkpoint as read: arrays under our paths, and the facts that come with them, held against each other.

An AST's positions are [1, P + f t, D], P class and distillation tokens first.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd, Kaldi
from ast_jax.models import ASTConfig, abstract, variables
from ast_jax.models.base import misfits
from ast_jax.objectives import stated_activation
from ast_jax.weights import layouts
from ast_jax.weights.model_card import stated_config, stated_front_end

# of the ViT family; a state dict does not say
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}


@dataclasses.dataclass
class Source:
    """A checkpoint as read. `model` holds the fields of its family's Config under which `arrays` fit as they
    are.

    An image model is described as the AST it would be: its grid over image-sized "spectrograms", patches side
    by side, a kernel [p, p, 3, D] still in colour, no head.
    """

    # as the user named it
    where: str
    layout: str
    # an ImageNet ViT; else a model of sounds
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
    front_end: FrontEnd = dataclasses.field(default_factory=Kaldi)
    thresholds: list[float | None] | None = None

    @property
    def config(self) -> ASTConfig:
        return ASTConfig(**self.model)

    @property
    def has_head(self) -> bool:
        return not self.image and (self.family != "ast" or "head/kernel" in self.arrays)


def image_source(
    where: str, layout: str, arrays: dict, side: int, facts: dict, eps: float, notes: list[str]
) -> Source:
    """An ImageNet ViT of `side` x `side` patches as the AST it would be."""
    patch = arrays["patch_embed/kernel"].shape[:2]
    model = shapes(where, arrays, facts) | {
        "patch_shape": patch,
        "strides": patch,
        "num_mel_bins": side * patch[0],
        "num_frames": side * patch[1],
        "norm_eps": eps,
    }
    return Source(where, layout, True, arrays, model, notes=notes)


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
    wanted = variables(abstract(family, config))
    rows = [layouts.same(path) for path in wanted]
    found = layouts.read(rows, arrays, where=where, check=lambda found: misfits(wanted, found))
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
    )


def shapes(where: str, arrays: Mapping[str, np.ndarray], facts: dict) -> dict[str, Any]:
    """The ASTConfig fields that the arrays' shapes tell."""
    width, hidden = arrays["blocks/0/mlp/fc1/kernel"].shape
    heads = facts.get("num_heads", _HEADS.get(width))
    if heads is None:
        raise InputError(f"{where} is {width} wide and does not say its number of heads: give num_heads")
    return {
        "width": width,
        "depth": depth(arrays, r"blocks/(\d+)/"),
        "num_heads": heads,
        "mlp_width": hidden,
        "distilled": "dist_token" in arrays,
    }


def depth(arrays: Mapping[str, Any], pattern: str) -> int:
    """How many different block numbers the names have; a gap among them shows as unfilled."""
    return len({found[1] for key in arrays if (found := re.search(pattern, key))}) or 1


def check(where: str, model: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """What the configuration says against what the arrays are."""
    found: dict[str, Any] = {
        "width": arrays["norm/scale"].size,
        "mlp_width": arrays["blocks/0/mlp/fc1/bias"].size,
    }
    if "num_frames" in model:
        found["num_tokens"] = arrays["pos_embed"].shape[1]
        found["patch_shape"] = arrays["patch_embed/kernel"].shape[:2]
        found["num_classes"] = arrays["head/bias"].size if "head/bias" in arrays else model.get("num_classes")
        model = model | {"num_tokens": ASTConfig(**model).num_tokens}
    wrong = [
        f"{key} {value} where its config says {model[key]}"
        for key, value in found.items()
        if key in model and model[key] != value
    ]
    if wrong:
        raise InputError(f"{where} does not fit its config: the arrays have {', '.join(wrong)}")
