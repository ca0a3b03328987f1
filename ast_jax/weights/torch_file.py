"""PyTorch's `.pth` files, read and written without PyTorch, and without running anything that is in them.

A file of torch.save (since PyTorch 1.6) is a zip archive: `data.pkl` is a pickle of the object with its tensors left
out, `data/0`, `data/1`, ... are their bytes, stored uncompressed. The pickle is read by an unpickler that knows tensors,
storages and plain containers and refuses every other name before anything could be called; the bytes are mapped, not copied.
"""

import io
import math
import mmap
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ast_jax.errors import InputError

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

# What the zipfile module makes of damaged directories: some damage reads as a kind of archive that it does not know.
BAD_ZIP = (zipfile.BadZipFile, RuntimeError, struct.error, OverflowError, EOFError, UnicodeDecodeError)
_PLAIN = (str, bytes, int, float, bool, type(None))


def read(path: Path) -> Any:
    """The object in a torch.save file: dictionaries, lists and tuples of read-only NumPy arrays and scalars.

    Tensors come with their own strides and types (bfloat16 through ml_dtypes), mapped from the file. Torch types come as
    NumPy's. The older format (before PyTorch 1.6, no zip) goes through torch itself where that is installed.

    Raises:
        InputError: the file is damaged or cut short, or it names anything but tensors and plain containers.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic != b"PK\x03\x04":
            return _read_old(path, magic)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Archive(path, mapped).load()
    except RecursionError as error:
        raise InputError(f"{path} nests its containers too deeply for a state dict") from error
    except BAD_ZIP as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again") from error


def read_extra(path: Path, name: str) -> bytes | None:
    """A further member of the archive, as `write` stores them under `extra`; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [member for member in archive.namelist() if member.partition("/")[2] == name]
            return archive.read(found[0]) if found else None
    except BAD_ZIP as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again") from error


class _Type(NamedTuple):
    name: str


class _Storage(NamedTuple):
    type: _Type
    key: str
    size: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    type: _Type


