"""Our model written for others: PyTorch's reference, Hugging Face, plain arrays; whole or not at all.

Parameters survive every layout bit for bit. What a layout cannot hold is refused before anything is written.
"""

import dataclasses
import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features.front_end import require_sound
from ast_jax.models import family_name, host_variables
from ast_jax.tables import look_up
from ast_jax.weights import card, litert_file, onnx_file, parity, stablehlo
from ast_jax.weights.families import EXPORTS
from ast_jax.weights.model_card import CARD
from ast_jax.weights.onnx_file import Weights
from ast_jax.weights.pretrained import LoadedModel, load_model, with_config
from ast_jax.weights.program import Takes

# of weights, read back bit for bit
LAYOUTS = ("flax", *EXPORTS, "npz", "safetensors")
# that run without this package
PROGRAMS = ("stablehlo", "onnx", "litert")
FORMATS = (*LAYOUTS, *PROGRAMS)


@dataclasses.dataclass(frozen=True)
class Deployed:
    """What a program takes and how its weights lie (ONNX's alone); the sounds that it is checked on."""

    takes: Takes = "log_mel"
    weights: Weights = "float32"
    sounds: tuple[Path, ...] = ()

    def check(self, to: str) -> None:
        """Raises InputError where a format has no use for what is asked."""
        if to not in PROGRAMS and self != Deployed():
            raise InputError(
                f"--to={to} is no program: --input, --weights and --check are for {', '.join(PROGRAMS)}"
            )
        if to != "onnx" and self.weights != "float32":
            raise InputError(f"--weights={self.weights} is for --to=onnx: {to} has its weights as they are")

    @property
    def words(self) -> str:
        """For people."""
        return f"{'waveforms' if self.takes == 'waveform' else 'log-mels'} in, weights in {self.weights}"


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    to: str,
    which: str = "best",
    deployed: Deployed | None = None,
    **options: Any,
) -> list[str]:
    """Reads any checkpoint and writes it in another layout.

    Args:
        src: whatever `load_model` takes; `which` and `options` go there too.
        dst: a new directory for 'flax', 'huggingface' and programs, a new file for the others.
        to: 'flax' (a directory of ours), 'reference' (`.pth` with `module.` names, as published),
        'huggingface',
            'npz' or 'safetensors' (our paths, our model card inside); 'stablehlo' (what 'flax' has, and a
            program that jax runs without this package), 'onnx' or 'litert'. Directories get a README.md, the
            model's card for people.
        deployed: of programs alone.

    Returns:
        Lines for the user: what was read, what was written, and the largest difference of logits, measured on
        the written files where torch (and transformers) are installed.

    Raises:
        InputError: unreadable source, existing destination, or a model that the layout cannot hold.
    """
    if to not in FORMATS:
        raise InputError(f"--to={to}: choose one of {', '.join(FORMATS)}")
    deployed = deployed or Deployed()
    deployed.check(to)
    dst = _new(Path(dst))
    loaded = load_model(src, which=which, **options)
    # one without arrays is refused
    _ = loaded.parts
    facts = card.facts_of(src, which)
    return [*loaded.notes, *save(loaded, dst, to=to, facts=facts, deployed=deployed)]


def save(
    loaded: LoadedModel,
    dst: Path,
    *,
    to: str = "flax",
    facts: Mapping[str, Any],
    deployed: Deployed | None = None,
) -> list[str]:
    """Writes a model, whole or not at all; its card for people says `facts`: at least its {source}.

    Raises InputError: a destination that exists, or a layout that cannot hold the model.
    """
    _new(dst)
    deployed = deployed or Deployed()
    write = _writer(to, family_name(loaded.model), deployed)
    if deployed.takes == "waveform" or deployed.sounds:
        require_sound(loaded.front_end, "convert --input=waveform" if not deployed.sounds else "--check")
    dst.parent.mkdir(parents=True, exist_ok=True)
    partial = dst.with_name(f".{dst.name}.{os.getpid()}.partial")
    try:
        lines = write(loaded, partial)
        if partial.is_dir():
            measured = lines if to in PROGRAMS else []
            text = card.text(
                loaded, to=to, name=dst.name, facts=facts, takes=deployed.takes, measured=measured
            )
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


