"""The built-in sounds: the same bytes everywhere, whole or not there, no use without order in time."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from ast_jax.datasets import synthetic
from ast_jax.datasets.baseline import accuracy, best_score
from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.sounds import NAMES, RANGES, RECORDING, SOUNDS, ranges, record
from ast_jax.errors import InputError

SMALL = {"train_per_class": 9, "test_per_class": 3}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    assert synthetic.generate(path, **SMALL) == 120
    return path


def contents(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.wav"))}


def test_the_bytes_are_those_of_any_other_machine(directory):
    """If this is deliberate, raise VERSION beside the new digest: sets on disks are then written again."""
    digest = hashlib.sha256(b"".join(contents(directory).values())).hexdigest()
    assert (synthetic.VERSION, digest[:16]) == (2, "a1613534aef12ded")


def test_a_file_depends_on_seed_split_class_and_index_alone(directory, tmp_path):
    synthetic.generate(tmp_path / "fewer", train_per_class=2, test_per_class=3)
    synthetic.generate(tmp_path / "other", **SMALL, seed=1)
    here, fewer, other = contents(directory), contents(tmp_path / "fewer"), contents(tmp_path / "other")
    assert fewer.items() <= here.items()
    assert len(fewer) == 50
    assert other.keys() == here.keys()
    assert not set(other.values()) & set(here.values())
    assert len(set(here.values())) == len(here)  # between classes and indices too
    for (
        name
    ) in NAMES:  # the length is the first thing drawn: one stream for both splits would give one length
        train, held_out = (here[f"{split}/{name}/{name}_{split}_0000.wav"] for split in ("train", "test"))
        assert len(train) != len(held_out)


def test_files_are_wav_in_three_formats_at_the_levels_and_lengths_asked_for(tmp_path):
    synthetic.generate(tmp_path, train_per_class=28, test_per_class=1, seconds=(1.0, 1.2))
    formats = []
    lowest, highest = (10 ** (level / 20) for level in ranges("siren", True)["level_dbfs"])
    for file in tmp_path.rglob("*.wav"):
        about = soundfile.info(file)
        formats.append((about.samplerate, about.channels))
        assert (about.format, about.subtype) == ("WAV", "PCM_16")
        assert 1.0 - 1e-3 <= about.duration <= 1.2  # cut to whole samples
        peak = np.abs(soundfile.read(file)[0]).max()
        assert lowest - 1e-4 <= peak <= highest < 0.8  # 1e-4: three steps of 16 bits
    assert {kind: formats.count(kind) for kind in set(formats)} == {
        (16_000, 1): 270,
        (44_100, 2): 10,
        (22_050, 1): 10,
    }


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_finite_and_stands_out_of_its_background(name, held_out):
    """Before the onset there is background alone, at least snr_db below the loud parts.

    3 dB for a short average of noise.
    """
    least = ranges(name, held_out)["snr_db"][0] - 3
    for seed in range(5):
        x = record(
            name, np.random.default_rng(seed), seconds=2.0, rate_hz=16_000, microphones=2, held_out=held_out
        )
        assert x.shape == (32_000, 2)
        assert np.isfinite(x).all()
        power = np.square(x[:, 0]).reshape(-1, 400).mean(axis=1)
        assert 10 * np.log10(np.sort(power)[-3] / power[0]) > least
        assert np.abs(x[:, 0] - x[:, 1]).max() > 0


def test_held_out_recordings_are_drawn_from_wider_ranges():
    assert tuple(SOUNDS) == NAMES
    assert len(NAMES) == 10
    for name in NAMES:
        inner, outer = ranges(name, False), ranges(name, True)
        assert inner == {**RANGES[name], **RECORDING}
        for key, (low, high) in inner.items():
            assert outer[key][0] < low < high < outer[key][1]
            if key.endswith(("_hz", "_s", "octaves")) and low > 0:
                assert outer[key][0] > 0


def test_repeating_writes_nothing(directory):
    before = {file: file.stat().st_mtime_ns for file in directory.rglob("*") if file.name != ".lock"}
    assert synthetic.generate(directory, **SMALL) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_two_at_once_write_the_set_once(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        counts = list(
            pool.map(lambda _: synthetic.generate(tmp_path, train_per_class=1, test_per_class=1), "ab")
        )
    assert sorted(counts) == [0, 20]


def test_an_interrupted_set_is_not_listed_and_is_written_again(directory, tmp_path, monkeypatch):
    write, seen = synthetic._write, []

    def die_halfway(sound):
        seen.append(sound)
        if len(seen) > 60:
            raise KeyboardInterrupt
        write(sound)

    monkeypatch.setattr(synthetic, "_write", die_halfway)
    with pytest.raises(KeyboardInterrupt):
        synthetic.generate(tmp_path, **SMALL)
    assert not (tmp_path / synthetic.MANIFEST).exists()
    with pytest.raises(InputError, match="no complete built-in set"):
        synthetic.list_clips(tmp_path)
    monkeypatch.setattr(synthetic, "_write", write)
    synthetic.generate(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(directory)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_set_with_a_damaged_file_is_written_again(directory, tmp_path, damage):
    synthetic.generate(tmp_path, **SMALL)
    file = tmp_path / "test" / "bell" / "bell_test_0001.wav"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-2])
    assert synthetic.generate(tmp_path, **SMALL) == 120
    assert contents(tmp_path) == contents(directory)


def test_another_set_takes_the_place_of_the_first_and_of_nothing_else(tmp_path):
    synthetic.generate(tmp_path, train_per_class=2, test_per_class=1)
    mine = [tmp_path / "train" / "bell" / "my bell.wav", tmp_path / "train" / "mine" / "mine_train_0000.wav"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not yours")
    synthetic.generate(tmp_path, train_per_class=1, test_per_class=1)
    assert len(contents(tmp_path)) == 20 + len(mine)
    assert all(path.read_bytes() == b"not yours" for path in mine)
    assert sum(map(len, synthetic.list_clips(tmp_path).splits.values())) == 20


def test_the_listing_is_complete_and_in_order_of_file_names(directory):
    listing = synthetic.list_clips(directory, **SMALL, seed=0)
    assert listing.label_names == NAMES
    assert not listing.multi_label
    assert listing.notes["generator"] == json.loads((directory / synthetic.MANIFEST).read_text())
    for split, count in (("train", 90), ("test", 30)):
        ids = [clip.id for clip in listing.splits[split]]
        assert len(ids) == count
        assert ids == sorted(ids)
        for clip in listing.splits[split]:
            assert clip.id.startswith(f"{NAMES[clip.labels[0]]}_{split}_")
            assert soundfile.info(clip.path).frames > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "written with seed=0, not"),
        ({"train_per_class": 10}, "train_per_class=9"),
        ({"seconds": [2.0, 3.0]}, "seconds"),
    ],
)
def test_a_set_written_with_other_options_is_not_taken_for_this_one(directory, options, message):
    with pytest.raises(InputError, match=message):
        synthetic.list_clips(directory, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"train_per_class": 0},
        {"test_per_class": 0},
        {"seconds": (2.0, 1.5)},
        {"seconds": (0.1, 1.0)},
        {"seconds": (2.0,)},
    ],
)
def test_options_that_make_no_set_are_refused_before_anything_is_written(tmp_path, options):
    with pytest.raises(InputError, match="wanted"):
        synthetic.generate(tmp_path / "sounds", **{**SMALL, **options})
    assert not (tmp_path / "sounds").exists()


def test_ensure_says_what_it_did_once(tmp_path, capsys):
    synthetic.ensure_sounds(tmp_path, train_per_class=1, test_per_class=1)
    assert "20 sound files written" in capsys.readouterr().err
    synthetic.ensure_sounds(tmp_path, train_per_class=1, test_per_class=1)
    assert capsys.readouterr().err == ""


def test_a_mean_spectrum_does_not_tell_the_classes_apart(tmp_path):
    """On 24 + 12 clips a class. The whole set's figure is the README's; its standard error here is 4 %."""
    pytest.importorskip("sklearn")
    options = {"train_per_class": 24, "test_per_class": 12}
    synthetic.generate(tmp_path / "sounds", **options)
    prepared = prepare(
        "synthetic",
        source_dir=tmp_path / "sounds",
        data_dir=tmp_path,
        options=options,
        workers=1,
        progress=False,
    )
    assert 0.3 < accuracy(prepared, ["train"], ["test"]) <= 0.85


def test_the_baseline_solves_what_a_mean_spectrum_can_solve():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    noise = rng.standard_normal((200, 8)).astype(np.float32)
    signal = noise + 6 * np.eye(4, 8, dtype=np.float32)[y]
    assert best_score(signal[:100], y[:100], signal[100:], y[100:]) > 0.95
    assert best_score(noise[:100], y[:100], noise[100:], y[100:]) < 0.5  # chance is 0.25
