"""A head that judges steps of time: what it computes, how steps become a clip, and that labels of clips alone
teach it when.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import expit, logit, softmax

from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, host_variables, merge, set_variables, split
from ast_jax.models.pooling import POOLINGS

TINY = ASTConfig(
    num_classes=3,
    num_frames=40,
    num_mel_bins=16,
    patch_shape=(8, 4),
    strides=(8, 4),
    width=24,
    depth=2,
    num_heads=3,
    head="frames",
)


def drawn(config: ASTConfig) -> AST:
    model, rng = AST(config, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    arrays = {
        path: rng.normal(0, 0.2, value.shape).astype(np.float32)
        for path, value in host_variables(model).items()
    }
    set_variables(model, arrays)
    return model


def direct(pooling: str, frames: np.ndarray, attend: np.ndarray) -> np.ndarray:
    """Scores of clips, in float64."""
    p = expit(frames.astype(np.float64))
    if pooling == "linear_softmax":
        return (p**2).sum(1) / p.sum(1)
    if pooling == "attention":
        return (softmax(attend.astype(np.float64), axis=1) * p).sum(1)
    if pooling == "noisy_or":
        return 1 - (1 - p).prod(1)
    return p.max(1) if pooling == "max" else p.mean(1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_clips_are_what_their_frames_say(pooling):
    rng = np.random.default_rng(1)
    frames, attend = rng.normal(0, 2, (2, 4, 7, 3)).astype(np.float32)
    logits = np.asarray(POOLINGS[pooling](jnp.asarray(frames), jnp.asarray(attend)))
    np.testing.assert_allclose(logits, logit(direct(pooling, frames, attend)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_frames_that_say_nothing_or_everything_stay_finite(pooling):
    frames = jnp.asarray([[-60.0] * 5, [60.0] * 5])[..., None]
    value, grads = jax.value_and_grad(lambda f: POOLINGS[pooling](f, jnp.zeros_like(f)).sum())(frames)
    assert np.isfinite(value)
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("pooling", ["linear_softmax", "attention"])
def test_each_step_is_judged_by_the_head(pooling):
    model = drawn(dataclasses.replace(TINY, pooling=pooling))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 40, 16)), jnp.float32)
    logits, out = model(x)
    tokens, prefix = np.asarray(out["tokens"], np.float64), TINY.num_prefix_tokens
    steps = tokens[:, prefix:].reshape(2, *TINY.grid, -1).mean(1)
    deviation = np.sqrt(steps.var(-1, keepdims=True) + TINY.head_norm_eps)
    normed = (steps - steps.mean(-1, keepdims=True)) / deviation
    arrays = {path: np.asarray(value, np.float64) for path, value in host_variables(model).items()}
    heard = normed * arrays["head_norm/scale"] + arrays["head_norm/bias"]
    frames = heard @ arrays["head/kernel"] + arrays["head/bias"]
    np.testing.assert_allclose(out["frames"], frames, rtol=1e-4, atol=1e-4)
    assert out["frames"].shape == (2, model.time_steps[2], 3)
    attend = heard @ arrays["attend/kernel"] + arrays["attend/bias"] if pooling == "attention" else frames
    np.testing.assert_allclose(logits, logit(direct(pooling, frames, attend)), rtol=1e-3, atol=1e-4)


def test_what_is_not_offered_is_refused():
    for change, message in (
        ({"head": "steps"}, "head 'steps' with pooling"),
        ({"pooling": "median"}, "pooling 'median' is not offered"),
        ({"patchout": (0, 1, 0)}, "leaves holes in time"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(TINY, **change)


def test_labels_of_clips_alone_teach_when():
    """Three kinds of bursts, each somewhere in noise; the model is told which were there, never when."""
    rng, config = np.random.default_rng(0), dataclasses.replace(TINY, strides=(8, 4), depth=1)
    steps = config.grid[1]

    def clips(count: int) -> tuple[np.ndarray, np.ndarray]:
        x, strong = rng.normal(0, 0.3, (count, 40, 16)).astype(np.float32), np.zeros((count, steps, 3))
        for clip in range(count):
            for label in range(3):
                if rng.random() < 0.4:
                    start = rng.integers(0, steps - 3)
                    strong[clip, start : start + 3, label] = 1
                    x[clip, 4 * start : 4 * (start + 3), 5 * label : 5 * label + 4] += 2
        return x, strong

    graphdef, params, rest = split(AST(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, x, weak):
        def loss(params):
            logits, _ = merge(graphdef, params, rest)(x)
            return optax.sigmoid_binary_cross_entropy(logits, weak).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(300):
        x, strong = clips(32)
        params, state = step(params, state, x, strong.max(axis=1).astype(np.float32))
    x, strong = clips(200)
    frames = np.asarray(jax.jit(lambda x: merge(graphdef, params, rest)(x)[1]["frames"])(x)) > 0
    true = strong > 0
    f1 = 2 * (frames & true).sum() / (frames.sum() + true.sum())
    # calling every step of a clip that has the label: all of the truth, and what that costs in precision
    everywhere = np.broadcast_to(true.any(axis=1, keepdims=True), true.shape)
    assert f1 > 0.8
    assert f1 > 2 * (everywhere & true).sum() / (everywhere.sum() + true.sum()) + 0.2
