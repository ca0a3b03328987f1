"""EAT's Hugging Face directories (worstchan/EAT-*): a pretrained encoder, or one fine-tuned on AudioSet."""

from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models.ast import MOST_BLOCKS
from ast_jax.models.eat import EATConfig, positions
from ast_jax.weights import published
from ast_jax.weights.layouts import Row, norm, same, torch_linear
from ast_jax.weights.model_card import get
from ast_jax.weights.source import Source, fitted, hold
from ast_jax.weights.vit_layout import timm_block

_SIDE = 16
_POSITIONS = "fixed_positional_encoder.positions"
# What its config may say; another word is another model.
_CONFIG: dict[str, tuple] = {
    "patch_size": (_SIDE,),
    "stride": (_SIDE,),
    "mel_bins": (128,),
    "in_chans": (1,),
    "layer_norm_first": (False,),
    "qkv_bias": (True,),
    "norm_affine": (True,),
    "fixed_positions": (True,),
}


def rows_of(config: EATConfig, *, head: bool = True) -> list[Row]:
    """The key table; their patches are [time, frequency], as their images are."""
    kernel = "local_encoder.proj.weight"
    turned = lambda x: x.transpose(3, 2, 1, 0)
    rows = [Row("patch_embed/kernel", (kernel,), turned, lambda x: (turned(x),))]
    rows += [same("patch_embed/bias", "local_encoder.proj.bias"), same("cls_token", "extra_tokens")]
    rows += norm("pre_norm", "pre_norm")
    for i in range(config.depth):
        rows += timm_block(f"blocks/{i}", f"blocks.{i}")
    return rows + (norm("head_norm", "fc_norm") + torch_linear("head", "head") if head else [])


def read_directory(path: Path, config: dict, arrays: dict) -> Source:
    """transformers' EATModel with the authors' code.

    Raises:
        InputError: another form of the model, or positions that are not computed as ours.
    """
    where = str(path)
    hold(where, "config.json", config, _CONFIG)
    arrays = {key.removeprefix("model."): value for key, value in arrays.items()}
    head = "head.weight" in arrays
    width = get(config, "embed_dim", where, most=1_000_000)
    fields: dict[str, Any] = {
        "width": width,
        "depth": get(config, "depth", where, most=MOST_BLOCKS),
        "num_heads": get(config, "num_heads", where, most=1_000_000),
        "mlp_width": round(width * get({"mlp_ratio": 4.0} | config, "mlp_ratio", where, float, most=100)),
        "norm_eps": get({"norm_eps": 1e-6} | config, "norm_eps", where, float),
        "num_frames": _frames(where, config),
    }
    if head:
        fields["num_classes"] = np.size(arrays["head.weight"]) // width
    model = EATConfig(**fields)
    _check_positions(where, arrays.pop(_POSITIONS, None), model)
    without = "" if head else ("head_norm/", "head/")
    found = fitted(where, "eat", model, rows_of(model, head=head), arrays, without=without)
    mean, std = published.AUDIOSET
    source = Source(where, "EAT", False, found, fields, mean=mean, std=std, family="eat", has_head=head)
    source.channels = "first"
    if head:
        return source.as_audioset()
    source.notes.append("a pretrained model without classes: it embeds, and starts others")
    return source


def _frames(where: str, config: dict) -> int:
    size = config.get("img_size", [1024, 128])
    if not isinstance(size, list) or not size or not isinstance(size[0], int) or size[0] < _SIDE:
        raise InputError(f"{where}: its config has img_size {size!r}, wanted [frames, 128]")
    return size[0]


def _check_positions(where: str, theirs: Any, model: EATConfig) -> None:
    """Time-major there, for more steps than a clip has."""
    if theirs is None:
        return
    rows, columns = model.grid
    ours = positions(model.grid, model.width).swapaxes(0, 1).reshape(1, rows * columns, -1)
    given = np.asarray(theirs, np.float32)
    given = given[:, : rows * columns] if given.ndim == 3 else given
    # float32 sines of numbers up to 64, from rates in float32
    if given.shape != ours.shape or np.abs(given - ours).max() > 1e-4:
        raise InputError(f"{where}: its positions are not the sines and cosines that EAT is published with")
