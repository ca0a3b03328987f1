"""From what a model says of each step of time to what it says of the clip, so that labels of clips alone can
teach it when.

B batch, t steps, C classes. Everything is in log-odds, which a sigmoid makes scores of.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ast_jax.models.layers import log_odds

Frames = Float[Array, "B t C"]
Clip = Float[Array, "B C"]


def _linear_softmax(frames: Frames, _: Frames | None) -> Clip:
    """Each step weighs as much as its own score: sum p^2 / sum p (Wang, Li and Metze, ICASSP 2019, equation
    6, whose comparison finds it best at saying when).
    """
    shares = jax.nn.softmax(jax.nn.log_sigmoid(frames), axis=1)
    return log_odds((shares * jax.nn.sigmoid(frames)).sum(axis=1))


def _attention(frames: Frames, attend: Frames | None) -> Clip:
    """Steps weighed by a softmax over time, class by class."""
    assert attend is not None
    return log_odds((jax.nn.softmax(attend, axis=1) * jax.nn.sigmoid(frames)).sum(axis=1))


def _noisy_or(frames: Frames, _: Frames | None) -> Clip:
    """1 - prod (1 - p): the sound is there if it is in any step, and steps are independent."""
    absent = -jax.nn.softplus(frames).sum(axis=1)
    return jnp.log(-jnp.expm1(absent)) - absent


POOLINGS: dict[str, Callable[[Frames, Frames | None], Clip]] = {
    "linear_softmax": _linear_softmax,
    "attention": _attention,
    "max": lambda frames, _: frames.max(axis=1),
    "mean": lambda frames, _: log_odds(jax.nn.sigmoid(frames).mean(axis=1)),
    "noisy_or": _noisy_or,
}
