"""`.pth` files without torch: what is written is read, what torch writes too, and nothing in one can run."""

import argparse
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.weights import files, torch_file, unpickle


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
    text, number, numbers = torch_file._text, torch_file._int, torch_file._ints
    storage = text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + number(size)
    where = number(offset) + numbers(shape) + numbers(strides)
    rest = b"\x89" + torch_file._ORDERED_DICT + b"tR."
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + where + rest


def old_file(storage: np.ndarray) -> bytes:
    """A file from before PyTorch 1.6: one tensor [2, 3], its storage behind it."""
    head = (torch_file._OLD_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    pickles = [pickle.dumps(value, protocol=2) for value in head]
    pickles += [tensor_pickle(), pickle.dumps(["0"], protocol=2)]
    return b"".join(pickles) + struct.pack("<q", storage.size) + storage.tobytes()


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
    (tmp_path / "old.pth").write_bytes(old_file(np.arange(6, dtype=np.float32)))
    np.testing.assert_array_equal(torch_file.read(tmp_path / "old.pth"), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(3, protocol=2) * 5, "none of torch.save's"),
        (pickle.dumps(torch_file._OLD_MAGIC, protocol=2), "cut short"),
        (None, "cut short"),
    ],
)
def test_damaged_old_files_are_one_line(tmp_path, content, message):
    whole = old_file(np.arange(6, dtype=np.float32))
    (tmp_path / "old.pth").write_bytes(whole[:-1] if content is None else content)
    with pytest.raises(InputError, match=message) as caught:
        torch_file.read(tmp_path / "old.pth")
    assert "\n" not in str(caught.value)


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


class Sampler(OrderedDict):
    """Of a module that no reader has, with all that a pickle can say of an object."""


def beside() -> dict:
    """What PANNs' training saves beside `model`, and worse."""
    state = np.random.RandomState(3)
    sampler = Sampler(indexes=np.arange(9), random_state=state, generator=np.random.default_rng(0))
    sampler.rate = np.float64(0.5)
    return {"iteration": 600_000, "sampler": sampler, "args": argparse.Namespace(lr=1), "rogue": Rogue()}


