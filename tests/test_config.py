"""Recipes and the ways to change them: mistakes are one line that says what would have been right."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from ast_jax.commands.train import default_workdir
from ast_jax.config import base, flatten, suffix_options
from ast_jax.errors import InputError
from ast_jax.models.base import config_from
from ast_jax.recipes import parse
from ast_jax.settings import Augment, Model, Run, Settings
from ast_jax.training.program import train_program

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def recipe(name: str, suffix: str = ""):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(suffix)


def test_suffix_grammar():
    assert suffix_options("fold=3,cpu", words=("cpu", "gpu"), keys={"fold": 1}) == {
        "cpu": True,
        "gpu": False,
        "fold": 3,
    }
    with pytest.raises(InputError, match=r"no suffix 'tpu': it knows cpu, fold=\.\.\."):
        suffix_options("tpu", words=("cpu",), keys={"fold": 1})
    for text in ("x", "1.5", "nan", ""):
        with pytest.raises(InputError, match=f"fold={text} in the suffix: wanted a value like 1"):
            suffix_options(f"fold={text}", keys={"fold": 1})
    with pytest.raises(InputError, match="seconds=nan"):
        suffix_options("seconds=nan", keys={"seconds": 5.0})


def test_the_work_directory_is_named_after_the_recipe():
    assert default_workdir("configs/esc50.py:fold=1,cpu") == Path("runs/esc50-fold1-cpu")
    assert default_workdir("configs/audioset.py") == Path("runs/audioset")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_locked_diff_over_base(name):
    config = recipe(name)
    assert flatten(base()).keys() <= flatten(config).keys()
    Settings.of(config)  # and holds what may be set
    with pytest.raises(AttributeError):
        config.nothing_of_the_kind = 1
    with pytest.raises(InputError):
        recipe(name, "surely_not_a_word")


# The reference's values (its published code), one row a published recipe.
COLUMNS = (
    *(
        "num_frames",
        "dataset.mean",
        "dataset.std",
        "mixup",
        "freq_mask",
        "time_mask",
        "noise",
        "roll",
        "sampling",
        "loss",
    ),
    *(
        "lr",
        "lr_warmup_steps",
        "lr_warmup_stair",
        "lr_decay",
        "lr_decay_epochs",
        "lr_decay_end",
        "epochs",
        "batch_size",
        "metric",
    ),
    *("average_epochs", "init_from"),
)
DEIT, AST = "deit_base_distilled_patch16_384", "ast_audioset_10_10_0.4593"
AS, ESC, SC = (-4.2677393, 4.5689974), (-6.6268077, 5.358466), (-6.845978, 5.5654526)
EACH = list(range(6, 26))
TABLE = {
    ("audioset", "balanced"): (
        *(1024, *AS, 0.5, 48, 192, False, 0, "shuffle", "bce"),
        *(5e-5, 1000, 50, 0.5, [11, 16, 21], 0, 25, 12, "mAP", [6, 25], DEIT),
    ),
    ("audioset", ""): (
        *(1024, *AS, 0.5, 48, 192, False, 0, "balanced", "bce"),
        *(1e-5, 1000, 50, 0.5, [3, 4, 5], 0, 5, 12, "mAP", [1, 5], DEIT),
    ),
    ("esc50", "S"): (
        *(512, *ESC, 0.0, 24, 96, False, 0, "shuffle", "ce"),
        *(1e-4, 0, 50, 0.85, EACH, 0, 25, 48, "accuracy", [], DEIT),
    ),
    ("esc50", "P"): (
        *(512, *ESC, 0.0, 24, 96, False, 0, "shuffle", "ce"),
        *(1e-5, 0, 50, 0.85, EACH, 0, 25, 48, "accuracy", [], AST),
    ),
    ("speech_commands", "S"): (
        *(128, *SC, 0.6, 48, 48, True, 10, "shuffle", "bce"),
        *(2.5e-4, 0, 50, 0.85, [*EACH, *range(26, 31)], 27, 30, 128, "accuracy", [], DEIT),
    ),
    ("speech_commands", "P"): (
        *(128, *SC, 0.6, 48, 48, True, 10, "shuffle", "bce"),
        *(2.5e-4, 0, 50, 0.85, [*EACH, *range(26, 31)], 27, 30, 128, "accuracy", [], AST),
    ),
}


@pytest.mark.parametrize(("name", "suffix"), list(TABLE))
def test_recipes_carry_the_references_values(name, suffix):
    config = recipe(name, suffix)
    values = flatten(config)
    assert {key: values[key] for key in COLUMNS} == dict(zip(COLUMNS, TABLE[name, suffix], strict=True))
    assert (config.adam_b1, config.adam_b2, config.adam_eps, config.weight_decay) == (0.95, 0.999, 1e-8, 5e-7)
    assert (config.clip_norm, config.layer_decay, config.label_smoothing, config.ema, config.gain_db) == (
        0,
        1,
        0,
        0,
        0,
    )
    assert (config.model.variant, config.model.patch_shape, config.model.strides) == (
        "base",
        (16, 16),
        (10, 10),
    )
    assert config.dataset.kind == "log_mel"


# PANNs', PSLA's and the baseline's published settings that differ from the AST's.
OTHERS = {
    ("panns", ""): {
        **{"model.family": "cnn14", "num_frames": 1001, "batch_size": 32, "lr": 1e-3, "loss": "bce"},
        **{"adam_b1": 0.9, "adam_b2": 0.999, "amsgrad": True, "weight_decay": 0.0, "lr_decay_epochs": []},
        **{"sampling": "round_robin", "mixup": 1.0, "mixup_alpha": 1.0, "mixup_of": "features"},
        **{"time_stripes": [2, 64], "freq_stripes": [2, 8], "freq_mask": 0, "time_mask": 0},
        **{"epoch_steps": 2000, "epochs": 300, "published.curve.300": 0.431},
    },
    ("panns", "balanced"): {"epochs": 50, "published.curve.50": 0.278, "dataset.train": ["balanced"]},
    ("panns", "16k"): {"model.options.sample_rate_hz": 16_000, "published.curve.300": 0.438},
    ("panns", "model=wavegram_logmel_cnn14"): {
        **{"model.family": "wavegram_logmel_cnn14", "num_frames": 1000, "dataset.kind": "waveform"},
        **{"mixup_of": "features", "published.curve.300": 0.439},
    },
    ("panns", "model=cnn6"): {"model.family": "cnn6", "num_frames": 1001, "published.curve.300": 0.343},
    ("panns", "model=cnn10"): {"model.family": "cnn10", "num_frames": 1001, "published.curve.300": 0.380},
    **{
        ("panns", f"model={name}"): {"model.family": name, "num_frames": 1001, "published.curve.300": figure}
        for name, figure in {"cnn14_decision_max": 0.385, "cnn14_decision_att": 0.425}.items()
    },
    ("baseline", ""): {
        **{"model.family": "vggish_mlp", "num_frames": 960, "init_from": "vggish", "freeze": "backbone"},
        **{"batch_size": 500, "lr": 1e-3, "adam_b1": 0.9, "adam_b2": 0.999, "weight_decay": 0.0},
        **{"sampling": "round_robin", "loss": "bce", "mixup": 0.0, "freq_mask": 0, "time_mask": 0},
        **{"epoch_steps": 1000, "epochs": 50, "dataset.train": ["balanced", "unbalanced"]},
        **{"published.curve.50": 0.300},
    },
    ("psla", ""): {
        **{"model.family": "psla", "model.options.scale": "b2", "num_frames": 1056, "batch_size": 100},
        **{
            "dataset.mean": -4.6476,
            "dataset.std": 4.5699,
            "lr": 1e-4,
            "lr_warmup_steps": 1000,
            "loss": "bce",
        },
        **{"lr_decay": 0.5, "lr_decay_epochs": [10, 15, 20, 25, 30], "epochs": 30, "sampling": "balanced"},
        **{"average_epochs": [16, 30], "average_first_twice": True, "mixup": 0.5, "mixup_alpha": 10.0},
        **{"freq_mask": 48, "time_mask": 192, "adam_b1": 0.95, "weight_decay": 5e-7},
        **{"init_from": "efficientnet_b2", "published.curve.30": 0.440, "published.average": 0.444},
    },
    ("psla", "balanced"): {
        **{"lr": 1e-3, "lr_decay_epochs": [35, 40, 45, 50, 55, 60], "epochs": 60, "sampling": "shuffle"},
        **{"average_epochs": [41, 60], "init_from": "efficientnet_b2"},
        **{"published.curve": None, "published.average": 0.319, "published.band": 0.01},
    },
    ("psla", "fsd50k"): {
        **{"dataset.name": "fsd50k", "num_frames": 3000, "batch_size": 24, "lr": 5e-4, "loss": "bce"},
        **{"dataset.mean": -4.6476, "dataset.std": 4.5699, "lr_warmup_steps": 1000, "lr_decay": 0.5},
        **{"lr_decay_epochs": [10, 15, 20, 25, 30, 35, 40], "epochs": 40, "sampling": "balanced"},
        **{"average_epochs": [21, 40], "average_first_twice": True, "mixup": 0.5, "mixup_alpha": 10.0},
        **{"freq_mask": 48, "time_mask": 192, "adam_b1": 0.95, "adam_b2": 0.999, "weight_decay": 5e-7},
        **{"dataset.train": ["train"], "dataset.eval": ["val"], "dataset.test": ["eval"]},
        **{"model.options.scale": "b2", "init_from": "efficientnet_b2"},
        **{"published.curve": None, "published.average": 0.588, "published.band": 0.01},
    },
    ("psla", "fsd50k,scratch"): {"init_from": "", "published.average": None},
    ("psla", "scale=b0"): {"init_from": "efficientnet_b0", "published.average": None},
}


@pytest.mark.parametrize(("name", "suffix"), list(OTHERS))
def test_recipes_of_other_systems_carry_theirs(name, suffix):
    values = flatten(recipe(name, suffix))
    assert {key: values.get(key) for key in OTHERS[name, suffix]} == OTHERS[name, suffix]


TRANSFORMERS = ["passt", "ced_tiny", "ced_mini", "ced", "beats", "eat"]


@pytest.mark.parametrize("model", ["cnn6", "cnn10", "cnn14", "psla_b0", "psla", *TRANSFORMERS])
@pytest.mark.parametrize("name", ["folder", "esc50"])
def test_small_sets_take_other_models(name, model):
    settings = Settings.of(recipe(name, f"model={model}"))
    config = config_from(settings, num_classes=10)
    assert settings.model.family == model.partition("_")[0]
    # 5 s, in whole steps of the model's time
    assert config.num_frames in (501, 512, 500, 498)
    if model in TRANSFORMERS:
        # what their checkpoints have, and their front ends
        assert config.num_heads == {"ced_tiny": 3, "ced_mini": 4}.get(model, 12)
        found = (settings.data.mean, settings.data.std)
        assert found == pytest.approx(
            {"passt": (-4.5, 5.0), "beats": (-5.378, 6.556), "eat": (-4.268, 4.569)}.get(model, (0, 1)),
            abs=1e-3,
        )
    with pytest.raises(InputError, match="model=resnet: choose ast, cnn6"):
        recipe(name, "model=resnet")


@pytest.mark.parametrize(
    ("name", "suffix", "changed"),
    [
        ("esc50", "S,paper", {"epochs": 20, "init_rgb": "mean"}),
        ("esc50", "P,paper", {"epochs": 20}),
        ("speech_commands", "S,paper", {"epochs": 20, "init_rgb": "mean"}),
        ("speech_commands", "P,paper", {"epochs": 20}),
        ("audioset", "paper", {"init_rgb": "mean"}),
        ("audioset", "balanced,paper", {"init_rgb": "mean"}),
        ("speech_commands", "S,logged", {"mixup": 0.5}),
        ("audioset", "waveform", {"dataset.kind": "waveform"}),
        ("speech_commands", "S,waveform", {"dataset.kind": "waveform"}),
        ("esc50", "P,waveform", {"dataset.kind": "waveform"}),
    ],
)
def test_words_change_what_they_say_and_nothing_else(name, suffix, changed):
    plain = flatten(recipe(name, suffix.rpartition(",")[0]))
    assert {
        key: value for key, value in flatten(recipe(name, suffix)).items() if plain[key] != value
    } == changed


@pytest.mark.parametrize(("name", "suffix"), list(TABLE))
def test_a_larger_batch_follows_the_rule(name, suffix):
    """The rate by the square root, the warm-up's steps as they are, nothing else; `pod=1` is as written."""
    plain = flatten(recipe(name, suffix))
    changed = lambda word: {
        key: value for key, value in flatten(recipe(name, f"{suffix},{word}")).items() if plain[key] != value
    }
    assert changed("pod=4") == {
        "batch_size": 4 * plain["batch_size"],
        "lr": pytest.approx(2 * plain["lr"]),
        "lr_warmup": "linear",
    }
    assert changed("pod") == changed("pod=16")
    assert changed("pod=1") == {}
    with pytest.raises(InputError, match="pod=0"):
        recipe(name, "pod=0")


