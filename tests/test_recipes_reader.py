"""The one reader of recipe flags: every order and spelling, and one line for every mistake."""

from pathlib import Path
from unittest import mock

import jax
import pytest

from ast_jax.errors import InputError
from ast_jax.models import settled
from ast_jax.recipes import Recipe, parse, split
from ast_jax.settings import Settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ESC50 = str(CONFIGS / "esc50.py")


@pytest.mark.parametrize(
    "flags",
    [
        ["--config=esc50:fold=2", "--config.epochs=3"],
        ["--config.epochs=3", "--config=esc50:fold=2"],
        ["--config.epochs", "3", "--config", "esc50:fold=2"],
        ["--config", f"{ESC50}:fold=2", "--config.epochs=1", "--config.epochs=3"],
    ],
)
def test_any_order_and_spelling_names_the_same_recipe(flags):
    config, _, rest = parse([*flags[:1], "RUN", *flags[1:]] if "=" in flags[0] else flags)
    assert (config.epochs, config.dataset.eval) == (3, ("fold2",))
    assert rest in (["RUN"], [])


def test_what_belongs_to_a_recipe_and_what_does_not():
    """`--configuration` is nobody's flag of a recipe, and the value after `=` is not looked for again."""
    argv = [
        "RUN",
        "--config",
        "x.py:a=1",
        "--splits=b",
        "--config.lr=1",
        "--config.seed",
        "2",
        "--configuration",
    ]
    flags, rest = split([*argv, "--config.noise"])
    assert flags == [("config", "x.py:a=1"), ("config.lr", "1"), ("config.seed", "2"), ("config.noise", None)]
    assert rest == ["RUN", "--splits=b", "--configuration"]


def test_values_take_the_type_of_their_setting():
    texts = {
        "noise": None,
        "cumulative": "true",
        "epochs": "3",
        "dataset.mean": "-4",
        "model.strides": "16,16",
        "dataset.eval": "fold2",
        "init_from": "1",
        "published": "{'metric': 'mAP'}",
    }
    config = Recipe(ESC50, tuple(texts.items())).config()
    assert (config.noise, config.cumulative, config.epochs, config.dataset.mean) == (True, True, 3, -4.0)
    assert (config.model.strides, config.dataset.eval, config.init_from) == ((16, 16), ("fold2",), "1")
    assert config.published.metric == "mAP"
    several = Recipe(ESC50, (("dataset.train", "fold1"), ("dataset.train", "fold2")))
    assert several.config().dataset.train == ("fold1", "fold2")
    again = Recipe(ESC50, (("model.strides", "(16, 16)"), ("model.strides", "(16, 32)")))
    assert again.config().model.strides == (16, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.dataset.sorce_dir=x"], "no setting 'dataset.sorce_dir': did you mean dataset.source_dir"),
        (["--config.epoch=3"], "did you mean epochs"),
        (["--config.seed.x=3"], "no setting 'seed.x'"),
        (["--config.epochs=many"], "--config.epochs=many: wanted a whole number"),
        (["--config.epochs=1.5"], "wanted a whole number"),
        (["--config.epochs"], "--config.epochs: wanted a whole number"),
        (["--config.init_from"], "--config.init_from: wanted text"),
        (["--config.lr=nan"], "--config.lr=nan: wanted a number"),
        (["--config.lr=inf"], "wanted a number"),
        (["--config.noise=perhaps"], "wanted true or false"),
        (["--config.model.strides=(16,"], "wanted values by commas"),
        (["--config.model=5"], "wanted a dictionary"),
        (["--config=esc50"], "--config is given 2 times"),
    ],
)
def test_a_mistaken_setting_is_one_line(flags, message):
    with pytest.raises(InputError) as error:
        parse([f"--config={ESC50}", *flags])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no --config was given"),
        ("esc5:fold=1", "no recipe at 'esc5': name a file, or an installed one by its name: esc50"),
        ("configs/nothing.py", "no recipe at 'configs/nothing.py'"),
        (str(CONFIGS), "no recipe at"),
        (
            "zzz",
            "ablations, audioset, audioset_strong, baseline, birdset, crema_d, desed, esc50, events, ",
        ),
        (str(CONFIGS.parent / "README.md"), "is no recipe: wanted a Python file"),
        ("esc50:fold=1.5", "fold=1.5 in the suffix: wanted a value like 1"),
        ("esc50:fold=6", "fold=6: choose one of 1 to 5"),
        ("esc50:folds=1", "this recipe has no suffix 'folds=1': it knows S, P"),
    ],
)
def test_a_mistaken_recipe_is_one_line(spec, message):
    with pytest.raises(InputError) as error:
        parse([f"--config={spec}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # the names of all recipes among it
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(suffix=''):\n    c = base()\n    c.epoch = 3\n    return c", "(line 4)"),
        ("def get_config(suffix='')", "SyntaxError"),
        ("raise ValueError('x' * 1000)", "xxx (line 2)"),
        ("import no_such_module_here", "No module named 'no_such_module_here' (line 2)"),
        ("def get_config(suffix=''):\n    return None", "get_config(suffix) that returns base() changed"),
        ("x = 1", "wanted a function get_config(suffix)"),
    ],
)
def test_a_fault_in_a_users_own_recipe_names_its_line(tmp_path, text, message):
    recipe = tmp_path / "mine.py"
    recipe.write_text(f"from ast_jax.config import base\n{text}\n")
    with pytest.raises(InputError) as error:
        Recipe(str(recipe)).config()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250 + len(str(recipe))


def test_a_recipe_is_changed_without_touching_the_original():
    recipe = Recipe("esc50:P,fold=9", (("seed", "5"),))
    changed = recipe.with_word("fold", 3).with_setting("seed", 7)
    assert changed.spec == "esc50:P,fold=3"
    assert (changed.config().seed, changed.config().dataset.eval) == (7, ("fold3",))
    again, rest = split(changed.flags())
    assert Recipe.of(again).config() == changed.config()
    assert rest == []
    assert recipe == Recipe("esc50:P,fold=9", (("seed", "5"),))


def device(platform: str, capability: str = "") -> mock.Mock:
    return mock.Mock(spec=jax.Device, platform=platform, compute_capability=capability)


HOPPER = device("gpu", "9.0")
DEVICES = {
    "bfloat16": (HOPPER, device("tpu")),
    "float32": (device("gpu", "7.5"), device("gpu", "gfx942"), device("cpu")),
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_no_recipe_trains_in_float32_where_16_bits_are_faster_unless_it_is_asked_to(path):
    settings = Settings.of(Recipe(str(path)).config())
    for dtype, devices in DEVICES.items():
        assert {settled(settings, each).model.dtype for each in devices} == {dtype}
    asked = Settings.of(Recipe(f"{path}:float32").config())
    assert settled(asked, HOPPER).model.dtype == "float32"


def test_a_family_without_a_choice_of_arithmetic_is_left_alone():
    settings = Settings.of({"model": {"family": "test_models_base:Toy"}})
    assert settled(settings, HOPPER).model.dtype == "float32"


def test_float32_goes_with_other_words():
    config = Recipe("esc50:fold=2,float32,cpu").config()
    assert (config.model.dtype, config.dataset.eval, config.model.variant) == ("float32", ("fold2",), "tiny")
    assert jax.devices()[0].platform == "cpu"
    assert settled(Settings.of(Recipe("esc50").config()), jax.devices()[0]).model.dtype == "float32"