@pytest.mark.parametrize("new_format", [True, False])
def test_a_state_dict_is_read_whatever_lies_beside_it(tmp_path, capsys, monkeypatch, new_format):
    """Nothing is imported or called for it, and the names of what is left aside are told."""
    torch = pytest.importorskip("torch")
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    path = tmp_path / "x.pth"
    model = {"state_dict": weights, "cfg": argparse.Namespace(width=3)}
    torch.save({"model": model, **beside()}, path, _use_new_zipfile_serialization=new_format)
    with monkeypatch.context() as without:
        # whoever looked a name up would find nothing
        for name in [name for name in sys.modules if name.startswith("numpy.random")]:
            without.setitem(sys.modules, name, None)
        without.delitem(globals(), "Sampler")
        found = files.read(path)
    assert {name: array.tolist() for name, array in found.arrays.items()} == {
        **{"a": [[0, 1, 2], [3, 4, 5]], "b": [1, 1]},
    }
    assert found.beside == {"iteration": 600_000}
    told = {note.partition(" ")[0]: note for note in found.notes}
    assert set(told) == {"'sampler'", "'args'", "'rogue'", "'cfg'"}
    assert "test_weights_torch_file.Sampler" in told["'sampler'"]
    assert "left aside: it names 'argparse.Namespace', and only tensors are read" in told["'args'"]
    assert re.search(r"builtin\w*\.print", told["'rogue'"])
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="only tensors and plain containers are read"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ({"c": np.arange(3)}, r"numpy\.\S*_reconstruct"),
        ({"c": [1, {"d": argparse.Namespace()}]}, r"argparse\.Namespace"),
        ({"c": Rogue()}, r"builtins\.print|__builtin__\.print"),
    ],
)
@pytest.mark.parametrize("inside", ["model", None])
def test_inside_a_state_dict_nothing_unknown_is_let_by(tmp_path, capsys, extra, name, inside):
    """Neither in one of its own, nor in a bare one, nor for another state dict that would be whole."""
    torch = pytest.importorskip("torch")
    state = {"a": torch.ones(2), **extra}
    whole = {"ema": {"a": torch.zeros(2)}}
    torch.save({inside: state, **whole} if inside else state, tmp_path / "x.pth")
    with pytest.raises(InputError, match=name) as caught:
        files.read(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    if inside:
        asked = files.read(tmp_path / "x.pth", inside="ema")
        assert asked.arrays["a"].tolist() == [0, 0]
        assert "'model' left aside" in " ".join(asked.notes)


def test_a_tensor_of_something_unknown_is_refused_by_its_name(tmp_path):
    """Its storage, and the type of a storage without one."""
    text, numbers = torch_file._text, torch_file._ints
    other = b"ctorch.storage\n_load_from_bytes\n)R"
    rest = torch_file._int(0) + numbers((2,)) + numbers((1,)) + b"\x89" + torch_file._ORDERED_DICT
    storage = b"(" + text("storage") + b"ctorch\nUntypedStorage\n" + text("0") + text("cpu") + b"K\x08tQ"
    for content, name in (
        (b"ctorch._utils\n_rebuild_tensor_v2\n(" + other + rest + b"tR", "_load_from_bytes"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(" + other + rest + b"ctorch\nint8\ntR", "_load_from_bytes"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + rest + b"ctorch\nint4\ntR", "torch.int4"),
    ):
        forge(
            tmp_path / "x.pth",
            pickled(b"}" + text("model") + b"}" + text("a"), content, b"ss"),
            [("data/0", bytes(8))],
        )
        with pytest.raises(InputError, match=f"{name}': only tensors"):
            files.read(tmp_path / "x.pth")


def test_arrays_of_numpy_cost_what_they_are_long(tmp_path):
    """A training set's indexes, as text in the pickle, may be longer than all the rest of a pickle."""
    torch = pytest.importorskip("torch")
    indexes = np.random.default_rng(0).integers(0, 1 << 40, 1 << 20)
    torch.save({"model": {"a": torch.ones(2)}, "sampler": {"indexes": indexes}}, tmp_path / "x.pth")
    size = (tmp_path / "x.pth").stat().st_size
    assert size > 2 * unpickle.LIMIT
    tracemalloc.start()
    try:
        assert list(files.read(tmp_path / "x.pth").arrays) == ["a"]
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


def test_a_pickle_cannot_change_the_functions_it_is_given(tmp_path):
    """BUILD sets attributes: of a plain function it would reach `__defaults__`, for every later file."""
    change = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + torch_file._text("_function") + b"Ns\x86b."
    forge(tmp_path / "x.pth", change)
    assert not hasattr(torch_file.read(tmp_path / "x.pth"), "_function")
    forge(tmp_path / "y.pth", tensor_pickle(), [("data/0", bytes(24))])
    assert torch_file.read(tmp_path / "y.pth").shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1}, "reaches past its storage"),
        ({"shape": (3, 3)}, "reaches past its storage"),
        ({"strides": (4, 1)}, "reaches past its storage"),
        ({"strides": (-3, 1)}, "-3 for a size"),
        ({"offset": -1}, "-1 for a size"),
        ({"strides": (3,)}, "shorter than"),
        ({"size": 7}, "has 24 bytes where 28"),
        ({"size": -1}, "-1 for a size"),
        ({"key": "1"}, "lacks its member data/1"),
        ({"key": "../0"}, "lacks its member"),
        ({"kind": b"ComplexFloatStorage"}, "torch.ComplexFloatStorage"),
        ({"shape": (2**31 - 1, 6), "strides": (0, 1)}, "asks for more than 16 times"),
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


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


# t = ((), ()); then forty times t = (t, t): nothing to hold, for ever to hash or to print.
SHARED = b"))\x86q\x00" + b"h\x00h\x00\x86q\x00" * 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled(b"Nr\xff\xff\xff\x1f"), None),  # an unpickler's memo of 2^29 places
        (pickled(SHARED, b"}h\x00Ns"), "with the key a tuple"),
        (pickled(b"(", SHARED, b"Nd"), "with the key a tuple"),
        (pickled(b"}(", SHARED, b"Nu"), "with the key a tuple"),
        (pickled(SHARED, b"Q"), "a tuple of a tuple, which is no storage|unpack"),
        (pickled(SHARED), None),
        (pickled(SHARED, SHARED, b"\x93"), "a name that is a tuple"),
        (pickled(b"ctorch\nSize\n(" + b"K\x01" * 1000, b"t\x85R"), "for sizes"),
        (pickled(b"ctorch\nSize\n(" + b"K\x01" * 1000, b"tR"), "a call of"),
        (pickled(b"\x8b\x00\x10\x00\x00" + b"\x01" * 4096), "an integer of 32761 bits"),
        (pickled(b"X\xff\xff\xff\x7fabc"), "cut short"),
        (b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00abc.", "BYTEARRAY8|cut short"),  # 8 GiB are claimed
        (pickled(b"cmy\x1b[2Jmodule\nname\n"), r"my\\x1b\[2Jmodule"),
    ],
)
def test_a_pickle_costs_what_it_is_long(tmp_path, content, message):
    forge(tmp_path / "x.pth", content)
    tracemalloc.start()
    try:
        if message is None:
            torch_file.read(tmp_path / "x.pth")
        else:
            with pytest.raises(InputError, match=message) as caught:
                torch_file.read(tmp_path / "x.pth")
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 500
        assert tracemalloc.get_traced_memory()[1] < 64 * len(content) + 4e6
    finally:
        tracemalloc.stop()


