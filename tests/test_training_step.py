"""One step: the mean over real rows only, padding placed before normalisation, both losses, both kinds of
batch.

And its options: accumulation, several devices, label smoothing, an average of the weights, frozen parameters.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tagger_oracles import random_model

from ast_jax.evaluation.scoring import eval_step
from ast_jax.features import Kaldi, log_mel
from ast_jax.features.batches import features
from ast_jax.models import AST, ASTConfig, merge, split
from ast_jax.models.layers import BatchNorm
from ast_jax.objectives import objective
from ast_jax.settings import Augment, Objective
from ast_jax.training.augment import rows_of
from ast_jax.training.optim import adam, layer_factors
from ast_jax.training.step import Step, beside_second_views, evaluated, init_state, inputs, train_step

CONFIG = ASTConfig(num_classes=4, num_frames=32, strides=(16, 16), width=16, depth=1, num_heads=2)
FRONT_END = Kaldi(mean=-4.0, std=4.5)


def step_of(*, loss: str = "bce", smoothing: float = 0.0, **augmentations) -> Step:
    augment = Augment(**augmentations)
    what = objective(Objective(loss=loss, label_smoothing=smoothing))
    return Step(FRONT_END, what, augment, rows_of(augment))


PLAIN = step_of()


@pytest.fixture(scope="module")
def graph():
    return split(AST(CONFIG, rngs=nnx.Rngs(0)))[:2]


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


DESCENT = optax.sgd(1.0)  # updates are gradients
ADAM = adam(lambda step: 1e-3 * (step + 1))


@functools.cache
def compiled(graphdef, step: Step, optimizer: optax.GradientTransformation):
    """The step as machine code, once for all tests; unoptimised, which compiles in half the time."""
    one = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, step=step)
    return jax.jit(one, compiler_options={"xla_backend_optimization_level": 0})


def run_steps(graph, batch, step: Step, optimizer=DESCENT, *, steps: int = 1):
    """The state after some steps, and the last step's figures."""
    graphdef, params = graph
    one, state = compiled(graphdef, step, optimizer), init_state(params, {}, optimizer)
    for _ in range(steps):
        state, figures = one(state, batch)
    return state, figures


@pytest.fixture(scope="module")
def logits(graph, batch) -> np.ndarray:
    """Of the three real rows, unaugmented, float64."""
    graphdef, params = graph
    model = lambda params: merge(graphdef, params)(FRONT_END.normalise(features(batch, FRONT_END)))[0]
    return np.asarray(jax.jit(model)(params), np.float64)[:3]


def test_rows_past_the_clip_are_zero_before_normalisation(batch):
    x = np.asarray(features(batch, FRONT_END))
    assert not x[1, 10:].any()
    np.testing.assert_array_equal(x[1, :10], np.asarray(batch["fbank"][1, :10], np.float32))
    padded = np.asarray(inputs(batch, jnp.int32(0), PLAIN))[1, 10:]
    np.testing.assert_allclose(padded, 4.0 / 9.0, rtol=1e-6)


def test_waveform_batches_agree_with_log_mel_batches():
    rng = np.random.default_rng(1)
    sound = (rng.normal(0, 3000, 2000)).astype(np.int16)
    waveform = np.zeros((1, 400 + 31 * 160), np.int16)
    waveform[0, :2000] = sound
    rows = {"waveform": waveform, "num_samples": np.array([2000]), "length": np.array([11], np.int32)}
    got = features({key: jnp.asarray(value) for key, value in rows.items()}, FRONT_END)
    want = log_mel(sound.astype(np.float64) / 32768)
    assert want.shape[0] == 11
    # white noise: every bin within 50 dB of its frame's peak
    np.testing.assert_allclose(got[0, :11], want, atol=5e-4)
    assert not np.asarray(got[0, 11:]).any()


def test_the_loss_is_the_mean_over_real_rows(graph, batch, logits):
    state, figures = run_steps(graph, batch, PLAIN)
    y, z = np.asarray(batch["labels"][:3]), logits
    bce = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y
    assert float(figures["loss"]) == pytest.approx(bce.mean(), rel=1e-5)
    assert int(state["step"]) == 1
    junk = {**batch, "fbank": batch["fbank"].at[3].set(7), "length": batch["length"].at[3].set(32)}
    again, _ = run_steps(graph, junk, PLAIN)
    for path in state["params"]:
        np.testing.assert_array_equal(state["params"][path], again["params"][path], err_msg=path)


