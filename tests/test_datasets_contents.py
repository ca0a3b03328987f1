"""Prepared sets are known by what their files hold: whatever changes, shards are those of the files as they
are, and nothing is decoded twice.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from ast_jax.datasets import contents
from ast_jax.datasets.builder import SetBuilder
from ast_jax.datasets.extract import Extraction
from ast_jax.datasets.prepare import find, prepare
from ast_jax.features import load_audio, log_mel


def put(path: Path, pitch: float, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * t), 16_000)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    for number in range(3):
        put(tmp_path / f"sounds/dog/dog{number}.wav", 300 + 10 * number)
        put(tmp_path / f"sounds/rain/rain{number}.wav", 3000 + 10 * number)
    return tmp_path / "sounds"


def stored_as_they_are(sounds: Path, data: Path) -> bool:
    """Whether each example of the set that is found holds the features of its file."""
    prepared = find("folder", source_dir=sounds, data_dir=data, kind="log_mel")
    source = prepared.source(prepared.splits)
    files = {path.stem: path for path in sounds.rglob("*.wav")}
    return len(source) == len(files) and all(
        np.array_equal(example["fbank"], log_mel(load_audio(files[example["id"]])).astype(np.float16))
        for example in map(source.__getitem__, range(len(source)))
    )


def test_sounds_replaced_in_place_are_prepared_again_and_only_they(tree, tmp_path, capsys):
    def prepared():
        return prepare("folder", source_dir=tree, data_dir=tmp_path / "data")

    first = prepared().directory
    size = (tree / "dog/dog1.wav").stat().st_size
    put(tree / "dog/dog1.wav", 1234)
    assert (tree / "dog/dog1.wav").stat().st_size == size
    assert find("folder", source_dir=tree, data_dir=tmp_path / "data", kind="log_mel") is None
    second = prepared()
    assert second.directory != first
    assert second.metadata["num_kept"] == 5
    assert stored_as_they_are(tree, tmp_path / "data")
    told = capsys.readouterr().err
    assert "1 file changed since: only these are prepared again" in told
    assert "5 clips were taken over" in told
    prepared()
    assert "no file changed since" in capsys.readouterr().err


def test_files_that_came_and_went_are_counted_apart(tree, tmp_path, capsys):
    prepare("folder", source_dir=tree, data_dir=tmp_path / "data")
    put(tree / "dog/dog8.wav", 800), put(tree / "dog/dog9.wav", 900)
    (tree / "rain/rain0.wav").unlink()
    prepare("folder", source_dir=tree, data_dir=tmp_path / "data")
    assert "2 files new, 1 file gone: only these are prepared again" in capsys.readouterr().err


def test_a_new_time_alone_or_another_place_is_no_change(tree, tmp_path, capsys):
    first = prepare("folder", source_dir=tree, data_dir=tmp_path / "data")
    os.utime(tree / "dog/dog0.wav")
    assert prepare("folder", source_dir=tree, data_dir=tmp_path / "data").directory == first.directory
    shutil.copytree(tree, tmp_path / "copy")
    again = prepare("folder", source_dir=tmp_path / "copy", data_dir=tmp_path / "data")
    assert again.directory == first.directory
    assert f"from {tree}, the same files are in {tmp_path / 'copy'}" in capsys.readouterr().err


def test_another_directory_of_the_same_names_is_another_set(tree, tmp_path):
    other = tmp_path / "other"
    for path in tree.rglob("*.wav"):
        put(other / path.relative_to(tree), 777 + len(str(path)))
    directories = {
        prepare("folder", source_dir=sounds, data_dir=tmp_path / "data").directory for sounds in (tree, other)
    }
    assert len(directories) == 2
    assert stored_as_they_are(tree, tmp_path / "data")
    assert stored_as_they_are(other, tmp_path / "data")


def test_a_set_from_before_contents_were_kept_is_used_and_told(tree, tmp_path, capsys):
    new = prepare("folder", source_dir=tree, data_dir=tmp_path / "data").directory
    old = SetBuilder("folder", source_dir=tree, data_dir=tmp_path / "elsewhere")
    name = f"log_mel-{old.ledger.listing.fingerprint(tree, Extraction().identity)}"
    new.parent.rename(new.parent.with_name(name))
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path / "data")
    assert prepared.directory.parent.name == name
    assert "whether they changed since is not known" in capsys.readouterr().err


@pytest.mark.parametrize("how", [{"kind": "waveform"}, {"options": {"cut_s": 0.25}}])
def test_what_is_taken_over_is_what_would_be_decoded(tree, tmp_path, how):
    put(tree / "dog/long.wav", 500, seconds=1.2), put(tree / "rain/one.wav", 500, seconds=0.3)
    prepare("folder", source_dir=tree, data_dir=tmp_path / "data", **how)
    put(tree / "rain/rain9.wav", 900)
    sets = [
        prepare("folder", source_dir=tree, data_dir=data, **how)
        for data in (tmp_path / "data", tmp_path / "fresh")
    ]
    assert [s.metadata["num_kept"] for s in sets] == [8, 0]
    for split in sets[0].splits:
        assert sets[0].ids(split) == sets[1].ids(split)
        assert sets[0].statistics(split) == sets[1].statistics(split)
        assert sets[0].num_samples(split).tolist() == sets[1].num_samples(split).tolist()
        sources = [s.source(split) for s in sets]
        for ours, theirs in ([source[i] for source in sources] for i in range(len(sources[1]))):
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])


def test_what_is_no_regular_file_has_no_digest_and_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    names = [str(tmp_path / name) for name in ("pipe.wav", "gone.wav")]
    assert contents.digests(names, tmp_path) == dict.fromkeys(names, "")


@pytest.mark.parametrize("harm", [b"", b"PK\x03\x04 not a zip", None])
def test_a_damaged_store_is_made_again(tmp_path, harm):
    path = put(tmp_path / "a.wav", 300)
    wanted = contents.digests([str(path)], tmp_path)
    store = tmp_path / contents.STORE
    store.write_bytes(store.read_bytes()[:100] if harm is None else harm)
    assert contents.digests([str(path)], tmp_path) == wanted
    with np.load(store) as arrays:
        assert arrays["digests"].tolist() == [wanted[str(path)].encode()]


@given(data=st.data())
@tried(60)
def test_a_changed_byte_changes_the_digest_of_a_short_file(data, tmp_path_factory):
    home = tmp_path_factory.mktemp("bytes")
    held = data.draw(st.binary(min_size=1, max_size=300))
    position = data.draw(st.integers(0, len(held) - 1))
    other = bytearray(held)
    other[position] ^= data.draw(st.integers(1, 255))
    found = []
    for number, content in enumerate((held, bytes(other), held)):
        (home / f"{number}.wav").write_bytes(content)
        found.append(contents.digests([str(home / f"{number}.wav")], None)[str(home / f"{number}.wav")])
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_long_file_is_known_by_its_beginning_its_end_and_its_size(tmp_path):
    path, found = tmp_path / "long.wav", set()
    held = bytearray(3 << 20)
    for position in (None, 0, len(held) - 1):
        other = bytearray(held)
        if position is not None:
            other[position] = 1
        path.write_bytes(other)
        found |= set(contents.digests([str(path)], None).values())
    path.write_bytes(held + b"\0")
    assert len(found | set(contents.digests([str(path)], None).values())) == 4
