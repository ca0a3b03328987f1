"""What is easy about a set: figures of the majority and of a regression, and the word of a run below them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sound_trees import write_rows

from ast_jax.datasets.prepare import prepare
from ast_jax.evaluation.easy import (
    STRENGTHS,
    Described,
    _inside,
    described,
    doubts,
    easy,
    leaks,
    lengths,
    told,
    twins,
)
from ast_jax.evaluation.predictions import Predictions


def noise(path: Path, rng: np.random.Generator, colour: float) -> None:
    """White, or with its upper half quieter."""
    wave = rng.normal(size=8000)
    spectrum = np.fft.rfft(wave)
    spectrum[len(spectrum) // 2 :] *= colour
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.05 * np.fft.irfft(spectrum), 16_000)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for split, counts in (("train", (20, 10)), ("test", (6, 6))):
        for label, colour, count in zip(("bright", "dull"), (1.0, 0.6), counts, strict=True):
            for number in range(count):
                noise(root / split / label / f"{split}_{label}{number}.wav", rng, colour)
    return root


@pytest.fixture(scope="module")
def prepared(sounds, tmp_path_factory):
    return prepare("folder", source_dir=sounds, data_dir=tmp_path_factory.mktemp("data"), progress=False)


def test_figures_are_the_majoritys_and_a_regressions(prepared):
    found = easy(prepared, ("train",), ("test",))
    assert (found["train_clips"], found["clips"]) == (30, 12)
    # everything is called what two thirds of the training clips are
    assert found["majority"]["accuracy"] == 0.5
    x, y, *_ = described(prepared, ("train",))
    held_x, held_y, *_ = described(prepared, ("test",))
    scaled = [(rows - x.mean(0)) / (x.std(0) + 1e-6) for rows in (x, held_x)]
    figures = [
        LogisticRegression(C=c, max_iter=300).fit(scaled[0], y.argmax(1)).predict_proba(scaled[1])
        for c in STRENGTHS
    ]
    wanted = [Predictions([""] * 12, scores, held_y, 0.0).summary()["mAP"] for scores in figures]
    assert found["logistic_regression"]["mAP"] in [pytest.approx(value, abs=1e-6) for value in wanted]
    assert found["logistic_regression"]["accuracy"] == 1.0
    assert told(found, "accuracy") == "what is easy, accuracy: majority 0.5000, logistic regression 1.0000"


def known_of(prepared, known: dict[str, np.ndarray]):
    """The same set, of which less is known: {split: bool [N, C]}."""
    other = prepared.with_labels({})
    other._clips |= {f"{split}/known": np.packbits(rows, axis=1) for split, rows in known.items()}
    return other


def test_clips_of_which_nothing_is_known_are_passed_over(prepared):
    rows = np.ones((30, 2), bool)
    rows[::3] = False
    found = easy(known_of(prepared, {"train": rows, "test": np.ones((12, 2), bool)}), ("train",), ("test",))
    assert (found["train_clips"], found["clips"]) == (20, 12)
    assert found["logistic_regression"]["accuracy"] == 1.0
    none = np.zeros((30, 2), bool)
    found = easy(known_of(prepared, {"train": none, "test": rows[:12]}), ("train",), ("test",))
    assert told(found, "accuracy") == (
        "what is easy, accuracy: not known, for no clip to learn it from has labels"
    )


@pytest.mark.parametrize("most", [0, 64])
def test_each_class_is_learned_from_the_clips_of_which_it_is_known(prepared, monkeypatch, most):
    """Of bright clips alone it is known if they are bright: then there is nothing to tell them from. Of dull
    ones it is known of half, which is enough."""
    monkeypatch.setattr("ast_jax.evaluation.easy.MOST_CLASSES", most)
    bright = np.array([0 in own for own in prepared.label_sets("train")])
    rows = np.stack([bright, np.arange(30) % 2 == 0], axis=1)
    other = known_of(prepared, {"train": rows, "test": np.ones((12, 2), bool)})
    other.multi_label = True
    own = described(other, ("train",))
    assert len(own.labels) == rows.any(axis=1).sum()
    np.testing.assert_array_equal(np.isnan(own.labels), ~rows[rows.any(axis=1)])
    found = easy(other, ("train",), ("test",))
    figures = found["least_squares" if most == 0 else "logistic_regression"]
    # one class at chance, the other told apart
    assert figures["auc"] == pytest.approx(0.75)
    assert found["majority"]["auc"] == 0.5


def test_the_strength_is_chosen_by_whole_groups_where_the_set_has_them(prepared, sounds, tmp_path):
    rows = [["file", "labels", "split", "group"]]
    for path in sorted(sounds.rglob("*.wav")):
        who = f"speaker{int(path.stem[-1]) % 4}"
        rows.append([path, path.parent.name, path.parent.parent.name, who])
    grouped = prepare(
        "folder",
        source_dir=write_rows(tmp_path / "table.csv", rows),
        data_dir=tmp_path / "data",
        progress=False,
    )
    own = described(grouped, ("train",))
    assert own.groups == [f"speaker{int(id[-1]) % 4}" for id in own.ids]
    choosing = ~_inside(own)
    whose = np.array(own.groups)
    assert 0 < choosing.sum() < len(choosing)
    assert not {*whose[choosing]} & {*whose[~choosing]}
    some = described(grouped, ("train",), most=7)
    assert some.groups == [f"speaker{int(id[-1]) % 4}" for id in some.ids]
    assert _inside(own._replace(groups=["one"] * 30)).all()
    assert easy(grouped, ("train",), ("test",))["logistic_regression"]["accuracy"] == 1.0
    plain = described(prepared, ("train",))
    assert plain.groups is None
    np.testing.assert_array_equal(np.flatnonzero(~_inside(plain)), np.arange(0, 30, 5))


def test_described_are_mean_and_deviation_over_time(prepared):
    x, y, seconds, ids, _ = described(prepared, ("test",), most=5)
    assert len(set(ids)) == 5
    np.testing.assert_allclose(seconds, 0.48)
    assert x.shape == (5, 256)
    assert y.sum(axis=1).tolist() == [1.0] * 5
    whole, *_ = described(prepared, ("test",))
    first = prepared.source("test")[0]["fbank"].astype(np.float32)
    np.testing.assert_allclose(whole[0], np.concatenate([first.mean(0), first.std(0)]), rtol=1e-5)
    assert all(any(np.array_equal(row, other) for other in whole) for row in x)


def test_waveforms_of_the_same_clips_say_the_same(sounds, prepared, tmp_path):
    other = prepare("folder", source_dir=sounds, data_dir=tmp_path, kind="waveform", progress=False)
    np.testing.assert_allclose(described(other, ("test",))[0], described(prepared, ("test",))[0], atol=0.02)


def test_who_is_below_is_told_by_whom_and_what_to_do():
    found = {
        "clips": 3,
        "majority": {"accuracy": 0.25},
        "logistic_regression": {"accuracy": 0.66, "mAP": None},
    }
    assert doubts(found, "accuracy", 0.7, higher_is_better=True) == []
    (line,) = doubts(found, "accuracy", 0.3, higher_is_better=True)
    assert "accuracy 0.3000 is no better than what is easy (logistic regression 0.6600)" in line
    assert "config.lr_warmup=linear" in line
    (line,) = doubts(found, "accuracy", 0.25, higher_is_better=True)
    assert "majority 0.2500, logistic regression 0.6600" in line
    assert doubts(found, "mAP", 0.0, higher_is_better=True) == []
    assert len(doubts({"a": {"eer": 0.1}}, "eer", 0.2, higher_is_better=False)) == 1


@pytest.mark.parametrize(
    ("seconds", "heard_s", "said"),
    [
        ([0.2, 0.4, 0.9, 1.2], 1.0, None),
        ([0.2, 0.4, 0.9, 60.0], 1.0, None),
        ([0.2, 8.0, 40.0, 55.0], 5.12, "of longer ones the model hears the first 5.12 s"),
        ([0.2, 0.4, 0.9, 1.2], 5.12, "the model hears 5.12 s, mostly padding"),
    ],
)
def test_lengths_that_do_not_suit_the_model_are_told(seconds, heard_s, said):
    lines = lengths({"seconds": seconds}, heard_s)
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)
    assert lengths({}, heard_s) == []


def test_a_sound_on_both_sides_is_found_though_encoded_once_more_and_another_is_not():
    rng = np.random.default_rng(0)
    vectors = rng.normal(-6, 2, (20, 256)).astype(np.float32)
    own = Described(
        vectors, np.ones((20, 1), np.float32), np.linspace(1, 3, 20), [f"t{i}" for i in range(20)]
    )
    again = vectors[[3, 7]] + rng.normal(0, 0.03, (2, 256)).astype(np.float32)
    other = vectors[[5]] + rng.normal(0, 0.3, (1, 256)).astype(np.float32)
    held = Described(
        np.concatenate([again, other]), np.ones((3, 1), np.float32), own.seconds[[3, 7, 5]], ["a", "b", "c"]
    )
    assert twins(own, held) == [("a", "t3"), ("b", "t7")]
    assert twins(own, held._replace(seconds=held.seconds + 1)) == []
    (line,) = leaks({"on_both_sides": [["a", "t3"], ["b", "t7"]], "clips": 3})
    assert line.startswith("2 of 3 clips held out sound like a training clip (a = t3, b = t7)")
    assert leaks({"on_both_sides": []}) == leaks({}) == []
