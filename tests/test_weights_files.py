"""Checkpoints as strangers write them: where the state dict lies, what is before its names, what it costs."""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from test_weights_torch_file import pickled
from weights_oracles import our_params

from ast_jax.errors import InputError
from ast_jax.weights import files, layouts, load_model, torch_file, vit_layout
from ast_jax.weights.model_card import CARD

X, Y = np.arange(3, dtype=np.float32), np.ones(2, np.float32)


def given(tree, monkeypatch, tmp_path, **chosen) -> files.Contents:
    """What is made of the object of a `.pth` file."""
    torch_file.write(tmp_path / "x.pth", {})
    monkeypatch.setattr(torch_file, "read", lambda path, **_: tree)
    return files.read(tmp_path / "x.pth", **chosen)


@pytest.mark.parametrize("key", files._INSIDE)
def test_a_state_dict_is_found_where_trainers_put_it(key, monkeypatch, tmp_path):
    """A number beside it or a tensor: neither is the state dict."""
    tensor = np.float32(0.9).reshape(())
    for beside in (
        {"epoch": 3},
        {"epoch": 3, "best_acc": tensor},
        {"model": "base"},
        {"model": {"width": 3}},
    ):
        found = given({**beside, key: {"a": X}}, monkeypatch, tmp_path)
        assert found[:3] == ({"a": X}, None, [])
        assert found.beside.keys() == beside.keys() - {key}
    assert given({"args": {}, "model": {key: {"a": X}}}, monkeypatch, tmp_path).arrays == {"a": X}


@pytest.mark.parametrize(
    ("tree", "arrays", "notes"),
    [
        (
            {"state_dict": {"a": X}, "state_dict_ema": {"a": Y}},
            {"a": X},
            ["weights of 'state_dict' taken, those of 'state_dict_ema' left aside (--inside chooses)"],
        ),
        (
            {"teacher": {"a": Y}, "student": {"a": X}, "optimizer": {"state": {0: {"m": X}}}},
            {"a": X},
            ["weights of 'student' taken, those of 'teacher' left aside (--inside chooses)"],
        ),
        ({"a": X, "epoch": 3, "b": {"c": Y}}, {"a": X}, ["'epoch', 'b' left aside: no arrays"]),
        ({"state_dict": {"net.a": X, "net.b": Y}}, {"a": X, "b": Y}, ["'net.' left away before every name"]),
        ({"module.model.a": X}, {"a": X}, ["'module.model.' left away before every name"]),
        ({"model.a": X, "loss.b": Y}, {"model.a": X, "loss.b": Y}, []),
        ({"network.a": X, "net.b": Y}, {"network.a": X, "net.b": Y}, []),
    ],
)
def test_what_is_left_aside_is_told(tree, arrays, notes, monkeypatch, tmp_path):
    assert given(tree, monkeypatch, tmp_path)[:3] == (arrays, None, notes)


