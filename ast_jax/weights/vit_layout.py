"""Key tables of ViT and AST parameters: timm's, the reference's, Hugging Face's and Google's names, and their
dialects.

D width, H heads, K head size, N tokens, I input channels, p patch size.
"""

import re
from typing import Any

import ml_dtypes
import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import layouts
from ast_jax.weights.layouts import Arrays, Row, norm, same, torch_convolution, torch_linear, torch_qkv

# what transformers puts before the names of AST's base model
HUGGING_FACE_AST = "audio_spectrogram_transformer."


# ---- Tables


def timm(depth: int, *, distilled: bool, prefix: str = "") -> list[Row]:
    """timm's ViT and DeiT; torch.hub's DeiT and DINOv2 use the same names."""
    return [same(name, prefix + name) for name in _tokens(distilled)] + timm_blocks(depth, prefix)


def timm_blocks(depth: int, prefix: str = "") -> list[Row]:
    """The same without tokens and positions, which ViTs hold in many forms."""
    rows = torch_convolution("patch_embed", f"{prefix}patch_embed.proj")
    for i in range(depth):
        rows += timm_block(f"blocks/{i}", f"{prefix}blocks.{i}")
    return [*rows, *norm("norm", f"{prefix}norm")]


def timm_block(ours: str, theirs: str) -> list[Row]:
    """A transformer's block, whichever way round its norms are."""
    rows = norm(f"{ours}/norm1", f"{theirs}.norm1") + norm(f"{ours}/norm2", f"{theirs}.norm2")
    rows += torch_linear(f"{ours}/attention/qkv", f"{theirs}.attn.qkv")
    rows += torch_linear(f"{ours}/attention/proj", f"{theirs}.attn.proj")
    rows += torch_linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1")
    return rows + torch_linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")


def reference(depth: int, *, distilled: bool) -> list[Row]:
    """The published AST: timm's DeiT as `v`, and `mlp_head`."""
    head = norm("head_norm", "mlp_head.0") + torch_linear("head", "mlp_head.1")
    return timm(depth, distilled=distilled, prefix="v.") + head


def hugging_face(depth: int, *, distilled: bool, prefix: str = "") -> list[Row]:
    """transformers' AST, ViT and DeiT without their heads, as their files name them (versions 4 and 5
    alike).
    """
    names = {"dist_token": "distillation_token", "pos_embed": "position_embeddings", "cls_token": "cls_token"}
    rows = [same(name, f"{prefix}embeddings.{names[name]}") for name in _tokens(distilled)]
    rows += torch_convolution("patch_embed", f"{prefix}embeddings.patch_embeddings.projection")
    for i in range(depth):
        ours, theirs = f"blocks/{i}", f"{prefix}encoder.layer.{i}"
        rows += norm(f"{ours}/norm1", f"{theirs}.layernorm_before")
        qkv = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
        rows += torch_qkv(f"{ours}/attention/qkv", qkv)
        rows += torch_linear(f"{ours}/attention/proj", f"{theirs}.attention.output.dense")
        rows += norm(f"{ours}/norm2", f"{theirs}.layernorm_after")
        rows += torch_linear(f"{ours}/mlp/fc1", f"{theirs}.intermediate.dense")
        rows += torch_linear(f"{ours}/mlp/fc2", f"{theirs}.output.dense")
    return [*rows, *norm("norm", f"{prefix}layernorm")]


def hugging_face_ast(depth: int, *, prefix: str = HUGGING_FACE_AST) -> list[Row]:
    """transformers' ASTForAudioClassification."""
    head = norm("head_norm", "classifier.layernorm") + torch_linear("head", "classifier.dense")
    return hugging_face(depth, distilled=True, prefix=prefix) + head


