"""PSLA's `.pth` files, read and written, and ImageNet EfficientNets, as `efficientnet_pytorch` and timm name
them.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import host_variables
from ast_jax.models.efficientnet import SCALES, blocks_of
from ast_jax.models.psla import NUM_HEADS, PSLAConfig
from ast_jax.weights import layouts, torch_file
from ast_jax.weights.adapt import as_it_is
from ast_jax.weights.layouts import (
    Arrays,
    Row,
    batch_norm,
    convolution_kernel,
    same,
    torch_convolution,
    torch_pointwise,
    without_counts,
)
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel
from ast_jax.weights.source import Source, fitted, known, our_source

# mean and deviation that PSLA's models for AudioSet and FSD50K were trained with
STATISTICS = (-4.6476, 4.5699)


# ---- Tables


def rows_of(scale: str, prefix: str = "effnet.") -> list[Row]:
    """A PSLA model's, or with another prefix the EfficientNet's alone, in `efficientnet_pytorch`'s names."""
    rows = [convolution_kernel("net/stem", f"{prefix}_conv_stem.weight")]
    rows += batch_norm("net/stem_norm", f"{prefix}_bn0")
    for i, shape in enumerate(blocks_of(SCALES[scale])[1]):
        ours, theirs = f"net/blocks/{i}", f"{prefix}_blocks.{i}._"
        if shape.expansion > 1:
            rows.append(convolution_kernel(f"{ours}/expand", f"{theirs}expand_conv.weight"))
            rows += batch_norm(f"{ours}/expand_norm", f"{theirs}bn0")
        rows.append(convolution_kernel(f"{ours}/depthwise", f"{theirs}depthwise_conv.weight"))
        rows += batch_norm(f"{ours}/depthwise_norm", f"{theirs}bn1")
        rows += torch_convolution(f"{ours}/squeeze", f"{theirs}se_reduce")
        rows += torch_convolution(f"{ours}/excite", f"{theirs}se_expand")
        rows.append(convolution_kernel(f"{ours}/project", f"{theirs}project_conv.weight"))
        rows += batch_norm(f"{ours}/project_norm", f"{theirs}bn2")
    rows.append(convolution_kernel("net/top", f"{prefix}_conv_head.weight"))
    return [*rows, *batch_norm("net/top_norm", f"{prefix}_bn1")]


def heads() -> list[Row]:
    """PSLA's four heads of attention."""
    rows = [same("weights", "attention.head_weight")]
    for i in range(NUM_HEADS):
        rows += torch_pointwise(f"attend/{i}", f"attention.att.{i}", spatial=2)
        rows += torch_pointwise(f"classify/{i}", f"attention.cla.{i}", spatial=2)
    return rows


# timm's names of an inverted bottleneck's layers after ours, and of one that does not expand
_TIMM = {
    "conv_pw": "expand_conv",
    "bn1": "bn0",
    "conv_dw": "depthwise_conv",
    "bn2": "bn1",
    "se.conv_reduce": "se_reduce",
    "se.conv_expand": "se_expand",
    "conv_pwl": "project_conv",
    "bn3": "bn2",
}
_TIMM_FIRST = _TIMM | {"bn1": "bn1", "bn2": "bn2", "conv_pw": "project_conv"}


# ---- Reading


