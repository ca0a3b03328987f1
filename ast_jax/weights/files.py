"""Arrays from files of four formats, told apart by their first bytes, and JSON; damage is one line.

What comes back is as the file has it: types, names and order are nobody's yet.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import torch_file
from ast_jax.weights.model_card import CARD


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The arrays of a `.npz`, safetensors or PyTorch file, whatever its name, and the model card inside, if any.

    Raises:
        InputError: it is none of these, or damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror})") from error
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:4] == b"PK\x03\x04" and _is_npz(path):
        return _read_npz(path)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        card = torch_file.read_extra(path, CARD) if start[:2] == b"PK" else None
        return _unwrap(torch_file.read(path), str(path)), json.loads(card) if card else None
    raise InputError(
        f"{path} is no checkpoint: it starts with {start[:4]!r}, wanted a PyTorch (.pth, .bin), safetensors or .npz file"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            card = (file.metadata() or {}).get(CARD)
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(card) if card else None  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file ({error}): fetch it again") from error


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except torch_file.BAD_ZIP as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again") from error


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (*torch_file.BAD_ZIP, zlib.error, ValueError) as error:  # ValueError: an array of Python objects
        raise InputError(f"{path} cannot be read as a .npz file of plain arrays ({error})") from error
    card = arrays.pop(CARD, None)
    return arrays, json.loads(str(card)) if card is not None else None


def _unwrap(tree: Any, where: str) -> dict[str, Any]:
    """The state dict in what training scripts save around it (`{"model": ..., "epoch": ...}`)."""
    for _ in range(3):
        if isinstance(tree, dict) and any(isinstance(value, np.ndarray) for value in tree.values()):
            return {str(key): value for key, value in tree.items()}
        inner = [
            key
            for key in ("model", "state_dict", "model_state_dict")
            if isinstance(tree, dict) and key in tree
        ]
        if not inner:
            break
        tree = tree[inner[0]]
    held = (
        f"a dictionary of {', '.join(map(str, list(tree)[:5]))}"
        if isinstance(tree, dict)
        else type(tree).__name__
    )
    raise InputError(f"{where} holds {held}: wanted a state dict, alone or under 'model' or 'state_dict'")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, wanted a JSON object")
    return value
