"""A scorer gives scores of the real rows in order, the mean of their losses, classes as the data has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.evaluation.scoring import eval_step, joined
from ast_jax.features import Kaldi
from ast_jax.models import AST, ASTConfig, split
from ast_jax.objectives import objective
from ast_jax.settings import Objective

CONFIG = ASTConfig(num_classes=3, num_frames=32, strides=(16, 16), width=16, depth=1, num_heads=2)


def test_rows_that_fill_a_batch_are_left_out_of_scores_and_loss():
    outputs = [
        {
            "scores": jnp.array([[0.1, 0.9], [0.2, 0.8]]),
            "labels": jnp.eye(2),
            "loss": jnp.array([1.0, 2.0]),
            "mask": jnp.ones(2),
        },
        {
            "scores": jnp.array([[0.3, 0.7], [0.5, 0.5]]),
            "labels": jnp.zeros((2, 2)),
            "loss": jnp.array([6.0, 100.0]),
            "mask": jnp.array([1.0, 0.0]),
        },
    ]
    found = joined(iter(outputs), ["a", "b", "c"])
    np.testing.assert_allclose(found.scores[:, 0], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(found.targets, [[1, 0], [0, 1], [0, 0]])
    assert found.loss == pytest.approx(3.0)


def test_a_step_normalises_scores_by_the_activation_and_loses_on_the_logits():
    """The loss of a permuted data set is that of the permuted logits."""
    graphdef, params, _ = split(AST(CONFIG, rngs=nnx.Rngs(0)))
    front_end, what = Kaldi(mean=-4.0, std=4.5), objective(Objective(loss="ce"))
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[[0, 2]]
    batch = {
        "fbank": jnp.asarray(rng.normal(-5, 3, (2, 32, 128)), jnp.float16),
        "length": jnp.array([32, 20]),
        "labels": jnp.asarray(labels),
        "mask": jnp.ones(2),
    }
    step = lambda **options: eval_step(
        params,
        batch,
        graphdef=graphdef,
        front_end=front_end,
        activation="softmax",
        loss=what.per_clip,
        **options,
    )
    x = np.array(batch["fbank"], np.float32)
    x[1, 20:] = 0
    logits = np.asarray(AST(CONFIG, rngs=nnx.Rngs(0))((jnp.asarray(x) + 4) / 9)[0])
    columns = (2, 0, 1)
    for found, wanted in ((step(), logits), (step(columns=columns), logits[:, list(columns)])):
        log_p = np.asarray(jax.nn.log_softmax(wanted))
        np.testing.assert_allclose(found["scores"], np.exp(log_p), rtol=1e-5)
        np.testing.assert_allclose(found["loss"], -(labels * log_p).sum(axis=1), rtol=1e-5)
