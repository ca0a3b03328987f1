"""The built-in sounds: the same for the same seed, harder when held out, whole or not there."""

import json

import numpy as np
import pytest
import soundfile

from ast_jax.datasets import synthetic
from ast_jax.datasets.baseline import accuracy
from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.sounds import RANGES, SOUNDS, widened
from ast_jax.errors import InputError

SMALL = {"train_per_class": 9, "test_per_class": 3}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    synthetic.ensure(path, **SMALL)
    return path


def contents(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.wav"))}


def test_the_same_seed_gives_the_same_bytes_and_another_others(directory, tmp_path):
    synthetic.ensure(tmp_path / "again", **SMALL)
    synthetic.ensure(tmp_path / "other", **SMALL, seed=1)
    first, again, other = contents(directory), contents(tmp_path / "again"), contents(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_clip_does_not_depend_on_how_many_there_are(directory, tmp_path):
    synthetic.ensure(tmp_path, train_per_class=2, test_per_class=1)
    fewer, all_of_them = contents(tmp_path), contents(directory)
    assert fewer.items() <= all_of_them.items()
    assert len(fewer) == 30


def test_files_are_sound_and_of_every_kind(directory):
    assert len(SOUNDS) == 10
    rates, channels = set(), set()
    for file in directory.rglob("*.wav"):
        wave, rate = soundfile.read(file)
        assert 1.8 <= len(wave) / rate <= 2.5 + 1e-3
        assert 0.1 < np.abs(wave).max() <= 1
        assert np.sqrt((wave**2).mean()) > 1e-3
        rates.add(rate)
        channels.add(wave.ndim)
    assert (rates, channels) == ({16_000, 22_050}, {1, 2})


def test_held_out_clips_come_from_other_streams_and_wider_ranges():
    train, _ = synthetic.make("siren", seed=0, split="train", number=0)
    test, _ = synthetic.make("siren", seed=0, split="test", number=0)
    assert train[:1000].tolist() != test[:1000].tolist()
    for name, ranges in RANGES.items():
        assert ranges
        for key, (low, high) in widened(ranges, True).items():
            assert low < ranges[key][0] < ranges[key][1] < high, (name, key)


def test_repeating_changes_nothing_and_an_interrupted_set_is_made_again(directory):
    before = {file: file.stat().st_mtime_ns for file in directory.rglob("*.wav")}
    synthetic.ensure(directory, **SMALL)
    assert {file: file.stat().st_mtime_ns for file in directory.rglob("*.wav")} == before
    whole = contents(directory)
    (directory / synthetic.MANIFEST).unlink()
    next(iter(before)).write_bytes(b"half a file")
    with pytest.raises(InputError, match="no whole set"):
        synthetic.list_clips(directory, **SMALL)
    synthetic.ensure(directory, **SMALL)
    assert contents(directory) == whole
    assert json.loads((directory / synthetic.MANIFEST).read_text())["per_class"] == {"train": 9, "test": 3}


def test_the_listing_is_complete(directory):
    listing = synthetic.list_clips(directory, **SMALL)
    assert {split: len(clips) for split, clips in listing.splits.items()} == {"train": 90, "test": 30}
    assert listing.label_names == tuple(SOUNDS)


def test_a_mean_spectrum_does_not_tell_the_classes_apart(directory, tmp_path):
    """The full set's figure, with its command, is in the README; this small one shows that the task is not trivial."""
    pytest.importorskip("sklearn")
    prepared = prepare(
        "synthetic", source_dir=directory, data_dir=tmp_path, options=SMALL, workers=1, progress=False
    )
    assert 0.2 < accuracy(prepared, ["train"], ["test"]) <= 0.85
