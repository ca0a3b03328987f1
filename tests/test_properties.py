"""What holds for whatever people have: any header, any tree, any change of a run, any name."""

import dataclasses
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import tried

from ast_jax.datasets import folder
from ast_jax.datasets.scanning import short_ids
from ast_jax.errors import InputError, printable
from ast_jax.features import AudioError, load_audio
from ast_jax.settings import Settings, flat
from ast_jax.training.workdir import FREE_TO_CHANGE, _compare_settings

RATE = 16_000
# what recorders write, cut, or forget to write
CLAIMS = st.one_of(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))


def outcome(call: Callable[[], Any], refusal: type[Exception]) -> tuple[Any, str]:
    """What a call gives, or the line with which it refuses."""
    try:
        return call(), ""
    except refusal as error:
        line = str(error)
    assert line
    assert "\n" not in line
    return None, line


@given(samples=st.integers(400, 20_000), claim=CLAIMS, riff=CLAIMS, odd=st.integers(0, 1))
@tried(150)
def test_a_wavs_claim_of_its_length_never_loses_sound_without_a_word(samples, claim, riff, odd):
    sound = np.random.default_rng(samples).integers(-20_000, 20_000, samples, dtype=np.int16)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    notes: list[str] = []
    data = head + struct.pack("<4sI", b"data", claim) + sound.tobytes() + b"x" * odd
    heard, refusal = outcome(lambda: load_audio(data, tell=notes.append), AudioError)
    if heard is None:
        # cut short by far: the one stated rule
        assert claim > 2 * samples, refusal
        return
    frame = 400
    wrong = len(heard) < samples - frame
    assert not wrong or notes, (len(heard), samples, claim)
    begins = min(len(heard), frame)
    np.testing.assert_allclose(heard[:begins], sound[:begins] / 32768, atol=1e-4)


NAMES = st.sampled_from(
    ["train", "Test", "valid", "dev", "holdout", "1", "2", "5", "dog", "rain", "cat", "__MACOSX", ".git"]
)
FILES = st.sampled_from(["a.wav", "b.WAV", "c.flac", "notes.txt", "Thumbs.db", "._a.wav", "d.mp3"])
TREES = st.sets(st.lists(NAMES, max_size=3).flatmap(lambda p: FILES.map(lambda f: (*p, f))), max_size=12)


@given(tree=TREES)
@tried(150)
def test_every_sound_of_a_tree_is_a_clip_or_is_told(tree, tmp_path_factory):
    home = tmp_path_factory.mktemp("tree")
    for number, parts in enumerate(sorted(tree)):
        path = home.joinpath(*parts[:-1], f"{number}{parts[-1]}" if parts[-1][0] != "." else parts[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found, _ = outcome(lambda: folder.list_clips(home), InputError)
    if found is None:
        return
    clips = [clip for split in found.splits.values() for clip in split]
    told = {entry[0] for entry in found.left_out}
    hidden = lambda parts: any(part.startswith(".") or part == "__MACOSX" for part in parts)
    sounds = [
        path
        for path in home.rglob("*")
        if path.suffix.lower() in (".wav", ".flac", ".mp3") and not hidden(path.relative_to(home).parts)
    ]
    heard = {os.fspath(clip.path) for clip in clips}
    assert len(heard) == len(clips)
    assert {os.fspath(path) for path in sounds} == heard | (told & {os.fspath(path) for path in sounds})
    assert set(found.label_names).isdisjoint({"__MACOSX", ".git"})
    for split in found.splits:
        assert "\n" not in split


SETTINGS = flat(Settings().tree())


@given(data=st.data())
@tried(200)
def test_any_other_setting_of_a_run_is_told_before_it_goes_on(data, tmp_path_factory):
    key = data.draw(st.sampled_from(sorted(SETTINGS)))
    value = SETTINGS[key]
    kinds = {bool: st.booleans(), int: st.integers(0, 99), float: st.floats(0, 9), str: st.text(max_size=5)}
    other = data.draw(kinds.get(type(value), st.text(max_size=5)))
    assume(other != value)
    tree = {}
    for name, own in (SETTINGS | {key: other}).items():
        section, _, last = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[last] = own
    workdir = tmp_path_factory.mktemp("run")
    if key in FREE_TO_CHANGE:
        _compare_settings(workdir, Settings().tree(), tree)
    else:
        with pytest.raises(InputError, match=r"other settings") as error:
            _compare_settings(workdir, Settings().tree(), tree)
        assert key in str(error.value)


BYTES = st.binary(min_size=1, max_size=12).filter(lambda b: not {0, 47} & set(b) and b not in (b".", b".."))


@given(names=st.lists(BYTES, min_size=1, max_size=6, unique=True))
@tried(300)
def test_any_name_of_a_file_can_be_printed_and_tells_clips_apart(names):
    paths = [os.path.join("sounds", os.fsdecode(name) + ".wav") for name in names]
    ids = short_ids(paths, "sounds")
    assert len(set(ids)) == len(paths)
    for name in [*ids, *map(printable, paths)]:
        name.encode("utf-8")


def test_settings_of_a_run_are_all_compared():
    named = {field.name for section in vars(Settings()).values() for field in dataclasses.fields(section)}
    assert {key.rpartition(".")[2] for key in FREE_TO_CHANGE} <= named
