"""BEATs' checkpoints: a state dict beside its configuration and, fine-tuned, the order of its classes."""

import math
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models.beats import BEATsConfig
from ast_jax.weights import published
from ast_jax.weights.layouts import Arrays, Row, convolution_kernel, norm, same, torch_linear, torch_qkv
from ast_jax.weights.model_card import get
from ast_jax.weights.source import Source, fitted, known, our_source, unlike

# What every published model says; another word is another model.
_FIXED: dict[str, tuple] = {
    "conv_bias": (False,),
    "activation_fn": ("gelu",),
    "layer_norm_first": (False,),
    "deep_norm": (True,),
    "relative_position_embedding": (True,),
    "gru_rel_pos": (True,),
}
# Mean and deviation of the features in nats as Kaldi has them of 16-bit samples; ours are lower.
MEAN, STD = 15.41663 - 30 * math.log(2), 6.55582
# Weight normalisation's names, of PyTorch before 2.0 and since.
_PLACE = "encoder.pos_conv.0."
_NEW = {
    f"{_PLACE}parametrizations.weight.original{i}": f"{_PLACE}weight_{part}" for i, part in enumerate("gv")
}


def rows_of(config: BEATsConfig, *, head: bool = True) -> list[Row]:
    """The key table."""
    rows = [
        convolution_kernel("", "patch_embedding.weight")._replace(ours="patch_kernel"),
        *norm("patch_norm", "layer_norm"),
        *torch_linear("patch_proj", "post_extract_proj"),
        Row("place/kernel", (f"{_PLACE}weight_g", f"{_PLACE}weight_v"), _weighed, _apart),
        same("place/bias", f"{_PLACE}bias"),
        *norm("norm", "encoder.layer_norm"),
        same("distances", "encoder.layers.0.self_attn.relative_attention_bias.weight"),
    ]
    for i in range(config.depth):
        ours, theirs = f"blocks/{i}", f"encoder.layers.{i}"
        names = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
        rows += torch_qkv(f"{ours}/attention/qkv", names)
        rows += torch_linear(f"{ours}/attention/proj", f"{theirs}.self_attn.out_proj")
        rows += torch_linear(f"{ours}/attention/gate", f"{theirs}.self_attn.grep_linear")
        gate = f"{theirs}.self_attn.grep_a"
        rows.append(
            Row(
                f"{ours}/attention/gate_scale",
                (gate,),
                lambda x: x.reshape(-1),
                lambda x: (x.reshape(1, -1, 1, 1),),
            )
        )
        rows += norm(f"{ours}/norm1", f"{theirs}.self_attn_layer_norm")
        rows += torch_linear(f"{ours}/mlp/fc1", f"{theirs}.fc1")
        rows += torch_linear(f"{ours}/mlp/fc2", f"{theirs}.fc2")
        rows += norm(f"{ours}/norm2", f"{theirs}.final_layer_norm")
    return rows + (torch_linear("head", "predictor") if head else [])


def _weighed(size: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Weight normalisation over all but the last axis (Salimans and Kingma 2016): [D, I, k] to [k, I, D]."""
    if size.shape != (1, 1, direction.shape[-1]):
        raise ValueError("a size for each place of the kernel was wanted")
    lengths = np.sqrt(np.square(direction.astype(np.float64)).sum(axis=(0, 1), keepdims=True))
    return (size * direction / lengths).transpose(2, 1, 0)


def _apart(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A size and a direction that give it."""
    direction = kernel.transpose(2, 1, 0)
    return np.sqrt(np.square(direction).sum(axis=(0, 1), keepdims=True)), direction


def read(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """A `.pt` of BEATs, pretrained (without a head) or fine-tuned on AudioSet.

    Raises:
        InputError: another architecture than the published, or arrays missing.
    """
    arrays = {_NEW.get(key, key): value for key, value in arrays.items()}
    # every block names the first one's
    shared = tuple(f"encoder.layers.{i}.self_attn.relative_attention_bias." for i in range(1, _depth(arrays)))
    stated = facts.get("beside", {}).get("cfg") or {}
    if not isinstance(stated, dict):
        raise InputError(f"{where}: its cfg is a {type(stated).__name__}, wanted a dictionary")
    if other := unlike(stated, _FIXED):
        raise InputError(f"{where} is no BEATs as published: its cfg has {', '.join(other)}")
    fields = _shape(where, arrays, stated)
    fields["num_frames"] = known(facts, "num_frames", BEATsConfig.num_frames)
    head = "predictor.bias" in arrays
    fields["num_classes"] = len(arrays["predictor.bias"]) if head else BEATsConfig.num_classes
    config = BEATsConfig(**fields)
    found = fitted(
        where,
        "beats",
        config,
        rows_of(config, head=head),
        arrays,
        unused=shared,
        without="" if head else "head/",
    )
    if card:
        return our_source(where, found, card, layout="BEATs")
    source = Source(where, "BEATs", False, found, fields, mean=MEAN, std=STD, family="beats", has_head=head)
    if not head:
        source.notes.append("a pretrained model without classes: it embeds, and starts others")
        return source
    source.activation = "sigmoid"
    order = facts.get("beside", {}).get("label_dict")
    if isinstance(order, dict) and set(order) == set(range(fields["num_classes"])):
        source.label_names = published.named([str(order[i]) for i in range(len(order))])
    else:
        source.notes.append("the order of its classes is not in the file: --labels gives it")
    return source


def _depth(arrays: Arrays) -> int:
    numbers = {key.split(".")[2] for key in arrays if key.startswith("encoder.layers.")}
    return len(numbers)


def _shape(where: str, arrays: Arrays, stated: dict) -> dict[str, Any]:
    """The fields that arrays tell, and those that only the file's own configuration does."""
    needed = {
        "patch": "patch_embedding.weight",
        "place": f"{_PLACE}weight_v",
        "bias": "encoder.layers.0.self_attn.relative_attention_bias.weight",
        "mlp": "encoder.layers.0.fc1.weight",
    }
    if missing := [key for key in needed.values() if key not in arrays]:
        raise InputError(f"{where} looks like BEATs and lacks {', '.join(missing)}: is it whole?")
    shape = {name: np.shape(arrays[key]) for name, key in needed.items()}
    if [len(shape[name]) for name in needed] != [4, 3, 2, 2]:
        raise InputError(f"{where} looks like BEATs and has arrays of {shape}: is it another model?")
    width, distance = shape["place"][0], BEATsConfig.max_distance
    if "max_distance" in stated:
        distance = get(stated, "max_distance", f"{where}: cfg", most=1_000_000)
    return {
        "patch": shape["patch"][-1],
        "patch_width": shape["patch"][0],
        "width": width,
        "depth": _depth(arrays),
        "num_heads": shape["bias"][1],
        "mlp_width": shape["mlp"][0],
        "kernel": shape["place"][2],
        "groups": width // max(shape["place"][1], 1),
        "buckets": shape["bias"][0],
        "max_distance": distance,
    }
