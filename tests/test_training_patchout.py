"""Patchout: which patches stay, how they are drawn, and that a training step, and only that, leaves the
others out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from ast_jax.evaluation.scoring import eval_step
from ast_jax.features import Kaldi
from ast_jax.models import AST, ASTConfig, abstract, host_variables, split
from ast_jax.models.ast import patchout
from ast_jax.models.attention import attend
from ast_jax.models.kernels import Kernels
from ast_jax.objectives import objective
from ast_jax.settings import Augment, Objective
from ast_jax.training.augment import MODEL_STREAM, example_keys, rows_of, stream
from ast_jax.training.step import Step, init_state, train_step

GRID = (5, 7)
CLIPS = 2000


def draws(freq: int = 0, time: int = 0, patches: int = 0) -> np.ndarray:
    """The kept patches of many clips."""
    keys = example_keys(0, jnp.int32(3), jnp.arange(CLIPS))
    one = functools.partial(patchout, grid=GRID, out=(freq, time, patches))
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_structured_patchout_leaves_whole_rows_and_columns():
    kept = draws(freq=2, time=3)
    assert kept.shape == (CLIPS, 3 * 4)
    rows, columns = kept // GRID[1], kept % GRID[1]
    for clip in range(50):
        crossing = {(row, column) for row in set(rows[clip]) for column in set(columns[clip])}
        assert {*zip(rows[clip], columns[clip], strict=True)} == crossing
        assert len({*rows[clip]}) == 3
        assert len({*columns[clip]}) == 4
    assert (np.diff(kept, axis=1) > 0).all()  # in order, none twice


@pytest.mark.parametrize(
    ("options", "stay"),
    [({"freq": 2, "time": 3}, 12), ({"patches": 15}, 20), ({"time": 1, "patches": 6}, 24)],
)
def test_every_patch_goes_as_often_as_any_other(options, stay):
    kept = draws(**options)
    assert kept.shape == (CLIPS, stay)
    counts = np.bincount(kept.reshape(-1), minlength=35)
    # binomial, an upper bound: draws exclude each other
    spread = np.sqrt(CLIPS * stay / 35 * (1 - stay / 35))
    assert np.abs(counts - CLIPS * stay / 35).max() < 4.5 * spread


def test_rows_and_columns_are_drawn_apart():
    kept = draws(freq=4, time=6)[:, 0]
    table = np.zeros(GRID)
    np.add.at(table, (kept // GRID[1], kept % GRID[1]), 1)
    assert stats.chi2_contingency(table).pvalue > 0.01


# 3 of 8 rows, 1 of 3 columns and 4 patches of the rest go
MODEL = ASTConfig(
    num_classes=4, num_frames=32, strides=(16, 8), width=16, depth=2, num_heads=2, patchout=(3, 1, 4)
)
KEPT = 5 * 2 - 4
MASKED = Augment(freq_mask=20)
STEP = Step(Kaldi(), objective(Objective()), MASKED, rows_of(MASKED))


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        "fbank": jnp.asarray(rng.normal(0, 1, (4, 32, 128)), jnp.float16),
        "length": jnp.full(4, 32, jnp.int32),
        "labels": jnp.eye(4, dtype=jnp.float32),
        "index": jnp.arange(4, dtype=jnp.int32),
        "mask": jnp.ones(4, jnp.float32),
    }


def tokens_seen(function, *arguments) -> set[int]:
    """How many tokens attention is asked about while `function` is traced with a form of it that counts."""
    seen = set()

    def counting(q, k, v):
        seen.add(k.shape[1])
        return attend(q, k, v)

    jax.eval_shape(functools.partial(function, forms=Kernels(attend=counting)), *arguments)
    return seen


def test_training_leaves_patches_out_and_evaluation_does_not(batch):
    graphdef, params, _ = split(abstract("ast", MODEL))
    optimizer = optax.sgd(1.0)
    step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, step=STEP)
    state = jax.eval_shape(lambda params: init_state(params, {}, optimizer), params)
    assert tokens_seen(step, state, batch) == {2 + KEPT}
    options = {"front_end": Kaldi(), "activation": "sigmoid", "loss": STEP.objective.per_clip}
    score = functools.partial(eval_step, graphdef=graphdef, **options)
    assert tokens_seen(score, params, batch) == {MODEL.num_tokens}


@pytest.fixture(scope="module")
def positions_felt(batch):
    """(step, index) -> which positions' gradient a training step on one clip moves, and which patches should
    stay."""
    model = AST(MODEL, rngs=nnx.Rngs(0))
    graphdef, params, _ = split(model)
    rng = np.random.default_rng(0)  # at std 0.2, so that every token matters
    params = {k: jnp.asarray(rng.normal(0, 0.2, v.shape), "f4") for k, v in host_variables(model).items()}
    optimizer = optax.sgd(1.0)
    one_step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, step=STEP)
    state = init_state(params, {}, optimizer)

    @jax.jit
    def run(number, rows):
        after, _ = one_step(state | {"step": number}, rows)
        keys = stream(example_keys(STEP.seed, number, rows["index"]), MODEL_STREAM)
        kept = jax.vmap(functools.partial(patchout, grid=MODEL.grid, out=MODEL.patchout))(keys)
        return (after["params"]["pos_embed"] != params["pos_embed"]).any(axis=-1)[0], kept

    def felt(number: int, index: int):
        # the clip asked for among rows that only fill a batch, at its place or at another
        rows = batch | {"mask": jnp.arange(4) == 2, "index": jnp.int32([90, 91, index, 92])}
        moved, kept = run(jnp.int32(number), rows | {"mask": rows["mask"].astype(jnp.float32)})
        return np.flatnonzero(moved), {0, 1, *(np.asarray(kept)[2] + 2)}

    return felt


def test_the_positions_of_patches_left_out_get_no_gradient(positions_felt):
    """A step depends on the positions of the patches that stay, and on no others; anew each step, for each
    clip apart."""
    moved, kept = positions_felt(0, 7)
    assert len(kept) == 2 + KEPT
    assert set(moved) == kept
    others = [positions_felt(number, index) for number, index in ((1, 7), (0, 8))]
    for again, patches in others:
        assert set(again) == patches != kept
