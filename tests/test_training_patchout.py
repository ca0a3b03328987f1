"""Patchout: which patches stay, how they are drawn, and that a training step, and only that, leaves the others out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from ast_jax.evaluation.evaluate import eval_step
from ast_jax.models import AST, ASTConfig, merge, split
from ast_jax.models.attention import attend
from ast_jax.training.augment import example_keys, patchout
from ast_jax.training.step import Recipe, init_state, kept_patches, train_step

GRID = (5, 7)
CLIPS = 2000


def draws(**options) -> np.ndarray:
    """The kept patches of many clips."""
    keys = example_keys(0, jnp.int32(3), jnp.arange(CLIPS))
    return np.asarray(jax.jit(jax.vmap(lambda key: patchout(key, GRID, **options)))(keys))


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
    spread = np.sqrt(
        CLIPS * stay / 35 * (1 - stay / 35)
    )  # binomial, an upper bound: draws exclude each other
    assert np.abs(counts - CLIPS * stay / 35).max() < 4.5 * spread


def test_rows_and_columns_are_drawn_apart():
    kept = draws(freq=4, time=6)[:, 0]
    table = np.zeros(GRID)
    np.add.at(table, (kept // GRID[1], kept % GRID[1]), 1)
    assert stats.chi2_contingency(table).pvalue > 0.01


MODEL = ASTConfig(num_classes=4, num_frames=32, strides=(16, 8), width=16, depth=2, num_heads=2)
RECIPE = Recipe(mean=0.0, std=0.5, freq_mask=20, patchout=(3, 1, 4))  # of 8 rows and 3 columns


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


def test_a_clip_is_cut_the_same_in_any_batch_and_anew_each_step(batch):
    draw_from = jax.jit(lambda index, step: kept_patches({"index": index}, step, RECIPE, MODEL.grid))
    draw = lambda step, rows: np.asarray(draw_from(batch["index"][rows], jnp.int32(step)))
    whole = draw(0, slice(0, 4))
    assert whole.shape == (4, 5 * 2 - 4)
    np.testing.assert_array_equal(draw(0, slice(1, 3)), whole[1:3])
    assert (draw(1, slice(0, 4)) != whole).any()
    assert len({tuple(row) for row in whole}) > 1
    assert (
        kept_patches(batch, jnp.int32(0), dataclasses.replace(RECIPE, patchout=(0, 0, 0)), MODEL.grid) is None
    )


def tokens_seen(function, *arguments) -> set[int]:
    """How many tokens attention is asked about while `function` is traced with a form of it that counts."""
    seen = set()

    def counting(q, k, v):
        seen.add(k.shape[1])
        return attend(q, k, v)

    jax.eval_shape(functools.partial(function, attend=counting), *arguments)
    return seen


def test_training_leaves_patches_out_and_evaluation_does_not(batch):
    graphdef, params = split(nnx.eval_shape(lambda: AST(MODEL, rngs=nnx.Rngs(0))))
    optimizer = optax.sgd(1.0)
    step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, recipe=RECIPE)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    assert tokens_seen(step, state, batch) == {2 + 5 * 2 - 4}
    score = functools.partial(eval_step, graphdef=graphdef, mean=0.0, std=0.5, loss="bce")
    assert tokens_seen(score, params, batch) == {MODEL.num_tokens}


def test_the_positions_of_patches_left_out_get_no_gradient(batch):
    """What the first block sees of one clip: it depends on the positions of the patches that stay, and on no others."""
    graphdef, shapes = split(nnx.eval_shape(lambda: AST(MODEL, rngs=nnx.Rngs(0))))
    params = {path: np.ones(leaf.shape, np.float32) for path, leaf in shapes.items()}

    def first(positions, batch):
        keep = kept_patches(batch, jnp.int32(0), RECIPE, MODEL.grid)
        model = merge(graphdef, params | {"pos_embed": positions})
        return model.embed(batch["fbank"].astype(jnp.float32), keep).sum(), keep

    one = {key: value[:1] for key, value in batch.items()}
    gradient, keep = jax.jit(jax.grad(first, has_aux=True))(params["pos_embed"], one)
    expected = np.zeros(MODEL.num_tokens, bool)
    expected[:2] = True
    expected[np.asarray(keep[0]) + 2] = True
    np.testing.assert_array_equal(np.asarray(gradient)[0].any(axis=-1), expected)
