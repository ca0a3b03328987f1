"""The AST in the files of others: the reference's `.pth` and Hugging Face's directory.

Parameters survive both bit for bit. What a layout cannot hold is refused before anything is written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import host_variables
from ast_jax.weights import layouts, parity, torch_file, vit_layout
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel

# of DeiT's two heads, which the reference carries along
_UNUSED_CLASSES = 1000


def reference(loaded: LoadedModel, path: Path) -> list[str]:
    """As published, `module.` names and all, with our card inside. Raises InputError."""
    config = loaded.model.config
    _check_offered(config)
    if tuple(config.patch_shape) != (16, 16):
        raise InputError(f"the reference's class has 16 x 16 patches only, the model {config.patch_shape}")
    if not config.distilled:
        raise InputError("the reference's class always has a distillation token, the model has none")
    rows = vit_layout.reference(config.depth, distilled=True)
    state = {
        f"module.{key}": value for key, value in layouts.write(rows, host_variables(loaded.model)).items()
    }
    for name in ("head", "head_dist"):
        state[f"module.v.{name}.weight"] = np.zeros((_UNUSED_CLASSES, config.width), np.float32)
        state[f"module.v.{name}.bias"] = np.zeros(_UNUSED_CLASSES, np.float32)
    torch_file.write(path, state, extra={CARD: json.dumps(loaded.card()).encode()})
    lines = ["v.head and v.head_dist, which the reference loads and never uses, are zeros"]
    if (config.norm_eps, config.head_norm_eps) != (1e-6, 1e-5):
        lines.append(
            f"the reference's LayerNorm eps are 1e-06 and 1e-05, the model's {config.norm_eps:g} and "
            f"{config.head_norm_eps:g}"
        )
    return [*lines, parity.with_reference(loaded, path)]


def hugging_face(loaded: LoadedModel, path: Path) -> list[str]:
    """A directory that transformers opens. Raises InputError."""
    from safetensors.numpy import save_file

    config = loaded.model.config
    _check_offered(config)
    if config.patch_shape[0] != config.patch_shape[1]:
        raise InputError(f"Hugging Face's AST has square patches only, the model {tuple(config.patch_shape)}")
    if not config.distilled:
        raise InputError("Hugging Face's AST always has a distillation token, the model has none")
    path.mkdir()
    arrays = layouts.write(vit_layout.hugging_face_ast(config.depth), host_variables(loaded.model))
    save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
    _write_json(path / "config.json", _model_config(loaded))
    _write_json(path / "preprocessor_config.json", _preprocessor_config(loaded))
    lines = []
    if config.head_norm_eps != config.norm_eps:
        difference = parity.with_other_head_eps(loaded, config.norm_eps)
        lines.append(
            f"Hugging Face's config has one LayerNorm eps: stored the blocks' {config.norm_eps:g}; with it "
            f"instead of {config.head_norm_eps:g} in the head, logits differ by at most {difference:.1e}"
        )
    return [*lines, parity.with_transformers(loaded, path)]


def _check_offered(config: Any) -> None:
    if config.head != "clip":
        raise InputError(
            "this form has no head for frames, the model has: choose onnx or stablehlo, or keep it as it is"
        )
    if config.mask_even:
        raise InputError(
            "this form attends to padding, and the model does not (config.model.mask_even): choose onnx or "
            "stablehlo, or keep it as it is"
        )


def _model_config(loaded: LoadedModel) -> dict[str, Any]:
    config, names = loaded.model.config, loaded.label_names
    kind = "multi_label_classification" if loaded.activation == "sigmoid" else "single_label_classification"
    return {
        "architectures": ["ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": config.norm_eps,
        "patch_size": config.patch_shape[0],
        "qkv_bias": True,
        "frequency_stride": config.strides[0],
        "time_stride": config.strides[1],
        "max_length": config.num_frames,
        "num_mel_bins": config.num_mel_bins,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": kind,
        "torch_dtype": "float32",
    }


def _preprocessor_config(loaded: LoadedModel) -> dict[str, Any]:
    config = loaded.model.config
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "max_length": config.num_frames,
        "mean": loaded.front_end.mean,
        "std": loaded.front_end.std,
        "num_mel_bins": config.num_mel_bins,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": loaded.front_end.sample_rate_hz,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