def test_published_curves_are_the_logged_ones():
    curve = recipe("audioset", "balanced").published.curve
    assert (len(curve), curve["1"], curve["17"], curve["25"]) == (25, 0.0166, 0.3390, 0.3358)
    assert dict(recipe("audioset").published.curve) == {
        "1": 0.4153,
        "2": 0.4349,
        "3": 0.4476,
        "4": 0.4490,
        "5": 0.4486,
    }
    averages = [recipe("audioset", word).published.average for word in ("balanced", "")]
    assert averages == [0.34999, 0.45903]
    assert recipe("esc50", "P").published.curve["22"] == 0.9575
    assert not recipe("esc50", "S").published


def test_folds_of_esc50():
    config = recipe("esc50", "fold=3,cpu")
    assert config.dataset.train == ("fold1", "fold2", "fold4", "fold5")
    assert config.dataset.eval == ("fold3",)
    with pytest.raises(InputError, match="fold=6"):
        recipe("esc50", "fold=6")


@pytest.mark.parametrize(
    "flag", ["patchout.freq=12", "patchout.time=-1", "patchout.patches=1212", "model.remat=some"]
)
def test_what_leaves_no_patch_or_is_not_offered_is_refused(flag):
    """Of the paper's 12 x 101 patches."""
    config, _, _ = parse([f"--config={CONFIGS / 'audioset.py'}", f"--config.{flag}"])
    with pytest.raises(InputError, match=r"config\.patchout|remat"):
        config_from(Settings.of(config), 527)


def test_noise_would_hide_the_padding_that_is_to_be_left_out():
    wanted = Settings(Run(num_frames=32, batch_size=2), model=Model(variant="tiny", depth=1, mask_even=True))
    assert train_program(wanted, 2).model.config.mask_even
    with pytest.raises(
        InputError, match=r"config.noise makes padding uneven, by which config.model.mask_even"
    ):
        train_program(dataclasses.replace(wanted, augment=Augment(noise=True)), 2)


def test_the_settings_of_passt_leave_474_tokens():
    config, _, _ = parse(
        [f"--config={CONFIGS / 'audioset.py'}", "--config.patchout.freq=4", "--config.patchout.time=42"]
    )
    model = config_from(Settings.of(config), 527)
    (rows, columns), (freq, time, patches) = model.grid, model.patchout
    assert 2 + (rows - freq) * (columns - time) - patches == 474
