"""One training step: a pure function of (state, batch).

B batch, T frames, F mel bins, C classes. The state is one dictionary of flat dictionaries:
`step` int32, `params` {path: array}, `opt` optax's state over the same paths.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.evaluation.evaluate import features, per_clip_loss
from ast_jax.models import merge, normalise
from ast_jax.training.augment import example_keys, spec_mask

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step does besides the model: loss, statistics, augmentation. Static under jit."""

    mean: float
    std: float
    loss: str = "bce"
    freq_mask: int = 0
    time_mask: int = 0
    seed: int = 0


def init_state(params: Mapping[str, Array], optimizer: optax.GradientTransformation) -> State:
    return {"step": jnp.zeros((), jnp.int32), "params": dict(params), "opt": optimizer.init(dict(params))}


def train_step(
    state: State,
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    axis_name: str | None = None,
) -> tuple[State, dict[str, Array]]:
    """The next state, and {loss, grad_norm} of this step. `axis_name` is set under pmap only.

    The mean is over the batch's real rows: sums and counts are added up over devices before dividing, since a mean of
    per-device means is wrong when the rows that only fill a batch fall on one device.
    """
    x = inputs(batch, state["step"], recipe)
    count = _total(batch["mask"].sum(), axis_name)

    def loss_fn(params):
        losses = per_clip_loss(merge(graphdef, params)(x), batch["labels"], recipe.loss)
        return (losses * batch["mask"]).sum() / count

    loss, grads = jax.value_and_grad(loss_fn)(state["params"])
    loss, grads = _total((loss, grads), axis_name)
    updates, opt = optimizer.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return {"step": state["step"] + 1, "params": params, "opt": opt}, metrics


def inputs(batch: Mapping[str, Array], step: Int[Array, ""], recipe: Recipe) -> Float[Array, "B T F"]:
    """What the model sees in training: features, masked, normalised."""
    keys = example_keys(recipe.seed, step, batch["index"])
    mask = functools.partial(spec_mask, freq_mask=recipe.freq_mask, time_mask=recipe.time_mask)
    return normalise(jax.vmap(mask)(keys, features(batch)), recipe.mean, recipe.std)


def _total(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
