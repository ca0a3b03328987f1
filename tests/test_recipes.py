"""Several runs of one recipe: seeds, ablations, ensembles of what they saved. Whole runs, the smallest."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_config import recipe
from test_training_loop import SETTINGS, data_dir, flags, sounds  # noqa: F401 (fixtures)

from ast_jax.commands import ablate, evaluate, invoke
from ast_jax.commands.seeds import summarise, table
from ast_jax.config import base, flatten
from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions
from ast_jax.main import main
from ast_jax.models.base import num_parameters
from ast_jax.models.cost import forward_flops
from ast_jax.recipes import Recipe
from ast_jax.settings import Settings
from ast_jax.weights import load_model

ROOT = Path(__file__).resolve().parents[1]
ABLATIONS = ROOT / "configs" / "ablations.py"
TABLE_ONE = ROOT / "configs" / "table_one.py"


# ---- Seeds


def results(**figures: float) -> dict:
    rest = {"accuracy": 0.5, "mAP": 0.5, "auc": 0.5, "d_prime": None}
    return {"last": {**rest, **figures}}


def test_mean_and_spread_over_seeds():
    runs = {3: results(accuracy=0.6), 4: results(accuracy=0.8), 5: results(accuracy=0.7)}
    summary = summarise(runs)
    assert summary["last"]["accuracy"] == {
        "values": [0.6, 0.8, 0.7],
        "mean": pytest.approx(0.7),
        "spread": pytest.approx(0.1),
    }
    assert summary["last"]["d_prime"]["mean"] is None  # it has no meaning in any of the runs
    assert "average" not in summary
    assert "| last epoch, seed 4 | 0.8000 |" in table(summary)
    assert "| **last epoch, mean +- spread** | 0.7000 +- 0.1000 |" in table(summary)


def other_labels(tmp_path_factory) -> Path:
    """Two of the training clips change sides."""
    table = tmp_path_factory.mktemp("labels") / "labels.csv"
    table.write_text("id,labels\ntrain0,high\ntrain1,low\n")
    return table


@pytest.fixture(scope="module")
def seeds(sounds, data_dir, tmp_path_factory) -> Path:  # noqa: F811
    """Two seeds of the smallest run, from the command line."""
    workdir = tmp_path_factory.mktemp("seeds")
    places = {"dataset.source_dir": str(sounds), "dataset.data_dir": str(data_dir), "epochs": 2}
    places |= {"dataset.expected": 20, "dataset.labels": str(other_labels(tmp_path_factory)), "time_shift": 5}
    main([*flags({**SETTINGS, **places}), f"--workdir={workdir}", "--seeds=2"])
    return workdir


def test_seeds_are_runs_of_their_own(seeds):
    found = [json.loads((seeds / f"seed{seed}" / "results.json").read_text()) for seed in (0, 1)]
    assert [json.loads((seeds / f"seed{seed}" / "config.json").read_text())["seed"] for seed in (0, 1)] == [
        0,
        1,
    ]
    assert found[0]["last"]["loss"] != found[1]["last"]["loss"]
    summary = json.loads((seeds / "seeds.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert summary["last"]["mAP"]["values"] == [one["last"]["mAP"] for one in found]
    for one in found:  # 5 clips
        assert one["interval"]["low"] <= one["interval"]["high"]
        assert (one["expected_examples"], one["coverage"]) == (20, 0.25)
        assert (one["last"]["expected_examples"], one["last"]["coverage"]) == (20, 0.25)


# ---- Ensembles of finished runs


def test_an_ensemble_of_finished_runs_computes_no_scores(seeds, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "scores_of", None)
    monkeypatch.setattr(evaluate, "open_for_evaluation", None)
    runs = [seeds / "seed0", seeds / "seed1"]
    invoke("evaluate", [*map(str, runs), "--out", str(tmp_path / "both.npz")])
    out, err = capsys.readouterr()
    assert out.count("5 clips, 25.0% of the 20 that the published figures are of") == 3
    assert err.count("scores saved in scores.npz") == 2
    assert "ensemble of 2" in out
    members = [Predictions.load(run / "scores.npz") for run in runs]
    both = Predictions.load(tmp_path / "both.npz")
    np.testing.assert_allclose(both.scores, (members[0].scores + members[1].scores) / 2, atol=1e-7)


def test_a_recipe_of_the_same_data_takes_saved_scores_and_another_does_not(seeds):
    run = seeds / "seed0"
    same = evaluate.config_of_run(run)
    assert evaluate.saved_scores(run, "best", same) == run / "scores.npz"
    for key, value in {"kind": "waveform", "eval": ("train",)}.items():
        other = evaluate.config_of_run(run)
        other.dataset[key] = value
        assert evaluate.saved_scores(run, "best", other) is None
    assert evaluate.saved_scores(run, "average", None) is None  # it averages no weights


def test_saved_scores_are_those_of_the_best_weights(seeds, tmp_path, capsys):
    invoke("evaluate", [str(seeds / "seed1"), "--again", "--out", str(tmp_path / "again.npz")])
    assert "scores saved in scores.npz" not in capsys.readouterr().err
    again, saved = Predictions.load(tmp_path / "again.npz"), Predictions.load(seeds / "seed1" / "scores.npz")
    assert again.ids == saved.ids
    np.testing.assert_allclose(again.scores, saved.scores, atol=1e-6)


def test_members_whose_classes_stand_in_another_order_are_put_in_one(seeds, tmp_path, capsys):
    turned = tmp_path / "turned"
    turned.mkdir()
    for name in ("config.json", "model_card.json", "results.json"):
        (turned / name).write_bytes((seeds / "seed0" / name).read_bytes())
    names = (seeds / "seed0" / "labels.txt").read_text().split()
    (turned / "labels.txt").write_text("\n".join(names[::-1]))
    member = Predictions.load(seeds / "seed0" / "scores.npz")
    member.with_classes(np.array([1, 0])).save(turned / "scores.npz")
    invoke("evaluate", [str(seeds / "seed0"), str(turned), "--out", str(tmp_path / "both.npz")])
    np.testing.assert_allclose(Predictions.load(tmp_path / "both.npz").scores, member.scores, atol=1e-7)


# ---- Ablations


def test_each_row_changes_what_its_table_is_about():
    balanced = flatten(recipe("audioset", "balanced"))
    differs = lambda suffix: {
        key: value
        for key, value in flatten(recipe("ablations", suffix)).items()
        if balanced.get(key) != value and not key.startswith("published")
    }
    assert differs("") == differs("positions,row=bilinear") == differs("strides,row=10") == {}
    assert differs("imagenet,row=without") == {"init_from": ""}
    assert differs("vit,row=deit") == {"init_from": "deit_base_patch16_384", "model.distilled": False}
    assert differs("vit,row=vit_large") == {
        "init_from": "vit_large_patch16_384",
        **{"model.distilled": False, "model.width": 1024, "model.depth": 24, "model.num_heads": 16},
    }
    assert differs("positions,row=reinit") == {"init_positions": "reinit"}
    assert differs("strides,row=14") == {"model.strides": [14, 14]}
    patches = {"init_from": "", "model.patch_shape": [128, 2], "model.strides": [128, 2]}
    assert differs("patches,row=128x2") == patches
    assert recipe("ablations", "strides,row=16,full").lr == recipe("audioset").lr
    with pytest.raises(InputError, match="row= one of 16, 14, 12, 10"):
        recipe("ablations", "strides,row=11")


def test_tables_hold_the_papers_figures():
    rows = lambda suffix: ablate.rows_of(Recipe(f"{ABLATIONS}:{suffix}"))
    assert rows("strides") == ("strides", {"16": 0.336, "14": 0.342, "12": 0.344, "10": 0.347})
    assert rows("full,strides") == ("strides", {"16": 0.451, "14": 0.456, "12": 0.455, "10": 0.459})
    assert rows("patches")[1] == {"128x2": 0.154, "16x16": 0.143, "32x32": 0.139}
    assert set(rows("vit,builtin")[1].values()) == {None}  # nothing is published for a few built-in sounds
    with pytest.raises(InputError, match="name one table"):
        rows("full")
    with pytest.raises(InputError, match="this recipe has none"):
        ablate.rows_of(Recipe("audioset"))


def test_one_command_writes_a_table(tmp_path, capsys, monkeypatch):
    """Each row trained in a directory of its own; the averaged weights' figure beside the published one."""
    trained = {}

    def train(config, workdir: Path) -> dict:
        trained[workdir] = (config.init_positions, config.lr)
        figure = 0.3 + len(trained) / 100
        average = {"epochs": [6, 25], "mAP": figure, "num_examples": 5}
        return {"average": average, "last": {"epoch": 25, "mAP": 0.0}, "init": "x"}

    monkeypatch.setattr("ast_jax.training.loop.train", train)
    command = [f"--config={ABLATIONS}:positions", "--config.lr=0.5", f"--workdir={tmp_path}"]
    invoke("ablate", [*command, "--rows=nearest,reinit"])
    assert trained == {tmp_path / "nearest": ("nearest", 0.5), tmp_path / "reinit": ("reinit", 0.5)}
    shown = capsys.readouterr().out
    assert "| nearest | 0.3100 | 0.346 | -0.036 | 6-25 |" in shown
    assert "| reinit | 0.3200 | 0.305 | +0.015 | 6-25 |" in shown
    assert (tmp_path / "ablation.md").read_text() in shown
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["value"] for row in found["rows"]] == [pytest.approx(0.31), pytest.approx(0.32)]
    with pytest.raises(InputError, match="row= one of reinit"):
        invoke("ablate", [*command, "--rows=nearest,none"])
    assert len(trained) == 2  # a mistake is told before anything runs


