"""Preparing: what is stored equals what was heard, bad files are listed, what has its name is whole."""

import csv
import errno
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from sound_trees import RATE, broken_files, class_tree, esc50_tree, noise, write_rows, write_wav

from ast_jax.datasets import builder, shards
from ast_jax.datasets.contents import STORE
from ast_jax.datasets.ledger import Ledger
from ast_jax.datasets.prepare import find, prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.features import load_audio, log_mel

ROOT = Path(__file__).resolve().parents[1]


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def finished(data_dir: Path) -> list[Path]:
    return sorted(path.parent for path in data_dir.rglob("metadata.json") if "incomplete" not in str(path))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return class_tree(tmp_path_factory.mktemp("tree"), {"b": 5, "a": 5})


def test_16_bit_files_come_back_bit_for_bit_as_waveforms(tree, tmp_path):
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path, kind="waveform", progress=False)
    for example in prepared.source(["train", "test"]):
        stored, _ = soundfile.read(tree / example["id"][0] / f"{example['id']}.wav", dtype="int16")
        assert example["waveform"].dtype == np.int16
        assert np.array_equal(example["waveform"], stored)


def test_log_mels_are_those_of_the_features_room_rounded_to_float16(tree, tmp_path):
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
    for example in prepared.source(["train", "test"]):
        exact = log_mel(load_audio(tree / example["id"][0] / f"{example['id']}.wav"))
        assert np.array_equal(example["fbank"], exact.astype(np.float16))
        assert np.abs(example["fbank"] - exact).max() <= 2**-8  # half a float16 step for values from 8 to 16


def test_waveform_sets_know_the_statistics_of_their_log_mels(tree, tmp_path):
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path, kind="waveform", progress=False)
    waveforms = [example["waveform"] / np.float32(32768) for example in prepared.source("train")]
    cells = np.concatenate([log_mel(waveform).ravel() for waveform in waveforms]).astype(np.float64)
    assert prepared.statistics("train") == pytest.approx((cells.mean(), cells.std()), abs=1e-9)


def test_channels_are_mixed_down_or_the_first_is_taken(tmp_path):
    stereo = np.stack([noise(3200, 1), noise(3200, 2)], axis=1)
    (tmp_path / "set" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "set" / "a" / "1.wav", stereo, RATE)
    common = {"source_dir": tmp_path / "set", "data_dir": tmp_path, "kind": "waveform", "progress": False}
    first = prepare("folder", channels="first", **common).source("train")[0]["waveform"]
    mean = prepare("folder", channels="mean", **common).source("train")[0]["waveform"]
    assert np.array_equal(first, stereo[:, 0])
    assert np.abs(mean - stereo.mean(axis=1)).max() <= 0.5  # rounded to whole int16 steps


def test_long_recordings_are_cut_and_labelled_alike(tmp_path):
    write_wav(tmp_path / "set" / "a" / "long.wav", 40_000)
    options = {"cut_s": 1}
    prepared = prepare(
        "folder",
        source_dir=tmp_path / "set",
        data_dir=tmp_path,
        kind="waveform",
        options=options,
        progress=False,
    )
    examples = list(prepared.source("train"))
    assert [example["id"] for example in examples] == ["long@0", "long@1", "long@2"]
    assert np.array_equal(np.concatenate([example["waveform"] for example in examples]), noise(40_000))
    assert prepared.class_counts("train").tolist() == [3]
    assert (
        find("folder", data_dir=tmp_path, kind="waveform", options={"cut_s": 1.0}).directory
        == prepared.directory
    )
    assert find("folder", data_dir=tmp_path, kind="waveform") is None


def test_bad_files_are_listed_with_their_reasons_and_the_rest_is_used(tmp_path, capsys):
    source = class_tree(tmp_path / "set", {"good": 6, "bad": 2})
    names = broken_files(source / "bad")
    names = sorted(name for name in names if not name.startswith("bad-"))
    (source / "bad" / "notes.txt").write_text("not meant as a sound")
    prepared = prepare("folder", source_dir=source, data_dir=tmp_path / "data", max_skipped=0.9)
    assert prepared.num_examples(prepared.splits) == 8
    listed = rows(prepared.directory / "skipped.csv")
    assert sorted(Path(row["path"]).name for row in listed) == sorted([*names, "notes.txt"])
    assert all(row["reason"] and row["detail"] and row["path"].startswith("bad/") for row in listed)
    assert {Path(row["path"]).name: row["reason"] for row in listed} == {
        "a-directory.wav": "unreadable",
        "cut-in-header.wav": "truncated",
        "empty.wav": "empty file",
        "gone.wav": "unreadable",
        "cut-flac.flac": "truncated",
        "cut-samples.wav": "truncated",
        "nan.wav": "not finite",
        "no-samples.wav": "no samples",
        "notes.txt": "other file",
        "text.wav": "not audio",
    }
    assert {row["id"] for row in listed} == {Path(name).stem for name in names} | {""}
    told = capsys.readouterr().err
    assert f"8 examples of {8 + len(names)} clips" in told
    assert (
        f"{len(names)} clips skipped and 1 other files, with reasons in {prepared.directory / 'skipped.csv'}"
        in told
    )


