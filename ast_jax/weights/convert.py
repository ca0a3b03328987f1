"""Our model written for others: PyTorch's reference, Hugging Face, plain arrays; whole or not at all.

Parameters survive every layout bit for bit. What a layout cannot hold is refused before anything is written.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig, family_name, host_variables
from ast_jax.weights import card, layouts, onnx_file, parity, stablehlo, torch_file
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel, load_model, with_config

LAYOUTS = ("flax", "reference", "huggingface", "npz", "safetensors")  # of weights, read back bit for bit
FORMATS = (*LAYOUTS, "stablehlo", "onnx")
_UNUSED_CLASSES = 1000  # of DeiT's two heads, which the reference carries along


def convert(
    src: str | os.PathLike, dst: str | os.PathLike, *, to: str, which: str = "best", **options: Any
) -> list[str]:
    """Reads any checkpoint and writes it in another layout.

    Args:
        src: whatever `load_model` takes; `which` and `options` go there too.
        dst: a new directory for 'flax', 'huggingface', 'stablehlo' and 'onnx', a new file for the others.
        to: 'flax' (a directory of ours), 'reference' (`.pth` with `module.` names, as published),
        'huggingface',
            'npz' or 'safetensors' (our paths, our model card inside); 'stablehlo' (what 'flax' has, and a
            program that jax runs without this package) or 'onnx'. Directories get a README.md, the model's
            card for people.

    Returns:
        Lines for the user: what was read, what was written, and the largest difference of logits, measured on
        the written files where torch (and transformers) are installed.

    Raises:
        InputError: unreadable source, existing destination, or a model that the layout cannot hold.
    """
    if to not in FORMATS:
        raise InputError(f"--to={to}: choose one of {', '.join(FORMATS)}")
    dst = Path(dst)
    if dst.exists():
        raise InputError(f"{dst} exists already: name a new one, or remove it")
    loaded = load_model(src, which=which, **options)
    write = {
        "flax": _flax,
        "reference": _reference,
        "huggingface": _hugging_face,
        "npz": _npz,
        "safetensors": _safetensors,
        "stablehlo": _stablehlo,
        "onnx": _onnx,
    }
    dst.parent.mkdir(parents=True, exist_ok=True)
    partial = dst.with_name(f".{dst.name}.{os.getpid()}.partial")
    try:
        lines = write[to](loaded, partial)
        if partial.is_dir():
            text = card.text(loaded, to=to, name=dst.name, facts=card.facts_of(src, which))
            (partial / card.README).write_text(text, encoding="utf-8")
        os.replace(partial, dst)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
    return [*loaded.notes, f"wrote {dst} ({to})", *lines]


def _flax(loaded: LoadedModel, path: Path) -> list[str]:
    path.mkdir()
    _safetensors(loaded, path / "model.safetensors")
    (path / CARD).write_text(json.dumps(loaded.card(), indent=1))
    return _read_back(loaded, path)


def _stablehlo(loaded: LoadedModel, path: Path) -> list[str]:
    lines = _flax(loaded, path)
    stablehlo.write_program(loaded, path / stablehlo.PROGRAM)
    run = stablehlo.load_exported(path)
    return [*lines, parity.with_function(loaded, "the StableHLO program", lambda fbank: run(fbank)[0])]


def _onnx(loaded: LoadedModel, path: Path) -> list[str]:
    path.mkdir()
    onnx_file.write_onnx(loaded, path / onnx_file.MODEL)
    (path / CARD).write_text(json.dumps(loaded.card(), indent=1))
    run = onnx_file.onnx_runner(path / onnx_file.MODEL)
    if run is None:
        return ["parity: not measured, onnxruntime is not installed"]
    ours = with_config(loaded, dtype="float32")
    return [parity.with_function(ours, "onnxruntime", lambda fbank: run(fbank)[0])]


def _safetensors(loaded: LoadedModel, path: Path) -> list[str]:
    from safetensors.numpy import save_file

    save_file(host_variables(loaded.model), path, metadata={CARD: json.dumps(loaded.card())})
    return _read_back(loaded, path)


def _npz(loaded: LoadedModel, path: Path) -> list[str]:
    with open(path, "wb") as file:  # given a name, NumPy would put .npz behind it
        arrays: dict[str, Any] = {**host_variables(loaded.model), CARD: np.array(json.dumps(loaded.card()))}
        np.savez(file, **arrays)
    return _read_back(loaded, path)


def _read_back(loaded: LoadedModel, path: Path) -> list[str]:
    again = host_variables(load_model(path).model)
    differ = [
        name for name, value in host_variables(loaded.model).items() if not np.array_equal(value, again[name])
    ]
    if differ:
        raise OSError(f"{path} reads back differently ({differ[0]}): is the disk full or failing?")
    return [f"parity: all {len(again)} arrays read back bit for bit"]


def _reference(loaded: LoadedModel, path: Path) -> list[str]:
    config = _ast_config(loaded, "reference")
    if tuple(config.patch_shape) != (16, 16):
        raise InputError(f"the reference's class has 16 x 16 patches only, the model {config.patch_shape}")
    if not config.distilled:
        raise InputError("the reference's class always has a distillation token, the model has none")
    rows = layouts.reference(config.depth, distilled=True)
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


def _ast_config(loaded: LoadedModel, to: str) -> ASTConfig:
    """Raises InputError for a model that such a layout has no keys for."""
    config = loaded.model.config
    if not isinstance(config, ASTConfig):
        raise InputError(
            f"--to={to} is for the AST, the model is of the family {family_name(loaded.model)}: take flax, "
            "npz or safetensors"
        )
    return config


def _hugging_face(loaded: LoadedModel, path: Path) -> list[str]:
    from safetensors.numpy import save_file

    config = _ast_config(loaded, "huggingface")
    if config.patch_shape[0] != config.patch_shape[1]:
        raise InputError(f"Hugging Face's AST has square patches only, the model {tuple(config.patch_shape)}")
    if not config.distilled:
        raise InputError("Hugging Face's AST always has a distillation token, the model has none")
    path.mkdir()
    arrays = layouts.write(layouts.hugging_face_ast(config.depth), host_variables(loaded.model))
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
