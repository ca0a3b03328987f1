"""Sounds out of other people's shards: every byte, label and split, and what is odd in a line."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.commands import invoke
from ast_jax.datasets import folder
from ast_jax.datasets.packed import shards_of, split_of, unpacked
from ast_jax.errors import InputError


def sound(seed: int, kind: str = "FLAC") -> bytes:
    out = io.BytesIO()
    wave = 0.1 * np.random.default_rng(seed).normal(size=800)
    soundfile.write(out, wave, 16_000, format=kind)
    return out.getvalue()


def parquet(path: Path, rows: list[dict], features: dict | None = None) -> Path:
    """As `datasets` writes one: a struct of bytes and path, the features in the schema's metadata."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(rows)
    if features:
        stated = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": stated})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


CLASSES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}


def row(seed: int, label, name: str | None = None, kind: str = "FLAC") -> dict:
    return {"audio": {"bytes": sound(seed, kind), "path": name}, "label": label, "speaker": 7}


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def test_a_set_of_parquet_becomes_a_folders_listing(tmp_path, capsys):
    train = [row(i, i % 2, f"/far/away/../{i}.flac") for i in range(3)]
    parquet(tmp_path / "data/train-00000-of-00002.parquet", train, CLASSES)
    parquet(tmp_path / "data/train-00001-of-00002.parquet", [row(9, 1, "0.flac")], CLASSES)
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [row(5, 0, None, "WAV")], CLASSES)
    out = tmp_path / "sounds"
    invoke("unpack", [str(tmp_path / "data"), f"--out={out}"])
    assert "1 test, 4 train, of 3 shards" in capsys.readouterr().out
    listing = folder.list_clips(out / "clips.csv")
    assert listing.label_names == ("cat", "dog")
    held = {
        split: [(Path(clip.path).read_bytes(), clip.labels) for clip in clips]
        for split, clips in listing.splits.items()
    }
    assert sorted(held["train"]) == sorted([(sound(i), (i % 2,)) for i in range(3)] + [(sound(9), (1,))])
    assert held["test"] == [(sound(5, "WAV"), (0,))]
    # what a shard calls a file is no path: all lie in their split's directory, and none took another's place
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "clips.csv", "test/000000.wav", "train/0-1.flac", "train/0.flac", "train/1.flac", "train/2.flac",
    ]  # fmt: skip
    with pytest.raises(InputError, match="exists already"):
        invoke("unpack", [str(tmp_path / "data"), f"--out={out}"])


def test_labels_of_lists_texts_and_numbers(tmp_path):
    several = {"tags": {"feature": {"names": ["a", "b", "c"]}, "_type": "Sequence"}}
    rows = [{"audio": {"bytes": sound(0), "path": None}, "tags": [0, 2]}]
    (one,) = unpacked(parquet(tmp_path / "a.parquet", rows, several))
    assert one.labels == ("a", "c")
    rows = [{"sound": sound(0, "OGG"), "category": "rain"}, {"sound": sound(1), "category": None}]
    one, two = unpacked(parquet(tmp_path / "b.parquet", rows))
    assert (one.labels, one.ending, two.labels, two.ending) == (("rain",), ".ogg", (), ".flac")
    (one,) = unpacked(parquet(tmp_path / "c.parquet", [row(0, 1) | {"place": 3}]), label="place")
    assert one.labels == ("3",)


def test_a_webdataset_is_read_sample_by_sample(tmp_path):
    files = {
        "a/001.flac": sound(1), "a/001.cls": b"dog\n",
        "a/002.json": b'{"labels": ["cat", "rain"], "place": 3}',
        "a/002.left.wav": b"", "a/002.wav": sound(2, "WAV"),
        "a/003.txt": b"no sound",
    }  # fmt: skip
    shard = tar(tmp_path / "train-000.tar", files)
    one, two = unpacked(shard)
    assert (one.name, one.data, one.labels, one.split) == ("001", sound(1), ("dog",), "train")
    assert (two.data, two.labels, two.ending) == (sound(2, "WAV"), ("cat", "rain"), ".wav")
    with pytest.raises(InputError, match=r"a/001 has neither a \.cls nor a \.json"):
        list(unpacked(shard, label="place"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("validation.tar", "validation"),
        ("dev-3.tar", "validation"),
        ("eval_0.tar", "test"),
        ("test/0000.parquet", "test"),
        ("default/0000.parquet", "train"),
    ],
)
def test_splits_are_those_of_names(name, split):
    assert split_of(Path("set") / name) == split


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([row(0, 1)], {"label": "kind"}, "has no column kind: its columns are audio, label, speaker"),
        ([{"x": 1}], {}, "has no column of sounds: its columns are x; give --audio"),
        ([{"audio": sound(0), "x": 1}], {}, "which column has the labels"),
        (
            [{"audio": {"bytes": None, "path": "a.wav"}, "label": 1}],
            {"audio": "audio"},
            "row 0: audio holds",
        ),
    ],
)
def test_what_is_missing_is_told(tmp_path, rows, options, words):
    with pytest.raises(InputError, match=words):
        list(unpacked(parquet(tmp_path / "a.parquet", rows), **options))


def test_damaged_shards_and_none_are_one_line_and_leave_nothing(tmp_path):
    for name in ("a.parquet", "b.tar"):
        (tmp_path / name).write_bytes(b"torn" * 300)
        with pytest.raises(InputError, match=f"{name} cannot be read as"):
            invoke("unpack", [str(tmp_path / name), f"--out={tmp_path / 'out'}"])
    whole = tar(tmp_path / "c.tar", {"1.wav": sound(0, "WAV"), "1.cls": b"dog"}).read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[:900])
    with pytest.raises(InputError, match="cannot be read as a tar"):
        invoke("unpack", [str(tmp_path / "c.tar"), f"--out={tmp_path / 'out'}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.tar", "c.tar"]
    with pytest.raises(InputError, match="is no directory and no"):
        shards_of([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.parquet or \.tar files in"):
        shards_of([tmp_path / "empty"])


def test_a_label_with_a_semicolon_is_refused(tmp_path):
    shard = parquet(
        tmp_path / "a.parquet", [{"audio": {"bytes": sound(0), "path": None}, "label": "cat; dog"}]
    )
    with pytest.raises(InputError, match="'cat; dog' has a semicolon"):
        invoke("unpack", [str(shard), f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_the_table_is_plain_csv(tmp_path):
    shard = tar(tmp_path / "test.tar", {"1.wav": sound(0, "WAV"), "1.cls": b"dog"})
    invoke("unpack", [str(shard), f"--out={tmp_path / 'out'}"])
    with (tmp_path / "out/clips.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["file", "labels", "split"], ["test/1.wav", "dog", "test"]]
