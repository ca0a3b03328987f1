"""Our model written for others: PyTorch's reference, Hugging Face, plain arrays; whole or not at all.

Parameters survive every layout bit for bit. What a layout cannot hold is refused before anything is written.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import family_name, host_variables
from ast_jax.tables import look_up
from ast_jax.weights import card, onnx_file, parity, stablehlo
from ast_jax.weights.families import EXPORTS
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel, load_model, with_config

# of weights, read back bit for bit
LAYOUTS = ("flax", *EXPORTS, "npz", "safetensors")
FORMATS = (*LAYOUTS, "stablehlo", "onnx")


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
    dst = _new(Path(dst))
    loaded = load_model(src, which=which, **options)
    return [*loaded.notes, *save(loaded, dst, to=to, facts=card.facts_of(src, which))]


def save(loaded: LoadedModel, dst: Path, *, to: str = "flax", facts: Mapping[str, Any]) -> list[str]:
    """Writes a model, whole or not at all; its card for people says `facts`: at least its {source}.

    Raises InputError: a destination that exists, or a layout that cannot hold the model.
    """
    _new(dst)
    write = _writer(to, family_name(loaded.model))
    dst.parent.mkdir(parents=True, exist_ok=True)
    partial = dst.with_name(f".{dst.name}.{os.getpid()}.partial")
    try:
        lines = write(loaded, partial)
        if partial.is_dir():
            text = card.text(loaded, to=to, name=dst.name, facts=facts)
            (partial / card.README).write_text(text, encoding="utf-8")
        os.replace(partial, dst)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
    return [f"wrote {dst} ({to})", *lines]


def _new(dst: Path) -> Path:
    if dst.exists():
        raise InputError(f"{dst} exists already: name a new one, or remove it")
    return dst


def _writer(to: str, family: str) -> Callable[[LoadedModel, Path], list[str]]:
    if to in EXPORTS and family not in EXPORTS[to]:
        raise InputError(
            f"--to={to} is for {', '.join(EXPORTS[to])}, the model is of the family {family}: take flax, npz "
            "or safetensors"
        )
    ours = {
        "flax": _flax,
        "npz": _npz,
        "safetensors": _safetensors,
        "stablehlo": _stablehlo,
        "onnx": _onnx,
    }
    return ours[to] if to in ours else look_up(EXPORTS[to], family, "layout")


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
