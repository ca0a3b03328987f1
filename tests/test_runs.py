"""A run is the same model wherever it is asked, also one that an older version left.

The run is of sigmoids on one label a clip, as Speech Commands' recipe has it: what asks the data instead of
the run whether scores are sigmoids goes wrong on it. One class has no clip to evaluate.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from sound_trees import tiny_flags

from ast_jax import load_model
from ast_jax.commands import invoke
from ast_jax.config import of_run
from ast_jax.evaluation.metrics import Scored
from ast_jax.evaluation.predictions import Predictions
from ast_jax.features import load_audio, log_mel
from ast_jax.inference.predict import Tagger
from ast_jax.recipes import parse
from ast_jax.training.loop import train
from ast_jax.weights.convert import convert

# Shards hold log-mels as float16: a score moves by as much as that.
STORED = 2e-3


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Noise, tones and clicks of .375 s; the clicks are all for training."""
    root, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    waves = {
        "noise": lambda i: rng.normal(0, 0.1, 6000),
        "tone": lambda i: 0.3 * np.sin(np.arange(6000) * (0.1 + 0.01 * i)),
        "click": lambda i: np.eye(1, 6000, 100 * i)[0],
    }
    for kind, wave in waves.items():
        for i in range(6):
            split = "test" if i < 3 and kind != "click" else "train"
            path = root / "sounds" / split / kind / f"{kind}{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave(i), 16_000)
    soundfile.write(root / "long.wav", rng.normal(0, 0.1, 48_000), 16_000)
    return root


@pytest.fixture(scope="module")
def run(sounds) -> Path:
    recipe = tiny_flags(sounds, loss="bce", metric="mAP", lr=0.01)
    train(parse(recipe)[0], sounds / "run")
    return sounds / "run"


def as_left_by_an_older_version(run: Path, copy: Path) -> Path:
    """What the first versions wrote: no settings that came later, and a card that says how many labels a clip
    has, not what scores are; MLPs as a multiple of the width, recomputing as yes or no."""
    shutil.copytree(run, copy)
    config, card = (json.loads((copy / name).read_text()) for name in ("config.json", "model_card.json"))
    later = (
        "class_weights",
        "pos_weight",
        "focal_gamma",
        "asymmetric",
        "ema",
        "layer_decay",
        "patchout",
        "accumulate",
    )
    for key in later:
        del config[key]
    for key in ("family", "options", "remat"):
        del config["model"][key]
    for key in ("family", "front_end", "activation", "thresholds", "data"):
        del card[key]
    for key in ("mlp_width", "patchout"):
        del card["model"][key]
    card["model"] |= {"mlp_ratio": 4, "remat": True}
    assert card["multi_label"] is False
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model_card.json").write_text(json.dumps(card))
    return copy


@pytest.fixture(scope="module")
def old(run, sounds) -> Path:
    return as_left_by_an_older_version(run, sounds / "old")


@pytest.fixture(params=["today", "old"])
def either(request, run, old) -> Path:
    return {"today": run, "old": old}[request.param]


def clips_of(run: Path) -> dict[str, Path]:
    return {path.stem: path for path in (run.parent / "sounds" / "test").rglob("*.wav")}


def test_training_scores_by_sigmoids(run):
    """The scores that training saved are those of the logits; a softmax would give others by far."""
    saved, loaded = Predictions.read(run / "scores.npz"), load_model(run)
    fbank = np.stack([log_mel(load_audio(clips_of(run)[name])) for name in saved.ids])
    logits = loaded.logits(fbank)
    np.testing.assert_allclose(saved.scores, jax.nn.sigmoid(logits), atol=STORED)
    assert np.abs(saved.scores - jax.nn.softmax(logits)).max() > 0.05
    card = json.loads((run / "model_card.json").read_text())
    assert (card["activation"], card["multi_label"]) == ("sigmoid", False)


def test_evaluate_again_finds_what_training_found(either, tmp_path, capsys):
    invoke("evaluate", [str(either), "--again", f"--out={tmp_path / 'again.npz'}"])
    trained, again = Predictions.read(either / "scores.npz"), Predictions.read(tmp_path / "again.npz")
    assert again.ids == trained.ids
    # another compilation of the same sums
    np.testing.assert_allclose(again.scores, trained.scores, atol=1e-6)
    best = json.loads((either / "results.json").read_text())["best"]
    assert best["metric"] == "mAP"
    assert f"mAP {best['value']:.4f}" in capsys.readouterr().out


