"""State dicts without a config beside them: timm's and Google's ViT, the reference's AST.

Shapes say most, `facts` the rest.
"""

from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import layouts, published
from ast_jax.weights.source import Source, check, depth, image_source, our_source, shapes

# patches -> strides, frames: the published models, all of 128 mel bins and 16 x 16 patches
_REFERENCE_GRIDS = {
    1212: ((10, 10), 1024),
    850: ((12, 12), 1024),
    657: ((14, 14), 1024),
    512: ((16, 16), 1024),
    600: ((10, 10), 512),
    144: ((10, 10), 128),
}


def read_state_dict(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """Whose state dict it is shows in the names of its patch embedding and positions."""
    if "v.pos_embed" in arrays:
        return _reference(where, arrays, card, facts)
    if "patch_embed.proj.weight" in arrays:
        return read_timm(where, arrays, facts)
    if any(key.endswith("embedding/kernel") for key in arrays):
        return _google(where, arrays)
    if any("embeddings.patch_embeddings." in key for key in arrays):
        raise InputError(
            f"{where} is a Hugging Face model's file: give its directory, for config.json is needed too"
        )
    if "patch_embed/kernel" in arrays:
        raise InputError(
            f"{where} has our parameters but no model card, so their shape is unknown: give the directory"
        )
    some = ", ".join(list(arrays)[:4])
    raise InputError(
        f"{where} is no ViT or AST that is known: its keys are {some}, ... ({len(arrays)} in all)"
    )


def read_timm(where: str, arrays: dict, facts: dict) -> Source:
    """ViT, DeiT, DeiT-III, DINOv2 in timm's names; their LayerNorm eps is 1e-6."""
    scaled = any(key.endswith("ls1.gamma") for key in arrays)
    arrays = layouts.fold_layer_scale(arrays, where=where)
    distilled = "dist_token" in arrays
    side = 0
    if "pos_embed" in arrays:
        arrays["pos_embed"], side = layouts.embed_all_tokens(arrays["pos_embed"], 1 + distilled, where=where)
    rows = layouts.timm(depth(arrays, r"blocks\.(\d+)\."), distilled=distilled)
    unused = ("head.", "head_dist.", "pre_logits.", "mask_token")
    params = layouts.read(rows, arrays, where=where, unused=unused)
    notes = ["LayerScale folded into the projections before it"] if scaled else []
    return image_source(where, "timm ViT", params, side, facts, 1e-6, notes)


def _google(where: str, arrays: dict) -> Source:
    """Google's ViT; the shape of its queries says the number of heads, flax's default eps is 1e-6."""
    arrays = layouts.google_dialect(arrays)
    positions, query = "Transformer/posembed_input/pos_embedding", "MultiHeadDotProductAttention_1/query/bias"
    side, notes = 0, []
    if positions in arrays:
        if "cls" not in arrays:  # big_vision's mean-pooled models
            arrays["cls"] = np.zeros((1, 1, arrays[positions].shape[-1]), np.float32)
            notes.append("the source has no class token: it starts at zero")
        arrays[positions], side = layouts.embed_all_tokens(arrays[positions], 1, where=where)
    heads = {len(value) for key, value in arrays.items() if key.endswith(query)}
    if len(heads) != 1:
        raise InputError(
            f"{where}: {len(heads)} numbers of heads are named by its .../{query} arrays, wanted one"
        )
    rows = layouts.google(depth(arrays, r"encoderblock_(\d+)/"), num_heads=min(heads))
    params = layouts.read(rows, arrays, where=where, unused=("head/", "pre_logits/", "MAPHead_0/"))
    return image_source(where, "Google ViT", params, side, {"num_heads": min(heads)}, 1e-6, notes)


def _reference(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """The published AST: strides and length are in no array, so they are stated, or concluded from the number
    of positions.
    """
    rows = layouts.reference(depth(arrays, r"v\.blocks\.(\d+)\."), distilled=True)
    params = layouts.read(rows, arrays, where=where, unused=("v.head.", "v.head_dist."))
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
    names, (mean, std), activation = _published_task(classes)
    if mean is not None:
        notes.append(f"normalisation and order of classes taken as the reference's for {classes} classes")
    return Source(where, "reference AST", False, params, model, names, mean, std, activation, "first", notes)


def _published_task(classes: int) -> tuple[list[str] | None, tuple[float | None, float | None], str | None]:
    """Class names, normalisation and activation of the reference's task with so many classes."""
    if classes == 527:
        return published.labels("audioset"), published.AUDIOSET, "sigmoid"
    if classes == 35:
        return published.labels("speech_commands"), published.SPEECH_COMMANDS, "softmax"
    if classes == 50:  # ESC-50's names are not published with the model
        return None, published.ESC50, "softmax"
    return None, (None, None), None


def _reference_grid(where: str, patches: int, patch: tuple[int, int], facts: dict) -> dict[str, Any]:
    """strides, num_frames and num_mel_bins: as stated, or those of the published model with so many
    patches.
    """
    mel_bins = facts.get("num_mel_bins", 128)
    if "strides" in facts:
        strides = tuple(facts["strides"])
        frames = (patches // ((mel_bins - patch[0]) // strides[0] + 1) - 1) * strides[1] + patch[1]
    elif patches in _REFERENCE_GRIDS and patch == (16, 16) and mel_bins == 128:
        strides, frames = _REFERENCE_GRIDS[patches]
    else:
        raise InputError(
            f"{where} has {patches} positions, which no published AST has, and does not say its strides: "
            "give the strides (frequency, time) and the number of frames it was trained with"
        )
    return {
        "patch_shape": patch,
        "strides": strides,
        "num_frames": facts.get("num_frames", frames),
        "num_mel_bins": mel_bins,
    }
