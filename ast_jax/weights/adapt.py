"""What a checkpoint gives a model of another shape: any ViT or AST to an AST of this length, these strides,
these mel bins, with or without its head; of other families, what fits as it is.

f x t patch grids, P class and distillation tokens, D width.
"""

import dataclasses
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig, abstract, variables
from ast_jax.models.base import level_of
from ast_jax.models.patches import adapt_kernel, adapt_positions, positions_by_place
from ast_jax.weights.source import Source

# must be the source's own: there is no rule to change them
_SHAPE = ("width", "depth", "num_heads", "hidden_width")
_HEAD = ("head_norm/scale", "head_norm/bias", "head/kernel", "head/bias")


def as_it_is(
    source: Source, config: Any, *, head: str, rgb: str = "", positions: str = ""
) -> tuple[dict[str, np.ndarray], str]:
    """Everything but the head, and the head too if it is to be kept, of any family; `rgb` and `positions`
    mean nothing here.

    Raises:
        InputError: an array is missing or of another shape.
    """
    del rgb, positions
    model = abstract(source.family, config)
    last, taken, new, wrong = len(model.levels) - 1, {}, [], []
    for path, value in variables(model).items():
        own = source.arrays.get(path)
        if level_of(model.levels, path) == last and head == "new":
            new.append(path)
        elif own is None or own.shape != value.shape:
            wrong.append(f"{path} has shape {getattr(own, 'shape', None)}, wanted {value.shape}")
        else:
            taken[path] = own
    if wrong:
        raise InputError(
            f"{source.where} is another size than the model: {'; '.join(wrong)}: choose the same"
        )
    return taken, f"{len(taken)} arrays from {source.where}" + (", head new" if new else "")


def of_another_length(
    source: Source, config: ASTConfig, *, head: str, rgb: str = "", positions: str = "bilinear"
) -> tuple[dict[str, np.ndarray], str]:
    """`as_it_is` of a model whose positions in time lie apart, and the first of them where the model is
    shorter (PaSST, CED); a longer one has them resized, as CED's code does.
    """
    places, steps = source.arrays["time_positions"], config.grid[1]
    change = "" if steps == len(places) else f", positions in time {len(places)} to {steps}"
    if steps < len(places):
        places = places[:steps]
    elif steps > len(places):
        places = adapt_positions(places[None], (1, steps), mode=positions)[0]
    arrays = source.arrays | {"time_positions": places}
    taken, account = as_it_is(dataclasses.replace(source, arrays=arrays), config, head=head)
    return taken, account + change


def adapted(
    source: Source, config: ASTConfig, *, rgb: str, positions: str, head: str
) -> tuple[dict[str, np.ndarray], str]:
    """Everything that the source has for such an AST, and the account of it in one line.

    A class-only source gives a distilled model its class token and position twice; a class-only model leaves
    a source's distillation token aside.

    Raises:
        InputError: the source is of another width, depth, number of heads or MLP width, or has no such head.
    """
    _same_shape(source, config)
    account = [f"{config.depth} blocks of width {config.width} from {source.where}"]
    kept = ("blocks/", "norm/", "cls_token", "patch_embed/bias")
    params = {path: array for path, array in source.arrays.items() if path.startswith(kept)}
    params["patch_embed/kernel"] = _kernel(source, config, rgb, account)
    if config.distilled:
        params["dist_token"] = source.arrays.get("dist_token", source.arrays["cls_token"])
    if config.distilled and not source.model["distilled"]:
        account.append("distillation token and its position copied from the class token's")
    if source.model["distilled"] and not config.distilled:
        account.append("distillation token left aside")
    if positions == "reinit":
        account.append("positions new")
    else:
        params["pos_embed"] = _positions(source, config, positions, account)
    _head(source, config, params, head, account)
    if config.norm_eps != source.model["norm_eps"]:
        account.append(f"LayerNorm eps {config.norm_eps:g} where the source has {source.model['norm_eps']:g}")
    return params, ", ".join(account)


def _same_shape(source: Source, config: ASTConfig) -> None:
    own = source.config
    differs = [
        f"{name} {getattr(own, name)} against {getattr(config, name)}"
        for name in _SHAPE
        if getattr(own, name) != getattr(config, name)
    ]
    if differs:
        raise InputError(
            f"{source.where} is another size than the model: {', '.join(differs)}; choose the same "
            "(config.model.variant, or the word pretrained of the recipe folder)"
        )


def _kernel(source: Source, config: ASTConfig, rgb: str, account: list[str]) -> np.ndarray:
    kernel = source.arrays["patch_embed/kernel"]
    if kernel.shape[2] > 1:
        account.append(f"{kernel.shape[2]} colour kernels {'summed' if rgb == 'sum' else 'averaged'}")
    if kernel.shape[:2] != tuple(config.patch_shape):
        account.append(f"patch kernel PI-resized from {by(kernel.shape[:2])} to {by(config.patch_shape)}")
    elif kernel.shape[2] == 1:
        return kernel
    return adapt_kernel(kernel, config.patch_shape, rgb=rgb)


def _positions(source: Source, config: ASTConfig, mode: str, account: list[str]) -> np.ndarray:
    """Prefix positions copied; patch positions by place where an AST's strides or patches change, then by the
    reference's rule.
    """
    own = source.config
    table, width, grid = source.arrays["pos_embed"][0], config.width, own.grid
    prefix, patches = table[: own.num_prefix_tokens], table[own.num_prefix_tokens :].reshape(*grid, width)
    laid = [tuple(c.patch_shape) + tuple(c.strides) for c in (own, config)]
    if not source.image and laid[0] != laid[1]:
        patches = positions_by_place(
            patches,
            extent=(own.num_mel_bins, own.num_frames),
            patch_shape=own.patch_shape,
            strides=own.strides,
            new_patch_shape=config.patch_shape,
            new_strides=config.strides,
            mode=mode,
        )
        account.append(f"positions {by(grid)} moved to the new patch centres {by(patches.shape[:2])}")
    before = patches.shape[:2]
    patches = adapt_positions(patches, config.grid, mode=mode)
    ways = [
        _axis_change(axis, old, new, mode)
        for axis, old, new in zip(("frequency", "time"), before, config.grid, strict=True)
    ]
    if any(ways):
        account.append(f"positions {by(before)} to {by(config.grid)} ({' and '.join(filter(None, ways))})")
    if config.distilled and not own.distilled:
        prefix = np.concatenate([prefix, prefix])
    return np.concatenate([prefix[: config.num_prefix_tokens], patches.reshape(-1, width)])[None]


def _axis_change(axis: str, old: int, new: int, mode: str) -> str:
    if old == new:
        return ""
    return f"{axis} cut" if new < old else f"{axis} {mode}"


def _head(
    source: Source, config: ASTConfig, params: dict[str, np.ndarray], head: str, account: list[str]
) -> None:
    classes = config.num_classes
    if head == "new":
        account.append("head new")
        return
    if not source.has_head or source.arrays["head/bias"].size != classes:
        has = f"{source.arrays['head/bias'].size} classes" if source.has_head else "no AST head"
        raise InputError(
            f"{source.where} has {has}, the model {classes} classes: only a new head is possible"
        )
    attends = config.head == "frames" and config.pooling == "attention"
    attend = [path for path in source.arrays if path.startswith("attend/")] if attends else []
    for path in (*_HEAD, *attend):
        params[path] = source.arrays[path]


def by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