def google(depth: int, *, num_heads: int) -> list[Row]:
    """Google's ViT, in the names of the vision_transformer project: kernels as ours, heads on an axis of
    their own.
    """
    rows = [same("cls_token", "cls"), same("pos_embed", "Transformer/posembed_input/pos_embedding")]
    rows += [same(f"patch_embed/{name}", f"embedding/{name}") for name in ("kernel", "bias")]
    for i in range(depth):
        ours, theirs = f"blocks/{i}", f"Transformer/encoderblock_{i}"
        rows += norm(f"{ours}/norm1", f"{theirs}/LayerNorm_0", "/scale", "/bias")
        rows += _google_attention(f"{ours}/attention", f"{theirs}/MultiHeadDotProductAttention_1", num_heads)
        rows += norm(f"{ours}/norm2", f"{theirs}/LayerNorm_2", "/scale", "/bias")
        for j in (0, 1):
            dense = f"{theirs}/MlpBlock_3/Dense_{j}"
            rows += [same(f"{ours}/mlp/fc{j + 1}/{name}", f"{dense}/{name}") for name in ("kernel", "bias")]
    return [*rows, *norm("norm", "Transformer/encoder_norm", "/scale", "/bias")]


def _google_attention(ours: str, theirs: str, num_heads: int) -> list[Row]:
    """query, key, value [D, H, K] and [H, K], out [H, K, D]."""
    qkv = [f"{theirs}/{name}" for name in ("query", "key", "value")]
    return [
        Row(
            f"{ours}/qkv/kernel",
            tuple(f"{name}/kernel" for name in qkv),
            lambda *parts: np.concatenate([x.reshape(len(x), -1) for x in parts], axis=1),
            lambda x: [part.reshape(len(x), num_heads, -1) for part in np.split(x, 3, axis=1)],
        ),
        Row(
            f"{ours}/qkv/bias",
            tuple(f"{name}/bias" for name in qkv),
            lambda *parts: np.concatenate([x.reshape(-1) for x in parts]),
            lambda x: [part.reshape(num_heads, -1) for part in np.split(x, 3)],
        ),
        Row(
            f"{ours}/proj/kernel",
            (f"{theirs}/out/kernel",),
            lambda x: x.reshape(-1, x.shape[-1]),
            lambda x: (x.reshape(num_heads, -1, x.shape[-1]),),
        ),
        same(f"{ours}/proj/bias", f"{theirs}/out/bias"),
    ]


def _tokens(distilled: bool) -> list[str]:
    return ["cls_token", *(["dist_token"] if distilled else []), "pos_embed"]


# ---- Reading