def _writer(to: str, family: str, deployed: Deployed) -> Callable[[LoadedModel, Path], list[str]]:
    if to in EXPORTS and family not in EXPORTS[to]:
        raise InputError(
            f"--to={to} is for {', '.join(EXPORTS[to])}, the model is of the family {family}: take flax, npz "
            "or safetensors"
        )
    ours: dict[str, Any] = {
        "flax": _flax,
        "npz": _npz,
        "safetensors": _safetensors,
        "stablehlo": functools.partial(_stablehlo, deployed=deployed),
        "onnx": functools.partial(_onnx, deployed=deployed),
        "litert": functools.partial(_litert, deployed=deployed),
    }
    return ours[to] if to in ours else look_up(EXPORTS[to], family, "layout")


def _flax(loaded: LoadedModel, path: Path) -> list[str]:
    path.mkdir()
    _safetensors(loaded, path / "model.safetensors")
    (path / CARD).write_text(json.dumps(loaded.card(), indent=1))
    return _read_back(loaded, path)


def _stablehlo(loaded: LoadedModel, path: Path, deployed: Deployed) -> list[str]:
    lines = _flax(loaded, path)
    stablehlo.write_program(loaded, path / stablehlo.PROGRAM, deployed.takes)
    run = stablehlo.load_exported(path)
    lines.append(parity.with_program(loaded, "the StableHLO program", run, deployed.takes))
    if deployed.sounds:
        lines.append(parity.on_sounds(loaded, run, deployed.takes, deployed.sounds)[0])
    return lines


def _onnx(loaded: LoadedModel, path: Path, deployed: Deployed) -> list[str]:
    path.mkdir()
    file = path / onnx_file.MODEL
    graphs = onnx_file.Graphs(loaded, deployed.takes)
    graphs.write(file, deployed.weights)
    (path / CARD).write_text(json.dumps(loaded.card(), indent=1))
    lines = [f"{file.stat().st_size / 1e6:.1f} MB, {deployed.words}"]
    run = onnx_file.onnx_runner(file)
    if run is None:
        return [*lines, "parity: not measured, onnxruntime is not installed"]
    ours = with_config(loaded, dtype="float32")
    lines.append(parity.with_program(ours, "onnxruntime", run, deployed.takes))
    if deployed.sounds:
        line, given = parity.on_sounds(ours, run, deployed.takes, deployed.sounds)
        lines.append(line)
        if deployed.weights != "float32":
            with tempfile.TemporaryDirectory() as directory:
                plain = Path(directory) / onnx_file.MODEL
                graphs.write(plain)
                lines.append(_speed(run, onnx_file.onnx_runner(plain), given))
    return lines


def _litert(loaded: LoadedModel, path: Path, deployed: Deployed) -> list[str]:
    path.mkdir()
    file = path / litert_file.MODEL
    litert_file.write(loaded, file, deployed.takes)
    (path / CARD).write_text(json.dumps(loaded.card(), indent=1))
    lines = [f"{file.stat().st_size / 1e6:.1f} MB, {deployed.words}, one clip at a time"]
    run = litert_file.litert_runner(file, deployed.takes)
    if run is None:
        return [*lines, "parity: not measured, ai-edge-litert is not installed"]
    ours = with_config(loaded, dtype="float32")
    lines.append(parity.with_program(ours, "LiteRT", run, deployed.takes))
    if deployed.sounds:
        lines.append(parity.on_sounds(ours, run, deployed.takes, deployed.sounds)[0])
    return lines


def _speed(run: Callable, plain: Callable | None, given: list[dict[str, np.ndarray]]) -> str:
    """Of one sound after the other, each heard by both, A B."""
    assert plain is not None
    taken: dict[str, list[float]] = {"own": [], "plain": []}
    for inputs in [given[0], *given]:
        for name, each in (("own", run), ("plain", plain)):
            start = time.perf_counter()
            each(*inputs.values())
            taken[name].append(time.perf_counter() - start)
    # without the first, which warms up
    own, other = (float(np.median(taken[name][1:])) for name in ("own", "plain"))
    return (
        f"a sound takes {own * 1e3:.0f} ms in onnxruntime, {other * 1e3:.0f} ms with float32: "
        f"{other / own:.2f} x as fast"
    )


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