def test_a_batch_of_which_nothing_is_known_moves_nothing(graph, batch):
    bare = {**batch, "labels": jnp.zeros((4, 4)), "known": jnp.zeros((4, 4))}
    state, figures = run_steps(graph, bare, PLAIN)
    assert (float(figures["loss"]), float(figures["grad_norm"])) == (0, 0)
    for path, value in graph[1].items():
        np.testing.assert_array_equal(state["params"][path], value, err_msg=path)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_scores_are_a_softmax_or_sigmoids_of_the_logits(graph, batch, logits, loss):
    graphdef, params = graph
    what = objective(Objective(loss=loss))
    options = {"front_end": FRONT_END, "activation": what.activation, "loss": what.per_clip}
    out = eval_step(params, batch, graphdef=graphdef, **options)
    exp = np.exp(logits)
    wanted = exp / exp.sum(1, keepdims=True) if loss == "ce" else exp / (1 + exp)
    np.testing.assert_allclose(out["scores"][:3], wanted, rtol=1e-5)
    np.testing.assert_array_equal(out["labels"], batch["labels"])
    turned = eval_step(params, batch, graphdef=graphdef, columns=(3, 1, 0, 2), **options)
    np.testing.assert_allclose(turned["scores"], out["scores"][:, np.array([3, 1, 0, 2])], rtol=1e-6)


def test_masks_change_with_the_step_and_not_with_the_batch(batch):
    masked = step_of(freq_mask=20, time_mask=10)
    draw = lambda step, rows: np.asarray(
        inputs({k: v[rows] for k, v in batch.items()}, jnp.int32(step), masked)
    )
    np.testing.assert_array_equal(draw(3, slice(0, 4))[1:3], draw(3, slice(1, 3)))
    assert (draw(3, slice(0, 4)) != draw(4, slice(0, 4))).any()


# ---- Options


def assert_close(ours: dict, theirs: dict) -> None:
    """Every parameter to 1e-6 of the size of the largest: float32's rounding of sums in another order."""
    size = max(np.abs(value).max() for value in theirs.values())
    for path in theirs:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=0, atol=1e-6 * size, err_msg=path)


@pytest.mark.parametrize(("loss", "parts"), [("bce", 2), ("ce", 4)])
def test_accumulation_equals_the_whole_batch(graph, batch, loss, parts):
    """Three real rows of four: parts of 2 and 1 rows, or of 1, 1, 1 and none. 1e-6 is float32's rounding of
    another order."""
    step = step_of(loss=loss, freq_mask=20, time_mask=10, noise=True)
    whole, expected = run_steps(graph, batch, step)
    state, figures = run_steps(graph, batch, dataclasses.replace(step, accumulate=parts))
    assert_close(state["params"], whole["params"])
    for name in ("loss", "grad_norm"):
        assert float(figures[name]) == pytest.approx(float(expected[name]), rel=1e-6)
    # there is a gradient
    assert max(np.abs(whole["params"][path] - graph[1][path]).max() for path in graph[1]) > 0.1


def test_accumulation_moves_adam_once(graph, batch):
    """One step of the optimiser, whatever the parts: its count is that of the schedule."""
    whole, _ = run_steps(graph, batch, PLAIN, ADAM, steps=2)
    parts, _ = run_steps(graph, batch, dataclasses.replace(PLAIN, accumulate=2), ADAM, steps=2)
    counts = lambda state: [int(leaf) for leaf in jax.tree.leaves(state["opt"]) if leaf.shape == ()]
    assert counts(parts) == counts(whole) == [2, 2]
    # gradients well above rounding
    for path in ("head/kernel", "patch_embed/kernel", "blocks/0/mlp/fc1/bias"):
        np.testing.assert_allclose(parts["params"][path], whole["params"][path], atol=1e-6, err_msg=path)


