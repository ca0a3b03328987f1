"""PyTorch's `.pth` files, read and written without PyTorch, and without running anything that is in them.

A file of torch.save (since PyTorch 1.6) is a zip archive: `data.pkl` is a pickle of the object with its
tensors left out, `data/0`, `data/1`, ... are their bytes, stored uncompressed. They are mapped, not copied.
Before 1.6 it was a row of pickles and then the bytes of each storage.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import unpickle
from ast_jax.weights.budget import Budget, shown, zip_members

_TYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_OLD_MAGIC = 0x1950A86A20F9469CFC6C


def read(path: Path, *, beside: bool = False) -> Any:
    """The object in a torch.save file: dictionaries, lists and tuples of read-only NumPy arrays and scalars.

    Tensors come with their own strides and types (bfloat16 through ml_dtypes). Torch types come as NumPy's.
    Nothing in the file runs. What it names beside tensors and plain containers is refused, or with `beside`
    stands as an `unpickle.Unknown` in its place, for `refuse_unknown` to hold what is wanted against.

    Raises:
        InputError: the file is damaged or cut short, it names anything but tensors and plain containers
            (without `beside`), or it asks for far more memory than it is long.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic != b"PK\x03\x04" and magic[:1] != b"\x80":
            raise InputError(
                f"{path} is no PyTorch file: it starts with {magic!r}, wanted a zip file or a pickle"
            )
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        tree = _read_zip(path, mapped) if magic[:1] == b"P" else _read_old(path, mapped)
        if not beside:
            refuse_unknown(path, tree)
        return tree
    except InputError:
        raise
    # Damage can fail in any way at all; nothing is called that is not ours.
    except Exception as error:
        why = f"{type(error).__name__}: {shown(str(error))}"
        raise InputError(
            f"{path} cannot be read, it is damaged or cut short ({why}): fetch it again"
        ) from error


def refuse_unknown(where: str | Path, tree: Any) -> None:
    """Raises InputError where something in `tree` is neither a tensor nor a plain container."""
    for name in unpickle.unknown(tree):
        raise InputError(
            f"{where} names {shown(name)}: only tensors and plain containers are read, for "
            "a pickle can run any code. Where you trust the file, load it in PyTorch and save its state_dict"
        )


def read_extra(path: Path, name: str) -> bytes | None:
    """A further member of the archive, as `write` stores them under `extra`; None where there is none.

    Raises:
        InputError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = zip_members(path, archive)
            found = [member for member in members if member.partition("/")[2] == name]
            return archive.read(found[0]) if found else None
    except InputError:
        raise
    # zipfile's own errors are of eight kinds.
    except Exception as error:
        raise InputError(f"{path} is damaged or cut short ({shown(str(error))}): fetch it again") from error


class _Storage(NamedTuple):
    """The elements that tensors lie in. Not an array, so that a pickle cannot give a tensor for one."""

    elements: np.ndarray


class _Tensors:
    """What torch's pickles name, and the arrays that they describe.

    Args:
        storage_bytes: finds the bytes of a storage by its key and their number.
    """

    def __init__(self, path: Path, storage_bytes: Callable[[str, int], Any]):
        self.path, self.storage_bytes, self.budget = path, storage_bytes, Budget(path)
        self.storages: dict[str, np.ndarray] = {}
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): lambda: {},
            ("torch._utils", "_rebuild_tensor_v2"): self.array,
            ("torch._utils", "_rebuild_tensor_v3"): self.array_of,
            ("torch._utils", "_rebuild_parameter"): lambda array, *_: array,
            ("torch", "Size"): lambda shape=(): _sizes(shape),
        }
        for name, kind in _STORAGES.items():
            self.known["torch", name] = self.known["torch.storage", name] = np.dtype(_TYPES[kind])
        self.known |= {("torch", name): np.dtype(kind) for name, kind in _TYPES.items()}

    def load(self, file: Any) -> Any:
        return unpickle.load(file, self.find, self.storage)

    def find(self, module: str, name: str) -> Any:
        return self.known.get((module, name), unpickle.Unknown(f"{module}.{name}"))

    def storage(self, pid: Any) -> _Storage:
        word, kind, key, _, size, *view = pid
        refuse_unknown(self.path, kind)
        if word != "storage" or not isinstance(kind, np.dtype) or not isinstance(key, str) or any(view):
            raise ValueError(f"{shown(word)} of {shown(key)}, which is no storage")
        (size,) = _sizes((size,))
        if key not in self.storages:
            self.storages[key] = np.frombuffer(self.storage_bytes(key, size * kind.itemsize), np.uint8)
        data, wanted = self.storages[key], size * kind.itemsize
        if data.size < wanted:
            raise ValueError(f"storage {shown(key)} has {data.size} bytes where {wanted} are named")
        return _Storage(data[:wanted].view(kind))

    def array(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
        """torch._utils._rebuild_tensor_v2: an array over its storage, all of which it may repeat."""
        refuse_unknown(self.path, storage)
        if not isinstance(storage, _Storage):
            raise ValueError(f"a tensor over {shown(storage)}")
        data, (offset,), shape, strides = storage.elements, _sizes((offset,)), _sizes(shape), _sizes(strides)
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if math.prod(shape) == 0:
            return np.zeros(shape, data.dtype)
        if reach > data.size:
            raise ValueError(f"a tensor {shape} reaches past its storage of {data.size} elements")
        self.budget.spend(math.prod(shape) * data.itemsize)
        byte_strides = tuple(stride * data.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(data[offset:], shape, byte_strides, writeable=False)

    def array_of(self, storage, offset, shape, strides, grad, hooks, kind, *_) -> np.ndarray:
        """torch._utils._rebuild_tensor_v3, which names the type of an untyped storage's elements."""
        refuse_unknown(self.path, (storage, kind))
        return self.array(_Storage(storage.elements.view(kind)), offset, shape, strides)


