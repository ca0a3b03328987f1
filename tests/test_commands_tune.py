"""A search inside the training clips: halved, judged by clips of its own, not done twice."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sound_trees import class_tree, tiny_flags, write_rows

from ast_jax.commands import invoke, tune
from ast_jax.commands.tune import candidates, judged_inside, tuned
from ast_jax.errors import Diverged, InputError
from ast_jax.recipes import Recipe, recipe

BEST = 3e-3


@pytest.fixture
def trials(monkeypatch) -> list[tuple]:
    """Training replaced by a stand-in, best at the rate BEST in its last epoch but one: what was trained, in
    order, as (name, rate, epochs). At rates from .05 on it breaks."""
    seen: list[tuple] = []

    def train(config, workdir: Path) -> dict:
        seen.append((workdir.name, config.lr, config.epochs))
        if config.lr >= 0.05:
            raise Diverged("loss nan")
        value = 1 - 0.1 * abs(math.log(config.lr / BEST)) + 0.001 * config.epochs
        workdir.mkdir(parents=True, exist_ok=True)
        return {"best": {"value": value, "epoch": max(1, config.epochs - 1)}}

    monkeypatch.setattr("ast_jax.training.loop.train", train)
    # there are no sounds
    monkeypatch.setattr(tune, "groups_left", lambda recipe: 40)
    return seen


def test_the_better_half_goes_on_for_twice_the_epochs(trials, tmp_path, capsys):
    """Rates .01 and from .001 to .1 beside it; one breaks and is told, no one is lost."""
    asked = Recipe("folder", (("lr", "0.01"), ("epochs", "16")))
    found = tuned(asked, tmp_path, 8).config()
    rates = {name: rate for name, rate, _ in trials}
    assert rates["trial0"] == 0.01
    assert sorted(rates.values()) == pytest.approx(
        sorted([0.01, *(10 ** np.linspace(-3, -1, 8))[[0, 1, 2, 3, 5, 6, 7]]]), rel=0.01
    )
    by_epochs = {n: [name for name, _, epochs in trials if epochs == n] for n in (2, 4, 8, 16)}
    assert [len(names) for names in by_epochs.values()] == [8, 4, 2, 1]
    near = sorted(
        (name for name in rates if rates[name] < 0.05), key=lambda n: abs(math.log(rates[n] / BEST))
    )
    for count, names in zip((4, 2, 1), list(by_epochs.values())[1:], strict=True):
        assert set(names) == set(near[:count])
    assert (found.lr, found.freeze, found.epochs) == (rates[near[0]], "", 15)
    table = (tmp_path / "tune" / "tune.md").read_text()
    assert table.count("diverged") == sum(rate >= 0.05 for rate in rates.values()) > 0
    assert "tuned: rate 0.00373, 15 of 16 epochs" in capsys.readouterr().err
    count = len(trials)
    assert tuned(asked, tmp_path, 8).config().lr == found.lr
    assert len(trials) == count
    with pytest.raises(InputError, match="was tuned for other settings"):
        tuned(asked, tmp_path, 4)


def test_where_nothing_can_be_tuned(trials, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run that was not tuned"):
        tuned(Recipe("folder"), tmp_path / "run", 4)
    with pytest.raises(InputError, match="at least 2 trials"):
        tuned(Recipe("folder"), tmp_path / "one", 1)
    with pytest.raises(InputError, match="no trial of --tune ended with a finite loss"):
        tuned(Recipe("folder", (("lr", "5"),)), tmp_path / "high", 4)
    with pytest.raises(InputError, match="one run on one host"):
        invoke("train", ["--config=folder", "--seeds=2", "--tune=2", f"--workdir={tmp_path / 'seeds'}"])


def test_from_other_weights_a_third_of_the_trials_trains_the_head_alone():
    rows = candidates(recipe("folder:pretrained", init_from="some"), 6)
    assert [row["freeze"] for row in rows] == [""] * 4 + ["backbone"] * 2
    assert rows[0] == {"lr": 1e-4, "freeze": ""}
    assert min(row["lr"] for row in rows[4:]) > 1e-4
    assert all(row["freeze"] == "" for row in candidates(recipe("folder"), 6))
    assert all(row["freeze"] == "2" for row in candidates(recipe("folder", init_from="some", freeze="2"), 6))


def test_trials_are_judged_by_clips_of_their_own(trials, monkeypatch, capsys):
    """The last fold trained on, validation clips, or a fifth of the training clips, or one of few groups."""
    of = lambda spec: judged_inside(Recipe(spec)).config().dataset
    folds = of("esc50:fold=2")
    assert (folds.train, folds.eval, folds.inside) == (("fold1", "fold3", "fold4"), ("fold5",), 0)
    validated = of("nsynth")
    assert (validated.train, validated.eval, validated.test) == (("train",), ("valid",), ())
    assert of("folder").inside == 5
    assert not capsys.readouterr().err
    monkeypatch.setattr(tune, "groups_left", lambda recipe: 4)
    assert of("folder").inside == 4
    assert "one of the 4 groups of training clips judges trials" in capsys.readouterr().err


def test_where_the_last_trial_breaks_the_next_best_goes_on(trials, tmp_path, monkeypatch):
    """Of four, the best breaks in the last round, then the one that was kept beside it is trained for it."""
    from ast_jax.training import loop

    train = loop.train
    broken: list[str] = []

    def breaking(config, workdir: Path) -> dict:
        found = train(config, workdir)
        if config.epochs == 16 and not broken:
            broken.append(workdir.name)
            raise Diverged("loss nan")
        return found

    monkeypatch.setattr("ast_jax.training.loop.train", breaking)
    asked = Recipe("folder", (("lr", "0.003"), ("epochs", "16")))
    found = tuned(asked, tmp_path, 4).config()
    known = json.loads((tmp_path / "tune/tune.json").read_text())
    assert [epochs for *_, epochs in trials] == [4] * 4 + [8] * 2 + [16] * 2
    (first, _, _), (second, rate, _) = trials[-2:]
    assert first == "trial0" == broken[0] != second
    assert second in {name for name, _, epochs in trials if epochs == 8}
    assert (found.lr, found.epochs) == (rate, 15)
    assert known["rows"][0] == {"lr": 0.003, "freeze": "", "epochs": 16, "value": None, "best_epoch": 7}
    assert known["own"] == "diverged"
    assert (tmp_path / "tune/tune.md").read_text().count("diverged") == 1


def test_folds_are_tuned_each_by_itself(trials, tmp_path, monkeypatch):
    monkeypatch.setattr("ast_jax.commands.crossval.evaluations", lambda run: [{"accuracy": 0.25}])
    where = f"--workdir={tmp_path}"
    invoke("crossval", ["--config=folder", where, "--folds=1,2", "--tune=2", "--config.epochs=4"])
    assert (tmp_path / "fold2-seed0/tune/tune.json").exists()
    assert [name for name, _, _ in trials[-2:]] == ["fold1-seed0", "fold2-seed0"]
    stored = json.loads((tmp_path / "crossval.json").read_text())
    assert (stored["last_mean"], "best" in stored) == (0.25, False)


@pytest.mark.slow
def test_a_tuned_run_is_never_judged_by_what_tuned_it(tmp_path):
    """Really trained: trials side by side on training clips alone, then the run on all of them."""
    class_tree(tmp_path / "sounds", {"a": 10, "b": 10}, num_samples=1600)
    flags = [*tiny_flags(tmp_path, epochs=2, metric="accuracy", lr=1e-3), f"--workdir={tmp_path / 'run'}"]
    invoke("train", [*flags, "--tune=2", "--together=2"])
    ids = lambda run: set(np.load(run / "predictions.npz")["ids"].tolist())
    held, inside = ids(tmp_path / "run"), ids(tmp_path / "run/tune/trial0")
    assert len(held) == 4
    assert not held & inside
    assert inside == ids(tmp_path / "run/tune/trial1")
    best = json.loads((tmp_path / "run/tune/tune.json").read_text())["best"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["lr"], config["epochs"], config["dataset"]["inside"]) == (best["lr"], best["epochs"], 0)
    assert json.loads((tmp_path / "run/tune/trial0/config.json").read_text())["dataset"]["inside"] == 5


@pytest.mark.slow
def test_four_groups_that_are_left_are_tuned_by_one_of_them(tmp_path):
    """Six speakers, two of them the test split's, really trained."""
    class_tree(tmp_path / "sounds", {"a": 6, "b": 6}, num_samples=1600)
    rows = [["file", "labels", "split", "group"]]
    for label, n in ((label, n) for label in "ab" for n in range(6)):
        split = "test" if n < 2 else "train"
        rows.append([f"sounds/{label}/{label}-{n:02}.wav", label, split, f"speaker{n}"])
    table = write_rows(tmp_path / "table.csv", rows)
    flags = tiny_flags(tmp_path, metric="accuracy", **{"dataset.source_dir": table})
    invoke("train", [*flags, f"--workdir={tmp_path / 'run'}", "--tune=2", "--together=2"])
    assert json.loads((tmp_path / "run/tune/trial0/config.json").read_text())["dataset"]["inside"] == 4
    ids = np.load(tmp_path / "run/tune/trial0/predictions.npz")["ids"].tolist()
    assert len({id[-1] for id in ids}) == 1
    assert {id[-1] for id in ids} < set("2345")
    for row in rows[1:]:
        row[3] = "all" if row[2] == "train" else row[3]
    write_rows(table, rows)
    flags = tiny_flags(tmp_path, **{"dataset.source_dir": table, "dataset.data_dir": tmp_path / "again"})
    with pytest.raises(InputError, match=r"all training clips are of one group \(all\)"):
        invoke("train", [*flags, f"--workdir={tmp_path / 'other'}", "--tune=2"])