def test_the_mean_over_devices_is_over_their_real_rows(graph, batch):
    """Two devices, simulated along a named axis, with unequal numbers of real rows: equal to one device's
    step."""
    graphdef, params = graph
    step = functools.partial(train_step, graphdef=graphdef, optimizer=DESCENT, step=PLAIN, axis_name="data")
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="data"))
    for mask in ([1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]):
        rows = batch | {"mask": jnp.array(mask, jnp.float32)}
        whole, expected = run_steps(graph, rows, PLAIN)
        halves = {key: value.reshape(2, 2, *value.shape[1:]) for key, value in rows.items()}
        state, figures = mapped(init_state(params, {}, DESCENT), halves)
        np.testing.assert_allclose(figures["loss"], np.full(2, expected["loss"]), rtol=1e-6)
        for half in (0, 1):
            assert_close({path: p[half] for path, p in state["params"].items()}, whole["params"])


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_masked_rows_weigh_nothing_in_loss_and_gradient(graph, batch, loss):
    """The step on three real rows and a filler is the step on the three alone."""
    step = step_of(loss=loss)
    filled, figures = run_steps(graph, batch, step)
    alone, expected = run_steps(graph, {key: rows[:3] for key, rows in batch.items()}, step)
    assert float(figures["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    assert_close(filled["params"], alone["params"])


def test_label_smoothing_spreads_a_share_of_the_labels(graph, batch, logits):
    """bce: towards 1/2; ce: towards the uniform distribution, as PyTorch's label_smoothing has it."""
    z, y = logits, np.asarray(batch["labels"][:3])
    y = y / y.sum(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    expected = {
        "bce": np.mean(np.log1p(np.exp(z)) - z * (0.8 * y + 0.2 * 0.5)),
        "ce": -np.mean(np.sum((0.8 * y + 0.2 / 4) * log_p, axis=1)),
    }
    for loss, value in expected.items():
        rows = batch | {"labels": batch["labels"].at[:3].set(y)}
        _, figures = run_steps(graph, rows, step_of(loss=loss, smoothing=0.2))
        assert float(figures["loss"]) == pytest.approx(value, rel=1e-5)


def test_the_average_of_the_weights_follows_its_recursion(graph, batch):
    """From the initial weights on: average <- d average + (1 - d) weights, after each step."""
    graphdef, params = graph
    step = compiled(graphdef, dataclasses.replace(PLAIN, ema=0.9), ADAM)
    state = init_state(params, {}, ADAM, ema=True)
    expected = {path: np.asarray(value, np.float64) for path, value in params.items()}
    for _ in range(5):
        state, _ = step(state, batch)
        expected = {path: 0.9 * expected[path] + 0.1 * np.asarray(state["params"][path]) for path in expected}
    assert_close(state["ema"], expected)
    assert np.abs(state["ema"]["head/kernel"] - state["params"]["head/kernel"]).max() > 1e-3
    assert evaluated(state).keys() == params.keys()
    np.testing.assert_array_equal(evaluated(state)["head/kernel"], state["ema"]["head/kernel"])
    plain, _ = run_steps(graph, batch, PLAIN, ADAM, steps=5)
    assert "ema" not in plain
    np.testing.assert_array_equal(evaluated(plain)["head/kernel"], plain["params"]["head/kernel"])
    np.testing.assert_allclose(plain["params"]["head/kernel"], state["params"]["head/kernel"], atol=1e-6)


def test_an_average_has_memory_of_its_own(graph):
    """A step gives its state's memory up, and would give the same up twice."""
    state = init_state(graph[1], {}, ADAM, ema=True)
    for path, value in state["params"].items():
        assert state["ema"][path].unsafe_buffer_pointer() != value.unsafe_buffer_pointer()


def test_each_step_draws_anew_and_tells_the_gradients_norm_whatever_the_rate(graph, batch):
    """At rate 0 the parameters stay: what changes from step to step is the draw."""
    still, told = optax.sgd(0.0), []
    masked = step_of(freq_mask=40, time_mask=16)
    for steps in (1, 2):
        state, figures = run_steps(graph, batch, masked, still, steps=steps)
        told.append(figures)
    np.testing.assert_array_equal(state["params"]["head/kernel"], graph[1]["head/kernel"])
    assert abs(float(told[0]["loss"] - told[1]["loss"])) > 1e-4
    _, moved = run_steps(graph, batch, masked, DESCENT)
    assert float(told[0]["grad_norm"]) == pytest.approx(float(moved["grad_norm"]), rel=1e-6)


class Normed(nnx.Module):
    """A mean spectrum with batch statistics, and a head."""

    def __init__(self):
        self.norm, self.head = BatchNorm(128), nnx.Linear(128, 4, rngs=nnx.Rngs(0))

    def __call__(self, x, *, key=None, mask=None):
        return self.head(self.norm(x.mean(axis=1), training=key is not None, mask=mask)), {}


def test_statistics_are_gathered_part_by_part(batch):
    """Two parts of two rows: rows 0 and 2, then 1 and the filler, each moving the running mean by a tenth."""
    graphdef, params, statistics = split(Normed())
    step = functools.partial(train_step, graphdef=graphdef, optimizer=DESCENT)
    state = init_state(params, statistics, DESCENT)
    new, _ = jax.jit(functools.partial(step, step=dataclasses.replace(PLAIN, accumulate=2)))(state, batch)
    spectrum = np.asarray(FRONT_END.normalise(features(batch, FRONT_END))).mean(axis=1)
    wanted = 0.9 * (0.1 * spectrum[[0, 2]].mean(axis=0)) + 0.1 * spectrum[1]
    np.testing.assert_allclose(new["statistics"]["norm/mean"], wanted, rtol=1e-5, atol=1e-6)
    assert evaluated(new).keys() == params.keys() | statistics.keys()


def test_statistics_of_a_published_family_are_gathered_part_by_part(batch):
    """CNN6 in two parts: the statistics of part after part, and the mean of both parts' gradients."""
    model = random_model("cnn6", num_classes=4, num_frames=32, channels=(2, 2, 2, 4), dropout=(0.0, 0.0))
    rows = batch | {"fbank": batch["fbank"][:, :, :64], "mask": jnp.ones(4)}
    graphdef, params, statistics = split(model)
    what = dataclasses.replace(PLAIN, front_end=model.front_end)
    start = init_state(params, statistics, DESCENT)
    whole = compiled(graphdef, dataclasses.replace(what, accumulate=2), DESCENT)(start, rows)[0]
    one, parts = compiled(graphdef, what, DESCENT), [slice(0, 4, 2), slice(1, 4, 2)]
    first, second = ({key: value[part] for key, value in rows.items()} for part in parts)
    before = one(start, first)[0]
    after = one({**start, "statistics": before["statistics"]}, second)[0]
    assert_close(whole["statistics"], after["statistics"])
    halves = {path: (before["params"][path] + after["params"][path]) / 2 for path in params}
    assert_close(whole["params"], halves)


def test_frozen_parameters_get_no_gradient_and_do_not_move(graph, batch):
    params = graph[1]
    factors = layer_factors(params, levels=merge(*graph).levels, freeze="1")
    frozen = frozenset(path for path, factor in factors.items() if factor == 0)
    free = params.keys() - frozen
    assert frozen
    assert free
    held = dataclasses.replace(PLAIN, frozen=frozen)
    plain, _ = run_steps(graph, batch, PLAIN)
    state, figures = run_steps(graph, batch, held)
    for path in frozen:
        np.testing.assert_array_equal(state["params"][path], params[path], err_msg=path)
    assert_close(state["params"], {path: plain["params"][path] for path in free})
    norm = np.sqrt(
        sum(np.square(state["params"][path] - params[path], dtype=np.float64).sum() for path in free)
    )
    assert float(figures["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    decaying = adam(lambda s: 1e-2, weight_decay=0.1, factors=factors)
    decayed, _ = run_steps(graph, batch, held, decaying, steps=3)
    for path in params:  # weight decay has no hold on them either
        assert np.array_equal(decayed["params"][path], params[path]) == (path in frozen), path


def consistent(step: Step, times: float = 2.0) -> Step:
    settings = dataclasses.replace(step.objective.settings, consistency=times)
    return dataclasses.replace(step, objective=dataclasses.replace(step.objective, settings=settings))


def test_two_views_that_are_alike_are_one(graph, batch):
    """Nothing augmented: they are not apart, and the step is that of one view."""
    plain, one = run_steps(graph, batch, PLAIN)
    state, two = run_steps(graph, batch, consistent(PLAIN))
    assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-6)
    for path in plain["params"]:
        np.testing.assert_allclose(state["params"][path], plain["params"][path], atol=1e-6, err_msg=path)


def test_the_second_view_is_augmented_in_its_own_way(graph, batch, logits):
    """The first is the one there is without it; how far they are apart joins the mean of both losses."""
    masked = step_of(freq_mask=48, time_mask=8)
    seen = inputs(beside_second_views(batch), jnp.int32(0), masked)
    np.testing.assert_array_equal(seen[::2], inputs(batch, jnp.int32(0), masked))
    assert all(not np.array_equal(*seen[2 * i : 2 * i + 2]) for i in range(3))
    graphdef, params = graph
    z = merge(graphdef, params)(seen)[0]
    what = masked.objective
    twice = {"labels": np.repeat(batch["labels"], 2, axis=0)}
    losses = np.asarray(what.per_clip({"logits": z}, twice)).reshape(-1, 2).mean(axis=1)
    want = (losses + 2.0 * np.asarray(what.apart(z[::2], z[1::2])))[:3].mean()
    _, figures = run_steps(graph, batch, consistent(masked))
    assert float(figures["loss"]) == pytest.approx(float(want), rel=1e-5)
