"""The commands on a run of one epoch: evaluate, convert, predict, start from weights; and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound_trees import tiny_flags

from ast_jax import load_model
from ast_jax.checkpoints import load_variables
from ast_jax.commands import invoke
from ast_jax.commands.evaluate import label_columns
from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions
from ast_jax.features import load_audio
from ast_jax.inference.predict import Tagger
from ast_jax.main import main as train_command
from ast_jax.recipes import parse
from ast_jax.training.loop import train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve clips of noise and tones, three of them held out, and one long file."""
    root, rng = tmp_path_factory.mktemp("commands"), np.random.default_rng(0)
    for i in range(12):
        wave = rng.normal(0, 0.1, 6000) if i % 2 else 0.3 * np.sin(np.arange(6000) * (0.1 + 0.01 * i))
        path = (
            root
            / "sounds"
            / ("train" if i < 9 else "test")
            / ("noise" if i % 2 else "tone")
            / f"clip{i:02d}.wav"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, 16_000)
    soundfile.write(root / "long.wav", rng.normal(0, 0.1, 44_100 * 3), 44_100)
    return root


@pytest.fixture(scope="module")
def run(folder) -> Path:
    train(parse(tiny_flags(folder))[0], folder / "run")
    return folder / "run"


def test_evaluate_repeats_what_training_measured(run, capsys):
    invoke("evaluate", [str(run), "--again", "--out", str(run / "again.npz")])
    out, err = capsys.readouterr()
    results = json.loads((run / "results.json").read_text())
    assert f"accuracy {results['metrics']['accuracy']:.4f}" in out
    assert "3 clips" in out
    assert "the checkpoint's own" in err
    with np.load(run / "again.npz") as again, np.load(run / "predictions.npz") as trained:
        np.testing.assert_array_equal(again["ids"], trained["ids"])
        np.testing.assert_allclose(
            again["scores"], trained["scores"], atol=1e-6
        )  # another compilation of the same sums


def test_the_report_plays_what_the_model_heard(run, folder):
    """All three held-out clips, each whole up to the model's length of 48 frames."""
    names = sorted(path.stem for path in (run / "audio").glob("*.flac"))
    assert names == ["clip09", "clip10", "clip11"]
    for name in names:
        (original,) = (folder / "sounds").rglob(f"{name}.wav")
        expected = load_audio(original)[: 400 + 47 * 160]
        np.testing.assert_allclose(load_audio(run / "audio" / f"{name}.flac"), expected, atol=1 / 32768)
    page = (run / "report.html").read_text()
    assert page.count('src="data:audio/flac;base64,') == 3


def test_an_ensemble_is_the_mean_of_scores(run, tmp_path, capsys):
    with np.load(run / "predictions.npz") as stored:
        ids, scores, targets = (stored[key] for key in ("ids", "scores", "targets"))
    other = tmp_path / "scores.npz"
    np.savez(other, ids=ids, scores=scores[:, ::-1], targets=targets)
    invoke("evaluate", [str(run), str(other), "--out", str(tmp_path / "both.npz")])
    assert "ensemble of 2" in capsys.readouterr().out
    with np.load(tmp_path / "both.npz") as both:
        np.testing.assert_allclose(both["scores"], 0.5, atol=1e-6)  # two classes whose scores add up to 1


def test_members_on_other_clips_are_no_ensemble():
    one = Predictions(["a", "b"], np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), 0.0)
    two = Predictions(["a", "c"], np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), 0.0)
    with pytest.raises(InputError, match="different clips"):
        Predictions.mean([one, two])


def test_classes_are_matched_by_name_not_by_place():
    np.testing.assert_array_equal(label_columns(Path("m"), ["b", "c", "a"], ["a", "b", "c"]), [2, 0, 1])
    with pytest.raises(InputError, match="not in both: c, d"):
        label_columns(Path("m"), ["a", "c"], ["a", "d"])


def test_a_converted_run_gives_the_same_scores_and_predictions(run, folder, tmp_path, capsys):
    invoke("convert", [str(run), str(tmp_path / "flax"), "--to=flax"])
    invoke("convert", [str(run), str(tmp_path / "weights.npz"), "--to=npz"])
    for source in (tmp_path / "flax", tmp_path / "weights.npz"):
        invoke("evaluate", [str(source), *tiny_flags(folder), "--out", str(tmp_path / "scores.npz")])
        with np.load(tmp_path / "scores.npz") as again, np.load(run / "predictions.npz") as trained:
            np.testing.assert_allclose(again["scores"], trained["scores"], atol=1e-6)
    capsys.readouterr()
    ours, theirs = (Tagger([source]).tag(folder / "long.wav") for source in (run, tmp_path / "flax"))
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_a_long_file_is_heard_to_its_end_in_overlapping_windows(run, folder):
    tags = Tagger([run]).tag(folder / "long.wav")
    window, hop = 400 + 47 * 160, (400 + 47 * 160) // 2
    assert tags.window_s == pytest.approx(window / 16_000)
    np.testing.assert_allclose(np.diff(tags.times_s), hop / 16_000)
    # the first window that reaches the end of the 3 s is the last one
    assert tags.times_s[-1] + tags.window_s >= 3 > tags.times_s[-2] + tags.window_s
    assert tags.scores.shape == (len(tags.times_s), 2)


def test_training_starts_from_given_weights_and_freezes_what_is_frozen(run, folder, tmp_path):
    config = parse(tiny_flags(folder, init_from=run, freeze="backbone", lr=0.01))[0]
    train(config, tmp_path / "tuned")
    before, after = load_variables(run), load_variables(tmp_path / "tuned")
    for path in before:
        if not path.startswith("head"):
            np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    assert np.abs(before["head/kernel"] - after["head/kernel"]).max() > 1e-3
    results = json.loads((tmp_path / "tuned" / "results.json").read_text())
    assert "2 blocks of width 16" in results["init"]


def test_weights_of_another_size_are_refused_before_anything_is_written(run, folder, tmp_path):
    with pytest.raises(InputError, match="width 16 against 32"):
        train(parse(tiny_flags(folder, **{"init_from": run, "model.width": 32}))[0], tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_run_loads_with_its_labels_and_statistics(run):
    loaded = load_model(run)
    assert list(loaded.label_names) == ["noise", "tone"]
    card = json.loads((run / "model_card.json").read_text())
    assert (loaded.front_end.mean, loaded.front_end.std) == (card["mean"], card["std"])


def test_evaluating_what_is_no_run_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="say with --config"):
        invoke("evaluate", [str(tmp_path)])


def test_a_buckets_address_is_no_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="mount it"):
        train_command(["--config=configs/quickstart.py", "--workdir=gs://bucket/run"])
    assert not (ROOT / "gs:").exists()
