"""State dicts of ViT and AST without a config beside them: timm's, Google's, the reference's.

Shapes say most, `facts` the rest. D width; positions are [1, P + f t, D], P class and distillation tokens
first.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig
from ast_jax.weights import published, vit_layout
from ast_jax.weights.source import Source, known, our_source

# heads by width, of the ViT family; a state dict does not say
_HEADS = {192: 3, 256: 4, 384: 6, 768: 12, 1024: 16}

# patches -> strides, frames: the published models, all of 128 mel bins and 16 x 16 patches
_REFERENCE_GRIDS = {
    1212: ((10, 10), 1024),
    850: ((12, 12), 1024),
    657: ((14, 14), 1024),
    512: ((16, 16), 1024),
    600: ((10, 10), 512),
    144: ((10, 10), 128),
}


def timm(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """ViT, DeiT, DeiT-III, DINOv2 in timm's names; their LayerNorm eps is 1e-6."""
    scaled = any(key.endswith("ls1.gamma") for key in arrays)
    arrays = vit_layout.fold_layer_scale(arrays, where=where)
    distilled = "dist_token" in arrays
    side = 0
    if "pos_embed" in arrays:
        positions = arrays["pos_embed"]
        arrays["pos_embed"], side = vit_layout.embed_all_tokens(positions, 1 + distilled, where=where)
    rows = vit_layout.timm(depth(arrays, r"blocks\.(\d+)\."), distilled=distilled)
    unused = ("head.", "head_dist.", "pre_logits.", "mask_token")
    params = vit_layout.read(rows, arrays, where=where, unused=unused)
    notes = ["LayerScale folded into the projections before it"] if scaled else []
    return image_source(where, "timm ViT", params, side, facts, 1e-6, notes)


def google(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """Google's ViT; the shape of its queries says the number of heads, flax's default eps is 1e-6."""
    arrays = vit_layout.google_dialect(arrays)
    positions, query = "Transformer/posembed_input/pos_embedding", "MultiHeadDotProductAttention_1/query/bias"
    side, notes = 0, []
    if positions in arrays:
        if "cls" not in arrays:  # big_vision's mean-pooled models
            arrays["cls"] = np.zeros((1, 1, arrays[positions].shape[-1]), np.float32)
            notes.append("the source has no class token: it starts at zero")
        arrays[positions], side = vit_layout.embed_all_tokens(arrays[positions], 1, where=where)
    heads = {len(value) for key, value in arrays.items() if key.endswith(query)}
    if len(heads) != 1:
        raise InputError(
            f"{where}: {len(heads)} numbers of heads are named by its .../{query} arrays, wanted one"
        )
    rows = vit_layout.google(depth(arrays, r"encoderblock_(\d+)/"), num_heads=min(heads))
    params = vit_layout.read(rows, arrays, where=where, unused=("head/", "pre_logits/", "MAPHead_0/"))
    return image_source(where, "Google ViT", params, side, {"num_heads": min(heads)}, 1e-6, notes)


def reference(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """The published AST: strides and length are in no array, so they are stated, or concluded from the number
    of positions.
    """
    rows = vit_layout.reference(depth(arrays, r"v\.blocks\.(\d+)\."), distilled=True)
    params = vit_layout.read(rows, arrays, where=where, unused=("v.head.", "v.head_dist."))
    if card:
        return our_source(where, params, card, layout="reference AST")
    classes, patch = params["head/bias"].size, params["patch_embed/kernel"].shape[:2]
    model = shapes(where, params, facts) | {"num_classes": classes, "norm_eps": 1e-6, "head_norm_eps": 1e-5}
    model |= _reference_grid(where, params["pos_embed"].shape[1] - 2, patch, facts)
    check(where, model, params)
    notes = []
    if "strides" not in facts:
        notes.append(
            f"strides {model['strides']} and {model['num_frames']} frames concluded from its number of "
            "positions"
        )
    source = Source(where, "reference AST", False, params, model, channels="first", notes=notes)
    if classes == len(audioset := published.labels("audioset")):
        source.label_names, (source.mean, source.std), source.activation = (
            audioset,
            published.AUDIOSET,
            "sigmoid",
        )
        notes.append("527 classes: taken as AudioSet's in the reference's order, with its normalisation")
    else:
        notes.append(f"its {classes} classes have no names in the file: --labels gives them")
    return source


def _reference_grid(where: str, patches: int, patch: tuple[int, int], facts: dict) -> dict[str, Any]:
    """strides, num_frames and num_mel_bins: as stated, or those of the published model with so many
    patches.
    """
    mel_bins, asked = facts.get("num_mel_bins", 128), facts.get("asked", {})
    if "strides" not in facts and patches in _REFERENCE_GRIDS and patch == (16, 16) and mel_bins == 128:
        strides, frames = _REFERENCE_GRIDS[patches]
    else:
        strides = tuple(facts.get("strides", asked.get("strides", ())))
        rows = (mel_bins - patch[0]) // strides[0] + 1 if strides else 0
        if not rows or patches % rows:
            wrong = (
                f", not a multiple of {rows} rows of patches" if rows else ", and does not say its strides"
            )
            raise InputError(
                f"{where} has {patches} positions, which no published AST has{wrong}: give the strides and "
                "number of frames it was trained with (--strides=MEL_BINS,FRAMES --num_frames=N; before "
                "config.init_from, to `convert --to=flax`)"
            )
        frames = (patches // rows - 1) * strides[1] + patch[1]
        # of the lengths with so many patches, the one that is asked for
        if 0 <= asked.get("num_frames", 0) - frames < strides[1]:
            frames = asked["num_frames"]
    return {
        "patch_shape": patch,
        "strides": strides,
        "num_frames": facts.get("num_frames", frames),
        "num_mel_bins": mel_bins,
    }


# ---- What the shapes of arrays tell, and whether a config agrees


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
    return Source(where, layout, True, arrays, model, notes=notes, has_head=False)


def shapes(where: str, arrays: Mapping[str, np.ndarray], facts: dict) -> dict[str, Any]:
    """The ASTConfig fields that the arrays' shapes tell."""
    width, hidden = arrays["blocks/0/mlp/fc1/kernel"].shape
    return {
        "width": width,
        "depth": depth(arrays, r"blocks/(\d+)/"),
        "num_heads": _heads(where, width, facts),
        "mlp_width": hidden,
        "distilled": "dist_token" in arrays,
    }


def timm_shapes(
    where: str, arrays: Mapping[str, Any], facts: dict, *, also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """width, depth, num_heads and mlp_width of arrays that still have timm's names.

    Raises:
        InputError: what tells them, or `also` these, are missing.
    """
    first = "blocks.0.mlp.fc1.weight"
    if missing := [key for key in (first, *also) if key not in arrays or np.ndim(arrays[key]) < 1]:
        raise InputError(f"{where} lacks {', '.join(missing)}: is it whole?")
    shape = np.shape(arrays[first])
    if len(shape) != 2 or not all(shape):
        raise InputError(f"{where}: {first} has shape {shape}, wanted a matrix")
    hidden, width = shape
    return {
        "width": width,
        "depth": depth(arrays, r"^blocks\.(\d+)\."),
        "num_heads": _heads(where, width, facts),
        "mlp_width": hidden,
    }


def _heads(where: str, width: int, facts: dict) -> int:
    heads = known(facts, "num_heads", _HEADS.get(width))
    if heads is None:
        raise InputError(f"{where} is {width} wide and does not say its number of heads: give num_heads")
    return heads


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
