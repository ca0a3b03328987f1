"""One training step: a pure function of (state, batch).

B batch, S samples, T frames, F mel bins, C classes. The state is a dictionary: `step` int32, `params` {path:
array}, `opt` optax's state over the same paths; `statistics` {path: array} where the model's family has any,
and `ema`, of both together, where the recipe keeps one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.datasets.pipeline import FrameGrid
from ast_jax.features.batches import pad_rows, unpadded, waveform
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import kernels, merge, split
from ast_jax.models.base import Between
from ast_jax.objectives import Objective
from ast_jax.settings import Augment
from ast_jax.training import augment
from ast_jax.training.augment import Augmentation

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step does besides the model and the optimiser. Static under jit."""

    front_end: FrontEnd
    objective: Objective
    augment: Augment = dataclasses.field(default_factory=Augment)
    rows: tuple[Augmentation, ...] = ()
    seed: int | Int[Array, ""] = 0
    accumulate: int = 1
    ema: float = 0.0
    # parameter paths without a gradient
    frozen: frozenset[str] = frozenset()
    # mixup after masks and normalisation, and not of sounds
    mixes_features: bool = False
    # where the steps of time lie that targets are of, if there are such
    grid: FrameGrid | None = None
    # steps after which the same clips come again in the same ways; 0: never
    period: int = 0

    def view(self, number: Any) -> Any:
        """The step whose clips step `number` shows, as that one showed them."""
        return number % self.period if self.period else number


def init_state(
    params: Mapping[str, Array],
    statistics: Mapping[str, Array],
    optimizer: optax.GradientTransformation,
    *,
    ema: bool = False,
) -> State:
    params, statistics = dict(params), dict(statistics)
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt": optimizer.init(params)}
    state |= {"statistics": statistics} if statistics else {}
    return state | ({"ema": jax.tree.map(jnp.copy, params | statistics)} if ema else {})


