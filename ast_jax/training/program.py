"""The train step of a recipe as a program on given devices, made from the recipe alone: no data is touched.

`train_program(config, num_classes, devices=...)` is what training runs and what `plan` measures: `.step` is the jitted or
pmapped step, and `.step.lower(program.state, program.rows).compile()` compiles it, also for devices that are not there.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from ast_jax.datasets.pipeline import fit
from ast_jax.models import AST, ASTConfig, split
from ast_jax.training import setup
from ast_jax.training.optim import layer_factors
from ast_jax.training.sharding import Layout, make_layout
from ast_jax.training.step import Recipe, State, init_state, train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled-on-first-use train step and what it takes."""

    layout: Layout
    model_config: ASTConfig
    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    rate: Callable  # step -> learning rate
    recipe: Recipe
    step: Callable  # (state, rows) -> (state, {loss, grad_norm}); the old state is given up
    state: Any  # shapes, types and placement of the state
    rows: dict[str, jax.ShapeDtypeStruct]  # the same of a batch, over all hosts

    def initial_state(self, model: AST) -> State:
        """The state before step 0, from a model's weights, in its place."""
        return self.layout.place(
            init_state(split(model)[1], self.optimizer, ema="ema" in self.state)  # what the recipe keeps
        )


def train_program(
    config: ConfigDict,
    num_classes: int,
    *,
    devices: Sequence[jax.Device] = (),
    mean: float = 0.0,
    std: float = 1.0,
    epoch_steps: int = 1,
) -> Program:
    """The program of a recipe on `devices` (all there are by default).

    Memory and speed do not depend on `mean`, `std` and `epoch_steps` (which only place the learning rate's decays).
    Raises InputError for settings that contradict each other or the devices.
    """
    setup.check(config)
    layout = make_layout(parallel=config.parallel, fsdp=config.fsdp, devices=devices)
    model_config = setup.model_config(config, num_classes)
    model = nnx.eval_shape(lambda: AST(model_config, rngs=nnx.Rngs(0)))
    graphdef, params = split(model)
    factors = layer_factors(params, depth=model_config.depth, decay=config.layer_decay, freeze=config.freeze)
    rate = setup.learning_rate(config, epoch_steps)
    optimizer = setup.optimizer(config, rate, factors)
    frozen = frozenset(path for path, factor in factors.items() if factor == 0)
    recipe = setup.step_recipe(config, mean, std, frozen)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, ema=config.ema > 0), params)
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=optimizer, recipe=recipe, attend=layout.attend
    )
    return Program(
        layout=layout,
        model_config=model_config,
        graphdef=graphdef,
        optimizer=optimizer,
        rate=rate,
        recipe=recipe,
        step=layout.train(step, state),
        state=abstract(state, layout.shardings(state)),
        rows=layout.abstract_rows(batch_shapes(config, num_classes, layout)),
    )


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes and types of `tree`, placed as `shardings` says."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings
    )


def batch_shapes(config: ConfigDict, num_classes: int, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch as the pipeline gives it, filled up to what the devices take."""
    empty = {"index": 0} | ({"share": 1.0} if config.mixup else {})
    row = fit(empty, kind=config.dataset.kind, num_frames=config.num_frames, num_classes=num_classes)
    rows = layout.num_rows(config.batch_size, config.accumulate)
    return {key: jax.ShapeDtypeStruct((rows, *np.shape(value)), value.dtype) for key, value in row.items()}
