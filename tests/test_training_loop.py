"""Whole runs on a few real files, from the command line: complete, resumable after kill -9, SIGTERM and a
torn checkpoint."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from tagger_oracles import panns_model, saved

from ast_jax.checkpoints import Store, load_variables, saved_steps
from ast_jax.commands import invoke
from ast_jax.errors import Diverged, InputError
from ast_jax.evaluation import metrics
from ast_jax.evaluation.predictions import Predictions
from ast_jax.recipes import parse
from ast_jax.training import hosts
from ast_jax.training.loop import train
from ast_jax.training.taught import Taught
from benchmarks.prove_crashes import compare, survive

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, STEPS = 3, 4  # steps an epoch: 13 training clips in batches of 4


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Low and high tones of 0.3 to 0.6 s, in noise: DIR/{train,test}/{low,high}/*.wav."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for split, count in (("train", 13), ("test", 5)):
        for i in range(count):
            label = ("low", "high")[i % 2]
            t = np.arange(rng.integers(4800, 9600)) / 16_000
            pitch = rng.uniform(200, 400) if label == "low" else rng.uniform(2000, 4000)
            wave = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.02 * rng.normal(size=t.size)
            path = root / split / label / f"{split}{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, 16_000)
    return root


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


SETTINGS = {
    "num_frames": 64,
    "model.width": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.strides": (16, 16),
    "epochs": EPOCHS,
    "batch_size": 4,
    "least_steps": 0,
    "mixup": 0.0,
    "lr": 1e-3,
    "lr_warmup_steps": 0,
    "layer_decay": 1.0,
    "clip_norm": 0.0,
    "loss": "ce",
    "metric": "accuracy",
    "freq_mask": 8,
    "time_mask": 8,
    "save_every": 3,
    "log_every": 2,
}


def settings(sounds, data_dir, **changes):
    places = {"dataset.source_dir": str(sounds), "dataset.data_dir": str(data_dir)}
    return parse(flags({**SETTINGS, **places, **changes}))[0]


def flags(values: dict) -> list[str]:
    return [
        f"--config={ROOT / 'configs/folder.py'}:pretrained",
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]


@pytest.fixture(scope="module")
def whole(sounds, data_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(sounds, data_dir), workdir)
    return workdir


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def facts(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    timing = ("step_s", "clips_per_s", "data_wait", "share_of_peak")
    return [{key: value for key, value in row.items() if key not in timing} for row in rows(workdir)]


def assert_same_run(ours: Path, theirs: Path) -> None:
    left, right = load_variables(ours, "last"), load_variables(theirs, "last")
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)
    assert facts(ours) == facts(theirs)


def test_a_run_leaves_what_was_promised(whole):
    names = {path.name for path in whole.iterdir()}
    promised = {
        "config.json",
        "labels.txt",
        "metrics.jsonl",
        "results.json",
        "checkpoints",
        "plots",
        "report.html",
    }
    assert promised <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    results = json.loads((whole / "results.json").read_text())
    assert results["metrics"].keys() == metrics.METRICS.keys()
    assert (results["epoch"], results["step"], results["num_examples"]) == (EPOCHS, EPOCHS * STEPS, 5)
    assert (whole / "labels.txt").read_text().split() == ["high", "low"]
    assert len(list((whole / "plots").glob("*.png"))) >= 4
    # two pitches: a mean spectrum tells them apart
    assert results["easy"]["logistic_regression"]["accuracy"] >= 0.8
    assert results["easy"]["majority"]["accuracy"] < 1.0
    with np.load(whole / "predictions.npz") as predictions:
        assert predictions["ids"].tolist() == [f"test{i}" for i in range(5)]
        assert predictions["scores"].shape == (5, 2)
    with np.load(whole / "examples.npz") as examples:
        assert examples["fbank"].shape[1:] == (64, 128)
        assert all(name.startswith("train") for name in examples["ids"])


def test_log_points_and_evaluations(whole):
    train_steps = [row["step"] for row in rows(whole) if row["kind"] == "train"]
    assert train_steps == sorted({1, *range(2, 13, 2)})
    evals = [row for row in rows(whole) if row["kind"] == "eval"]
    assert [(row["epoch"], row["step"]) for row in evals] == [(1, 4), (2, 8), (3, 12)]
    assert rows(whole)[0]["lr"] == pytest.approx(1e-3)
    assert all(0 <= row["data_wait"] <= 1 for row in rows(whole) if row["kind"] == "train")


def test_the_same_command_again_changes_nothing(whole, sounds, data_dir):
    before = facts(whole)
    train(settings(sounds, data_dir), whole)
    assert facts(whole) == before


def test_stopping_after_an_epoch_and_going_on_is_the_same_run(whole, sounds, data_dir, tmp_path):
    train(settings(sounds, data_dir, epochs=1), tmp_path / "run")
    train(settings(sounds, data_dir), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_averages_of_epochs_and_their_resume(whole, sounds, data_dir, tmp_path, monkeypatch, capsys):
    """Weights averaged over epochs 1 and 2, scores over all so far, across a stop after epoch 1; training
    itself is as without."""
    workdir, evaluated, save = tmp_path / "run", {}, Predictions.save

    def noted(predictions: Predictions, path: Path) -> None:
        save(predictions, path)
        evaluated.setdefault(path.name, []).append(predictions)

    monkeypatch.setattr(Predictions, "save", noted)
    options = {"average_epochs": (1, 2), "cumulative": True, "metric": "mAP", "keep_last": 99}
    published = {"metric": "mAP", "average": 2.0, "band": 0.01}
    for epochs in (1, 3):
        config = settings(sounds, data_dir, **options, epochs=epochs)
        with config.unlocked():
            config.published = published
        train(config, workdir)

    by_epoch = [checkpoint(workdir, STEPS * epoch, tmp_path) for epoch in (1, 2, 3)]
    averaged = load_variables(workdir, "average")
    for path, last in load_variables(whole, "last").items():
        np.testing.assert_array_equal(by_epoch[2][path], last, err_msg=path)
        mean = (by_epoch[0][path].astype(np.float64) + by_epoch[1][path]) / 2
        np.testing.assert_allclose(averaged[path], mean, atol=1e-7, err_msg=path)  # float32 near 1
    assert np.abs(averaged["head/kernel"] - by_epoch[1]["head/kernel"]).max() > 1e-4

    evals = [row for row in facts(workdir) if row["kind"] == "eval"]
    scores = [predictions.scores for predictions in evaluated["predictions.npz"]]
    for epoch, row in enumerate(evals, start=1):
        targets = evaluated["predictions.npz"][0].targets
        expected = metrics.summary(np.mean(scores[:epoch], axis=0), targets)["mAP"]
        assert row.pop("ensemble_mAP") == pytest.approx(expected, abs=1e-12)
    assert evals == [row for row in facts(whole) if row["kind"] == "eval"]

    template = {"step": jnp.int32(0), "cumulative": jnp.zeros_like(scores[0])}
    with contextlib.closing(
        Store(workdir, template, keep_last=99)
    ) as store:  # few clips: sums tell more than ranks
        total = store.restore(template).state["cumulative"]
    np.testing.assert_allclose(total, np.sum(scores, axis=0), rtol=1e-6)

    results = json.loads((workdir / "results.json").read_text())
    assert results["average"]["epochs"] == [1, 2]
    assert results["average"]["mAP"] == pytest.approx(
        evaluated["predictions_average.npz"][-1].summary()["mAP"]
    )
    # of the two epochs it is published for, not of the first alone
    assert (results["average"]["published"], results["average"]["inside"]) == (2.0, False)
    told = "weights averaged over epochs 1 to 2  published 2.0000, difference"
    assert capsys.readouterr().err.count(told) == 1


@pytest.fixture
def narrow_cnn6(sounds, data_dir, tmp_path):
    """Settings of a narrow CNN6 that starts from a published file, with PANNs' stripes, mixup, dropout."""
    saved(panns_model("cnn6", classes=7, channels=(4, 4, 8, 8)), tmp_path / "cnn6.pth", iteration=7)
    places = {"dataset.source_dir": sounds, "dataset.data_dir": data_dir, "init_from": tmp_path / "cnn6.pth"}
    own = {"batch_size": 4, "least_steps": 0, "epochs": 2, "average_epochs": (1, 2), "log_every": 2}
    changes = [f"--config.{key}={value}" for key, value in {**places, **own}.items()]
    config = parse(["--config=folder:model=cnn6,seconds=0.3", *changes])[0]
    with config.unlocked():
        config.model.options = ConfigDict({"channels": (4, 4, 8, 8)})
    return config


