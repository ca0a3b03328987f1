"""Arrays from files of four formats, told apart by their first bytes, and JSON; damage is one line.

What comes back is as the file has it: types and order are nobody's yet. Of names, only what trainers put
before all of them is gone.
"""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import torch_file
from ast_jax.weights.budget import shown, zip_members
from ast_jax.weights.model_card import CARD
from ast_jax.weights.unpickle import unknown

# Where training scripts put a state dict; the first that is there is taken.
_INSIDE = (
    *("model", "state_dict", "model_state_dict", "student", "teacher"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
# What DataParallel, torch.compile and Lightning modules put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")


class Contents(NamedTuple):
    """A file's arrays by name, the model card inside it, if any, and what was left aside."""

    arrays: dict[str, Any]
    card: dict[str, Any] | None
    notes: list[str]
    # what lay beside a state dict in its file: numbers, texts, containers of these
    beside: dict[str, Any]


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The arrays and the model card of `read`, for files that we wrote or whose layout is known."""
    return read(path)[:2]


def read(path: Path, *, inside: str | None = None, prefix: str | None = None) -> Contents:
    """What a `.npz`, safetensors or PyTorch file holds, whatever its name.

    `inside` names one of several state dicts in a PyTorch file; with `prefix`, arrays whose names begin so
    are taken, without it, and others are left aside.

    Raises:
        InputError: it is none of these, or damaged, or asks for far more memory than it is long; or it holds
            no such state dict or names.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror})") from error
    card: str | bytes | None
    notes: list[str] = []
    beside: dict[str, Any] = {}
    zipped = start[:4] == b"PK\x03\x04"
    if start[8:9] == b"{":
        arrays, card = _read_safetensors(path)
    elif zipped and _is_npz(path):
        arrays, card = _read_npz(path)
    elif zipped or start[:1] == b"\x80":
        card = torch_file.read_extra(path, CARD) if zipped else None
        tree = torch_file.read(path, beside=True)
        arrays = _state_dict(tree, str(path), inside, notes)
        inner = any(_holds_arrays(value) for value in tree.values())
        beside = {key: value for key, value in tree.items() if inner and not _holds_arrays(value)}
        beside = {key: value for key, value in beside.items() if not any(unknown(value))}
    else:
        wanted = "a PyTorch (.pth, .bin), safetensors or .npz file"
        raise InputError(f"{path} is no checkpoint: it starts with {start[:4]!r}, wanted {wanted}")
    for name in arrays:
        if not isinstance(name, str) or not name.isprintable():
            raise InputError(f"{path} names an array {shown(name)}, wanted printable text")
    arrays = _without_wrappers(arrays, notes) if prefix is None else _after(prefix, arrays, str(path), notes)
    return Contents(arrays, _parse(card, f"{path}: its {CARD}") if card else None, notes, beside)


def read_weights(path: Path) -> dict[str, Any]:
    """The parameters of a Hugging Face directory: one file, or the shards that an index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists():
            return read_arrays(path / name)[0]
        if (path / f"{name}.index.json").exists():
            shards = sorted(set(read_json(path / f"{name}.index.json").get("weight_map", {}).values()))
            arrays: dict[str, Any] = {}
            for shard in shards:
                arrays |= read_arrays(path / Path(shard).name)[0]
            return arrays
    raise InputError(
        f"{path} has a config.json but no weights: wanted model.safetensors or pytorch_model.bin"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return arrays, (file.metadata() or {}).get(CARD)
    # The library's own error for damage, others for types that NumPy does not have.
    except Exception as error:
        raise InputError(
            f"{path} is no whole safetensors file ({shown(str(error))}): fetch it again"
        ) from error


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    # zipfile's own errors are of eight kinds.
    except Exception as error:
        raise InputError(f"{path} is damaged or cut short ({shown(str(error))}): fetch it again") from error


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in zip_members(path, archive) if name.endswith(".npy")]
            arrays = {name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in names}
    except InputError:
        raise
    # A header is parsed as Python: a damaged one fails in as many ways as Python can.
    except Exception as error:
        why = f"{type(error).__name__}: {shown(str(error))}"
        raise InputError(f"{path} cannot be read as a .npz file of plain arrays ({why})") from error
    card = arrays.pop(CARD, None)
    return arrays, None if card is None else str(card)


def _read_npy(data: bytes) -> np.ndarray:
    """np.load's array over the bytes that are there: np.load itself takes what the header claims."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape}")
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _holds_arrays(tree: Any, depth: int = 3) -> bool:
    """Whether it is a state dict or holds one where training scripts put them."""
    if not isinstance(tree, dict) or not depth:
        return False
    inside = (_holds_arrays(tree.get(key), depth - 1) for key in _INSIDE)
    return any(isinstance(value, np.ndarray) for value in tree.values()) or any(inside)


