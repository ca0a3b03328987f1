"""The train step of a recipe as a program on given devices, made from its settings alone: no data is touched.

`train_program(settings, num_classes, devices=...)` is what training runs and what `plan` measures: `.step` is
the jitted or pmapped step, and `.step.lower(program.state, program.rows).compile()` compiles it, also for
devices that are not there.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from ast_jax.datasets.pipeline import FrameGrid, fit
from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import abstract, settled, split
from ast_jax.models.base import config_from
from ast_jax.objectives import Objective, objective
from ast_jax.settings import Optimizer as OptimizerSettings
from ast_jax.settings import Settings
from ast_jax.sharding import Layout, make_layout
from ast_jax.training import augment, optim
from ast_jax.training.data import frame_grid
from ast_jax.training.step import State, Step, init_state, train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled-on-first-use train step and what it takes."""

    layout: Layout
    # shapes in the place of arrays
    model: Any
    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    # step -> learning rate
    rate: Callable
    what: Step
    # (state, rows) -> (state, {loss, grad_norm}); the old state is given up
    step: Callable
    # the same, to be made a part of a larger program: not compiled, and on one device
    pure: Callable
    # what `optimizer` was made of: the rates as `optim.schedule` takes them, and the recipe's settings with
    # what multiplies the rate by parameter path
    rates: tuple[np.ndarray, np.ndarray]
    optimized_by: tuple[OptimizerSettings, dict[str, float]]
    # shapes, types and placement of the state
    state: Any
    # the same of a batch, over all hosts
    rows: dict[str, jax.ShapeDtypeStruct]
    # steps of time that a batch speaks of
    grid: FrameGrid | None = None

    def initial_state(self, model: Any) -> State:
        """The state before step 0, from a model's weights, in its place."""
        _, params, statistics = split(model)
        return self.layout.place(init_state(params, statistics, self.optimizer, ema="ema" in self.state))


def train_program(
    settings: Settings,
    num_classes: int,
    *,
    devices: Sequence[jax.Device] = (),
    front_end: FrontEnd | None = None,
    loss: Objective | None = None,
    epoch_steps: int = 1,
    partly: bool = False,
) -> Program:
    """The program of a recipe on `devices` (all there are by default); labels may be known `partly`.

    Memory and speed do not depend on the `front_end`'s statistics, on class weights in `loss`, or on
    `epoch_steps` (which only place the learning rate's decays). Raises InputError for settings that
    contradict each other or the devices.
    """
    settings = settled(settings, (devices or jax.devices())[0])
    run = settings.run
    layout = make_layout(parallel=run.parallel, fsdp=run.fsdp, devices=devices)
    model = abstract(settings.model.family, config_from(settings, num_classes))
    _refuse_what_only_log_powers_take(settings, front_end or model.front_end)
    if settings.model.mask_even and settings.augment.noise:
        raise InputError(
            "config.noise makes padding uneven, by which config.model.mask_even knows it: set one of them to "
            "False"
        )
    graphdef, params, statistics = split(model)
    start = settings.start
    factors = optim.layer_factors(
        params, levels=model.levels, decay=settings.optimizer.layer_decay, freeze=start.freeze
    )
    rates = optim.rates_of(settings.optimizer, epoch_steps)
    rate = optim.schedule(*rates)
    optimizer = optim.optimizer_of(settings.optimizer, rate, factors)
    told = loss or objective(settings.objective)
    grid = frame_grid(settings, told, model)
    what = Step(
        front_end=front_end or model.front_end,
        objective=told,
        augment=settings.augment,
        rows=augment.rows_of(settings.augment),
        seed=run.seed,
        accumulate=run.accumulate,
        ema=settings.averages.ema,
        frozen=frozenset(path for path, factor in factors.items() if factor == 0),
        mixes_features=run.mixup > 0 and run.mixup_of == "features",
        grid=grid,
        period=settings.objective.teacher_views * epoch_steps,
    )
    initial = functools.partial(init_state, optimizer=optimizer, ema=what.ema > 0)
    state = jax.eval_shape(lambda *arrays: initial(*arrays), params, statistics)
    step = functools.partial(
        train_step, graphdef=graphdef, optimizer=optimizer, step=what, forms=layout.kernels
    )
    return Program(
        layout=layout,
        model=model,
        graphdef=graphdef,
        optimizer=optimizer,
        rate=rate,
        what=what,
        step=layout.train(step, state),
        state=placed_shapes(state, layout.shardings(state)),
        rows=layout.abstract_rows(batch_shapes(settings, num_classes, layout, what.front_end, grid, partly)),
        grid=grid,
        pure=step,
        rates=rates,
        optimized_by=(settings.optimizer, factors),
    )


def _refuse_what_only_log_powers_take(settings: Settings, front_end: FrontEnd) -> None:
    mixed = settings.run.mixup and settings.run.mixup_of != "features" and settings.data.kind == "log_mel"
    asked = {
        "config.gain_db": settings.augment.gain_db,
        "config.freq_mask": settings.augment.freq_mask,
        "config.mixup of stored features": mixed,
    }
    if not front_end.in_powers and (wrong := [key for key, value in asked.items() if value]):
        raise InputError(
            f"{', '.join(wrong)}: the model hears {front_end.kind}, which are no log powers of bands; leave "
            "it at 0 (config.mixup_of=features mixes what the first layers make of them)"
        )


def placed_shapes(tree: Any, shardings: Any) -> Any:
    """Shapes and types of `tree`, placed as `shardings` says."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings
    )


def batch_shapes(
    settings: Settings,
    num_classes: int,
    layout: Layout,
    front_end: FrontEnd,
    grid: FrameGrid | None = None,
    partly: bool = False,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch as the pipeline gives it, filled up to what the devices take."""
    run = settings.run
    empty = {"index": 0} | ({"share": 1.0} if run.mixup else {})
    row = fit(
        empty,
        kind=settings.data.kind,
        num_frames=run.num_frames,
        num_classes=num_classes,
        front_end=front_end,
        grid=grid,
        partly=partly,
    )
    if settings.objective.teacher:
        row["taught"] = np.zeros(num_classes, np.float32)
    rows = layout.num_rows(run.batch_size, run.accumulate)
    return {key: jax.ShapeDtypeStruct((rows, *np.shape(value)), value.dtype) for key, value in row.items()}
