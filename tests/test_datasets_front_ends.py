"""The front end goes through the data: what shards hold, what tells sets apart, what older sets are."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from sound_trees import RATE, class_tree, noise

from ast_jax.datasets import folder
from ast_jax.datasets.extract import Extraction, set_name
from ast_jax.datasets.pipeline import EvalStream, batches, fit
from ast_jax.datasets.prepare import find, prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.features import REFERENCE, FrontEnd, Kaldi, log_mel


@dataclasses.dataclass(frozen=True)
class Loudness(FrontEnd):
    """A user's own: the level of 10 ms at a time, in dB, in so many equal columns."""

    sample_rate_hz: int = 8000
    frame_length: int = 80
    frame_shift: int = 80
    num_mel_bins: int = 4
    # From JSON it comes back as a list.
    colours: tuple[str, ...] = ("white",)

    kind: ClassVar[str] = "test_datasets_front_ends:Loudness"
    silence: ClassVar[float] = -100.0
    padding: ClassVar[float] = -100.0

    def features(self, waveform, *, num_samples=None):
        frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
        level = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
        return np.repeat(level[:, None], self.num_mel_bins, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return class_tree(tmp_path_factory.mktemp("tree"), {"a": 2, "b": 2})


def prepared_with(front_end: FrontEnd, tree: Path, data_dir: Path, kind: str = "log_mel") -> PreparedSet:
    return prepare(
        "folder",
        source_dir=tree,
        data_dir=data_dir,
        kind=kind,
        front_end=front_end,
        workers=1,
        progress=False,
    )


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (Extraction(), "log_mel-aef43c08f692"),
        (Extraction("waveform"), "waveform-1c34f1f1e0f2"),
        (Extraction(cut_s=1.0), "log_mel-130080062418"),
        (Extraction(channels="first"), "log_mel-e6b97ff32bb0"),
    ],
)
def test_sets_of_the_reference_keep_the_names_they_had_before_there_were_front_ends(tree, how, name):
    assert set_name(folder.list_clips(tree), tree, how) == name


@pytest.mark.parametrize("kind", ["log_mel", "waveform"])
def test_a_set_from_before_there_were_front_ends_is_found_and_heard_by_the_reference(tree, tmp_path, kind):
    now = prepared_with(REFERENCE, tree, tmp_path, kind)
    metadata = now.directory / "metadata.json"
    about = json.loads(metadata.read_text())
    assert about.pop("front_end") == REFERENCE.card()
    del about["dataset"]
    metadata.write_text(json.dumps(about))
    for source_dir in (tree, None):
        found = find("folder", source_dir=source_dir, data_dir=tmp_path, kind=kind)
        assert (found.directory, found.front_end) == (now.directory, REFERENCE)
        assert found.statistics("train") == now.statistics("train")
        other = find("folder", source_dir=source_dir, data_dir=tmp_path, kind=kind, front_end=Loudness())
        assert other is None


def test_two_front_ends_never_share_log_mels(tree, tmp_path):
    sets = [
        prepared_with(front_end, tree, tmp_path)
        for front_end in (Kaldi(), Kaldi(num_mel_bins=64), Loudness())
    ]
    assert len({prepared.directory for prepared in sets}) == 3
    for prepared in sets:
        for source_dir in (tree, None):
            found = find(
                "folder",
                source_dir=source_dir,
                data_dir=tmp_path,
                kind="log_mel",
                front_end=prepared.front_end,
            )
            assert (found.directory, found.front_end) == (prepared.directory, prepared.front_end)
        example = prepared.source("train")[0]
        assert example["fbank"].shape[1] == prepared.front_end.num_mel_bins
        assert len(example["fbank"]) == prepared.front_end.num_frames(int(prepared.num_samples("train")[0]))
    with pytest.raises(InputError, match="prepare the set again"):
        sets[0].with_front_end(Loudness())
    heard = PreparedSet(sets[2].directory)
    assert type(heard.front_end) is Loudness  # from the card, by module:attribute


def test_waveforms_depend_on_the_sample_rate_alone(tree, tmp_path):
    first = prepared_with(Kaldi(), tree, tmp_path, "waveform")
    second = prepared_with(Kaldi(num_mel_bins=64), tree, tmp_path, "waveform")
    third = prepared_with(Loudness(), tree, tmp_path, "waveform")
    assert first.directory == second.directory != third.directory
    assert len(third.source("train")[0]["waveform"]) == len(first.source("train")[0]["waveform"]) // 2
    assert (
        find("folder", data_dir=tmp_path, kind="waveform", front_end=Loudness()).directory == third.directory
    )
    with pytest.raises(InputError, match="sample_rate_hz"):
        first.with_front_end(Loudness())


def test_statistics_known_since_preparing_are_not_measured_again(tree, tmp_path, monkeypatch):
    known = prepared_with(Loudness(), tree, tmp_path, "waveform").statistics("train")
    monkeypatch.setattr(Loudness, "features", None)
    found = find("folder", data_dir=tmp_path, kind="waveform", front_end=Loudness())
    assert found.statistics("train") == known


def test_statistics_are_those_of_the_front_end_that_hears_the_waveforms(tree, tmp_path, monkeypatch):
    prepared_with(Kaldi(), tree, tmp_path, "waveform")
    second = prepared_with(Kaldi(num_mel_bins=64), tree, tmp_path, "waveform")
    splits = ["train", "test"]
    sounds = [example["waveform"] / np.float32(32768) for example in second.source(splits)]
    cells = np.concatenate([log_mel(sound, num_mel_bins=64).ravel() for sound in sounds]).astype(np.float64)
    wanted = pytest.approx((cells.mean(), cells.std()), abs=1e-9)
    assert second.statistics(splits) == wanted
    monkeypatch.setattr(Kaldi, "features", None)  # they are known, or kept beside the shards
    again = find("folder", data_dir=tmp_path, kind="waveform", front_end=Kaldi(num_mel_bins=64))
    assert again.statistics(splits) == wanted


def test_a_front_end_of_the_users_own_reaches_the_worker_processes(tree, tmp_path):
    here = prepared_with(Loudness(), tree, tmp_path / "1")
    there = prepare(
        "folder", source_dir=tree, data_dir=tmp_path / "2", front_end=Loudness(), workers=2, progress=False
    )
    for one, two in zip(here.source(["train", "test"]), there.source(["train", "test"]), strict=True):
        assert np.array_equal(one["fbank"], two["fbank"])


def test_clips_below_one_frame_are_counted_by_the_front_ends_own_length(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "set" / "a" / "1.wav", noise(300), RATE)
    for front_end, short in ((Kaldi(), 1), (Loudness(), 0)):
        assert prepared_with(front_end, tmp_path / "set", tmp_path).metadata["num_short"] == short


def test_batches_have_the_front_ends_shape_and_padding():
    front_end = Loudness()
    shape = {"num_frames": 5, "num_classes": 2, "front_end": front_end}
    example = {"fbank": np.ones((3, 4), np.float16), "labels": np.array([1]), "index": 0}
    batch = fit(example, kind="log_mel", **shape)
    assert batch["fbank"].tolist() == [[1.0] * 4] * 3 + [[-100.0] * 4] * 2
    assert batch["length"] == 3
    sound = {"waveform": np.ones(170, np.int16), "labels": np.array([1]), "index": 0}
    stream = EvalStream([sound], batch_size=2)
    (rows,) = batches(stream, kind="waveform", batch_size=2, **shape)
    assert rows["waveform"].shape == (2, 400)
    assert rows["num_samples"].tolist() == [170, 0]
    assert rows["length"].tolist() == [2, 0]
