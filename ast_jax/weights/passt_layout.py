"""PaSST's checkpoints: a ViT in timm's names whose positions are one part time, one part frequency.

D width.
"""

from ast_jax.errors import InputError
from ast_jax.features.passt import PaSSTMel
from ast_jax.models.passt import PaSSTConfig
from ast_jax.weights.layouts import Row, along, norm, same, torch_linear
from ast_jax.weights.source import Source, fitted, our_source
from ast_jax.weights.vit_files import timm_shapes
from ast_jax.weights.vit_layout import timm_blocks

_SIDE, _MEL_BINS = 16, 128
# by the rows of 128 mel bins in patches of 16 that each of the published strides leaves
_STRIDES = {(_MEL_BINS - _SIDE) // stride + 1: stride for stride in (10, 12, 14, 16, 20)}


def rows_of(config: PaSSTConfig) -> list[Row]:
    """The key table."""
    rows = [same(token) for token in ("cls_token", "dist_token")[: config.num_prefix_tokens]]
    rows.append(Row("token_positions", ("new_pos_embed",), lambda x: x[0], lambda x: (x[None],)))
    rows.append(along("freq_positions", "freq_new_pos_embed", 2))
    rows.append(along("time_positions", "time_new_pos_embed", 3))
    rows += timm_blocks(config.depth)
    return rows + norm("head_norm", "head.0") + torch_linear("head", "head.1") + norm("norm", "norm")


def read(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """A state dict of PaSST as its repository and `hear21passt` have it. Its positions in time are for whole
    seconds, here and there one more than these have columns of patches.
    """
    found = timm_shapes(where, arrays, facts, also=("time_new_pos_embed", "head.1.bias"))
    rows, columns = (arrays[f"{axis}_new_pos_embed"].size // found["width"] for axis in ("freq", "time"))
    if rows not in _STRIDES:
        raise InputError(f"{where} has {rows} rows of patches: wanted {', '.join(map(str, _STRIDES))}")
    stride = _STRIDES[rows]
    fields = found | {
        "num_classes": len(arrays["head.1.bias"]),
        "num_frames": facts.get("num_frames", -(-columns * stride // 100) * 100),
        "strides": (stride, stride),
        "distilled": "dist_token" in arrays,
    }
    config = PaSSTConfig(**fields)
    arrays["time_new_pos_embed"] = arrays["time_new_pos_embed"][..., : config.grid[1]]
    params = fitted(where, "passt", config, rows_of(config), arrays, unused=("head_dist.",))
    if card:
        return our_source(where, params, card, layout="PaSST")
    front_end = PaSSTMel()
    source = Source(
        where, "PaSST", False, params, fields, mean=front_end.mean, std=front_end.std, family="passt"
    )
    source.notes.append("its front end is not in the file: taken as PaSST's, a frame every 10 ms at 32 kHz")
    return source.as_audioset()
