"""Plots of invented runs: the right ones appear, show something, and stand odd runs and labels."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from fake_run import SOUNDS, write_fake_run
from sklearn.metrics import confusion_matrix

from ast_jax.evaluation.plots import confusion, pictures, spectrogram
from ast_jax.evaluation.predictions import Predictions
from ast_jax.evaluation.run_files import read_run, series
from ast_jax.evaluation.style import DARK, LIGHT

CURVES = ["loss", "accuracy", "mAP", "auc", "d_prime", "learning_rate", "data_wait", "clips_per_s"]
PUBLISHED = {"metric": "accuracy", "curve": {"1": 0.79, "2": 0.91, "4": 0.95}, "band": 0.01}


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")[..., :3]


def test_a_finished_run_has_every_plot(tmp_path):
    drawn = pictures(read_run(write_fake_run(tmp_path, clips=60, epochs=3, frames=128)))
    assert [picture.name for picture in drawn] == [*CURVES, "confusion", "spectrograms"]
    for picture in drawn:
        image = pixels(picture.png)
        assert picture.size == (image.shape[1], image.shape[0])
        assert picture.size[0] >= 1000, picture.name
        assert (image[0] == 1).all(), picture.name  # white paper to the edge: nothing is cut off at the top
        ink = (image.min(axis=-1) < 0.75).mean()  # text and lines; a blank sheet has none
        assert 0.003 < ink < 0.9, picture.name


def test_dark_plots_are_dark(tmp_path):
    run = read_run(write_fake_run(tmp_path, clips=60, epochs=2, frames=128))
    for light, dark in zip(pictures(run, LIGHT), pictures(run, DARK), strict=True):
        assert light.name == dark.name
        assert np.median(pixels(light.png)) > 0.9 or light.name == "spectrograms"
        assert np.median(pixels(dark.png)) < 0.5


def test_the_published_curve_is_drawn_on_its_own_metric_only(tmp_path):
    plain = pictures(read_run(write_fake_run(tmp_path / "a", clips=60, epochs=4, frames=128)))
    other = pictures(
        read_run(write_fake_run(tmp_path / "b", clips=60, epochs=4, frames=128, published=PUBLISHED))
    )
    changed = [a.name for a, b in zip(plain, other, strict=True) if a.png != b.png]
    assert changed == ["accuracy"]
    assert "published ± 0.01: from 0.79 to 0.95" in next(p.alt for p in other if p.name == "accuracy")


@pytest.mark.parametrize(
    ("classes", "multi_label", "expected"),
    [
        (60, False, "confusion"),
        (61, False, "per_class_ap"),
        (12, True, "per_class_ap"),
        (300, True, "per_class_ap"),
    ],
)
def test_classes_by_confusion_or_by_ap(tmp_path, classes, multi_label, expected):
    labels = [f"sound {i}" for i in range(classes)]
    directory = write_fake_run(
        tmp_path, labels=labels, clips=200, multi_label=multi_label, epochs=1, frames=64
    )
    for name in ("metrics.jsonl", "examples.npz"):
        (directory / name).unlink()  # only this plot is wanted
    (picture,) = pictures(read_run(directory))
    assert picture.name == expected
    assert picture.wide == (expected == "confusion")


def test_confusion_counts_true_by_heard():
    rng = np.random.default_rng(0)
    true, heard = rng.integers(5, size=(2, 300))
    one_hot = np.eye(5, dtype=np.float32)
    stored = Predictions([""] * 300, one_hot[heard], one_hot[true], loss=0.0)
    assert np.array_equal(confusion(stored), confusion_matrix(true, heard, labels=range(5)))


def test_spectrogram_has_time_to_the_right_and_high_bins_above():
    fbank = np.zeros((300, 128), np.float32)
    fbank[200:, 100:] = 1  # late and high
    image = pixels(spectrogram(fbank)).mean(axis=-1)
    assert image.shape == (128, 300)
    bright = image > 0.5
    assert bright[:28, 200:].all()
    assert bright.sum() == 28 * 100


def test_an_empty_directory_has_no_plots(tmp_path):
    assert pictures(read_run(tmp_path)) == []


def test_labels_of_every_kind_are_drawn_without_complaint(tmp_path):
    long = "a name that goes on and on and on and on and on"
    labels = ["$x^{", "<b>&\"'", "雨", long, "", *SOUNDS[5:]]
    directory = write_fake_run(tmp_path, labels=labels, clips=40, epochs=1, frames=64)
    assert {picture.name for picture in pictures(read_run(directory))} >= {"confusion", "spectrograms"}


def test_a_run_that_broke_or_just_began_is_drawn(tmp_path):
    train = {"kind": "train", "epoch": 1, "lr": 0.0, "clips_per_s": 3.0}
    rows = [
        train | {"step": 1, "loss": 2.0, "data_wait": 0.0},
        train | {"step": 2, "loss": None, "data_wait": 1.0},
        {"kind": "eval", "step": 2, "epoch": 1, "loss": None, "accuracy": 0.0, "mAP": None, "auc": 1.0},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "train", "st')  # a line still being written
    expected = ["loss", "accuracy", "auc", "learning_rate", "data_wait", "clips_per_s"]
    assert [picture.name for picture in pictures(read_run(tmp_path))] == expected
    assert series(read_run(tmp_path).train, "step", "loss") == ([1.0], [2.0])


def test_importing_the_plots_loads_neither_matplotlib_nor_jax():
    code = (
        "import sys, ast_jax.evaluation.plots, ast_jax.evaluation.report;"
        "print([m for m in ('matplotlib', 'jax', 'jinja2', 'librosa') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
