"""The seams are public: a family, loss, metric, augmentation and data set from a user's own file, through
every command.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(__file__).with_name("own_parts")


def command(home: Path, *arguments: str, module: str = "ast_jax") -> str:
    """Runs a command where the user's files are; its stdout."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with the user's files and a finished run of them, `run`."""
    home = tmp_path_factory.mktemp("home")
    for name in ("my_parts.py", "my_recipe.py"):
        shutil.copy(PARTS / name, home / name)
    command(home, "--config=my_recipe.py", "--workdir=run", module="ast_jax.main")
    return home


def results(home: Path) -> dict:
    return json.loads((home / "run" / "results.json").read_text())


def test_it_trains_with_everything_of_the_users(home):
    found, card = results(home), json.loads((home / "run" / "model_card.json").read_text())
    assert found["best"]["metric"] == "my_parts:brier"
    assert found["metrics"]["my_parts:brier"] < 0.25  # of scores that are all 1/2
    assert (card["family"], card["activation"], card["front_end"]["num_mel_bins"]) == (
        "my_parts:Toy",
        "sigmoid",
        64,
    )
    assert card["model"]["width"] == 8
    with np.load(home / "run" / "examples.npz") as examples:
        lower = examples["fbank"][:, :90, :32]
        assert {bool((clip == clip.flat[0]).all()) for clip in lower} == {
            True,
            False,
        }  # deaf to half of the clips


def test_statistics_are_kept_with_the_parameters(home):
    from ast_jax.checkpoints import load_variables

    moved = load_variables(home / "run", "best")["norm/var"]
    averaged = load_variables(home / "run", "average")["norm/var"]
    assert moved.shape == averaged.shape == (64,)
    assert not np.allclose(moved, 1.0)
    assert not np.array_equal(moved, averaged)


def test_a_run_that_goes_on_equals_one_that_never_stopped(home):
    whole = command(
        home, "--config=my_recipe.py", "--config.epochs=3", "--workdir=whole", module="ast_jax.main"
    )
    shutil.copytree(home / "run", home / "resumed")
    resumed = command(
        home, "--config=my_recipe.py", "--config.epochs=3", "--workdir=resumed", module="ast_jax.main"
    )
    assert whole.splitlines()[0] == resumed.splitlines()[0]
    rows = [(home / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "resumed")]
    losses = [[json.loads(row)["loss"] for row in run] for run in rows]
    assert losses[0] == losses[1]


def test_it_is_evaluated_predicted_and_embedded(home):
    assert f"{results(home)['metrics']['accuracy']:.4f}" in command(
        home, "evaluate", "run", "--again", "--which=last"
    )
    said = command(home, "predict", "--model=run", "--json", "tones/low_00.wav", "tones/high_00.wav")
    assert [json.loads(line)["tags"][0]["label"] for line in said.splitlines()] == ["low", "high"]
    command(home, "embed", "--model=run", "--out=emb.npz", "tones")
    with np.load(home / "emb.npz") as rows:
        assert rows["embeddings"].shape == (24, 8)


@pytest.mark.parametrize("to", ["flax", "npz", "safetensors"])
def test_it_is_converted_and_still_hears_the_same(home, to):
    command(home, "convert", "run", f"model_{to}", f"--to={to}")
    say = lambda model: command(home, "predict", f"--model={model}", "--json", "tones/high_03.wav")
    assert say(f"model_{to}") == say("run")


def test_its_answers_are_explained_by_gradients_alone(home):
    command(home, "explain", "--model=run", "tones/high_00.wav", "--top=1")
    assert (home / "explain.png").read_bytes().startswith(b"\x89PNG")
    with np.load(home / "explain.npz") as drawn:
        assert drawn["gradient"].shape == (1, *drawn["fbank"].shape)
        assert not {"attention", "rollout"} & set(drawn.files)


def test_it_is_planned(home):
    plan = json.loads(command(home, "plan", "--config=my_recipe.py", "--num_classes=2", "--json", "--quick"))
    assert (plan["family"], plan["parameters"]) == ("my_parts:Toy", 2 * 64 + 64 * 8 + 8 + 8 * 2 + 2)
    assert plan["forward_flops"] >= 2 * (64 * 8 + 8 * 2)


def test_what_is_not_there_is_told_in_one_line(home):
    for change in (
        "model.family=my_parts:Toi",
        "loss=my_parts:cubed",
        "metric=no_such:thing",
        "model.depth=3",
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ast_jax.main",
                "--config=my_recipe.py",
                f"--config.{change}",
                "--workdir=no",
            ],
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert (
            change.partition("=")[2].rpartition(":")[2] in done.stderr or "config.model.depth" in done.stderr
        )
    assert not (home / "no").exists()