@pytest.mark.slow
def test_a_model_with_statistics_goes_on_bit_for_bit(narrow_cnn6, tmp_path, monkeypatch):
    """Running statistics as parameters, and the averages of both; stopped in the second of two epochs."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    checks, check = iter(range(99)), hosts.StopRequest.check

    def terminated(request: hosts.StopRequest) -> None:
        # after four steps and two batches of an evaluation
        request._requested = next(checks) == 7
        check(request)

    with monkeypatch.context() as patch:
        patch.setattr(hosts.StopRequest, "check", terminated)
        with pytest.raises(SystemExit):
            train(narrow_cnn6, run)
    assert STEPS < saved_steps(run)[-1] < 2 * STEPS
    for workdir in (run, whole):
        train(narrow_cnn6, workdir)
    assert_same_run(run, whole)
    last = load_variables(run, "last")
    ours, theirs = load_variables(run, "average"), load_variables(whole, "average")
    assert ours.keys() == theirs.keys() == last.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    for path in ("blocks/3/norms/0/mean", "blocks/3/norms/0/var", "fc1/kernel"):
        assert not np.array_equal(theirs[path], last[path]), path
    results = json.loads((run / "results.json").read_text())
    assert results["average"]["epochs"] == [1, 2]
    assert results["init"].endswith("cnn6.pth, head new")


def checkpoint(workdir: Path, step: int, scratch: Path) -> dict[str, np.ndarray]:
    """The parameters of one of a run's checkpoints."""
    alone = scratch / f"only{step}"
    shutil.copytree(workdir / "checkpoints" / str(step), alone / "checkpoints" / str(step))
    return load_variables(alone, "last")