def _sizes(values: Any) -> tuple[int, ...]:
    """A tensor's shape or strides, from a stranger."""
    if not isinstance(values, (tuple, list)) or len(values) > 64:
        raise ValueError(f"{shown(values)} for sizes")
    wrong = [value for value in values if not isinstance(value, int) or not 0 <= value < 1 << 63]
    if wrong:
        raise ValueError(f"{shown(wrong[0])} for a size")
    return tuple(values)


def _read_zip(path: Path, mapped: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = zip_members(path, archive)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(
            f"{path} is a zip file but none of torch.save's: it has no data.pkl in its one folder"
        )
    root = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> memoryview:
        return _stored(mapped, name, members.get(root + name))

    if f"{root}byteorder" in members and bytes(member("byteorder")) != b"little":
        raise InputError(f"{path} was written on a big-endian machine: save it again on another")
    tensors = _Tensors(path, lambda key, _: member(f"data/{key}"))
    return tensors.load(io.BytesIO(member("data.pkl")))


def _stored(mapped: mmap.mmap, name: str, info: zipfile.ZipInfo | None) -> memoryview:
    """The bytes of one member, checked against the sum that the zip file keeps of them."""
    if info is None:
        raise ValueError(f"it lacks its member {name}")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"member {name} is compressed, torch.save stores members as they are")
    name_size, extra_size = struct.unpack_from("<HH", mapped, info.header_offset + 26)
    start = info.header_offset + 30 + name_size + extra_size
    data = memoryview(mapped)[start : start + info.file_size]
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise ValueError(f"the checksum of member {name} differs")
    return data


def _read_old(path: Path, mapped: mmap.mmap) -> Any:
    """The format before PyTorch 1.6. Storages follow the pickle that names them: they are filled last."""
    found: dict[str, np.ndarray] = {}
    budget = Budget(path)

    def empty(key: str, count: int) -> np.ndarray:
        budget.spend(count)
        return found.setdefault(key, np.empty(count, np.uint8))

    tensors = _Tensors(path, empty)
    magic, _version, machine = (tensors.load(mapped) for _ in range(3))
    if magic != _OLD_MAGIC or machine.get("little_endian") is not True:
        raise InputError(f"{path} is a pickle, but none of torch.save's on a little-endian machine")
    tree, keys = tensors.load(mapped), tensors.load(mapped)
    for key in keys:
        # The number of elements stands before them; the pickle has said it with their type.
        mapped.seek(8, 1)
        data = mapped.read(found[key].size)
        found[key][:] = np.frombuffer(data, np.uint8)
    if sorted(keys) != sorted(found):
        raise ValueError(f"it has {len(keys)} storages where {len(found)} are named")
    return tree


# ---- Writing


def write(
    path: Path,
    state_dict: Mapping[str, np.ndarray],
    *,
    inside: str = "",
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """A `.pth` file of float32 arrays that torch.load(path, weights_only=True) opens as a state dict, or as a
    dictionary with one `inside`.

    `extra` are further members of the archive, which torch leaves alone. Members start at multiples of 64
    bytes, as torch's own do, so `mmap=True` works too.

    Raises:
        InputError: an array is not float32.
    """
    wrong = [name for name, array in state_dict.items() if array.dtype != np.float32]
    if wrong:
        raise InputError(f"only float32 is written to .pth files: {', '.join(wrong)} are of another type")
    members = {
        "data.pkl": _pickle(state_dict, inside),
        "byteorder": b"little",
        **(extra or {}),
        "version": b"3\n",
    }
    at = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            at = _store(archive, at, name, data)
        for key, array in enumerate(state_dict.values()):
            at = _store(archive, at, f"data/{key}", np.asarray(array, "<f4").tobytes())


def _store(archive: zipfile.ZipFile, start: int, name: str, data: bytes) -> int:
    """Adds a member whose header is at `start`; returns where the next header will be."""
    info = zipfile.ZipInfo(f"archive/{name}")
    header = 30 + len(info.filename) + 4
    fill = -(start + header) % 64
    info.extra = struct.pack("<HH", 0x4246, fill) + bytes(fill)  # "FB": what torch calls its padding
    archive.writestr(info, data)
    return start + header + fill + len(data)


def _pickle(state_dict: Mapping[str, np.ndarray], inside: str) -> bytes:
    """The pickle of OrderedDict(name=tensor, ...), opcode by opcode: pickle itself would import torch."""
    out = bytearray(b"\x80\x02" + (b"}" + _text(inside) if inside else b"") + _ORDERED_DICT + b"(")
    for key, (name, array) in enumerate(state_dict.items()):
        out += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n"
        out += b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu")
        out += _int(array.size) + b"tQ"  # a persistent id: where the bytes are
        strides = [stride // 4 for stride in np.empty(array.shape, np.float32).strides]
        out += _int(0) + _ints(array.shape) + _ints(strides) + b"\x89" + _ORDERED_DICT + b"tR"
    return bytes(out + (b"us." if inside else b"u."))


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
