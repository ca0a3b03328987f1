"""CED's checkpoints, its repository's and Hugging Face's: a ViT in timm's names, its positions one part time,
one part frequency, without a class token.
"""

from pathlib import Path

from ast_jax.models.ced import CEDConfig
from ast_jax.weights.files import read_json
from ast_jax.weights.hugging_face import label_names
from ast_jax.weights.layouts import Row, along, batch_norm, norm, torch_linear, without_counts
from ast_jax.weights.source import Source, fitted, hold, known, our_source
from ast_jax.weights.vit_files import timm_shapes
from ast_jax.weights.vit_layout import timm_blocks

_SIDE = 16
# What a Hugging Face directory's two files may say of what is heard and computed; the first is CED's own.
_HEARD: dict[str, tuple] = {
    "n_fft": (512,),
    "hop_size": (160,),
    "win_size": (512,),
    "f_min": (0,),
    "f_max": (8000, None),
    "center": (True,),
}
_CONFIG = _HEARD | {
    "n_mels": (64,),
    "pooling": ("mean", "logit"),
    "patch_size": (_SIDE,),
    "patch_stride": (_SIDE,),
    "qkv_bias": (True,),
}
_PREPROCESSOR = _HEARD | {"feature_size": (64,), "sampling_rate": (16_000,)}


def rows_of(config: CEDConfig) -> list[Row]:
    """The key table."""
    rows = batch_norm("input_norm", "init_bn")
    rows.append(along("freq_positions", "freq_pos_embed", 2))
    rows.append(along("time_positions", "time_pos_embed", 3))
    rows += timm_blocks(config.depth) + norm("norm", "norm")
    return rows + norm("head_norm", "outputlayer.0") + torch_linear("head", "outputlayer.1")


def read(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """A state dict of CED. It has positions for 10.12 s, of which those of 10 s are kept where nobody asks
    for more.
    """
    arrays = without_counts(
        {
            # torchaudio's window and filters, which are ours
            key.replace("init_bn.1.", "init_bn."): value
            for key, value in arrays.items()
            if not key.startswith("front_end.")
        }
    )
    found = timm_shapes(where, arrays, facts, also=("time_pos_embed", "outputlayer.1.bias"))
    asked = known(facts, "num_frames", CEDConfig.num_frames)
    columns = arrays["time_pos_embed"].shape[-1]
    # as a model of our own was saved, or the frames that are asked for, or all that there are positions for
    frames = card["model"]["num_frames"] if card else min(asked, columns * _SIDE + _SIDE - 1)
    fields = found | {"num_classes": len(arrays["outputlayer.1.bias"]), "num_frames": frames}
    config = CEDConfig(**fields)
    arrays["time_pos_embed"] = arrays["time_pos_embed"][..., : config.grid[1]]
    params = fitted(where, "ced", config, rows_of(config), arrays)
    if card:
        return our_source(where, params, card, layout="CED")
    source = Source(where, "CED", False, params, fields, mean=0.0, std=1.0, family="ced")
    return source.as_audioset()


def read_directory(path: Path, config: dict, arrays: dict) -> Source:
    """A Hugging Face directory (mispeech/ced-*); what its files say is held against what is heard here.

    Raises:
        InputError: another front end, another form of the model.
    """
    where = str(path)
    hold(where, "config.json", config, _CONFIG)
    if (path / "preprocessor_config.json").exists():
        stated = read_json(path / "preprocessor_config.json")
        hold(where, "preprocessor_config.json", stated, _PREPROCESSOR)
    arrays = {key.removeprefix("encoder."): value for key, value in arrays.items()}
    heads = {key: config[key] for key in ("num_heads",) if isinstance(config.get(key), int)}
    source = read(where, arrays, None, heads)
    source.layout = "Hugging Face CED"
    source.label_names = label_names(where, config, source.model["num_classes"])
    return source
