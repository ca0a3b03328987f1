"""A scorer gives scores of the real rows in order, the mean of their losses, classes as the data has them."""

from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation.scoring import Scorer, behind, eval_step, joined
from ast_jax.features import Kaldi
from ast_jax.models import AST, ASTConfig, merge, split
from ast_jax.objectives import objective
from ast_jax.settings import Objective
from ast_jax.sharding import make_layout

CONFIG = ASTConfig(num_classes=3, num_frames=32, strides=(16, 16), width=16, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def graph():
    return split(AST(CONFIG, rngs=nnx.Rngs(0)))[:2]


@pytest.fixture(scope="module")
def logits(graph):
    """Of features that are normalised already."""
    return jax.jit(lambda x: merge(*graph)(x)[0])


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


def test_a_clip_of_which_nothing_is_known_has_no_part_in_the_loss(graph, logits):
    what = objective(Objective())
    known = jnp.float32([[1, 0, 1], [0, 0, 0]])
    batch = {
        "fbank": jax.random.normal(jax.random.key(0), (2, 32, 128)).astype(jnp.float16),
        "length": jnp.full(2, 32),
        "labels": jnp.float32([[1, 0, 0], [0, 0, 0]]),
        "known": known,
        "mask": jnp.ones(2),
    }
    step = {"graphdef": graph[0], "front_end": Kaldi(), "activation": "sigmoid", "loss": what.per_clip}
    scored = eval_step(graph[1], batch, **step)
    found = joined(iter([scored]), ["a", "b"])
    np.testing.assert_array_equal(found.targets, [[1, np.nan, 0], [np.nan, np.nan, np.nan]])
    assert found.loss == pytest.approx(float(scored["loss"][0]))
    assert found.loss > 0
    assert np.isnan(joined(iter([{**scored, "mask": jnp.float32([0, 1])}]), ["b"]).loss)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_devices_are_given_the_next_batches_before_one_is_read(count):
    begun = []
    outputs = (begun.append(number) or number for number in range(5))
    ahead = [(number, len(begun) - number - 1) for number in behind(outputs, count)]
    assert [number for number, _ in ahead] == [0, 1, 2, 3, 4]
    assert [more for _, more in ahead] == [min(count, 4 - number) for number in range(5)]


def test_a_step_normalises_scores_by_the_activation_and_loses_on_the_logits(graph, logits):
    """The loss of a permuted data set is that of the permuted logits."""
    graphdef, params = graph
    front_end, what = Kaldi(mean=-4.0, std=4.5), objective(Objective(loss="ce"))
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[[0, 2]]
    batch = {
        "fbank": jnp.asarray(rng.normal(-5, 3, (2, 32, 128)), jnp.float16),
        "length": jnp.array([32, 20]),
        "labels": jnp.asarray(labels),
        "mask": jnp.ones(2),
    }
    options = {"graphdef": graphdef, "front_end": front_end, "activation": "softmax", "loss": what.per_clip}
    step = lambda **more: jax.jit(partial(eval_step, **options, **more))(params, batch)
    x = np.array(batch["fbank"], np.float32)
    x[1, 20:] = 0
    z = np.asarray(logits((jnp.asarray(x) + 4) / 9))
    columns = (2, 0, 1)
    for found, wanted in ((step(), z), (step(columns=columns), z[:, list(columns)])):
        log_p = np.asarray(jax.nn.log_softmax(wanted))
        np.testing.assert_allclose(found["scores"], np.exp(log_p), rtol=1e-5)
        np.testing.assert_allclose(found["loss"], -(labels * log_p).sum(axis=1), rtol=1e-5)


class Clips:
    """Five clips of 20 frames, each at a level of its own."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> dict:
        return {"fbank": np.full((20, 128), -i, np.float16), "labels": np.array([i % 3])}


def test_a_scorer_gives_every_clip_in_order_and_classes_as_the_data_has_them(graph, logits):
    """Five clips in batches of two, of a data set whose classes stand in another order than the model's."""
    prepared = Mock(spec=PreparedSet, kind="log_mel", label_names=["a", "b", "c"])
    prepared.source.return_value, prepared.ids.return_value = Clips(), list("vwxyz")
    graphdef, params = graph
    front_end, what, watched = Kaldi(mean=-4.0, std=4.5), objective(Objective()), []
    options = {"front_end": front_end, "activation": "sigmoid", "loss": what.per_clip, "num_frames": 32}
    layout = make_layout(devices=jax.devices()[:1])

    def found(**more):
        scorer = Scorer(graphdef, layout, batch_size=2, num_threads=1, **options, **more)
        return scorer(
            params, prepared, ["test"], watch=lambda read, total: watched.append(total) or iter(read)
        )

    plain, turned = found(), found(columns=[2, 0, 1])
    assert plain.ids == list("vwxyz")
    assert watched == [3, 3]
    x = np.zeros((5, 32, 128), np.float32)
    x[:, :20] = -np.arange(5.0)[:, None, None]
    z = logits((jnp.asarray(x) + 4) / 9)
    np.testing.assert_allclose(plain.scores, jax.nn.sigmoid(z), rtol=1e-5)
    np.testing.assert_allclose(turned.scores, plain.scores[:, [2, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(plain.targets.argmax(axis=1), [0, 1, 2, 0, 1])
