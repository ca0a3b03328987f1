"""The reference's optimiser: Adam with weight decay coupled into the gradient, under a rate that moves in
stairs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.models.base import level_of
from ast_jax.settings import Optimizer


def rate_stairs(
    lr: float,
    *,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    warmup_stair: int = 50,
    decay: float = 1.0,
    decay_epochs: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The learning rate as stairs: (first step of each stair, rate on it), by replaying what the reference
    does.

    At steps 0, stair, 2 stair ... the rate is *written* as step / warmup_steps x lr, at warmup_steps as lr
    (which the reference's 1000 and 50 do, and where the reference with other numbers would end below it); at
    the first step of each epoch in `decay_epochs` (the first epoch is 1) it is *multiplied* by `decay`. So a
    warm-up that outlasts the first decay undoes it, as it does in the reference, whose first `stair` steps
    run at rate 0.
    """
    writes = (
        {step: step / warmup_steps for step in range(0, warmup_steps, warmup_stair)} | {warmup_steps: 1.0}
        if warmup_steps
        else {0: 1.0}
    )
    decays = [(epoch - 1) * steps_per_epoch for epoch in decay_epochs]
    starts, rates, factor = [], [], 1.0
    for step in sorted({*writes, *decays}):
        factor *= decay ** decays.count(step)
        factor = writes.get(step, factor)
        starts.append(step)
        rates.append(lr * factor)
    return np.array(starts, np.int32), np.array(rates, np.float32)


def rate_ramp(
    lr: float,
    *,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    decay: float = 1.0,
    decay_epochs: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The same with a linear warm-up: step / warmup_steps *times* the rate that the decays so far leave, so
    it undoes none.
    """
    decays = [(epoch - 1) * steps_per_epoch for epoch in decay_epochs]
    starts = sorted({*range(warmup_steps + 1), *decays})
    climbed = [step / warmup_steps if step < warmup_steps else 1.0 for step in starts]
    decayed = [decay ** sum(start <= step for start in decays) for step in starts]
    return np.array(starts, np.int32), np.array(
        [lr * c * d for c, d in zip(climbed, decayed, strict=True)], np.float32
    )


def active_decays(decay_epochs: Sequence[int], decay_end: int = 0) -> tuple[int, ...]:
    """The decays that are taken: those before the epoch `decay_end`, from which on the rate is frozen; 0: all
    of them.
    """
    return tuple(epoch for epoch in decay_epochs if not decay_end or epoch < decay_end)


def schedule(starts: Any, rates: Any) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Step -> learning rate, for optax, from arrays of steps and of the rates from each of them on."""
    return lambda step: jnp.asarray(rates)[jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1]


def adam(
    rate: Callable,
    *,
    b1: float = 0.95,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 5e-7,
    clip_norm: float = 0.0,
    amsgrad: bool = False,
    factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=..., amsgrad=...)`: the decay joins the gradient before the moments, not
    AdamW's.

    `clip_norm` scales the gradient down to that global norm first; `factors` multiply the rate, by parameter
    path.
    """
    scale = lambda updates, _: {
        path: update * (factors or {}).get(path, 1.0) for path, update in updates.items()
    }
    moments = scale_by_amsgrad(b1, b2, eps) if amsgrad else optax.scale_by_adam(b1, b2, eps)
    return optax.chain(
        *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
        optax.add_decayed_weights(weight_decay),
        moments,
        optax.scale_by_learning_rate(rate),
        *([optax.stateless(scale)] if factors else []),
    )


class Amsgrad(NamedTuple):
    """The state of `scale_by_amsgrad`."""

    step: Array
    mu: Any
    nu: Any
    # the largest `nu` so far
    most: Any


def scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """AMSGrad as PyTorch has it: the largest second moment so far, its bias corrected by the step's count.

    optax's own takes the largest of corrected ones, which the first step's stays for long.
    """

    def init(params):
        # each its own, for a state is given up to the next
        return Amsgrad(jnp.zeros((), jnp.int32), *(optax.tree.zeros_like(params) for _ in range(3)))

    def update(gradients, state, params=None):
        del params
        count = state.step + 1
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        most = jax.tree.map(jnp.maximum, state.most, nu)
        first, second = 1 - b1**count, 1 - b2**count
        scaled = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v / second) + eps), mu, most)
        return scaled, Amsgrad(count, mu, nu, most)

    return optax.GradientTransformation(init, update)


def layer_factors(
    paths: Iterable[str], *, levels: tuple[tuple[str, ...], ...], decay: float = 1.0, freeze: str = ""
) -> dict[str, float]:
    """What each parameter's rate is multiplied by: decay^(levels above it), and 0 where it is frozen.

    `levels` are the model's, from what reads the input to the head. `freeze`: 'backbone' is everything but
    the head; a number N is what reads the input and the N levels after it (of an AST: patches, tokens,
    positions and the first N blocks). Raises InputError for anything else.
    """
    head = len(levels) - 1
    # between what reads the input and the head there may be a final norm, which no number reaches
    most = max(head - 2, 0)
    if freeze and freeze != "backbone" and not (freeze.isdigit() and int(freeze) <= most):
        raise InputError(
            f"config.freeze is {freeze!r}: choose 'backbone' or a number of blocks from 0 to {most}"
        )
    frozen_below = int(freeze) + 1 if freeze.isdigit() else {"": 0, "backbone": head}[freeze]
    found = {path: level_of(levels, path) for path in paths}
    return {path: 0.0 if level < frozen_below else decay ** (head - level) for path, level in found.items()}


def rates_of(settings: Optimizer, steps_per_epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """A recipe's learning rate: (steps at which it changes, rate from each of them on), for `schedule`."""
    same: dict[str, Any] = {
        "steps_per_epoch": steps_per_epoch,
        "warmup_steps": settings.lr_warmup_steps,
        "decay": settings.lr_decay,
        "decay_epochs": active_decays(settings.lr_decay_epochs, settings.lr_decay_end),
    }
    if settings.lr_warmup == "linear":
        return rate_ramp(settings.lr, **same)
    return rate_stairs(settings.lr, warmup_stair=settings.lr_warmup_stair, **same)


def optimizer_of(
    settings: Optimizer, rate: Callable, factors: Mapping[str, float]
) -> optax.GradientTransformation:
    """A recipe's optimiser at a `rate`, step -> rate, which `factors` multiply by parameter path."""
    return adam(
        rate,
        b1=settings.adam_b1,
        b2=settings.adam_b2,
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        amsgrad=settings.amsgrad,
        factors=None if set(factors.values()) == {1.0} else factors,
    )