def test_the_launch_script_names_every_table():
    done = subprocess.run(
        [ROOT / "launch" / "ablations.sh", "--dry_run", "--words=builtin", "--", "--config.epochs=1"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split("ablations.py:")[1].split(",")[0] for line in lines] == list(recipe_tables())
    assert all(line.endswith("--config.epochs=1") for line in lines)


# ---- Table 1


def test_table_one_holds_the_papers_figures():
    rows = lambda suffix: ablate.rows_of(Recipe(f"{TABLE_ONE}:systems{suffix}"))
    assert rows("") == (
        "systems",
        {
            **{"baseline": None, "cnn14": 0.278, "wavegram": None},
            **{"psla": 0.319, "psla_ens_s": 0.345, "psla_ens_m": 0.362},
            **{"ast": 0.347, "ast_ens_s": 0.363, "ast_ens_m": 0.378},
        },
    )
    assert rows(",full")[1] == {
        **{"baseline": 0.300, "cnn14": 0.431, "wavegram": 0.439},
        **{"psla": 0.444, "psla_ens_s": 0.464, "psla_ens_m": 0.474},
        **{"ast": 0.459, "ast_ens_s": 0.475, "ast_ens_m": 0.485},
    }
    assert set(rows(",esc10")[1].values()) == {None}
    note = Recipe(str(TABLE_ONE)).table("NOTES")["baseline"]
    assert "Google's .314" in note
    assert "an embedding that is private" in note


@pytest.mark.parametrize("words", ["", "full", "builtin", "esc10"])
def test_every_row_of_table_one_is_a_recipe(words):
    """An ensemble's is that of its members; of some the members are not known."""
    found = Recipe(f"{TABLE_ONE}:{','.join(filter(None, ['systems', words]))}")
    runs = {row: ablate.members_of(found, row) for row in ablate.rows_of(found)[1]}
    full = words == "full"
    seeds = lambda row: [row, f"{row}-seed1", f"{row}-seed2"]
    strides = [f"ast-strides{stride}x{stride}" for stride in (12, 14, 16)]
    assert {row: list(members) for row, members in runs.items() if list(members) != [row]} == {
        **{"psla_ens_s": seeds("psla"), "psla_ens_m": []},
        **{"ast_ens_s": seeds("ast"), "ast_ens_m": [*seeds("ast"), *strides] if full else []},
    }
    configs = {name: member.config() for members in runs.values() for name, member in members.items()}
    for name, config in configs.items():
        settings = Settings.of(config)
        one, _, changed = name.partition("-")
        assert (
            settings.model.family
            == (
                {"baseline": "vggish_mlp", "cnn14": "cnn14" if words in ("", "full") else "cnn6"}
                | {"wavegram": "wavegram_logmel_cnn14", "psla": "psla", "ast": "ast"}
            )[one]
        ), name
        if changed.startswith("seed"):
            assert config.seed == int(changed[-1]), name
        if full and one == "ast":
            wide = int(changed[-2:]) if changed.startswith("strides") else 10
            assert settings.model.strides == (wide, wide), name


def test_an_ensembles_row_is_the_mean_of_its_members_scores(seeds, tmp_path, capsys, monkeypatch):
    """Runs that are done, under the names of the row's members; a row without known members has a dash."""
    for name, seed in (("psla", 0), ("psla-seed1", 1), ("psla-seed2", 0), ("baseline", 1)):
        (tmp_path / name).symlink_to(seeds / f"seed{seed}")
    metric = "test_training_epochs:BRIER"  # no two runs have the same

    def done(config, workdir):
        results = json.loads((workdir / "results.json").read_text())
        return results | {"last": {**results["last"], metric: 0.5}}

    monkeypatch.setattr("ast_jax.training.loop.train", done)
    rows = "psla,psla_ens_s,psla_ens_m,baseline"
    recipe = [f"--config={TABLE_ONE}:systems,full", f"--config.metric={metric}"]
    invoke("ablate", [*recipe, f"--rows={rows}", f"--workdir={tmp_path}"])
    shown = capsys.readouterr().out
    found = {row["row"]: row for row in json.loads((tmp_path / "ablation.json").read_text())["rows"]}
    assert list(found) == rows.split(",")
    saved = [Predictions.read(seeds / f"seed{seed}" / "predictions.npz") for seed in (0, 1, 0)]
    mean = np.mean([member.scores for member in saved], axis=0)
    wanted = np.square(mean - saved[0].targets).mean()
    assert found["psla_ens_s"]["value"] == pytest.approx(wanted)
    assert found["psla_ens_s"]["members"] == ["psla", "psla-seed1", "psla-seed2"]
    # what a run costs is its own; what an ensemble does is that of all its members
    one, three = found["psla"], found["psla_ens_s"]
    model = load_model(seeds / "seed0").model
    assert (one["parameters"], one["forward_flops"]) == (num_parameters(model), forward_flops(model))
    assert one["clips_per_s"] > 0
    assert (three["parameters"], three["clips_per_s"]) == (3 * one["parameters"], None)
    assert three["forward_flops"] == 3 * one["forward_flops"]
    assert "| psla_ens_m | - | 0.474 | - | - | - | - | - |" in shown
    assert f"| {one['parameters'] / 1e6:.1f} M | {one['forward_flops'] / 1e9:.2f} |" in shown
    assert "\nbaseline: the paper prints Google's .314, of an embedding that is private; " in shown
    assert "\npsla_ens_s: the mean of the scores of psla, psla-seed1, psla-seed2.\n" in shown
    assert (tmp_path / "ablation.md").read_text() in shown


def recipe_tables() -> dict:
    import runpy

    return runpy.run_path(str(ABLATIONS))["TABLES"]


def test_the_defaults_leave_the_optional_off():
    plain = base()
    assert (plain.time_shift, plain.gain_db, plain.label_smoothing, plain.ema) == (0, 0, 0, 0)
    assert (plain.lr_warmup, plain.lr_decay_end, plain.dataset.labels) == ("repo", 0, "")
