"""The optimiser and the rate's stairs against a replay of what the reference's loop does, and against
PyTorch."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig, abstract
from ast_jax.settings import Optimizer
from ast_jax.training.optim import (
    active_decays,
    adam,
    layer_factors,
    optimizer_of,
    rate_ramp,
    rate_stairs,
    rates_of,
    schedule,
)


def replay(lr, steps, *, steps_per_epoch, warmup_steps, stair, decay, decay_epochs):
    """The reference's loop, line by line: the warm-up writes the rate, MultiStepLR multiplies it after an
    epoch."""
    rate, rates = lr, []
    for step in range(steps):
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0 and epoch + 1 in decay_epochs:
            rate *= decay
        if warmup_steps and step <= warmup_steps and step % stair == 0:
            rate = step / warmup_steps * lr
        rates.append(rate)
    return rates


def test_every_warmup_ends_at_the_rate():
    """Of any length and any stair, whether the one divides the other or not."""
    rng = np.random.default_rng(0)
    for warmup_steps, stair in zip(rng.integers(0, 2000, 300), rng.integers(1, 300, 300), strict=True):
        lr, options = rng.uniform(1e-6, 1), {"steps_per_epoch": 100, "warmup_steps": int(warmup_steps)}
        starts, rates = rate_stairs(lr, warmup_stair=int(stair), **options)
        assert (starts[0], starts[-1], rates[-1]) == (0, warmup_steps, np.float32(lr))
        assert ((np.diff(starts) > 0) & (np.diff(starts) <= stair)).all()
        assert (np.diff(rates) > 0).all()


@pytest.mark.parametrize(
    ("steps_per_epoch", "warmup_steps", "stair", "decay_epochs"),
    [
        (1733, 1000, 50, (3, 4)),
        (7, 0, 50, (2, 3, 5)),
        (7, 20, 5, (2, 3, 6)),
        (10, 20, 5, (2, 3, 4)),
        (5, 12, 4, (2,)),
    ],
)
def test_rate_is_the_references_at_every_step(steps_per_epoch, warmup_steps, stair, decay_epochs):
    kw = {
        "steps_per_epoch": steps_per_epoch,
        "warmup_steps": warmup_steps,
        "decay": 0.5,
        "decay_epochs": decay_epochs,
    }
    rate = schedule(*rate_stairs(1e-3, warmup_stair=stair, **kw))
    steps = 6 * steps_per_epoch
    np.testing.assert_allclose(rate(jnp.arange(steps)), replay(1e-3, steps, stair=stair, **kw), rtol=1e-6)


def test_the_first_stair_of_the_warmup_runs_at_zero():
    rate = schedule(*rate_stairs(1e-5, steps_per_epoch=162_757, warmup_steps=1000))
    assert [float(rate(s)) for s in (0, 49)] == [0, 0]
    assert [float(rate(s)) for s in (50, 999, 1000)] == pytest.approx([5e-7, 9.5e-6, 1e-5])


def test_a_linear_warmup_climbs_each_step_and_undoes_no_decay():
    """A decay at step 8 of a warm-up of 20, one after it: each halves the rate from its step on."""
    options = {"steps_per_epoch": 8, "warmup_steps": 20, "decay": 0.5, "decay_epochs": (2, 5)}
    steps = np.arange(50)
    expected = 1e-3 * np.minimum(steps / 20, 1) * np.where(steps >= 8, 0.5, 1) * np.where(steps >= 32, 0.5, 1)
    np.testing.assert_allclose(schedule(*rate_ramp(1e-3, **options))(jnp.asarray(steps)), expected, rtol=1e-6)
    written = schedule(*rate_stairs(1e-3, warmup_stair=1, **options))(jnp.asarray(steps))
    np.testing.assert_allclose(
        written[8:32], 2 * expected[8:32], rtol=1e-6
    )  # the quirk: the first decay is lost


def test_without_warmup_or_decays_both_schedules_are_constant():
    for stairs in (rate_stairs, rate_ramp):
        assert np.unique(schedule(*stairs(1e-3, steps_per_epoch=5))(jnp.arange(20))) == np.float32(1e-3)


def test_from_decay_end_on_the_rate_is_frozen():
    """Speech Commands: decays at every epoch from 6, the last one at 26."""
    assert active_decays(range(6, 31), 27) == tuple(range(6, 27))
    assert active_decays((3, 4, 5)) == (3, 4, 5)
    rate = schedule(
        *rate_stairs(1.0, steps_per_epoch=10, decay=0.85, decay_epochs=active_decays(range(6, 31), 27))
    )
    by_epoch = np.asarray(rate(jnp.arange(0, 300, 10)))
    np.testing.assert_allclose(by_epoch[[4, 5, 25, 26, 29]], 0.85 ** np.array([0, 1, 21, 21, 21]), rtol=1e-6)


def run_adam(optimizer: optax.GradientTransformation, start, grads):
    state = optimizer.init(start)
    params = start
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=20), jnp.float32), [
        jnp.asarray(rng.normal(size=20), jnp.float32) for _ in range(30)
    ]


def test_adam_couples_the_decay_as_pytorch_does(problem):
    torch = pytest.importorskip("torch")
    start, grads = problem
    param = torch.nn.Parameter(torch.tensor(np.array(start)))
    other = torch.optim.Adam([param], lr=1e-2, betas=(0.95, 0.999), eps=1e-8, weight_decay=1e-1)
    for grad in grads:
        param.grad = torch.tensor(np.array(grad))
        other.step()
    ours = run_adam(adam(lambda step: 1e-2, weight_decay=1e-1), start, grads)
    np.testing.assert_allclose(ours, param.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_adam_against_its_formula_and_not_adamw(problem):
    start, grads = problem
    p, m, v = np.array(start, np.float64), 0.0, 0.0
    for t, grad in enumerate(np.array(grads, np.float64), start=1):
        g = grad + 0.1 * p
        m, v = 0.95 * m + 0.05 * g, 0.999 * v + 0.001 * g**2
        p = p - 1e-2 * (m / (1 - 0.95**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(
        run_adam(adam(lambda step: 1e-2, weight_decay=0.1), start, grads), p, rtol=1e-5, atol=1e-6
    )
    adamw = run_adam(optax.adamw(1e-2, 0.95, 0.999, 1e-8, weight_decay=0.1), start, grads)
    assert np.abs(adamw - p).max() > 1e-3


# ---- Options: clipping, rates by layer, frozen layers


@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_clipping_scales_the_whole_gradient_before_the_decay(problem, norm):
    """To one norm over all parameters, and only down; the decay that joins it afterwards is not clipped."""
    split = lambda x: {"a": x[:5], "b": x[5:]}
    start, grads = split(problem[0]), problem[1]
    clipped = [split(g * min(1.0, norm / float(np.linalg.norm(g)))) for g in grads]
    constant = lambda step: 1e-2
    ours = run_adams(adam(constant, weight_decay=0.1, clip_norm=norm), start, [split(g) for g in grads])
    theirs = run_adams(adam(constant, weight_decay=0.1), start, clipped)
    free = run_adams(adam(constant, weight_decay=0.1), start, [split(g) for g in grads])
    for path in start:
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-6)
        assert (np.abs(ours[path] - free[path]).max() > 1e-3) == (norm < 1)


def run_adams(optimizer: optax.GradientTransformation, start: dict, grads: list[dict]) -> dict:
    state, params = optimizer.init(start), start
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_factors_multiply_the_rate_of_their_path(problem):
    """A factor of a half is a run at half the rate, decay included; of 0, no movement."""
    start, grads = (
        {"a": problem[0], "b": problem[0], "c": problem[0]},
        [dict.fromkeys("abc", g) for g in problem[1][:1]],
    )
    moved = run_adams(
        adam(lambda step: 1e-2, weight_decay=0.1, factors={"a": 0.5, "b": 0.0, "c": 1.0}), start, grads
    )
    for path, rate in (("a", 5e-3), ("c", 1e-2)):
        alone = run_adam(adam(lambda step, rate=rate: rate, weight_decay=0.1), problem[0], problem[1][:1])
        np.testing.assert_allclose(moved[path], alone, atol=1e-7)
    np.testing.assert_array_equal(moved["b"], problem[0])


PATHS = {
    "cls_token": 0,
    "dist_token": 0,
    "pos_embed": 0,
    "patch_embed/kernel": 0,
    "blocks/0/norm1/scale": 1,
    "blocks/1/attention/qkv/bias": 2,
    "blocks/10/mlp/fc1/kernel": 11,
    "blocks/11/norm2/bias": 12,
    "norm/scale": 13,
    "head_norm/bias": 14,
    "head/kernel": 14,
}  # and what each is above, from the patches (0) by way of twelve blocks and the final norm to the head


LEVELS = abstract("ast", ASTConfig()).levels


def test_layer_decay_is_a_power_of_the_layers_above():
    factors = layer_factors(PATHS, levels=LEVELS, decay=0.75)
    assert factors == pytest.approx({path: 0.75 ** (14 - level) for path, level in PATHS.items()})
    assert set(layer_factors(PATHS, levels=LEVELS).values()) == {1.0}


@pytest.mark.parametrize(
    ("freeze", "below"), [("", 0), ("0", 1), ("1", 2), ("11", 12), ("12", 13), ("backbone", 14)]
)
def test_freezing_takes_what_lies_below(freeze, below):
    factors = layer_factors(PATHS, levels=LEVELS, decay=0.5, freeze=freeze)
    assert {path for path, factor in factors.items() if factor == 0} == {
        path for path, level in PATHS.items() if level < below
    }
    assert factors["head/kernel"] == 1


@pytest.mark.parametrize("freeze", ["13", "-1", "all", "1.5"])
def test_freezing_what_is_not_there_is_refused(freeze):
    with pytest.raises(InputError, match="choose 'backbone' or a number of blocks from 0 to 12"):
        layer_factors(PATHS, levels=LEVELS, freeze=freeze)


def test_a_recipe_gets_the_rate_and_the_optimiser_it_asks_for():
    """Every number another than the default, against the same put together by hand."""
    settings = Optimizer(
        lr=0.3, lr_warmup_steps=4, lr_warmup_stair=2, lr_decay=0.5, lr_decay_epochs=(2, 3), lr_decay_end=3,
        adam_b1=0.5, adam_b2=0.7, adam_eps=0.1, weight_decay=0.2, clip_norm=0.9,
    )  # fmt: skip
    rate = schedule(*rates_of(settings, 5))
    ours = optimizer_of(settings, rate, {"a": 1.0, "b": 0.5})
    linear = schedule(*rates_of(dataclasses.replace(settings, lr_warmup="linear"), 5))
    steps, halved = np.arange(15), np.where(np.arange(15) >= 5, 0.5, 1)
    stairs = np.where(steps < 2, 0, np.where(steps < 4, 0.15, 0.3))
    np.testing.assert_allclose(rate(jnp.asarray(steps)), stairs * halved, rtol=1e-6)
    climbed = 0.3 * np.minimum(steps / 4, 1)
    np.testing.assert_allclose(linear(jnp.asarray(steps)), climbed * halved, rtol=1e-6)
    theirs = optax.chain(
        optax.clip_by_global_norm(0.9),
        optax.add_decayed_weights(0.2),
        optax.scale_by_adam(0.5, 0.7, 0.1),
        optax.scale_by_learning_rate(rate),
    )
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    states, rng = [ours.init(params), theirs.init(params)], np.random.default_rng(0)
    for _ in range(6):
        gradient = {path: jnp.float32(rng.normal(size=value.shape)) for path, value in params.items()}
        found, states[0] = ours.update(gradient, states[0], params)
        wanted, states[1] = theirs.update(gradient, states[1], params)
        np.testing.assert_allclose(found["a"], wanted["a"], rtol=1e-6)
        np.testing.assert_allclose(found["b"], 0.5 * wanted["b"], rtol=1e-6)


def test_the_optimisers_defaults_are_the_recipes():
    defaults = {name: p.default for name, p in inspect.signature(adam).parameters.items()}
    settings = Optimizer()
    assert defaults["b1"] == settings.adam_b1
    assert defaults["b2"] == settings.adam_b2
    assert defaults["eps"] == settings.adam_eps
    assert defaults["weight_decay"] == settings.weight_decay
    assert defaults["clip_norm"] == settings.clip_norm
