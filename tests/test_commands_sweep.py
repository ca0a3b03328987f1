"""Sweeps: each member a run of its own, one after the other or one a device; failures are told at the end."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ast_jax.commands import crossval, invoke, sweep
from ast_jax.errors import Diverged, InputError
from ast_jax.recipes import Recipe


@pytest.fixture
def trained(monkeypatch) -> dict[str, tuple]:
    """Training replaced by a stand-in that notes (seed, held-out fold, epochs) by the run's name."""
    runs: dict[str, tuple] = {}

    def train(config, workdir: Path) -> dict:
        runs[workdir.name] = config.seed, config.dataset.eval[0], config.epochs
        workdir.mkdir(parents=True, exist_ok=True)
        figures = [
            0.1 * int(config.dataset.eval[0][-1]) + 0.01 * config.seed + rise for rise in (0, 0.2, 0.1)
        ]
        rows = [{"kind": "eval", "accuracy": figure} for figure in figures]
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return {"last": {"accuracy": figures[-1]}}

    monkeypatch.setattr("ast_jax.training.loop.train", train)
    return runs


@pytest.mark.parametrize(
    "recipe",
    [
        ["--config.epochs=2", "--config=esc50:P,fold=9"],
        ["--config", "esc50:P", "--config.epochs", "2"],
    ],
)
def test_crossval_runs_each_fold_and_seed_in_a_directory_of_its_own(trained, tmp_path, capsys, recipe):
    invoke("crossval", [*recipe, f"--workdir={tmp_path}", "--folds=1,3", "--seeds=2"])
    assert trained == {
        "fold1-seed0": (0, "fold1", 2),
        "fold3-seed0": (0, "fold3", 2),
        "fold1-seed1": (1, "fold1", 2),
        "fold3-seed1": (1, "fold3", 2),
    }
    shown = capsys.readouterr().out
    assert (tmp_path / "crossval.md").read_text() in shown
    assert json.loads((tmp_path / "crossval.json").read_text())["folds"] == [1, 3]
    assert (tmp_path / "crossval.png").stat().st_size > 1000


def test_seeds_count_up_from_the_recipes_own(trained, tmp_path):
    invoke(
        "crossval", ["--config=esc50", f"--workdir={tmp_path}", "--folds=2", "--seeds=3", "--config.seed=5"]
    )
    assert [seed for seed, _, _ in trained.values()] == [5, 6, 7]
    assert list(trained) == ["fold2-seed5", "fold2-seed6", "fold2-seed7"]


def test_a_mistake_is_told_before_anything_runs(trained, tmp_path):
    with pytest.raises(InputError, match="fold=7: choose one of 1 to 5"):
        invoke("crossval", ["--config=esc50", f"--workdir={tmp_path}", "--folds=1,7"])
    with pytest.raises(InputError, match="no suffix 'fold=1'"):
        invoke("crossval", ["--config=audioset", f"--workdir={tmp_path}"])
    assert trained == {}


def test_crossval_sums_up_by_fold_by_seed_and_by_the_published_protocol():
    runs = {
        (fold, seed): [{"accuracy": a + 0.1 * fold + 0.01 * seed} for a in (0.1, 0.3, 0.2)]
        for fold in (1, 2)
        for seed in (0, 1)
    }
    summary = crossval.summarise(runs, metric="accuracy")
    assert summary["best_epoch"] == [2, 2]
    assert summary["last_mean"] == pytest.approx(0.2 + 0.15 + 0.005)
    assert summary["best_mean"] == pytest.approx(0.3 + 0.15 + 0.005)
    assert summary["last_spread_over_folds"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    table = crossval.table(summary)
    assert "| last epoch (3), seed 0 | 30.00 % | 40.00 % | 35.00 % |" in table
    assert "\naccuracy at the best epoch: 45.50 % (+- 7.07 % over folds, 0.71 % over seeds)\n" in table


def test_a_fold_that_stopped_early_stays_what_it_was():
    rows = lambda *values: [{"accuracy": value} for value in values]
    summary = crossval.summarise({(1, 0): rows(0.1, 0.4, 0.6), (2, 0): rows(0.2, 0.3)}, metric="accuracy")
    assert summary["mean_curve"] == pytest.approx([0.15, 0.35, 0.45])
    assert summary["last"] == [[0.6, 0.3]]


@pytest.mark.parametrize(
    ("kinds", "raised"), [([Diverged, Diverged], Diverged), ([InputError, Diverged], InputError)]
)
def test_a_failed_member_is_told_after_the_others(monkeypatch, tmp_path, capsys, kinds, raised):
    """Status 3 where each of them diverged, 2 where another thing was wrong too."""
    failures, done = iter(kinds), []

    def train(config, workdir: Path) -> dict:
        if config.seed < 2:
            raise next(failures)(f"broken {config.seed}")
        done.append(workdir.name)
        return {"last": {}}

    monkeypatch.setattr("ast_jax.training.loop.train", train)
    members = {f"seed{seed}": Recipe("esc50", (("seed", str(seed)),)) for seed in range(4)}
    with pytest.raises(
        raised, match=r"2 of 4 runs failed \(seed0: broken 0; seed1: broken 1\); the others are done"
    ):
        sweep.sweep(members, tmp_path)
    assert done == ["seed2", "seed3"]
    assert "seed0: broken 0" in capsys.readouterr().err


# In the place of Python: notes its device, waits for its neighbour, and fails for seed 2.
STAND_IN = """#!/bin/sh
for word in "$@"; do
    case $word in --workdir=*) out=${word#*=} ;; --config.seed=*) seed=${word#*=} ;; esac
done
mkdir -p "$out" && echo "$CUDA_VISIBLE_DEVICES" > "$out/device"
case $seed in 0|1) while ! [ -e "$out/../seed$((1 - seed))/device" ]; do sleep 0.05; done ;; 2) exit 3 ;; esac
echo "{\\"seed\\": $seed}" > "$out/results.json"
"""


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_one_run_a_device_side_by_side(monkeypatch, tmp_path, capfd):
    """Seeds 0 and 1 wait for each other: one after the other they would never end."""
    program = tmp_path / "python"
    program.write_text(STAND_IN.replace("\\\\", "\\"))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    members = {f"seed{seed}": Recipe("esc50", (("seed", str(seed)),)) for seed in range(4)}
    del members["seed2"]
    found = sweep.sweep(members, tmp_path / "runs", devices=("0", "1"))
    assert found == {f"seed{seed}": {"seed": seed} for seed in (0, 1, 3)}
    devices = {(tmp_path / "runs" / name / "device").read_text() for name in ("seed0", "seed1")}
    assert devices == {"0\n", "1\n"}
    members["seed2"] = Recipe("esc50", (("seed", "2"),))
    with pytest.raises(Diverged, match="1 of 4 runs failed"):
        sweep.sweep(members, tmp_path / "runs", devices=("0", "1"))
    assert "seed3 on device" in capfd.readouterr().err