def test_predict_and_serve_give_the_scores_of_training(either):
    testclient = pytest.importorskip(
        "starlette.testclient", reason="starlette, of the extra [serve], is not installed"
    )
    from ast_jax.inference.serve.app import make_app
    from ast_jax.inference.serve.limits import Limits

    tagger, trained = Tagger(str(either)), Predictions.read(either / "scores.npz")
    with testclient.TestClient(make_app(tagger, Limits()), base_url="http://127.0.0.1") as client:
        for name, scores in zip(trained.ids, trained.scores, strict=True):
            path = clips_of(either)[name]
            np.testing.assert_allclose(tagger.tag(path).overall, scores, atol=STORED)
            served = client.post("/api/tags", content=path.read_bytes()).json()["tags"]
            wanted = dict(zip(tagger.label_names, scores, strict=True))
            assert {tag["label"]: tag["score"] for tag in served} == pytest.approx(wanted, abs=STORED)


def test_what_is_exported_says_sigmoids(either, tmp_path):
    convert(either, tmp_path / "hf", to="huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    convert(either, tmp_path / "ours", to="flax")
    again = load_model(tmp_path / "ours")
    assert (again.activation, again.label_names) == ("sigmoid", ["click", "noise", "tone"])


def test_an_older_run_goes_on(old, run, tmp_path):
    """Another epoch of it is that of the run as it was: the same settings, state and clips."""
    found = []
    for before in (old, run):
        copy = shutil.copytree(before, tmp_path / before.name)
        config = of_run(json.loads((copy / "config.json").read_text()))
        config.epochs = 2
        found.append(train(config, copy))
    assert [results["epoch"] for results in found] == [2, 2]
    assert found[0]["last"] == found[1]["last"]
    card = json.loads((tmp_path / "old" / "model_card.json").read_text())
    assert len(card["thresholds"]) == 3
    assert load_model(tmp_path / "old").activation == "sigmoid"


def test_the_card_holds_the_thresholds_of_the_best_f1(run):
    card, saved = json.loads((run / "model_card.json").read_text()), Predictions.read(run / "scores.npz")
    assert card["label_names"] == ["click", "noise", "tone"]
    assert card["thresholds"][0] is None, "no clip of it was there to choose by"
    np.testing.assert_array_equal(card["thresholds"][1:], Scored(saved.scores, saved.targets).thresholds[1:])
    assert load_model(run).thresholds == card["thresholds"]
    assert load_model(run, label_names=["a", "b"]).thresholds is None, (
        "of other classes nobody has chosen one"
    )


def spans_of(run: Path, sound: Path, capsys, *flags: str) -> dict[str, list]:
    invoke("predict", [f"--model={run}", "--json", *flags, str(sound)])
    return {tag["label"]: tag["spans"] for tag in json.loads(capsys.readouterr().out)["tags"]}


def test_predict_tells_when_a_label_reached_its_own_threshold(run, sounds, tmp_path, capsys):
    scores = Tagger(str(run)).tag(sounds / "long.wav").scores
    # such that half of the windows hold a tone, all noise, and a click where it is more likely than not
    own = [None, float(scores[:, 1].min()) - 1e-6, float(np.median(scores[:, 2]))]
    copy = shutil.copytree(run, tmp_path / "run")
    card = json.loads((copy / "model_card.json").read_text())
    (copy / "model_card.json").write_text(json.dumps(card | {"thresholds": own}))

    spans = spans_of(copy, sounds / "long.wav", capsys)
    heard = (scores >= [0.5, *own[1:]]).sum(axis=0)
    assert 0 < heard[2] < len(scores) == heard[1]
    assert spans["noise"] == [[0.0, 3.0]]
    assert (
        len(spans["tone"])
        == ((np.diff(scores[:, 2] >= own[2], prepend=False)) & (scores[:, 2] >= own[2])).sum()
    )
    assert (spans["click"] == []) == (heard[0] == 0)
    assert set(map(str, spans_of(copy, sounds / "long.wav", capsys, "--threshold=0").values())) == {
        "[[0.0, 3.0]]"
    }
    assert not any(spans_of(copy, sounds / "long.wav", capsys, "--threshold=1.1").values())
    # an ensemble's scores are other scores
    assert Tagger([run, copy]).heard_from() == [0.5, 0.5, 0.5]