def _state_dict(tree: Any, where: str, wanted: str | None, notes: list[str]) -> dict[Any, np.ndarray]:
    """The state dict in what training scripts save around it (`{"model": ..., "epoch": ...}`)."""
    if wanted is not None:
        if not isinstance(tree, dict) or not _holds_arrays(tree.get(wanted)):
            there = _some(
                [key for key, value in tree.items() if _holds_arrays(value)] if isinstance(tree, dict) else []
            )
            raise InputError(f"{where} has no state dict {wanted!r} inside: there are {there}")
        _tell_unknown(tree, wanted, notes)
        tree = tree[wanted]
    if not _holds_arrays(tree):
        # by its name, where what would have held them is unknown
        torch_file.refuse_unknown(where, tree)
        held = f"a dictionary of {_some(tree)}" if isinstance(tree, dict) else shown(tree)
        raise InputError(f"{where} holds {held}: wanted a state dict, alone or under 'model' or 'state_dict'")
    # Three times, for a dictionary may hold itself.
    for _ in range(3):
        inside = [key for key in _INSIDE if _holds_arrays(tree.get(key))]
        if inside:
            _tell_unknown(tree, inside[0], notes)
            tree = tree[inside[0]]
        if inside[1:]:
            aside = _some(inside[1:])
            notes.append(f"weights of {inside[0]!r} taken, those of {aside} left aside (--inside chooses)")
    torch_file.refuse_unknown(where, tree)
    if others := [key for key, value in tree.items() if not isinstance(value, np.ndarray)]:
        notes.append(f"{_some(others)} left aside: no arrays")
    return {key: value for key, value in tree.items() if isinstance(value, np.ndarray)}


def _tell_unknown(tree: dict[Any, Any], taken: str, notes: list[str]) -> None:
    """What lies beside the state dict and is more than tensors and plain containers."""
    for key, value in tree.items():
        if key != taken and (names := sorted(set(unknown(value)))):
            notes.append(f"{shown(key)} left aside: it names {_some(names)}, and only tensors are read")


def _some(names: Any) -> str:
    """The first five of a stranger's names."""
    first = ", ".join(shown(name) for name in list(names)[:5])
    return f"{first}, ... ({len(names)} in all)" if len(names) > 5 else first or "nothing"


def _after(prefix: str, arrays: dict[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    found = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if not found:
        raise InputError(f"{where} has no array whose name begins with {prefix!r}: there are {_some(arrays)}")
    if len(found) < len(arrays):
        notes.append(f"{len(arrays) - len(found)} of {len(arrays)} arrays left aside: not below {prefix!r}")
    return found


def _without_wrappers(arrays: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The arrays without what stands before all of their names and says nothing."""
    gone = ""
    while prefix := next((p for p in _WRAPPERS if arrays and all(key.startswith(p) for key in arrays)), ""):
        arrays, gone = {key.removeprefix(prefix): value for key, value in arrays.items()}, gone + prefix
    if gone:
        notes.append(f"{gone!r} left away before every name")
    return arrays


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    return _parse(path.read_bytes(), str(path))


def _parse(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    # Not JSON, not UTF-8, nested beyond Python's stack, or a number of too many digits.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no valid JSON ({shown(str(error))})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}, wanted a JSON object")
    return value