def test_a_sound_under_a_wrong_name_is_decoded_by_its_content(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    with (tmp_path / "set" / "a" / "really-flac.wav").open("wb") as file:
        soundfile.write(file, noise(3200), RATE, format="FLAC", subtype="PCM_16")
    prepared = prepare(
        "folder", source_dir=tmp_path / "set", data_dir=tmp_path, kind="waveform", progress=False
    )
    assert np.array_equal(prepared.source("train")[0]["waveform"], noise(3200))


def test_without_bad_files_the_list_has_only_its_header(tree, tmp_path):
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
    assert (prepared.directory / "skipped.csv").read_text().split() == ["id,path,reason,detail"]


def test_missing_esc50_files_are_skipped(tmp_path):
    clips = [(f"{fold}-{i}-A-0.wav", fold, 0, "dog", True) for fold in (1, 2) for i in range(3)]
    source = esc50_tree(tmp_path / "esc", clips)
    (source / "audio" / "2-1-A-0.wav").unlink()
    prepared = prepare("esc50", source_dir=source, data_dir=tmp_path, max_skipped=0.5, progress=False)
    assert prepared.ids(["fold1", "fold2"]) == ["1-0-A-0", "1-1-A-0", "1-2-A-0", "2-0-A-0", "2-2-A-0"]
    assert [row["path"] for row in rows(prepared.directory / "skipped.csv")] == ["audio/2-1-A-0.wav"]


def test_too_many_bad_files_end_it_with_the_list_and_nothing_else(tmp_path):
    source = class_tree(tmp_path / "set", {"good": 20})
    broken_files(source / "good")
    with pytest.raises(InputError) as caught:
        prepare("folder", source_dir=source, data_dir=tmp_path / "data", progress=False)
    listed = tmp_path / "data" / "folder" / "skipped.csv"
    assert len(rows(listed)) == 9
    for part in (
        "9 of 29 clips (31.0%)",
        "max_skipped allows 2.0%",
        str(listed),
        "raise config.dataset.max_skipped",
        "First: ",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert finished(tmp_path) == []
    assert not list(tmp_path.rglob("*array_record*"))
    assert find("folder", source_dir=source, data_dir=tmp_path / "data", kind="log_mel") is None


def test_a_share_allowed_once_is_not_allowed_for_ever(tmp_path):
    source = class_tree(tmp_path / "set", {"good": 20})
    broken_files(source / "good")
    common = {"source_dir": source, "data_dir": tmp_path / "data", "progress": False}
    assert prepare("folder", max_skipped=0.5, **common).metadata["num_skipped"] == 9
    with pytest.raises(InputError, match=r"31.0% of the clips were skipped when .* was prepared"):
        prepare("folder", **common)


def test_a_split_that_loses_every_clip_is_an_error(tmp_path):
    source = class_tree(tmp_path / "set" / "train", {"a": 60}).parent
    (source / "test" / "a").mkdir(parents=True)
    (source / "test" / "a" / "text.wav").write_text("text")
    with pytest.raises(InputError, match="split test has none left"):
        prepare("folder", source_dir=source, data_dir=tmp_path, workers=1, progress=False)


def test_worker_processes_store_the_same_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 7)
    source = class_tree(tmp_path / "set", {"a": 12, "b": 12})
    (source / "a" / "text.wav").write_text("text")
    here, there = (
        prepare(
            "folder",
            source_dir=source,
            data_dir=tmp_path / str(n),
            max_skipped=0.1,
            workers=n,
            progress=False,
        )
        for n in (1, 2)
    )
    for one, two in zip(here.source(["train", "test"]), there.source(["train", "test"]), strict=True):
        assert one["id"] == two["id"]
        assert np.array_equal(one["fbank"], two["fbank"])
    assert here.metadata["splits"] == there.metadata["splits"]
    for name in ["skipped.csv", "clips.npz", *(path.name for path in here.directory.glob("*array_record*"))]:
        assert (here.directory / name).read_bytes() == (there.directory / name).read_bytes()


def test_an_interrupted_run_leaves_nothing(tree, tmp_path, monkeypatch):
    def interrupt(self, split, record, file):
        if record.id == "b-02":
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
    assert [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != STORE
    ] == []


def test_a_full_disk_is_told_and_leaves_nothing(tree, tmp_path, monkeypatch):
    def full(self, split, size):
        raise RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing x")
        yield

    monkeypatch.setattr(builder.SetBuilder, "_write", full)
    with pytest.raises(InputError, match="is full: make room"):
        prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
    assert finished(tmp_path) == []


KILLED = """
import sys, time
from ast_jax.datasets.ledger import Ledger
from ast_jax.datasets.prepare import prepare
add = Ledger.add
def slowly(self, split, record, file):
    add(self, split, record, file)
    print(record.id, flush=True)
    time.sleep(0.1)
Ledger.add = slowly
prepare("folder", source_dir=sys.argv[1], data_dir=sys.argv[2], workers=2, progress=False)
"""


def children(pid: int) -> list[int]:
    # From the parent alone: of all processes of a busy machine, some end between being listed and being read.
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def test_kill_9_leaves_nothing_that_counts_and_the_next_run_clears_up(tmp_path):
    source, data = class_tree(tmp_path / "set", {"a": 30, "b": 30}), tmp_path / "data"
    command = [sys.executable, "-c", KILLED, str(source), str(data)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        for _ in range(8):
            assert process.stdout.readline(), "it ended before it could be killed"
        workers_then = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert len(workers_then) == 2
    assert list(data.rglob("*array_record*")), "nothing had been written yet: the test shows nothing"
    assert find("folder", source_dir=source, data_dir=data, kind="log_mel") is None
    assert find("folder", data_dir=data, kind="log_mel") is None

    prepared = prepare("folder", source_dir=source, data_dir=data, progress=False)
    assert prepared.num_examples(prepared.splits) == 60
    assert list(prepared.directory.parent.iterdir()) == [prepared.directory]
    deadline = time.monotonic() + 10
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text()
        for pid in workers_then
    ):
        assert time.monotonic() < deadline, "worker processes outlive their killed parent"
        time.sleep(0.05)


def test_two_at_once_do_the_work_once(tree, tmp_path, monkeypatch):
    written = []
    add = Ledger.add
    monkeypatch.setattr(
        Ledger,
        "add",
        lambda self, split, record, file: (
            written.append(record.id),
            add(self, split, record, file),
            time.sleep(0.02),
        ),
    )
    results = []
    threads = [
        Thread(
            target=lambda: results.append(
                prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [prepared.num_examples(["train", "test"]) for prepared in results] == [10, 10]
    assert len(written) == 10


def test_a_copied_set_needs_neither_its_sounds_nor_its_old_place(tmp_path):
    source = class_tree(tmp_path / "set", {"a": 5})
    first = prepare("folder", source_dir=source, data_dir=tmp_path / "first", progress=False)
    wanted = [example["fbank"] for example in first.source("train")]
    (tmp_path / "first").rename(tmp_path / "second")
    shutil.rmtree(source)
    copied = find("folder", data_dir=tmp_path / "second", kind="log_mel")
    for got, fbank in zip(copied.source("train"), wanted, strict=True):
        assert np.array_equal(got["fbank"], fbank)


def test_a_set_in_a_bucket_is_found_and_known(tree, tmp_path, monkeypatch):
    """The bucket is a stand-in: a directory under gs://.

    Its shards' records are array_record's own to read.
    """
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    class Bucket(DirFileSystem):
        """gs://bucket/x is tmp_path/bucket/x."""

        protocol = "gcs"

        def __init__(self, **_):
            super().__init__(path=str(tmp_path), fs=LocalFileSystem())

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("gs://")

    before = prepare("folder", source_dir=tree, data_dir=tmp_path / "bucket" / "data", progress=False)
    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "gcs", Bucket)
    found = find("folder", data_dir="gs://bucket/data", kind="log_mel")
    assert str(found.directory).startswith("gs://bucket/data/folder/log_mel-")
    assert found.ids("train") == before.ids("train")
    assert found.statistics("train") == before.statistics("train")
    next(before.directory.glob("*array_record*")).write_bytes(b"short")
    with pytest.raises(InputError, match=r"gs://bucket/.* is damaged"):
        PreparedSet(found.directory)
    with pytest.raises(InputError, match="shards are prepared under a path"):
        prepare("folder", source_dir=tree, data_dir="gs://bucket/data", progress=False)


def test_leftovers_of_the_dead_are_removed_and_the_living_left_alone(tree, tmp_path):
    dead, living = (
        tmp_path / "folder" / name / "incomplete.XYZ_1.0.0" for name in ("log_mel-dead", "log_mel-living")
    )
    for directory in (dead, living):
        directory.mkdir(parents=True)
        (directory / "metadata.json").write_text("{}")
    with (tmp_path / "folder" / ".log_mel-living.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare("folder", source_dir=tree, data_dir=tmp_path, progress=False)
    assert not dead.exists()
    assert living.exists()


def test_a_finished_set_is_used_again_and_a_changed_source_is_not_taken_for_it(tmp_path, capsys):
    source = class_tree(tmp_path / "set", {"a": 5})
    first = prepare("folder", source_dir=source, data_dir=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    assert "prepared before" not in capsys.readouterr().err
    again = prepare("folder", source_dir=source, data_dir=tmp_path)
    assert "5 examples of 5 clips, prepared before" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in again.directory.iterdir()} == times

    write_wav(source / "a" / "new.wav", seed=9)
    assert find("folder", source_dir=source, data_dir=tmp_path, kind="log_mel") is None
    assert find("folder", data_dir=tmp_path, kind="log_mel").directory == first.directory
    second = prepare("folder", source_dir=source, data_dir=tmp_path, progress=False)
    assert second.directory != first.directory
    assert find("folder", data_dir=tmp_path, kind="log_mel").directory == second.directory
    (source / "a" / "new.wav").unlink()
    assert find("folder", source_dir=source, data_dir=tmp_path, kind="log_mel").directory == first.directory


def test_find_does_not_mix_up_kinds_channels_and_options(tree, tmp_path, monkeypatch):
    options = {"label_names": ("b", "a")}
    prepare("folder", source_dir=tree, data_dir=tmp_path, channels="first", options=options, progress=False)
    common = {"data_dir": tmp_path, "kind": "log_mel", "channels": "first", "options": options}
    assert find("folder", **common).label_names == ("b", "a")
    for change in (
        {"kind": "waveform"},
        {"channels": "mean"},
        {"options": {}},
        {"data_dir": tmp_path / "nowhere"},
    ):
        assert find("folder", **{**common, **change}) is None
    assert find("esc50", data_dir=tmp_path, kind="log_mel") is None
    monkeypatch.setattr("ast_jax.datasets.earlier.FEATURE_VERSION", 10**6)
    assert find("folder", **common) is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("esc51", {}, "there is no data set 'esc51': did you mean 'esc50'"),
        ("folder", {"options": {"colour": 1}}, "folder has no option colour: choose among tables, "),
        ("folder", {"kind": "mfcc"}, "kind 'mfcc': shards are of kind log_mel or waveform"),
        ("folder", {"channels": "left"}, "channels 'left': give mean, first, loudest"),
        ("folder", {"options": {"cut_s": 0}}, "cut_s 0.0: a piece is 0.1 s or longer"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(tree, tmp_path, name, changes, message):
    with pytest.raises(InputError, match=message):
        prepare(name, source_dir=tree, data_dir=tmp_path, progress=False, **changes)
    assert list(tmp_path.iterdir()) == []


def test_coverage_and_short_clips_are_told(tmp_path, capsys):
    write_rows(
        tmp_path / "set" / "class_labels_indices.csv", [("index", "mid", "display_name"), (0, "/m/a", "A")]
    )
    (tmp_path / "set" / "eval_segments.csv").write_text(
        "".join(f'clip{i}, 0.0, 10.0, "/m/a"\n' for i in range(4))
    )
    write_wav(tmp_path / "set" / "clips" / "Yclip0.wav", 100)
    write_wav(tmp_path / "set" / "clips" / "extra.wav")
    prepared = prepare("audioset", source_dir=tmp_path / "set", data_dir=tmp_path)
    told = capsys.readouterr().err
    assert "audioset: eval: 1 of 4 listed clips found (25.0%)" in told
    assert "audioset: 1 clips are in no table" in told
    assert "1 clips are shorter than 25 ms" in told
    assert prepared.metadata["notes"]["coverage"]["eval"] == {"listed": 4, "found": 1, "share": 0.25}
    assert prepared.multi_label
    assert prepared.source("eval")[0]["fbank"].shape == (1, 128)


def test_a_builder_alone_writes_a_whole_set_that_plain_tfds_reads(tmp_path):
    import tensorflow_datasets as tfds

    source = esc50_tree(tmp_path / "esc", [(f"{i}-1-A-0.wav", i, 0, "dog", True) for i in (1, 2)])
    esc50 = builder.SetBuilder("esc50", source_dir=source, data_dir=tmp_path)
    esc50.download_and_prepare(file_format="array_record")
    assert PreparedSet(esc50.data_dir).ids("fold2") == ["2-1-A-0"]
    read = tfds.builder_from_directory(esc50.data_dir).as_data_source("fold1")[0]
    assert read["id"] == b"1-1-A-0"
    assert read["fbank"].dtype == np.float16


def test_neither_tensorflow_nor_jax_is_imported(tmp_path):
    class_tree(tmp_path / "set", {"a": 5})
    code = (
        "import sys; from ast_jax.datasets.prepare import prepare\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"where = dict(source_dir={str(tmp_path / 'set')!r}, data_dir={str(tmp_path)!r})\n"
        "s = prepare('folder', **where, progress=False)\n"
        "assert s.source('train')[0]['fbank'].shape[1] == 128\n"
        "print([m for m in ('tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
