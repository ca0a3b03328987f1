"""The sections that a recipe becomes: every key is taken, every range is kept, every mistake is one line."""

import dataclasses
import math
import typing

import pytest

from ast_jax.config import base, flatten
from ast_jax.errors import InputError
from ast_jax.settings import NESTED, SECTIONS, Settings, defaults, flat, optional_keys


def fields() -> dict[str, tuple[dataclasses.Field, object]]:
    """Every field and its type, by the key that a recipe calls it."""
    found = {}
    for section, kind in SECTIONS.items():
        prefix = f"{NESTED[section]}." if section in NESTED else ""
        hints = typing.get_type_hints(kind)
        found |= {prefix + field.name: (field, hints[field.name]) for field in dataclasses.fields(kind)}
    return found


FIELDS = fields()
LIMITS = {"least": -math.inf, "most": math.inf, "above": -math.inf}


def numeric(key: str) -> type | None:
    """int or float, where the field is a number or may be one."""
    kinds = typing.get_args(FIELDS[key][1]) or (FIELDS[key][1],)
    return next((kind for kind in kinds if kind in (int, float)), None) if tuple not in kinds else None


NUMERIC = [key for key in FIELDS if numeric(key) and typing.get_origin(FIELDS[key][1]) is not tuple]


def outside(key: str) -> list[float]:
    """A number just out of each end of a field's range."""
    limits = LIMITS | dict(FIELDS[key][0].metadata)
    step = 1 if numeric(key) is int else 1e-3
    wrong = [limits["least"] - step] if limits["least"] > -math.inf else []
    wrong += [limits["most"] + step] if limits["most"] < math.inf else []
    return wrong + ([limits["above"]] if limits["above"] > -math.inf else [])


def tree(key: str, value: object) -> dict:
    """A recipe that sets one key."""
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def test_every_key_of_a_recipe_is_taken_and_given_back():
    assert Settings.of(base()) == Settings.of(defaults()) == Settings.of({}) == Settings()
    assert flat(defaults()).keys() == flatten(base()).keys()
    assert len(FIELDS) > 60
    for key, (field, _) in FIELDS.items():
        default = field.default if field.default is not dataclasses.MISSING else {}
        assert Settings.of(tree(key, default)) == Settings(), key


def test_what_was_set_comes_back_from_the_tree():
    changed = {
        **{"lr": 1, "epochs": 3, "lr_decay_epochs": [2, 3], "average_epochs": (1, 3), "augment": ["a:b"]},
        "dataset": {"name": "esc50", "mean": -4, "options": {"fold": 2}},
        "model": {"width": 32, "strides": [16, 16]},
        "patchout": {"freq": 2},
        "published": {"metric": "mAP", "curve": {"1": 0.5}, "band": 0.1},
    }
    settings = Settings.of(changed)
    assert Settings.of(settings.tree()) == settings != Settings()
    assert settings.optimizer.lr_decay_epochs == (2, 3)
    assert settings.model.strides == (16, 16)
    assert settings.data.options == {"fold": 2}
    assert settings.tree().keys() == defaults().keys()


@pytest.mark.parametrize("key", FIELDS)
def test_a_value_of_another_type_is_refused(key):
    """A list of words for what is one, a word for what is none; and a truth for a number, which Python would
    take for 1."""
    _, hint = FIELDS[key]
    wrong = [7] if hint is str else ["some"]
    wrong += [True, 0.5 if numeric(key) is int else "0.5"] if key in NUMERIC else []
    for value in wrong:
        with pytest.raises(InputError, match=rf"config\.{key} is .*: wanted ") as error:
            Settings.of(tree(key, value))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", NUMERIC)
def test_a_number_out_of_its_range_is_refused(key):
    wrong = outside(key)
    assert wrong or key == "dataset.mean", f"{key} has no range"
    for value in wrong:
        with pytest.raises(InputError, match=rf"config\.{key} is .*: it must be ") as error:
            Settings.of(tree(key, value))
        assert "\n" not in str(error.value)
    if numeric(key) is float:
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(InputError, match=rf"config\.{key} is .*: it must be a finite number"):
                Settings.of(tree(key, value))


@pytest.mark.parametrize("key", NUMERIC)
def test_the_ends_of_a_range_are_in_it(key):
    limits = LIMITS | dict(FIELDS[key][0].metadata)
    for end in ("least", "most"):
        if math.isfinite(limits[end]):
            value = numeric(key)(limits[end])
            assert flat(Settings.of(tree(key, value)).tree())[key] == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"dataset": {"sorce_dir": "x"}}, "did you mean dataset.source_dir"),
        ({"model": {"lr": 1.0}}, "no setting 'model.lr'"),
        ({"zzz": 3}, "lists every key"),
        ({"average_epochs": (1,)}, "it is \\(first, last\\)"),
        ({"average_epochs": (3, 2)}, "it is \\(first, last\\)"),
        ({"lr_decay_epochs": (1, 2)}, "the first decay is at epoch 2"),
        ({"sampling": "random"}, "choose shuffle or balanced"),
        ({"parallel": "xmap"}, "choose jit or pmap"),
        ({"lr_warmup": "cosine"}, "choose repo or linear"),
        ({"model": {"strides": (10, 10, 10)}}, "config.model.strides is"),
        ({"asymmetric": (4.0, 1.0)}, "config.asymmetric is"),
        ({"dataset": {"channels": "each"}}, "which is for `predict` alone: .* choose mean or first"),
    ],
)
def test_keys_and_settings_that_make_no_sense(config, message):
    with pytest.raises(InputError, match=message) as error:
        Settings.of(config)
    assert "\n" not in str(error.value)


def test_values_that_are_found_out_later_are_none_until_then():
    assert optional_keys() == {
        **{"dataset.mean": float, "dataset.std": float},
        **{"model.width": int, "model.depth": int, "model.num_heads": int},
    }
    assert all(flat(defaults())[key] is None for key in optional_keys())


def test_settings_are_shown_by_what_differs_from_the_defaults():
    config = base()
    config.dataset.name, config.lr, config.model.strides = "folder", 0.5, (16, 16)
    assert repr(Settings.of(config)) == "Settings(dataset.name='folder', model.strides=(16, 16), lr=0.5)"
