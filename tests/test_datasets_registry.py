"""A data set is one file: a row of the table, or the user's own; `open_prepared` finds or prepares it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sound_trees import class_tree, noise, write_wav

from ast_jax.datasets.prepare import find, open_prepared, prepare
from ast_jax.datasets.registry import directory_name, sounds_dir
from ast_jax.datasets.waveforms import waveforms
from ast_jax.errors import InputError

MY_SOUNDS = """
import os
from pathlib import Path
from ast_jax.datasets import Clip, Listing

def default_source_dir(data_dir):
    return data_dir / "mine"

def ensure_sounds(directory, *, loud=False, **others):
    assert not others, others
    (Path(directory) / "made").write_text(str(loud))

def list_clips(source_dir, *, loud=False):
    paths = sorted(Path(source_dir).glob("*.wav"))
    clips = [Clip(path.stem, str(path), (int(loud),)) for path in paths]
    return Listing("mine", ["quiet", "loud"], False, {"train": clips})

def list_others(source_dir):
    return list_clips(source_dir)
"""


@pytest.fixture
def my_sounds(tmp_path, monkeypatch) -> Path:
    """A directory with a module of a user's own and two sounds; it is the working directory."""
    (tmp_path / "my_sounds.py").write_text(MY_SOUNDS)
    for i in range(2):
        write_wav(tmp_path / "data" / "mine" / f"{i}.wav", seed=i)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_sounds", None)


def test_a_set_of_the_users_own_needs_no_row(my_sounds):
    name, data = "my_sounds:list_clips", my_sounds / "data"
    prepared = open_prepared(
        name, source_dir=None, data_dir=data, kind="waveform", options={"loud": True, "cut_s": 9}
    )
    assert (data / "mine" / "made").read_text() == "True"  # its options, without cut_s
    assert prepared.directory.parents[1] == data / "my_sounds"
    assert prepared.class_counts("train").tolist() == [0, 2]
    assert np.array_equal(prepared.source("train")[1]["waveform"], noise(3200, seed=1))
    options = {"loud": True, "cut_s": 9}
    assert find(name, data_dir=data, kind="waveform", options=options).directory == prepared.directory
    assert find("my_sounds:list_others", data_dir=data, kind="waveform", options={}) is None


def test_two_lists_of_one_file_are_not_mixed_up(my_sounds):
    common = {"data_dir": my_sounds / "data", "kind": "log_mel"}
    source = my_sounds / "data" / "mine"
    prepare("my_sounds:list_clips", source_dir=source, workers=2, progress=False, **common)
    assert find("my_sounds:list_clips", **common) is not None
    assert find("my_sounds:list_others", **common) is None


def test_its_sounds_are_found_again(my_sounds):
    source = my_sounds / "data" / "mine"
    prepared = prepare("my_sounds:list_clips", source_dir=source, data_dir=my_sounds, progress=False)
    found = waveforms(prepared, ["train"], ["1"], str(source))
    np.testing.assert_array_equal(found["1"] * 32768, noise(3200, seed=1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the recipe names no data set: set config.dataset.name"),
        ("esc51", "did you mean 'esc50'"),
        ("my_sounds:list_clip", "cannot be imported"),
        ("no_such_module:list_clips", "cannot be imported"),
    ],
)
def test_names_without_a_set_are_told(my_sounds, name, message):
    with pytest.raises(InputError, match=message):
        open_prepared(name, source_dir=None, data_dir=my_sounds)


def test_directories_are_named_after_the_module():
    assert directory_name("esc50") == "esc50"
    assert directory_name("my_sounds:list_clips") == "my_sounds"
    assert directory_name("my-lab.birds:list_clips") == "my_lab_birds"


def test_where_sounds_are(tmp_path):
    assert sounds_dir("folder", None, tmp_path) is None
    assert sounds_dir("folder", "", tmp_path) is None
    assert sounds_dir("folder", "there", tmp_path) == "there"
    assert sounds_dir("synthetic", None, tmp_path) == str(tmp_path / "synthetic" / "sounds")
    assert sounds_dir("synthetic", "there", tmp_path) == "there"


def test_a_set_is_opened_before_it_is_prepared(tmp_path):
    source = class_tree(tmp_path / "set", {"a": 5})
    with pytest.raises(
        InputError, match=r"no prepared log_mel shards of 'folder' in '.*' and no sounds to make them"
    ):
        open_prepared("folder", source_dir=None, data_dir=tmp_path)
    with pytest.raises(
        InputError, match="before several processes train, run `python -m ast_jax prepare` once"
    ):
        open_prepared("folder", source_dir=source, data_dir=tmp_path, alone=False)
    prepared = open_prepared("folder", source_dir=source, data_dir=tmp_path)
    for source_dir, alone in ((source, True), (source, False), (None, False)):
        found = open_prepared("folder", source_dir=source_dir, data_dir=tmp_path, alone=alone)
        assert found.directory == prepared.directory


def test_the_built_in_set_makes_its_sounds(tmp_path):
    options = {"train_per_class": 1, "test_per_class": 1}
    prepared = open_prepared("synthetic", source_dir=None, data_dir=tmp_path, options=options)
    assert prepared.num_examples(["train", "test"]) == 20
    assert len(list((tmp_path / "synthetic" / "sounds").rglob("*.wav"))) == 20
    with pytest.raises(InputError, match="synthetic has no option colour"):
        open_prepared("synthetic", source_dir=None, data_dir=tmp_path, options={"colour": 1})