def test_a_dictionary_that_holds_itself_has_an_end(monkeypatch, tmp_path):
    tree: dict = {"a": X}
    tree["model"] = tree
    assert given(tree, monkeypatch, tmp_path).arrays == {"a": X}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a\x1b[2Jb": X}, r"names an array 'a\\x1b\[2Jb'"),
        ({0: X}, "names an array 0"),
        ({"\x07bell": 1}, r"a dictionary of '\\x07bell': wanted"),
        ([X], "holds a list"),
        ({f"key {i}": i for i in range(9)}, r"'key 4', \.\.\. \(9 in all\): wanted"),
    ],
)
def test_names_are_printed_escaped(tree, message, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        given(tree, monkeypatch, tmp_path)
    assert str(caught.value).isprintable()


def test_notes_reach_whoever_loads(tmp_path):
    params = our_params(192, 1, grid=(12, 12), patch=(16, 16), classes=35)
    state = layouts.write(vit_layout.reference(1, distilled=True), params)
    torch_file.write(tmp_path / "x.pth", {f"net.{key}": value for key, value in state.items()})
    loaded = load_model(tmp_path / "x.pth", mean=-4.0, std=4.0)
    assert "'net.' left away before every name" in loaded.notes
    assert set(loaded.assumed) < set(loaded.notes)


def test_one_of_several_state_dicts_and_a_prefix_can_be_named(monkeypatch, tmp_path):
    held = {"raw": {"a": X}, "averaged": {"own.a": X, "own.b": Y, "other": Y}}
    read = lambda **chosen: given(held, monkeypatch, tmp_path, **chosen)
    assert read(inside="averaged", prefix="own.")[:3] == (
        {"a": X, "b": Y},
        None,
        ["1 of 3 arrays left aside: not below 'own.'"],
    )
    with pytest.raises(InputError, match="no state dict 'ema' inside: there are 'raw', 'averaged'"):
        read(inside="ema")
    with pytest.raises(InputError, match=r"no array whose name begins with 'their\.': there are 'own"):
        read(inside="averaged", prefix="their.")


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def test_npz_files_are_read_as_numpy_writes_them(tmp_path):
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.float16(2),
        "empty": np.zeros((0, 3), np.int8),
        "big endian": np.arange(3, dtype=">i4"),
        "a/b": X,
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays, **{CARD: json.dumps({"mean": 1})})
        read, card = files.read_arrays(tmp_path / "x.npz")
        assert card == {"mean": 1}
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(HEADER % b"(2000000000,)", bytes(8)), "buffer is smaller"),
        (npy(HEADER % b"(2000000000, 2000000000, 2000000000)", bytes(8)), "OverflowError|buffer"),
        (npy(HEADER % b"(-1,)", bytes(8)), "plain arrays"),
        (npy(b"{'descr': '<f4', 'shape': ((((((((\n"), "plain arrays"),
        (npy(b"\xff\xfe'''\n"), "plain arrays"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)), "plain arrays"),
        (npy(b"(" * 9000 + b"\n"), "plain arrays"),
        (b"\x93NUMPY\x09\x00", "plain arrays"),
        (b"", "plain arrays"),
        (npy(HEADER % b"(268435456,)", bytes(1 << 28)), "asks for more than 16 times"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_npz_costs_what_it_is_long(tmp_path, data, message):
    npz(tmp_path / "x.npz", {"x": data})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            files.read(tmp_path / "x.npz")
        assert str(caught.value).isprintable()
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("card", ["{", "[1]", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_a_damaged_card_is_one_line(tmp_path, card):
    torch_file.write(tmp_path / "x.pth", {"a": X}, extra={CARD: card.encode()})
    np.savez(tmp_path / "x.npz", a=X, **{CARD: card})
    for name in ("x.pth", "x.npz"):
        with pytest.raises(InputError, match=f"its {CARD} (is no valid JSON|holds a list)"):
            files.read(tmp_path / name)


def test_a_card_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled(b"}"))
        archive.writestr(f"archive/{CARD}", bytes(1 << 26))
    with pytest.raises(InputError, match="asks for more than 16 times"):
        files.read(tmp_path / "x.pth")


def test_any_flipped_byte_is_read_or_one_line(tmp_path):
    """Every other byte of three small files, one at a time."""
    np.savez(tmp_path / "x.npz", a=X)
    torch_file.write(tmp_path / "x.pth", {"a": X})
    from safetensors.numpy import save

    for whole in ((tmp_path / "x.npz").read_bytes(), (tmp_path / "x.pth").read_bytes(), save({"a": X})):
        for at in range(0, len(whole), 2):
            broken = io.BytesIO(whole)
            broken.seek(at)
            broken.write(bytes([whole[at] ^ (1 << at % 8)]))
            (tmp_path / "broken").write_bytes(broken.getvalue())
            refusal, arrays = "", {}
            try:
                arrays, *_ = files.read(tmp_path / "broken")
            except InputError as error:
                refusal = str(error)
            assert "\n" not in refusal
            assert all(isinstance(value, np.ndarray) for value in arrays.values())
