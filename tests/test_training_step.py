"""One step: the mean over real rows only, padding placed before normalisation, both losses, both kinds of batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.evaluation.evaluate import eval_step, features, per_clip_loss
from ast_jax.features import log_mel
from ast_jax.models import AST, ASTConfig, merge, normalise, split
from ast_jax.training.optim import adam
from ast_jax.training.step import Recipe, init_state, inputs, train_step

CONFIG = ASTConfig(num_classes=4, num_frames=32, strides=(16, 16), width=16, depth=1, num_heads=2)
RECIPE = Recipe(mean=-4.0, std=4.5, loss="bce")


@pytest.fixture(scope="module")
def graph():
    return split(AST(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(0)
    labels = np.zeros((4, 4), np.float32)
    labels[[0, 1, 2, 2], [0, 3, 1, 2]] = 1
    rows = {
        "fbank": rng.normal(-5, 3, (4, 32, 128)).astype(np.float16),
        "length": np.array([32, 10, 20, 0], np.int32),
        "labels": labels,
        "index": np.arange(4, dtype=np.int32),
        "mask": np.array([1, 1, 1, 0], np.float32),
    }
    return {key: jnp.asarray(value) for key, value in rows.items()}


def test_rows_past_the_clip_are_zero_before_normalisation(batch):
    x = np.asarray(features(batch))
    assert not x[1, 10:].any()
    np.testing.assert_array_equal(x[1, :10], np.asarray(batch["fbank"][1, :10], np.float32))
    padded = np.asarray(inputs(batch, jnp.int32(0), RECIPE))[1, 10:]
    np.testing.assert_allclose(padded, 4.0 / 9.0, rtol=1e-6)


def test_waveform_batches_agree_with_log_mel_batches():
    rng = np.random.default_rng(1)
    sound = (rng.normal(0, 3000, 2000)).astype(np.int16)
    waveform = np.zeros((1, 400 + 31 * 160), np.int16)
    waveform[0, :2000] = sound
    rows = {"waveform": waveform, "num_samples": np.array([2000]), "length": np.array([11], np.int32)}
    got = features({key: jnp.asarray(value) for key, value in rows.items()})
    want = log_mel(sound.astype(np.float64) / 32768)
    assert want.shape[0] == 11
    np.testing.assert_allclose(
        got[0, :11], want, atol=5e-4
    )  # white noise: every bin within 50 dB of its frame's peak
    assert not np.asarray(got[0, 11:]).any()


def test_the_loss_is_the_mean_over_real_rows(graph, batch):
    graphdef, params = graph
    step = jax.jit(
        functools.partial(train_step, graphdef=graphdef, optimizer=adam(lambda s: 0.1), recipe=RECIPE)
    )
    state, figures = step(init_state(params, adam(lambda s: 0.1)), batch)
    logits = merge(graphdef, params)(normalise(features(batch), RECIPE.mean, RECIPE.std))[:3]
    y = np.asarray(batch["labels"][:3])
    z = np.asarray(logits, np.float64)
    bce = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y
    assert float(figures["loss"]) == pytest.approx(bce.mean(), rel=1e-5)
    assert int(state["step"]) == 1
    junk = {**batch, "fbank": batch["fbank"].at[3].set(7), "length": batch["length"].at[3].set(32)}
    again, _ = step(init_state(params, adam(lambda s: 0.1)), junk)
    for path in params:
        np.testing.assert_array_equal(state["params"][path], again["params"][path], err_msg=path)


def test_cross_entropy_takes_soft_labels():
    logits = jnp.array([[1.0, 2.0, 0.5]])
    log_p = np.log(np.exp([1, 2, 0.5]) / np.exp([1, 2, 0.5]).sum())
    got = per_clip_loss(logits, jnp.array([[0.3, 0.7, 0.0]]), "ce")
    assert float(got[0]) == pytest.approx(-(0.3 * log_p[0] + 0.7 * log_p[1]), rel=1e-5)


@pytest.mark.parametrize(("loss", "total"), [("ce", 1.0), ("bce", None)])
def test_scores_are_a_softmax_or_sigmoids(graph, batch, loss, total):
    graphdef, params = graph
    out = eval_step(params, batch, graphdef=graphdef, mean=-4.0, std=4.5, loss=loss)
    scores = np.asarray(out["scores"])
    assert ((scores > 0) & (scores < 1)).all()
    if total:
        np.testing.assert_allclose(scores.sum(1), total, rtol=1e-5)
    else:
        logits = np.asarray(merge(graphdef, params)(normalise(features(batch), -4.0, 4.5)))
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_masks_change_with_the_step_and_not_with_the_batch(batch):
    recipe = Recipe(mean=0.0, std=0.5, freq_mask=20, time_mask=10)
    draw = lambda step, rows: np.asarray(
        inputs({k: v[rows] for k, v in batch.items()}, jnp.int32(step), recipe)
    )
    np.testing.assert_array_equal(draw(3, slice(0, 4))[1:3], draw(3, slice(1, 3)))
    assert (draw(3, slice(0, 4)) != draw(4, slice(0, 4))).any()