def read(
    rows: list[Row], source: Arrays, *, where: str, unused: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """`layouts.read`, the shapes held against each other; the configuration is not known yet."""
    return layouts.read(rows, source, where=where, unused=unused, check=misshapen)


def misshapen(params: Arrays) -> list[str]:
    """What does not fit the width, MLP size and class count that most of a ViT's parameters speak of."""
    width, hidden = params["norm/scale"].size, params["blocks/0/mlp/fc1/bias"].size
    classes = params["head/bias"].size if "head/bias" in params else 0
    ends = {
        "attention/qkv/kernel": (width, 3 * width),
        "attention/qkv/bias": (3 * width,),
        "attention/proj/kernel": (width, width),
        "mlp/fc1/kernel": (width, hidden),
        "mlp/fc1/bias": (hidden,),
        "mlp/fc2/kernel": (hidden, width),
        "cls_token": (1, 1, width),
        "dist_token": (1, 1, width),
        "pos_embed": (1, None, width),
        "patch_embed/kernel": (None, None, None, width),
        "head/kernel": (width, classes),
        "head/bias": (classes,),
    }
    wrong = []
    for path, array in params.items():
        wanted = ends.get(re.sub(r"^blocks/\d+/", "", path), (width,))
        fits = array.ndim == len(wanted) and all(
            w in (None, n) for w, n in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            wrong.append(f"{path} has shape {array.shape}, wanted {wanted}")
    return wrong


# ---- Dialects: brought to the names and forms of the tables above


def fold_layer_scale(source: Arrays, *, where: str) -> dict[str, Any]:
    """DeiT-III's and DINOv2's `ls1.gamma`, `ls2.gamma` multiplied into the projections that they scale.

    x + gamma * (W y + b) = x + (gamma W) y + gamma b: the same function, up to one rounding of the products.
    Register tokens have no place in the AST and are refused.
    """
    registers = [key for key in source if re.fullmatch(r"reg_token|register_tokens", key)]
    if registers:
        raise InputError(
            f"{where} has register tokens ({registers[0]}), the AST has none: take the model without "
            "registers"
        )
    out = {
        key: value for key, value in source.items() if not re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", key)
    }
    for key in source.keys() - out.keys():
        block, scale, _ = key.rsplit(".", 2)
        layer = f"{block}.attn.proj" if scale == "ls1" else f"{block}.mlp.fc2"
        gamma = source[key].astype(np.float64)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in source:  # where it is not, the table says so
                value = source[name].astype(np.float64)
                out[name] = (value * gamma.reshape(-1, *[1] * (value.ndim - 1))).astype(np.float32)
    return out


def embed_all_tokens(positions: Any, num_prefix: int, *, where: str) -> tuple[np.ndarray, int]:
    """Positions [1, P + g g, D] and g, from files whose class token has one, or none (DeiT-III, big_vision).

    There the position is added to patches only, so that the prefix tokens' are exactly zero here.

    Raises:
        InputError: the positions are those of no square grid.
    """
    if not isinstance(positions, np.ndarray) or positions.ndim not in (2, 3):
        raise InputError(f"{where}: its positions are {np.shape(positions)}, wanted [1, tokens, width]")
    count = positions.shape[-2]
    for prefix in (num_prefix, 0):
        side = round(max(count - prefix, 0) ** 0.5)
        if side > 0 and side * side == count - prefix:
            zeros = np.zeros((1, num_prefix - prefix, positions.shape[-1]), np.float32)
            patches = positions.reshape(1, count, -1).astype(np.float32)
            return np.concatenate([zeros, patches], axis=1), side
    raise InputError(f"{where}: {count} positions are no square grid with {num_prefix} or no prefix tokens")


_VERSION_5 = {
    r"^layers\.": "encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}


def hugging_face_dialect(source: Arrays, *, base: str, qkv_bias: bool) -> dict[str, Any]:
    """Without the base model's name (`vit.`), with version 4's names, and zeros for biases that the config
    leaves out.
    """
    out = {}
    for key, value in source.items():
        name = key.removeprefix(base)
        for pattern, replacement in _VERSION_5.items():
            name = re.sub(pattern, replacement, name)
        out[name] = value
    if not qkv_bias:
        for key in [
            key for key in out if re.search(r"attention\.attention\.(query|key|value)\.weight$", key)
        ]:
            out.setdefault(key.replace("weight", "bias"), np.zeros(out[key].shape[0], np.float32))
    return out


_BIG_VISION = {
    r"/LayerNorm_1/": "/LayerNorm_2/",
    r"/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    r"/MlpBlock_0/": "/MlpBlock_3/",
    r"^pos_embedding$": "Transformer/posembed_input/pos_embedding",
}


def google_dialect(source: Arrays) -> dict[str, Any]:
    """big_vision's names, its stacked layers (`encoderblock/...`, [L, ...]) and both projects' prefixes, as
    vision_transformer's.
    """
    out: dict[str, Any] = {}
    for key, value in source.items():
        name = re.sub(r"^(opt/target/|params/img/|params/)", "", key)
        for pattern, replacement in _BIG_VISION.items():
            name = re.sub(pattern, replacement, name)
        value = value.view(ml_dtypes.bfloat16) if value.dtype == np.dtype("V2") else value
        if name.startswith("Transformer/encoderblock/"):
            rest = name.removeprefix("Transformer/encoderblock/")
            out |= {f"Transformer/encoderblock_{i}/{rest}": layer for i, layer in enumerate(value)}
        else:
            out[name] = value
    return out
