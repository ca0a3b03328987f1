"""Recipes and the ways to change them: mistakes are one line that says what would have been right."""

import importlib.util
from pathlib import Path

import pytest

from ast_jax.config import base, flatten, parse, suffix_options
from ast_jax.errors import InputError
from ast_jax.main import default_workdir

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def recipe(name: str, suffix: str = ""):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(suffix)


def given(*arguments: str):
    return parse([f"--config={CONFIGS / 'esc50.py'}", *arguments])


def test_overrides_take_the_type_of_their_key():
    config, _, rest = given("--config.epochs=3", "--config.dataset.mean=-4", "--workdir=there", "--config.dataset.train=('fold2',)")
    assert (config.epochs, config.dataset.mean, config.dataset.train, rest) == (3, -4.0, ("fold2",), ["--workdir=there"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.dataset.sorce_dir=x", "did you mean dataset.source_dir"),
        ("--config.epoch=3", "did you mean epochs"),
        ("--config.epochs=many", "many"),
    ],
)
def test_mistyped_settings_are_one_line(argument, message):
    with pytest.raises(InputError, match=message) as error:
        given(argument)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_and_none_at_all():
    with pytest.raises(InputError, match="no recipe at"):
        parse(["--config=configs/nothing.py"])
    with pytest.raises(InputError, match="no --config"):
        parse([])


def test_suffix_grammar():
    assert suffix_options("fold=3,cpu", words=("cpu", "gpu"), keys={"fold": 1}) == {"cpu": True, "gpu": False, "fold": 3}
    with pytest.raises(InputError, match=r"no suffix 'tpu': it knows cpu, fold=\.\.\."):
        suffix_options("tpu", words=("cpu",), keys={"fold": 1})
    with pytest.raises(InputError, match="fold=x"):
        suffix_options("fold=x", keys={"fold": 1})


def test_the_work_directory_is_named_after_the_recipe():
    assert default_workdir("configs/esc50.py:fold=1,cpu") == Path("runs/esc50-fold1-cpu")
    assert default_workdir("configs/audioset.py") == Path("runs/audioset")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_locked_diff_over_base(name):
    config = recipe(name)
    assert flatten(base()).keys() <= flatten(config).keys()
    with pytest.raises(AttributeError):
        config.nothing_of_the_kind = 1
    with pytest.raises(InputError):
        recipe(name, "surely_not_a_word")


# The reference's values (docs: reference recipe, section 2), one row a published recipe.
COLUMNS = ("num_frames", "mean", "std", "freq_mask", "time_mask", "loss", "lr", "lr_warmup_steps", "lr_decay", "epochs", "batch_size", "metric")
TABLE = {
    ("audioset", "balanced"): (1024, -4.2677393, 4.5689974, 48, 192, "bce", 5e-5, 1000, 0.5, 25, 12, "mAP"),
    ("audioset", ""): (1024, -4.2677393, 4.5689974, 48, 192, "bce", 1e-5, 1000, 0.5, 5, 12, "mAP"),
    ("esc50", ""): (512, -6.6268077, 5.358466, 24, 96, "ce", 1e-4, 0, 0.85, 25, 48, "accuracy"),
    ("speech_commands", ""): (128, -6.845978, 5.5654526, 48, 48, "bce", 2.5e-4, 0, 0.85, 30, 128, "accuracy"),
}
DECAYS = {
    ("audioset", "balanced"): (11, 16, 21),
    ("audioset", ""): (3, 4, 5),
    ("esc50", ""): tuple(range(6, 26)),
    ("speech_commands", ""): tuple(range(6, 27)),
}


@pytest.mark.parametrize(("name", "suffix"), list(TABLE))
def test_recipes_carry_the_references_values(name, suffix):
    config = recipe(name, suffix)
    values = {**flatten(config), "mean": config.dataset.mean, "std": config.dataset.std}
    assert tuple(values[key] for key in COLUMNS) == TABLE[name, suffix]
    assert config.lr_decay_epochs == DECAYS[name, suffix]
    assert (config.adam_b1, config.adam_b2, config.adam_eps, config.weight_decay) == (0.95, 0.999, 1e-8, 5e-7)
    assert (config.model.variant, config.model.patch_shape, config.model.strides) == ("base", (16, 16), (10, 10))


def test_folds_of_esc50():
    config = recipe("esc50", "fold=3,cpu")
    assert config.dataset.train == ("fold1", "fold2", "fold4", "fold5")
    assert config.dataset.eval == ("fold3",)
    with pytest.raises(InputError, match="fold=6"):
        recipe("esc50", "fold=6")