@pytest.mark.parametrize("span", [(1,), (0, 2), (3, 2)])
def test_an_average_over_no_epochs_is_refused(sounds, data_dir, tmp_path, span):
    with pytest.raises(InputError, match="average_epochs"):
        train(settings(sounds, data_dir, average_epochs=span), tmp_path / "run")


def test_a_curve_outside_the_band_raises_the_alarm_at_once(sounds, data_dir, tmp_path, capsys):
    """The comparison is of the curve's own metric, whichever decides the best epoch; an epoch not published
    has none."""
    config = settings(sounds, data_dir, epochs=2, average_epochs=(5, 9))
    config.published = {"metric": "auc", "curve": {"1": 1.5}, "band": 0.01}
    train(config, tmp_path / "run")
    first, second = (row for row in rows(tmp_path / "run") if row["kind"] == "eval")
    assert first["inside"] is False
    assert first["published"] == 1.5
    assert first["difference"] == pytest.approx(first["auc"] - 1.5)
    assert "inside" not in second
    alarms = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert alarms == [f"  published 1.5000, difference {first['difference']:+.4f}: WARNING: outside the band"]
    assert "average" not in json.loads(
        (tmp_path / "run" / "results.json").read_text()
    )  # none of its epochs came


def start(workdir: Path, sounds: Path, data_dir: Path) -> subprocess.Popen:
    """The real command line, in a process of its own."""
    return subprocess.Popen(
        [*command(sounds, data_dir), f"--workdir={workdir}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def command(sounds: Path, data_dir: Path) -> list[str]:
    places = {"dataset.source_dir": sounds, "dataset.data_dir": data_dir}
    return [sys.executable, "-m", "ast_jax.main", *flags({**SETTINGS, **places})]


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition(), process.stderr.read()


@pytest.mark.slow
def test_kill_dash_nine_again_and_again_and_the_same_command(whole, sounds, data_dir, tmp_path):
    """Killed while a checkpoint is written, then as an evaluation begins; benchmarks/prove_crashes.py does it
    twenty times."""
    workdir = tmp_path / "run"
    moments = ("save", "evaluation")
    lives = survive(command(sounds, data_dir), workdir, moments, epoch_steps=STEPS, rng=random.Random(0))
    assert len(lives) > 1
    assert all(life["first_step"] > 0 for life in lives[1:])  # each resumed
    assert_same_run(workdir, whole)
    assert compare(workdir, whole)["same_digests"]
    assert json.loads((workdir / "results.json").read_text())["step"] == EPOCHS * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("left", [None, 40])
def test_derived_files_that_are_lost_or_cut_are_made_again(whole, sounds, data_dir, tmp_path, capsys, left):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    derived = ("predictions.npz", "scores.npz", "examples.npz", "results.json", "model_card.json")
    for name in derived:
        (run / name).unlink() if left is None else os.truncate(run / name, left)
    train(settings(sounds, data_dir), run)
    told = capsys.readouterr().err
    assert "model_card.json is gone or damaged" in told
    assert "scores.npz is gone or damaged: it is made again" in told
    for name in derived[:3]:
        with np.load(whole / name) as before, np.load(run / name) as after:
            assert all(np.array_equal(before[key], after[key]) for key in before.files)
    card, again = (json.loads((directory / "model_card.json").read_text()) for directory in (whole, run))
    assert again == card
    assert json.loads((run / "results.json").read_text())["step"] == EPOCHS * STEPS


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_its_status(whole, sounds, data_dir, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, sounds, data_dir)
    log = workdir / "metrics.jsonl"
    wait_for(lambda: log.exists() and b"\n" in log.read_bytes(), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "the same command goes on" in stderr
    again = start(workdir, sounds, data_dir)
    again.communicate(timeout=300)
    assert_same_run(workdir, whole)


@pytest.mark.slow
def test_sigterm_in_an_evaluation_saves_and_the_evaluation_is_done_later(
    whole, sounds, data_dir, tmp_path, monkeypatch
):
    checks, check = iter(range(99)), hosts.StopRequest.check

    def terminated(request: hosts.StopRequest) -> None:
        request._requested = next(checks) == 4  # after 3 steps, before the second of the epoch's two batches
        check(request)

    with monkeypatch.context() as patch:
        patch.setattr(hosts.StopRequest, "check", terminated)
        with pytest.raises(SystemExit) as status:
            train(settings(sounds, data_dir), tmp_path / "run")
    assert status.value.code == 143
    assert saved_steps(tmp_path / "run") == [3, 4]
    assert [row["kind"] for row in rows(tmp_path / "run")] == ["train"] * 3
    train(settings(sounds, data_dir), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_training_in_a_thread_leaves_sigterm_to_the_program_around():
    """Python allows handlers in the main thread alone; a notebook's server may train in another one."""
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(hosts.StopRequest).result()
        for call in (request.check, request.close):
            pool.submit(call).result()
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_runs_directory_is_refused(whole, sounds, data_dir):
    with pytest.raises(InputError, match=r"other settings \(lr 0.001 -> 0.01\)"):
        train(settings(sounds, data_dir, lr=1e-2), whole)


def test_a_loss_that_is_not_a_number_names_its_step_and_clips(sounds, data_dir, tmp_path):
    """The rate ruins the weights in step 1; nobody looks before step 4, and step 2 is named all the same."""
    config = settings(sounds, data_dir, lr=1e30, log_every=50, save_every=1)
    with pytest.raises(
        Diverged, match=r"loss (nan|inf).* at step 2 \(clips train\d+, train\d+, train\d+, train\d+\)"
    ):
        train(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [1]  # what was saved before it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset.name": ""}, "names no data set"),
        ({"dataset.name": "foldr"}, "no data set 'foldr'"),
        ({"loss": "mse"}, "there is no loss 'mse'"),
        ({"metric": "f1"}, "there is no metric 'f1'"),
        ({"dataset.eval": ("dev",)}, "no split 'dev'"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"lr_decay_epochs": (1, 2)}, "the first decay is at epoch 2"),
        ({"parallel": "xmap"}, "choose jit or pmap"),
        ({"model.num_heads": 5}, "not a multiple"),
    ],
)
def test_settings_that_make_no_sense(sounds, data_dir, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        train(settings(sounds, data_dir, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_shards_and_no_sounds(tmp_path):
    config = settings("", tmp_path / "nothing")
    with pytest.raises(InputError, match="source_dir"):
        train(config, tmp_path / "run")


def test_predict_tags_files_and_reports_the_broken_one(whole, sounds, tmp_path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_text("this is not a sound")
    good = sounds / "test" / "low" / "test0.wav"
    with pytest.raises(SystemExit) as status:
        invoke("predict", [f"--model={whole}", "--json", str(good), str(broken)])
    out, err = capsys.readouterr()
    assert status.value.code == 1
    tags = json.loads(out)
    assert tags["file"] == str(good)
    assert {tag["label"] for tag in tags["tags"]} == {"low", "high"}
    assert sum(tag["score"] for tag in tags["tags"]) == pytest.approx(1, abs=1e-3)
    assert "broken.wav" in err
    assert os.path.exists(broken)


def test_a_student_learns_from_sounds_without_labels(whole, sounds, tmp_path, capfd):
    """Beside its own; without a teacher that is refused. An epoch has both, evaluation as ever."""
    for i in range(6):
        path = tmp_path / "more" / f"deep{i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, 6000), 16_000)
    own = {**SETTINGS, "dataset.source_dir": sounds, "dataset.data_dir": tmp_path / "data", "epochs": 1}
    spec = flags({**own, "mixup": 0.5})
    spec[0] += f",unlabelled={tmp_path / 'more'}"
    with pytest.raises(InputError, match=r"6 of 19 clips of train \+ unlabelled have no labels, and without"):
        train(parse(spec)[0], tmp_path / "run")
    # a table may say what those are, of one of them or of all
    table = tmp_path / "said.csv"
    table.write_text("id,labels\nunlabelled/0,low\n")
    with pytest.raises(InputError, match="5 of 19 clips of train"):
        train(parse([*spec, f"--config.dataset.labels={table}"])[0], tmp_path / "run")
    student = [*spec, f"--config.teacher={whole}"]
    with pytest.raises(InputError, match=r"config\.sampling=balanced draws clips by their labels"):
        train(parse([*student, "--config.sampling=balanced"])[0], tmp_path / "run")
    with pytest.raises(InputError, match=r"no clip of unlabelled has labels: set config\.dataset\.eval"):
        train(parse([*student, "--config.dataset.eval=unlabelled"])[0], tmp_path / "run")
    results = train(parse(student)[0], tmp_path / "run")
    assert results["step"] == 5  # 19 clips in batches of 4
    assert results["num_examples"] == 5
    assert results["easy"]["train_clips"] == 13
    said = capfd.readouterr().err
    assert "19 to train (train + unlabelled), 5 to eval (test)" in said
    assert "6 sounds of" in said


def test_a_student_of_views_that_come_again_is_the_same_whoever_asked_and_after_a_stop(
    whole, sounds, data_dir, tmp_path
):
    """Two epochs' views in three epochs; a second student finds all that was said, stops and goes on."""
    said = {"teacher": str(whole), "teacher_views": 2, "teacher_scores": str(tmp_path / "said"), "mixup": 0.5}
    own = settings(sounds, data_dir, **said, epochs=3)
    first = train(own, tmp_path / "first")
    (path,) = (tmp_path / "said").glob("*/scores.bin")
    kept = path.read_bytes()
    assert len(kept) == 2 * STEPS * 4 * Taught(tmp_path, {}, num_classes=2).row.itemsize
    train(settings(sounds, data_dir, **said, epochs=1), tmp_path / "second")
    second = train(own, tmp_path / "second")
    assert [*(tmp_path / "said").glob("*/scores.bin")] == [path]
    assert path.read_bytes() == kept
    own, other = (load_variables(tmp_path / name, "last") for name in ("first", "second"))
    for path, value in own.items():
        np.testing.assert_array_equal(other[path], value)
    assert first["metrics"] == second["metrics"]


def test_a_student_learns_from_a_run_and_stops_early(whole, sounds, data_dir, tmp_path, capfd):
    """A rate of 0 never gets better; the same command again finds the run done."""
    changes = {"teacher": str(whole), "lr": 0.0, "epochs": 6, "early_stop": 2}
    for _ in range(2):
        results = train(settings(sounds, data_dir, **changes), tmp_path / "student")
        assert results["last"]["epoch"] == 3
    said = capfd.readouterr().err
    assert "nothing better since epoch 1: stops early, 12 of 24 steps are left out" in said
    # after a third of the epochs, and at the end that came early
    assert said.count("is no better than what is easy") == 2


def test_a_run_that_learns_nothing_says_so(sounds, data_dir, tmp_path, capfd, monkeypatch):
    """Whatever its loss is, it is called too high here."""
    monkeypatch.setattr("ast_jax.training.stalled.FALLEN", 0.0)
    train(settings(sounds, data_dir, lr=0.0, epochs=1), tmp_path / "run")
    assert "is no lower than of answers that hear nothing (0.6902): the model" in capfd.readouterr().err


def test_other_labels_are_what_is_counted_too(sounds, data_dir, tmp_path):
    """All training clips said to be high: of five held out two are."""
    table = tmp_path / "said.csv"
    ids = [path.stem for path in (sounds / "train").rglob("*.wav")]
    table.write_text("id,labels\n" + "".join(f"{id},high\n" for id in ids))
    results = train(settings(sounds, data_dir, epochs=1, **{"dataset.labels": str(table)}), tmp_path / "run")
    assert results["easy"]["majority"]["accuracy"] == pytest.approx(2 / 5)
