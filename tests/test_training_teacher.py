"""A student sees what its teacher sees, and learns what it says."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, host_variables
from ast_jax.objectives import objective
from ast_jax.settings import Augment, Objective, Run, Settings
from ast_jax.sharding import make_layout
from ast_jax.training import augment
from ast_jax.training.step import Step, inputs
from ast_jax.training.teacher import teacher_of
from ast_jax.weights import LoadedModel, load_model
from ast_jax.weights.model_card import CARD

LABELS, FRAMES = ["cat", "dog", "owl"], 32
TINY = {"width": 8, "depth": 1, "num_heads": 2, "strides": (16, 16)}


def saved_model(path, labels, *, num_frames=FRAMES, seed=0):
    from flax import nnx

    config = ASTConfig(num_classes=len(labels), num_frames=num_frames, **TINY)
    model = AST(config, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    model.head.kernel[...] = jnp.asarray(rng.normal(size=(8, len(labels))).astype(np.float32))
    front_end = model.front_end.with_statistics(-4.0, 5.0)
    card = {"label_names": labels, "activation": "sigmoid", "channels": "mean"}
    loaded = LoadedModel(model, front_end=front_end, **card)
    np.savez(path, **host_variables(model), **{CARD: json.dumps(loaded.card())})
    return path


def batch():
    rng = np.random.default_rng(3)
    fbank = rng.normal(-4, 5, (4, FRAMES, 128)).astype(np.float16)
    return {
        "fbank": jnp.asarray(fbank),
        "length": jnp.full(4, FRAMES, jnp.int32),
        "index": jnp.arange(4, dtype=jnp.int32),
        "mask": jnp.ones(4),
        "labels": jnp.zeros((4, 3)),
    }


def student(front_end, **settings):
    """The step of a student whose features are scaled otherwise than its teacher's."""
    chosen = Augment(**settings)
    return Step(
        front_end.with_statistics(0.0, 2.0),
        objective(Objective()),
        augment=chosen,
        rows=augment.rows_of(chosen),
    )


def taught(settings, what):
    return np.asarray(teacher_of(settings, what, make_layout(), LABELS)(batch(), 7)["taught"])


def asking(*teachers):
    return Settings(objective=Objective(teacher=",".join(map(str, teachers))), run=Run(num_frames=FRAMES))


def test_teachers_say_what_they_would_of_the_same_masked_clip(tmp_path):
    """Two of them, their mean; one knows the classes in another order, among more, and hears longer clips."""
    first = saved_model(tmp_path / "a.npz", LABELS)
    second = saved_model(tmp_path / "b.npz", ["owl", "bat", "cat", "dog"], num_frames=48, seed=1)
    loaded = load_model(first)
    what = student(loaded.front_end, freq_mask=40, time_mask=10, noise=True)
    seen = np.asarray(inputs(batch(), jnp.int32(7), what)) * (what.front_end.spread * 2.0)
    assert np.abs(seen - np.asarray(batch()["fbank"], np.float32)).max() > 1  # it is masked
    alone = loaded.scores(seen)
    np.testing.assert_allclose(taught(asking(first), what), alone, atol=1e-5)
    both = (alone + load_model(second).scores(seen)[:, [2, 3, 0]]) / 2
    np.testing.assert_allclose(taught(asking(first, second), what), both, atol=1e-5)


def test_the_loss_is_by_its_share_to_the_teachers_scores():
    """Against the formulas; where student and teacher agree it is 0."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)), np.eye(3)[[0, 1, 2, 0, 1]]
    scores = rng.uniform(0.05, 0.95, (5, 3))
    p = 1 / (1 + np.exp(-logits))
    cross = lambda target: -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(axis=1)
    entropy = -(scores * np.log(scores) + (1 - scores) * np.log1p(-scores)).mean(axis=1)
    wanted = 0.75 * (cross(scores) - entropy) + 0.25 * cross(labels)
    rows = {"labels": jnp.asarray(labels, jnp.float32), "taught": jnp.asarray(scores, jnp.float32)}
    what = objective(Objective(loss="bce", teacher="a", teacher_weight=0.75))
    given = {"logits": jnp.asarray(logits, jnp.float32)}
    np.testing.assert_allclose(what.training(given, rows), wanted, rtol=1e-5)
    np.testing.assert_allclose(what.per_clip(given, rows), cross(labels), rtol=1e-5)
    whole = objective(Objective(loss="ce", teacher="a", teacher_weight=1.0))
    same = jnp.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), jnp.float32)
    np.testing.assert_allclose(whole.training(given, rows | {"taught": same}), np.zeros(5), atol=1e-6)


def test_a_teacher_that_cannot_teach_is_refused(tmp_path):
    other = saved_model(tmp_path / "a.npz", ["cat", "dog"])
    what = student(load_model(other).front_end)
    with pytest.raises(InputError, match=r"a\.npz does not know owl"):
        taught(asking(other), what)
    from ast_jax.features.slaney import Slaney

    with pytest.raises(InputError, match=r"hears kind=kaldi .* and the student kind=slaney"):
        taught(asking(other), Step(Slaney(), what.objective))