def evaluated(state: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a state that evaluation takes: their exponential average where the recipe keeps
    one.
    """
    return dict(state["ema"]) if "ema" in state else variables(state)


def variables(state: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and statistics as they are."""
    return {**state["params"], **state.get("statistics", {})}


def train_step(
    state: State,
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    step: Step,
    axis_name: str | None = None,
    gather: Callable = lambda params: params,
    forms: kernels.Kernels = kernels.PLAIN,
) -> tuple[State, dict[str, Array]]:
    """The next state, and {loss, grad_norm} of this step.

    `axis_name` is set under pmap only; `gather`, where parameters are split over devices, makes them whole
    for the model; `forms` are those of costly operations that suit the devices.

    The mean is over the batch's real rows: sums and counts are added up over devices and parts before
    dividing, since a mean of means is wrong when the rows that only fill a batch fall into one of them.
    Statistics of a batch are over all devices, part by part where the batch is computed in parts.
    """
    count = _total(batch["mask"].sum(), axis_name)

    def loss_fn(params, statistics, part):
        mask, views = part["mask"], step.objective.settings.consistency > 0
        number = step.view(state["step"])
        part = beside_second_views(part) if views else part
        params = {path: jax.lax.stop_gradient(p) if path in step.frozen else p for path, p in params.items()}
        model = merge(graphdef, gather(params), gather(statistics))
        keys = augment.example_keys(step.seed, state["step"], part["index"])
        given = {"key": augment.stream(keys, augment.MODEL_STREAM), "mask": part["mask"]}
        if getattr(model, "normalises", False):
            between = between_layers(part, number, step)
            logits, out = model(features(part, number, step), between=between, **given)
        else:
            logits, out = model(inputs(part, number, step), **given)
        if step.grid is not None:
            part = moved(part, number, step, step.grid, frames=model.config.num_frames)
        losses = step.objective.training({**out, "logits": logits}, part)
        if views:
            apart = step.objective.apart(logits[::2], logits[1::2])
            losses = losses.reshape(-1, 2).mean(axis=1) + step.objective.settings.consistency * apart
        return (losses * mask).sum() / count, split(model)[2]

    with kernels.using(forms):
        loss, grads, statistics = _accumulated(loss_fn, state, batch, step.accumulate)
    loss, grads = _total((loss, grads), axis_name)
    updates, opt = optimizer.update(grads, state["opt"], state["params"])
    new = {"step": state["step"] + 1, "params": optax.apply_updates(state["params"], updates), "opt": opt}
    new |= {"statistics": statistics} if statistics else {}
    if "ema" in state:
        new["ema"] = optax.incremental_update(variables(new), state["ema"], 1 - step.ema)
    return new, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def inputs(batch: Mapping[str, Array], number: Int[Array, ""], step: Step) -> Float[Array, "B T F"]:
    """What the model sees in training step `number`: features, mixed, padded, masked, normalised, noisy, in
    the reference's order; a model that normalises by itself does the last of it after its first layer.
    """
    between = between_layers(batch, number, step)
    return between.mix(between.augment(features(batch, number, step)))


def features(batch: Mapping[str, Array], number: Int[Array, ""], step: Step) -> Float[Array, "R T F"]:
    """The same up to normalisation; each clip is followed by its partner where they are to be mixed as
    features.
    """
    front_end = step.front_end
    rows = beside_partners(batch) if step.mixes_features else mixed(batch, front_end)
    after = _augmented(batch, number, step)
    x = after("sound", unpadded(rows, front_end))
    return front_end.normalise(after("padded", pad_rows(x, rows["length"], front_end.padding)))


def between_layers(batch: Mapping[str, Array], number: Int[Array, ""], step: Step) -> Between:
    """What follows normalisation."""
    augmented = functools.partial(_augmented(batch, number, step), "normalised")
    if not step.mixes_features:
        return Between(augmented)

    def mix(x: Array) -> Array:
        pairs = x.reshape(-1, 2, *x.shape[1:])
        share = batch["share"].reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
        return share * pairs[:, 0] + (1 - share) * pairs[:, 1]

    return Between(augmented, mix)


def _augmented(batch: Mapping[str, Array], number: Int[Array, ""], step: Step) -> Callable:
    keys = augment.example_keys(step.seed, number, batch["index"])
    if step.mixes_features:
        keys = jnp.stack([keys, augment.stream(keys, augment.PARTNER_STREAM)], axis=1).reshape(-1)
    return functools.partial(
        augment.augmented, keys=keys, rows=step.rows, settings=step.augment, front_end=step.front_end
    )


def moved(
    batch: Mapping[str, Array], number: Int[Array, ""], step: Step, grid: FrameGrid, *, frames: int
) -> Mapping[str, Array]:
    """The batch with its targets of steps where training step `number` moves the sounds."""
    targets, known = batch["frames"], batch["frames_known"]
    in_frames = lambda seconds: seconds / step.front_end.seconds(1)
    place: dict[str, Any] = {
        "first": in_frames(grid.first_s),
        "stride": in_frames(grid.step_s),
        "frames": frames,
    }
    keys = augment.example_keys(step.seed, number, batch["index"])
    for row in step.rows:
        if row.moves is not None:
            by = jax.vmap(row.moves, in_axes=(0, None))
            shifts = by(augment.stream(keys, row.stream), step.augment)
            move: Any = functools.partial(augment.moved_targets, circular=row.circular, **place)
            targets, known = jax.vmap(move)(shifts, targets, known)
    return {**batch, "frames": targets, "frames_known": known}


def beside_partners(batch: Mapping[str, Array]) -> dict[str, Array]:
    """[2 B, ...]: each clip, then its partner."""
    partners = {"fbank": "partner", "waveform": "partner", "num_samples": "partner_samples"}
    pairs = [(own, other) for own, other in {**partners, "length": "partner_length"}.items() if own in batch]
    beside = lambda own, other: jnp.stack([own, other], axis=1).reshape(-1, *own.shape[1:])
    return {own: beside(batch[own], batch[other]) for own, other in pairs}


def beside_second_views(batch: Mapping[str, Array]) -> dict[str, Array]:
    """[2 B, ...]: each clip, then itself at a position of its own before the stream's begin, which is another
    key for all that is random about it.
    """
    second = {**batch, "index": -1 - batch["index"]}
    beside = lambda own, other: jnp.stack([own, other], axis=1).reshape(-1, *own.shape[1:])
    return {key: beside(value, second[key]) for key, value in batch.items()}


def mixed(batch: Mapping[str, Array], front_end: FrontEnd) -> dict[str, Array]:
    """The batch with each clip mixed with its partner, if it has one: exactly on waveforms, in the power
    domain on log-mels.
    """
    batch = dict(batch)
    if "share" not in batch:
        return batch
    share, partner = batch["share"], batch["partner"]
    if "fbank" in batch:
        own = (batch["fbank"].astype(jnp.float32), batch["length"])
        batch["fbank"] = jax.vmap(functools.partial(augment.mix_power, front_end=front_end))(
            *own, partner.astype(jnp.float32), batch["partner_length"], share
        )
    else:
        own = (waveform(batch), batch["num_samples"])
        other = (waveform(batch, "partner"), batch["partner_samples"])
        batch["waveform"] = jax.vmap(augment.mix_waveforms)(*own, *other, share)
    return batch


def _accumulated(loss_fn, state: State, batch: Mapping[str, Array], parts: int):
    """Loss, gradients and new statistics over `parts` parts of the batch, one after the other; a device keeps
    its rows.
    """
    params, statistics = state["params"], state.get("statistics", {})
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        (loss, statistics), grads = grad_fn(params, statistics, batch)
        return loss, grads, statistics
    split = {key: jnp.swapaxes(rows.reshape(-1, parts, *rows.shape[1:]), 0, 1) for key, rows in batch.items()}

    def one(so_far, part):
        total, statistics = so_far
        (loss, statistics), grads = grad_fn(params, statistics, part)
        return (jax.tree.map(jnp.add, total, (loss, grads)), statistics), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    ((loss, grads), statistics), _ = jax.lax.scan(one, (zero, statistics), split)
    return loss, grads, statistics


def _total(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
