"""`.pth` files without torch: what is written is read, what torch writes is read, and nothing in a file can run."""

import argparse
import io
import pickle
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.weights import torch_file


def arrays():
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.normal(size=(3, 4)).astype(np.float32),
        "transposed": rng.normal(size=(4, 3)).astype(np.float32).T,
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "naïve.名": np.arange(5, dtype=np.float32),
    }


def forge(path, pickled: bytes, members=()):
    """A zip file as torch.save makes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in members:
            archive.writestr(f"archive/{name}", data)


def tensor_pickle(size=6, offset=0, shape=(2, 3), strides=(3, 1), key="0", kind=b"FloatStorage") -> bytes:
    """The pickle of one float32 tensor with whatever numbers a damaged or hostile file may hold."""
    out = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
        + torch_file._text("storage")
        + b"ctorch\n"
        + kind
        + b"\n"
    )
    out += (
        torch_file._text(key)
        + torch_file._text("cpu")
        + torch_file._int(size)
        + b"tQ"
        + torch_file._int(offset)
    )
    return (
        out
        + torch_file._ints(shape)
        + torch_file._ints(strides)
        + b"\x89"
        + torch_file._ORDERED_DICT
        + b"tR."
    )


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    torch_file.write(tmp_path / "x.pth", arrays(), extra={"ast_jax.json": b"{}"})
    read = torch_file.read(tmp_path / "x.pth")
    assert list(read) == list(arrays())
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == np.float32
        assert array.size == 0 or not read[name].flags.writeable  # it is the file's own page
    with pytest.raises(InputError, match=r"only float32.*half"):
        torch_file.write(tmp_path / "y.pth", {"half": np.zeros(2, np.float16)})


def test_reading_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_file.write(tmp_path / "x.pth", arrays())
    assert set(torch_file.read(tmp_path / "x.pth")) == set(arrays())
    (tmp_path / "old.pth").write_bytes(pickle.dumps(119547037146038801333356, protocol=2))
    with pytest.raises(InputError, match=r"before 1\.6.*pip install torch"):
        torch_file.read(tmp_path / "old.pth")


def test_torch_opens_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    torch_file.write(tmp_path / "x.pth", arrays(), extra={"ast_jax.json": b"{}"})
    for mapped in (False, True):
        opened = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mapped)
        assert list(opened) == list(arrays())
        for name, array in arrays().items():
            np.testing.assert_array_equal(opened[name].numpy(), array)
        assert opened["matrix"].data_ptr() % 64 == 0


@pytest.mark.parametrize("new_format", [True, False])
def test_what_torch_writes_is_read(tmp_path, new_format):
    torch = pytest.importorskip("torch")
    tensors = OrderedDict(
        float32=torch.randn(3, 4),
        transposed=torch.randn(4, 3).t(),
        slice=torch.randn(6)[2:5],
        bfloat16=torch.randn(2, 2).bfloat16(),
        float16=torch.randn(3).half(),
        float64=torch.randn(3).double(),
        int64=torch.arange(5),
        boolean=torch.tensor([True, False]),
        scalar=torch.tensor(2.0),
        parameter=torch.nn.Parameter(torch.randn(2)),
    )
    tree = {"model": tensors, "epoch": 3, "list": [1, (2.5, "x"), None]}
    torch.save(tree, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    read = torch_file.read(tmp_path / "x.pth")
    assert (read["epoch"], read["list"][0], list(read["list"][1])) == (3, 1, [2.5, "x"])
    assert read["model"]["bfloat16"].dtype == ml_dtypes.bfloat16
    for name, tensor in tensors.items():
        got = np.asarray(read["model"][name])
        np.testing.assert_array_equal(got.astype(np.float64), tensor.detach().double().numpy())
        assert got.dtype.itemsize == tensor.element_size()


def test_module_state_dict_and_torch_types_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)  # its state dict carries `_metadata` as an attribute
    torch.save(
        {"model": module.state_dict(), "size": torch.Size([2, 3]), "dtype": torch.float16}, tmp_path / "x.pth"
    )
    read = torch_file.read(tmp_path / "x.pth")
    assert read["size"] == (2, 3)
    assert read["dtype"] == np.float16
    np.testing.assert_array_equal(read["model"]["weight"], module.weight.detach().numpy())


class Rogue:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Rogue(), r"builtins\.print|__builtin__\.print"),
        ({"args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
    ],
)
def test_code_in_a_pickle_is_refused_by_name(tmp_path, capsys, thing, name):
    for protocol in (2, 4):
        forge(tmp_path / "x.pth", pickle.dumps(thing, protocol=protocol))
        with pytest.raises(InputError, match=name):
            torch_file.read(tmp_path / "x.pth")
    assert capsys.readouterr().out == ""


def test_a_pickle_cannot_change_the_functions_it_is_given(tmp_path):
    """BUILD with a slot state sets attributes: of a plain function it would reach `__defaults__`, for every later file."""
    change = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + torch_file._text("_function") + b"Ns\x86b."
    forge(tmp_path / "x.pth", change)
    with pytest.raises(InputError, match="sets _function"):
        torch_file.read(tmp_path / "x.pth")
    forge(tmp_path / "y.pth", tensor_pickle(), [("data/0", bytes(24))])
    assert torch_file.read(tmp_path / "y.pth").shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1}, "reaches past its storage"),
        ({"shape": (3, 3)}, "reaches past its storage"),
        ({"strides": (4, 1)}, "reaches past its storage"),
        ({"strides": (-3, 1)}, "strides"),
        ({"offset": -1}, "offset -1"),
        ({"strides": (3,)}, "builds a tensor"),
        ({"size": 7}, "has 24 bytes where 28"),
        ({"size": -1}, "no storage"),
        ({"key": "1"}, "lacks its member data/1"),
        ({"key": "../0"}, "lacks its member"),
        ({"kind": b"ComplexFloatStorage"}, "torch.ComplexFloatStorage"),
    ],
)
def test_tensors_are_held_to_their_storage(tmp_path, change, message):
    forge(tmp_path / "x.pth", tensor_pickle(**change), [("data/0", bytes(24))])
    with pytest.raises(InputError, match=message):
        torch_file.read(tmp_path / "x.pth")


def test_damage_is_one_line(tmp_path):
    torch_file.write(tmp_path / "x.pth", {"a": np.arange(1000, dtype=np.float32)})
    data = (tmp_path / "x.pth").read_bytes()
    position = data.index(np.arange(1000, dtype=np.float32).tobytes()) + 77
    damaged = {
        "cut": (data[: len(data) // 2], "cut short"),
        "flipped": (data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :], "checksum"),
        "text": (b"<html>not found</html>", "no PyTorch file"),
        "empty": (b"", "no PyTorch file"),
    }
    for name, (content, message) in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            torch_file.read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_zip_files_of_others_are_refused(tmp_path):
    forge(tmp_path / "big.pth", tensor_pickle(), [("data/0", bytes(24)), ("byteorder", b"big")])
    with pytest.raises(InputError, match="big-endian"):
        torch_file.read(tmp_path / "big.pth")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"no data\.pkl"):
        torch_file.read(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
    with pytest.raises(InputError, match="compressed"):
        torch_file.read(tmp_path / "small.pth")


def test_endless_objects_are_refused(tmp_path):
    loop: list = []
    loop.append(loop)
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    pickler = pickle._Pickler(out := io.BytesIO(), protocol=2)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    try:
        pickler.dump(deep)
    finally:
        sys.setrecursionlimit(limit)
    for name, pickled, message in [
        ("loop", pickle.dumps(loop, protocol=2), "contains itself"),
        ("deep", out.getvalue(), "too deeply"),
    ]:
        forge(tmp_path / name, pickled)
        with pytest.raises(InputError, match=message):
            torch_file.read(tmp_path / name)