def test_a_pickle_has_no_more_than_a_model_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "LIMIT", 1000)
    # short texts are objects like all others, of a long one the rest is its own length
    for content in (b"N" * 1001, (torch_file._text("x" * 50)) * 20):
        forge(tmp_path / "x.pth", pickled(content))
        with pytest.raises(InputError, match="more than 1000 bytes without its tensors"):
            torch_file.read(tmp_path / "x.pth")
    forge(tmp_path / "y.pth", pickled(torch_file._text("x" * 5000)))
    assert torch_file.read(tmp_path / "y.pth") == "x" * 5000


def test_tensors_may_share_a_storage_within_reason(tmp_path):
    """Tied weights do; a million views of one storage would be a million copies in the end."""
    one = tensor_pickle(size=1 << 20, shape=(1 << 20,), strides=(1,))[2:-1]
    for count, fine in ((3, True), (40, False)):
        content = pickled(b"](", one * count, b"e")
        forge(tmp_path / "x.pth", content, [("data/0", bytes(4 << 20))])
        if fine:
            assert len(torch_file.read(tmp_path / "x.pth")) == count
        else:
            with pytest.raises(InputError, match="asks for more than 16 times"):
                torch_file.read(tmp_path / "x.pth")


def test_endless_objects_end(tmp_path):
    loop: list = []
    loop.append(loop)
    forge(tmp_path / "loop", pickle.dumps(loop, protocol=2))
    forge(tmp_path / "deep", pickled(b"]" * 20_000, b"a" * 19_999))
    for name in ("loop", "deep"):
        assert len(torch_file.read(tmp_path / name)) == 1
        with pytest.raises(InputError, match="holds a list: wanted a state dict"):
            files.read(tmp_path / name)


def test_members_that_lie_over_each_other_are_refused(tmp_path):
    """A directory may name the same bytes a thousand times."""
    forge(tmp_path / "x.pth", tensor_pickle(), [("data/0", bytes(1 << 20))])
    data = (tmp_path / "x.pth").read_bytes()
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    end = data.index(b"PK\x05\x06")
    directory, count = data[start:end], 1000
    middle = data[data.index(b"PK\x01\x02") : start] + directory * count
    sizes = struct.pack(
        "<HHHHIIH",
        0,
        0,
        count + 1,
        count + 1,
        len(middle),
        len(data[:start]) - len(data[data.index(b"PK\x01\x02") : start]),
        0,
    )
    (tmp_path / "y.pth").write_bytes(data[: data.index(b"PK\x01\x02")] + middle + b"PK\x05\x06" + sizes)
    with pytest.raises(InputError, match="asks for more than 16 times"):
        torch_file.read(tmp_path / "y.pth")