class _Archive:
    """One zip file: finds the bytes of each member in the mapped file and puts the arrays over them."""

    def __init__(self, path: Path, mapped: mmap.mmap):
        self.path, self.mapped = path, mapped
        with zipfile.ZipFile(path) as archive:
            self.members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(
                f"{path} is a zip file but none of torch.save's: it has no data.pkl in its one folder"
            )
        self.root = pickles[0].removesuffix("data.pkl")
        self.storages: dict[str, np.ndarray] = {}

    def load(self) -> Any:
        if f"{self.root}byteorder" in self.members and bytes(self.member("byteorder")) != b"little":
            raise InputError(f"{self.path} was written on a big-endian machine: save it again on another")
        try:
            tree = _Unpickler(io.BytesIO(self.member("data.pkl")), self.path).load()
        except InputError:
            raise
        except (
            Exception
        ) as error:  # a damaged pickle can fail in any way at all; it cannot call anything but ours
            raise InputError(
                f"{self.path}: its pickle cannot be read ({type(error).__name__}: {error})"
            ) from error
        return self.plain(tree, {})

    def member(self, name: str) -> memoryview:
        """The bytes of one member, checked against the sum that the zip file keeps of them."""
        info = self.members.get(self.root + name)
        if info is None:
            raise InputError(f"{self.path} lacks its member {name}: it is damaged, fetch it again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{self.path}: member {name} is compressed, torch.save stores members as they are"
            )
        name_size, extra_size = struct.unpack_from("<HH", self.mapped, info.header_offset + 26)
        start = info.header_offset + 30 + name_size + extra_size
        data = memoryview(self.mapped)[start : start + info.file_size]
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise InputError(
                f"{self.path}: member {name} is damaged (its checksum differs), fetch the file again"
            )
        return data

    def plain(self, node: Any, seen: dict[int, Any]) -> Any:
        """The tree with tensors as arrays; a node met again is not built again, and none may hold itself."""
        if id(node) in seen:
            if seen[id(node)] is seen:
                raise InputError(f"{self.path} holds an object that contains itself: no state dict does")
            return seen[id(node)]
        seen[id(node)] = seen
        if isinstance(node, _Tensor):
            done: Any = self.array(node)
        elif isinstance(node, _Storage):
            done = self.elements(node, node.type)
        elif isinstance(node, _Type):
            done = np.dtype(_TYPES[node.name])
        elif isinstance(node, dict):
            done = {self.plain(key, seen): self.plain(value, seen) for key, value in node.items()}
        elif isinstance(node, (list, tuple, set, frozenset)):
            done = [self.plain(value, seen) for value in node]
            done = done if isinstance(node, list) else tuple(done)
        elif isinstance(node, _PLAIN):
            done = node
        else:
            raise InputError(
                f"{self.path} holds a {type(node).__name__}: wanted tensors and plain containers"
            )
        seen[id(node)] = done
        return done

    def elements(self, storage: _Storage, kind: _Type) -> np.ndarray:
        """A whole storage, as elements of `kind`: its own, or what a tensor of a newer file says of untyped bytes."""
        if storage.key not in self.storages:
            self.storages[storage.key] = np.frombuffer(self.member(f"data/{storage.key}"), np.uint8)
        data = self.storages[storage.key]
        wanted = storage.size * np.dtype(_TYPES[storage.type.name]).itemsize
        if data.size < wanted:
            raise InputError(
                f"{self.path}: storage {storage.key} has {data.size} bytes where {wanted} are named: damaged"
            )
        return data[:wanted].view(_TYPES[kind.name])

    def array(self, tensor: _Tensor) -> np.ndarray:
        data = self.elements(tensor.storage, tensor.type)
        offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if math.prod(shape) == 0:
            return np.zeros(shape, data.dtype)
        if reach > data.size:
            raise InputError(
                f"{self.path}: a tensor {shape} reaches past its storage of {data.size} elements: damaged"
            )
        byte_strides = tuple(stride * data.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(data[offset:], shape, byte_strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Knows the names below and no others, so the pickle can build containers and tensor descriptions and nothing else."""

    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file, encoding="utf-8")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Type(_STORAGES[name])
        if module == "torch" and name in _TYPES:
            return _Type(name)
        raise InputError(
            f"{self.path} names {module}.{name}: only tensors and plain containers are read, for a pickle can run any "
            "code. Where you trust the file, load it in PyTorch and save its state_dict alone"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, size = pid
        if word != "storage" or not isinstance(kind, _Type) or not isinstance(key, str) or not _is_size(size):
            raise InputError(f"{self.path}: its pickle refers to {pid!r}, which is no storage")
        return _Storage(kind, key, size)


class _Function:
    """What the pickle may call. It cannot be changed, as a plain function's defaults could be by a BUILD instruction."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any):
        raise pickle.UnpicklingError(f"sets {name} of a function")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, kind=None, *_) -> _Tensor:
    """torch._utils._rebuild_tensor_v2, and _v3, which names the type as well."""
    kind = storage.type if kind is None else kind
    if not isinstance(storage, _Storage) or not isinstance(kind, _Type) or len(shape) != len(strides):
        raise pickle.UnpicklingError(f"builds a tensor from {storage!r}")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise pickle.UnpicklingError(f"builds a tensor of offset {offset}, shape {shape}, strides {strides}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides), kind)


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch", "Size"): _Function(lambda shape=(): tuple(shape)),
}


def _read_old(path: Path, magic: bytes) -> Any:
    """The format before PyTorch 1.6: a stream of pickles; torch reads it, under its own restricted unpickler."""
    if magic[:1] != b"\x80":
        raise InputError(
            f"{path} is no PyTorch file: it starts with {magic!r}, wanted a zip file or a pickle"
        )
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is in PyTorch's format from before 1.6, which only PyTorch reads: pip install torch, or load and "
            "torch.save it again with a newer one"
        ) from error
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises several kinds, pickle's among them
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read by torch.load(weights_only=True): {reason}") from error
    return _from_torch(tree, torch)


def _from_torch(node: Any, torch: Any) -> Any:
    if isinstance(node, torch.Tensor):
        node = node.detach()
        if node.dtype == torch.bfloat16:
            return node.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return node.numpy()
    if isinstance(node, dict):
        return {key: _from_torch(value, torch) for key, value in node.items()}
    return [_from_torch(value, torch) for value in node] if isinstance(node, (list, tuple)) else node


# ---- Writing


def write(
    path: Path, state_dict: Mapping[str, np.ndarray], *, extra: Mapping[str, bytes] | None = None
) -> None:
    """A `.pth` file of float32 arrays that `torch.load(path, weights_only=True)` opens as an ordered state dict.

    `extra` are further members of the archive, which torch leaves alone. Members start at multiples of 64 bytes, as
    torch's own do, so `mmap=True` works too.

    Raises:
        InputError: an array is not float32.
    """
    wrong = [name for name, array in state_dict.items() if array.dtype != np.float32]
    if wrong:
        raise InputError(f"only float32 is written to .pth files: {', '.join(wrong)} are of another type")
    members = {"data.pkl": _pickle(state_dict), "byteorder": b"little", **(extra or {}), "version": b"3\n"}
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


def _pickle(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of OrderedDict(name=tensor, ...), opcode by opcode: pickle itself would have to import torch."""
    out = bytearray(b"\x80\x02" + _ORDERED_DICT + b"(")
    for key, (name, array) in enumerate(state_dict.items()):
        out += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n"
        out += b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu")
        out += _int(array.size) + b"tQ"  # a persistent id: where the bytes are
        strides = [stride // 4 for stride in np.empty(array.shape, np.float32).strides]
        out += _int(0) + _ints(array.shape) + _ints(strides) + b"\x89" + _ORDERED_DICT + b"tR"
    return bytes(out + b"u.")


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
