"""A family to the rest of the program: its configuration from a recipe; its arrays by name, and back."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models.base import build, config_from, family_name, merge, num_parameters, split
from ast_jax.models.layers import BatchNorm
from ast_jax.settings import Model, Run, Settings


@dataclasses.dataclass(frozen=True)
class Config:
    """Of a Toy."""

    num_classes: int = 2
    num_frames: int = 8
    width: int = 3


class Toy(nnx.Module):
    """Parameters in a list of layers, and statistics."""

    Config = Config

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(config.width)
        self.layers = nnx.List([nnx.Linear(config.width, config.width, rngs=rngs) for _ in range(12)])


NAME = "test_models_base:Toy"


def settings(**model) -> Settings:
    return Settings(run=Run(num_frames=64), model=Model(family=NAME, **model))


def test_a_familys_options_become_its_configuration():
    found = config_from(settings(options={"width": 5}), 7)
    assert found == Config(num_classes=7, num_frames=64, width=5)
    assert family_name(build(NAME, found)) == NAME


@pytest.mark.parametrize(
    ("model", "unused"),
    [
        ({"options": {"depth": 5}}, r"config\.model\.options\.depth"),
        ({"width": 5}, r"config\.model\.width"),
        ({"variant": "tiny"}, r"config\.model\.variant"),
    ],
)
def test_what_a_family_has_no_use_for_is_refused(model, unused):
    with pytest.raises(InputError, match=rf"has no use for {unused}: its options are num_classes, .*width"):
        config_from(settings(**model), 7)


def test_arrays_come_apart_by_name_and_together_again():
    toy = build(NAME, Config())
    graphdef, params, statistics = split(toy)
    assert set(statistics) == {"norm/mean", "norm/var"}
    assert {"norm/scale", "layers/0/kernel", "layers/11/bias"} <= params.keys()
    assert num_parameters(toy) == 2 * 3 + 12 * (3 * 3 + 3)
    again = merge(graphdef, params, statistics | {"norm/mean": jnp.full(3, 7.0)})
    np.testing.assert_array_equal(again.norm.mean[...], [7, 7, 7])
    np.testing.assert_array_equal(again.layers[10].kernel[...], toy.layers[10].kernel[...])