def read(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """The published PSLA; its length is in no array: 1,056 frames, where nobody says another."""
    arrays, scale = without_counts(arrays), _scale(where, arrays, "effnet.")
    bias = arrays.get("attention.cla.0.bias")
    if bias is None:
        raise InputError(f"{where} looks like a PSLA model and lacks attention.cla.0.bias: is it whole?")
    frames = known(facts, "num_frames", PSLAConfig.num_frames)
    fields = {"num_classes": len(bias), "num_frames": frames, "scale": scale}
    rows = rows_of(scale) + heads()
    found = fitted(where, "psla", PSLAConfig(**fields), rows, arrays, unused=("effnet._fc.",))
    if card:
        return our_source(where, found, card, layout="PSLA")
    source = Source(where, "PSLA", False, found, fields, family="psla", channels="first").as_audioset()
    if source.label_names:
        source.mean, source.std = STATISTICS
        source.notes.append("normalised as PSLA was trained on AudioSet")
    return source


def read_image(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """An ImageNet EfficientNet in `efficientnet_pytorch`'s names."""
    arrays, scale = without_counts(arrays), _scale(where, arrays, "")
    colours = {"net/stem/kernel"}
    wanted = {path: value for path, value in _outline(scale).items() if path not in colours}

    def check(found: Arrays) -> list[str]:
        return [
            f"{path} has shape {found[path].shape}, wanted {value.shape}"
            for path, value in wanted.items()
            if found[path].shape != value.shape
        ]

    found = layouts.read(rows_of(scale, ""), arrays, where=where, unused=("_fc.",), check=check)
    return Source(where, "EfficientNet", True, found, {"scale": scale}, family="psla", has_head=False)


def read_timm(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """The same in timm's names."""
    arrays = without_counts(arrays)
    stages = sorted(
        {tuple(map(int, found)) for key in arrays for found in re.findall(r"^blocks\.(\d+)\.(\d+)\.", key)}
    )
    number = {stage: i for i, stage in enumerate(stages)}
    outer = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    renamed = {}
    for key, array in arrays.items():
        layer, _, parameter = key.rpartition(".")
        if inside := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", layer):
            stage, block, name = int(inside[1]), int(inside[2]), inside[3]
            names = _TIMM if f"blocks.{stage}.{block}.conv_pwl.weight" in arrays else _TIMM_FIRST
            layer = f"_blocks.{number[stage, block]}._{names.get(name, name)}"
        renamed[f"{outer.get(layer, layer)}.{parameter}"] = array
    return read_image(where, renamed, card, facts)


def _scale(where: str, arrays: Arrays, prefix: str) -> str:
    blocks = len(
        {found[1] for key in arrays if (found := re.match(re.escape(prefix) + r"_blocks\.(\d+)\.", key))}
    )
    top = arrays.get(f"{prefix}_conv_head.weight")
    for name, scale in SCALES.items():
        if top is not None and (blocks, len(top)) == (
            len(blocks_of(scale)[1]),
            _outline(name)["net/top_norm/bias"].size,
        ):
            return name
    width = "no" if top is None else len(top)
    raise InputError(
        f"{where} has {blocks} blocks and {width} feature maps: wanted EfficientNet {', '.join(SCALES)}"
    )


def _outline(scale: str) -> dict[str, Any]:
    from ast_jax.models import abstract, variables

    found = variables(abstract("psla", PSLAConfig(num_classes=1, scale=scale)))
    return {path: value for path, value in found.items() if path.startswith("net/")}


# ---- Starting


def started(
    source: Source, config: PSLAConfig, *, head: str, rgb: str = "", positions: str = ""
) -> tuple[dict[str, np.ndarray], str]:
    """As PSLA does: an ImageNet model's layers but for the first one, which hears no colours; of a model of
    sounds, what fits.

    Raises:
        InputError: another size.
    """
    if not source.image:
        return as_it_is(source, config, head=head)
    if source.model["scale"] != config.scale:
        raise InputError(
            f"{source.where} is an EfficientNet {source.model['scale']}, the model has {config.scale}: "
            "choose the same (config.model.options.scale)"
        )
    taken = {path: array for path, array in source.arrays.items() if path != "net/stem/kernel"}
    return taken, f"{len(taken)} arrays from {source.where}, its first convolution and the heads new"


# ---- Writing


def write(loaded: LoadedModel, path: Path) -> list[str]:
    """As published, `module.` names and all, with our card inside."""
    rows = rows_of(loaded.model.config.scale) + heads()
    state = layouts.write(rows, host_variables(loaded.model))
    state = {f"module.{key}": value for key, value in state.items()}
    torch_file.write(path, state, extra={CARD: json.dumps(loaded.card()).encode()})
    return ["batches are not counted in the file (num_batches_tracked): PyTorch sets 0"]
