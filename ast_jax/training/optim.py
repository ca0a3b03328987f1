"""The reference's optimiser: Adam with weight decay coupled into the gradient, under a rate that moves in stairs."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


def rate_stairs(
    lr: float,
    *,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    warmup_stair: int = 50,
    decay: float = 1.0,
    decay_epochs: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The learning rate as stairs: (first step of each stair, rate on it), by replaying what the reference does.

    At steps 0, stair, 2 stair ... warmup_steps the rate is *written* as step / warmup_steps x lr; at the first step of
    each epoch in `decay_epochs` (the first epoch is 1) it is *multiplied* by `decay`. So a warm-up that outlasts the first
    decay undoes it, as it does in the reference, whose first `stair` steps run at rate 0.
    """
    writes = {step: step / warmup_steps for step in range(0, warmup_steps + 1, warmup_stair)} if warmup_steps else {0: 1.0}
    decays = [(epoch - 1) * steps_per_epoch for epoch in decay_epochs]
    starts, rates, factor = [], [], 1.0
    for step in sorted({*writes, *decays}):
        factor *= decay ** decays.count(step)
        factor = writes.get(step, factor)
        starts.append(step)
        rates.append(lr * factor)
    return np.array(starts, np.int32), np.array(rates, np.float32)


def schedule(starts: np.ndarray, rates: np.ndarray) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Step -> learning rate, for optax."""
    return lambda step: jnp.asarray(rates)[jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1]


def adam(
    rate: Callable, *, b1: float = 0.95, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 5e-7
) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=...)`: the decay joins the gradient before the moments; not AdamW."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1, b2, eps),
        optax.scale_by_learning_rate(rate),
    )
