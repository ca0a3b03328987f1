"""Several runs as one program are the runs that they are alone: on CPUs bit for bit, under vmap but for
rounding."""

import json
import os
import signal
import threading

import numpy as np
import pytest
from test_training_loop import assert_same_run, data_dir, rows, settings, sounds  # noqa: F401 (fixtures)

from ast_jax.checkpoints import load_variables, saved_steps
from ast_jax.errors import Diverged, InputError
from ast_jax.training import hosts
from ast_jax.training.loop import train
from ast_jax.training.together import train_together

# Unlike in all that may differ: seed, rate and when it falls, mean of the features, how long.
RUNS = {
    "a": {},
    "b": {"seed": 1, "lr": 3e-3, "lr_decay": 0.5, "lr_decay_epochs": (2,), "dataset.mean": -5.0},
    "c": {"seed": 2, "epochs": 2, "lr_warmup_steps": 3},
}
PAIR = {name: RUNS[name] for name in "bc"}


@pytest.fixture(scope="module")
def alone(sounds, data_dir, tmp_path_factory):  # noqa: F811
    """The same runs one after the other."""
    where = tmp_path_factory.mktemp("alone")
    for name, changes in RUNS.items():
        train(settings(sounds, data_dir, **changes), where / name)
    return where


def members(where, sounds, data_dir, runs=RUNS):  # noqa: F811
    return {name: (settings(sounds, data_dir, **changes), where / name) for name, changes in runs.items()}


@pytest.mark.slow
def test_runs_in_one_program_are_the_same_bits(alone, sounds, data_dir, tmp_path, capfd):  # noqa: F811
    """With one that fails of its settings, and one whose loss breaks: the others go on."""
    broken = {"wrong": {"dataset.eval": ("nowhere",)}, "breaks": {"lr": 1e30}}
    found = dict(train_together(members(tmp_path, sounds, data_dir, RUNS | broken)))
    assert isinstance(found["wrong"], InputError)
    assert isinstance(found["breaks"], Diverged)
    for name in RUNS:
        assert_same_run(tmp_path / name, alone / name)
        stored = json.loads((tmp_path / name / "results.json").read_text())
        assert found[name]["last"] == stored["last"]
    assert "b: epoch 3 on 5 clips" in capfd.readouterr().err


@pytest.mark.slow
def test_runs_under_vmap_are_the_same_but_for_rounding(alone, sounds, data_dir, tmp_path):  # noqa: F811
    """Aim 1e-5 of parameters after 12 steps of Adam, whose first steps are of the rate's size whatever the
    gradient: where a gradient is nearly 0 its rounding decides, hence 1e-5 of most and 1e-3 of all."""
    list(train_together(members(tmp_path, sounds, data_dir, PAIR), vmapped=True))
    for name in PAIR:
        ours, theirs = (load_variables(where / name, "last") for where in (tmp_path, alone))
        apart = np.concatenate([np.abs(ours[path] - theirs[path]).ravel() for path in theirs])
        assert np.quantile(apart, 0.99) < 1e-5
        assert apart.max() < 1e-3
        for own, other in zip(rows(tmp_path / name), rows(alone / name), strict=True):
            assert own["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
def test_sigterm_saves_all_and_the_same_goes_on(alone, sounds, data_dir, tmp_path):  # noqa: F811
    def stop_soon() -> None:
        while not (tmp_path / "c" / "metrics.jsonl").exists() or not rows(tmp_path / "c"):
            done.wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    done, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(SystemExit) as status:
        list(train_together(members(tmp_path, sounds, data_dir, PAIR)))
    assert status.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert all(saved_steps(tmp_path / name) for name in PAIR)
    list(train_together(members(tmp_path, sounds, data_dir, PAIR)))
    for name in PAIR:
        assert_same_run(tmp_path / name, alone / name)


def test_one_handler_tells_all_runs_of_a_process():
    before = signal.getsignal(signal.SIGTERM)
    first, second = hosts.StopRequest(), hosts.StopRequest()
    first.close()  # a run that is done leaves the others' handler
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(hosts.Preempted):
        second.check()
    first.check()
    second.close()
    assert signal.getsignal(signal.SIGTERM) is before
