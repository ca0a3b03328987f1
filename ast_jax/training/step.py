"""One training step: a pure function of (state, batch).

B batch, S samples, T frames, F mel bins, C classes. The state is a dictionary: `step` int32, `params` {path: array},
`opt` optax's state over the same paths, and `ema` {path: array} where the recipe keeps one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ast_jax.evaluation.evaluate import log_mels, pad_rows, per_clip_loss, waveform
from ast_jax.models import merge, normalise
from ast_jax.models.attention import Attend, attend
from ast_jax.training import augment

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step does besides the model and the optimiser. Static under jit."""

    mean: float
    std: float
    loss: str = "bce"
    seed: int = 0
    freq_mask: int = 0  # mel bins
    time_mask: int = 0  # frames
    noise: bool = False
    roll: int = 0  # frames
    time_shift: int = 0  # frames
    gain_db: float = 0.0
    patchout: tuple[int, int, int] = (0, 0, 0)  # rows, columns, single patches left out
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    frozen: frozenset[str] = frozenset()  # parameter paths without a gradient


def init_state(
    params: Mapping[str, Array], optimizer: optax.GradientTransformation, *, ema: bool = False
) -> State:
    params = dict(params)
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt": optimizer.init(params)}
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if ema else {})


def train_step(
    state: State,
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    axis_name: str | None = None,
    gather: Callable = lambda params: params,
    attend: Attend = attend,
) -> tuple[State, dict[str, Array]]:
    """The next state, and {loss, grad_norm} of this step.

    `axis_name` is set under pmap only; `gather`, where parameters are split over devices, makes them whole for the model;
    `attend` is the form of attention that suits the devices.

    The mean is over the batch's real rows: sums and counts are added up over devices and parts before dividing, since a
    mean of means is wrong when the rows that only fill a batch fall into one of them.
    """
    count = _total(batch["mask"].sum(), axis_name)

    def loss_fn(params, part):
        params = {
            path: jax.lax.stop_gradient(p) if path in recipe.frozen else p for path, p in params.items()
        }
        model = merge(graphdef, gather(params))
        keep = kept_patches(part, state["step"], recipe, model.config.grid)
        logits = model(inputs(part, state["step"], recipe), attend=attend, keep=keep)
        losses = per_clip_loss(logits, _smooth(part["labels"], recipe), recipe.loss)
        return (losses * part["mask"]).sum() / count

    loss, grads = _total(
        _accumulated(jax.value_and_grad(loss_fn), state["params"], batch, recipe.accumulate), axis_name
    )
    updates, opt = optimizer.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    new = {"step": state["step"] + 1, "params": params, "opt": opt}
    if "ema" in state:
        new["ema"] = optax.incremental_update(params, state["ema"], 1 - recipe.ema)
    return new, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def inputs(batch: Mapping[str, Array], step: Int[Array, ""], recipe: Recipe) -> Float[Array, "B T F"]:
    """What the model sees in training: features, mixed, padded, masked, normalised, noisy; in the reference's order."""
    keys = augment.example_keys(recipe.seed, step, batch["index"])
    each = lambda function, number, x: jax.vmap(function)(_keys(keys, number), x)
    fbank = log_mels(mixed(batch))
    if recipe.gain_db:
        fbank = each(functools.partial(augment.gain, most_db=recipe.gain_db), 1, fbank)
    fbank = pad_rows(fbank, batch["length"])
    if recipe.time_shift:
        fbank = each(functools.partial(augment.time_shift, most=recipe.time_shift), 4, fbank)
    if recipe.freq_mask or recipe.time_mask:
        mask = functools.partial(augment.spec_mask, freq_mask=recipe.freq_mask, time_mask=recipe.time_mask)
        fbank = each(mask, 0, fbank)
    fbank = normalise(fbank, recipe.mean, recipe.std)
    if recipe.noise:
        fbank = each(augment.noise, 2, fbank)
    if recipe.roll:
        fbank = each(functools.partial(augment.roll, most=recipe.roll), 3, fbank)
    return fbank


def kept_patches(
    batch: Mapping[str, Array], step: Int[Array, ""], recipe: Recipe, grid: tuple[int, int]
) -> Int[Array, "B K"] | None:
    """The patches that patchout leaves of each clip; None where all stay."""
    if not any(recipe.patchout):
        return None
    freq, time, patches = recipe.patchout
    draw = functools.partial(augment.patchout, grid=grid, freq=freq, time=time, patches=patches)
    return jax.vmap(draw)(_keys(augment.example_keys(recipe.seed, step, batch["index"]), 5))


def mixed(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The batch with each clip mixed with its partner, if it has one: exactly on waveforms, in the power domain on log-mels."""
    batch = dict(batch)
    if "share" not in batch:
        return batch
    share, partner = batch["share"], batch["partner"]
    if "fbank" in batch:
        own = (batch["fbank"].astype(jnp.float32), batch["length"])
        batch["fbank"] = jax.vmap(augment.mix_power)(
            *own, partner.astype(jnp.float32), batch["partner_length"], share
        )
    else:
        own = (waveform(batch), batch["num_samples"])
        other = (waveform(batch, "partner"), batch["partner_samples"])
        batch["waveform"] = jax.vmap(augment.mix_waveforms)(*own, *other, share)
    return batch


def _accumulated(grad_fn, params, batch: Mapping[str, Array], parts: int):
    """The sum of `grad_fn` over `parts` parts of the batch, one after the other; each device keeps its own rows."""
    if parts == 1:
        return grad_fn(params, batch)
    split = {key: jnp.swapaxes(rows.reshape(-1, parts, *rows.shape[1:]), 0, 1) for key, rows in batch.items()}
    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, grad_fn(params, part)), None), zero, split
    )[0]


def _smooth(labels: Float[Array, "B C"], recipe: Recipe) -> Float[Array, "B C"]:
    """Labels pulled towards 1/2 (bce) or towards the uniform distribution (ce)."""
    uniform = 1 / labels.shape[-1] if recipe.loss == "ce" else 0.5
    return labels + recipe.label_smoothing * (uniform - labels)


def _keys(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _total(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
