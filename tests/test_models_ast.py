"""The model's facts: parameter counts, token order, the exactness of its shortcuts, and what it refuses."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models import (
    AST,
    ASTConfig,
    abstract,
    build,
    host_variables,
    kernels_on,
    merge,
    num_parameters,
    set_variables,
    split,
    using,
)
from ast_jax.models.ast import patchout
from ast_jax.models.attention import attend
from ast_jax.models.base import Between, level_of
from ast_jax.models.ced import CED
from ast_jax.models.eat import EAT
from ast_jax.models.kernels import Kernels
from ast_jax.settings import Model, Run, Settings

TINY = ASTConfig(
    num_classes=5,
    num_frames=40,
    num_mel_bins=32,
    patch_shape=(8, 8),
    strides=(6, 7),
    width=24,
    depth=2,
    num_heads=3,
)

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time


@pytest.fixture(scope="module")
def model() -> AST:
    """Weights at std 0.2, biases too, so that a wrong term shows."""
    model = AST(TINY, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    set_variables(
        model,
        {
            path: rng.normal(0, 0.2, value.shape).astype(np.float32)
            for path, value in host_variables(model).items()
        },
    )
    return model


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(0, 0.5, (2, 40, 32)), jnp.float32)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # the recipe document, section 3
        (ASTConfig(), 86_594_063),
        (ASTConfig.variant("small"), 22_063_631),
        (ASTConfig.variant("tiny"), 5_723_663),
        (ASTConfig(num_classes=50, num_frames=512), 85_757_234),
        (ASTConfig(num_classes=35, num_frames=128), 85_395_491),
    ],
)
def test_parameter_counts(config, parameters):
    assert num_parameters(abstract("ast", config)) == parameters


def test_default_is_the_papers_audioset_model():
    config = ASTConfig()
    assert config.grid == (12, 101)
    assert config.num_tokens == 1214
    # the reference's: timm's blocks, PyTorch's default in the head
    assert (config.norm_eps, config.head_norm_eps) == (1e-6, 1e-5)
    assert (config.num_classes, config.num_frames, config.num_mel_bins, config.dtype) == (
        527,
        1024,
        128,
        "float32",
    )


@pytest.mark.parametrize(
    ("patch_shape", "strides", "grid"),
    [
        ((16, 16), (16, 16), (8, 64)),
        ((32, 32), (32, 32), (4, 32)),
        ((128, 2), (128, 2), (1, 512)),
        ((16, 16), (10, 12), (12, 85)),
    ],
)
def test_grids_of_the_papers_patch_shapes(patch_shape, strides, grid):
    assert ASTConfig(patch_shape=patch_shape, strides=strides).grid == grid


def test_logits_are_float32_of_the_right_shape(model, x):
    logits, _ = model(x)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32


def test_what_was_computed_on_the_way(model, x):
    """`embedding` is what the head reads: of the last block for two tokens alone, where `tokens` are of
    all."""
    logits, out = model(x)
    tokens, (rows, columns) = out["tokens"], TINY.grid
    assert tokens.shape == (2, TINY.num_tokens, 24)
    # float32 rounding only: the same sums in another order
    np.testing.assert_allclose(out["embedding"], tokens[:, :2].mean(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, model.head(model.head_norm(out["embedding"])), rtol=1e-5, atol=1e-5)
    by_place = tokens[:, 2:].reshape(2, rows, columns, 24)  # frequency-major
    np.testing.assert_array_equal(out["sequence"], by_place.mean(axis=1))
    assert len(out["layers"]) == TINY.depth + 1
    np.testing.assert_array_equal(out["layers"][-1]["embedding"], tokens[:, :2].mean(axis=1))
    first = out["layers"][0]  # what the first block sees
    assert first["embedding"].shape == (2, 24)
    assert first["sequence"].shape == (2, columns, 24)
    assert model.time_steps == (8, 7, columns)  # frames a patch sees, frames to the next, steps


def test_attention_weights_are_those_the_blocks_use(model, x):
    asked = []

    def noted(q, k, v):
        asked.append((np.asarray(q, np.float64), np.asarray(k, np.float64)))
        return attend(q, k, v)

    with using(Kernels(attend=noted)):
        logits, out = model(x, attention=True)
    whole = [(q, k) for q, k in asked if q.shape == k.shape]  # not the last block's for two tokens alone
    scores = np.stack([np.einsum("bqhk,bnhk->bhqn", q, k) / np.sqrt(8) for q, k in whole], axis=1)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert weights.shape == (2, TINY.depth, TINY.num_heads, TINY.num_tokens, TINY.num_tokens)
    np.testing.assert_allclose(out["attention"], weights, atol=1e-5)
    with using(Kernels()):
        np.testing.assert_array_equal(logits, model(x)[0])


@pytest.mark.parametrize("forms", ["plain", "cpu"])
def test_forward_pass_against_a_direct_statement(model, x, forms):
    with using(Kernels() if forms == "plain" else kernels_on(jax.devices("cpu")[0])):
        logits, _ = model(x)
    wanted = direct(host_variables(model), np.asarray(x, np.float64), TINY)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def direct(p: dict, x: np.ndarray, config: ASTConfig) -> np.ndarray:
    """The same model in plain float64 NumPy, patch by patch."""
    from scipy.special import erf, softmax

    def norm(y, name, eps):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + eps)
        return y * p[f"{name}/scale"] + p[f"{name}/bias"]

    linear = lambda y, name: y @ p[f"{name}/kernel"] + p[f"{name}/bias"]
    (pf, pt), (sf, st), (f_dim, t_dim) = config.patch_shape, config.strides, config.grid
    patches = [
        np.einsum(
            "btf,ftd->bd", x[:, t * st : t * st + pt, f * sf : f * sf + pf], p["patch_embed/kernel"][:, :, 0]
        )
        for f in range(f_dim)  # frequency-major: token = f x t_dim + t
        for t in range(t_dim)
    ]
    prefix = [
        np.repeat(p[name][0], len(x), 0) for name in ("cls_token", "dist_token")[: config.num_prefix_tokens]
    ]
    y = np.stack(prefix + [patch + p["patch_embed/bias"] for patch in patches], 1) + p["pos_embed"]
    for i in range(config.depth):
        q, k, v = np.split(
            linear(norm(y, f"blocks/{i}/norm1", config.norm_eps), f"blocks/{i}/attention/qkv"), 3, -1
        )
        heads = lambda z: z.reshape(len(x), -1, config.num_heads, config.width // config.num_heads).transpose(
            0, 2, 1, 3
        )
        scores = heads(q) @ heads(k).transpose(0, 1, 3, 2) / np.sqrt(config.width // config.num_heads)
        mixed = (softmax(scores, -1) @ heads(v)).transpose(0, 2, 1, 3).reshape(y.shape)
        y = y + linear(mixed, f"blocks/{i}/attention/proj")
        hidden = linear(norm(y, f"blocks/{i}/norm2", config.norm_eps), f"blocks/{i}/mlp/fc1")
        y = y + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"blocks/{i}/mlp/fc2")
    y = norm(y, "norm", config.norm_eps)[:, : config.num_prefix_tokens].mean(1)
    return linear(norm(y, "head_norm", config.head_norm_eps), "head")


def test_class_only_model(x):
    config = dataclasses.replace(TINY, distilled=False)
    model = AST(config, rngs=nnx.Rngs(3))
    assert "dist_token" not in host_variables(model)
    logits, out = model(x)
    assert out["tokens"].shape[1] == 1 + 5 * 5
    wanted = direct(host_variables(model), np.asarray(x, np.float64), config)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["dots", "blocks"])
def test_remat_gives_the_same_gradients(model, x, policy):
    again = AST(dataclasses.replace(TINY, remat=policy), rngs=nnx.Rngs(0))
    set_variables(again, host_variables(model))
    grads = [
        jax.jit(jax.grad(lambda p, g=g: (merge(g, p)(x)[0] ** 2).sum()), compiler_options=QUICK)(p)
        for g, p, _ in (split(model), split(again))
    ]
    for path, value in grads[0].items():
        # recomputed in another fusion: rounding of sums whose terms are up to 1e2
        np.testing.assert_allclose(grads[1][path], value, rtol=1e-3, atol=1e-3, err_msg=path)


def test_remat_stores_less_the_more_it_recomputes():
    """Arrays that the backward pass finds stored, at a length where tokens outweigh parameters."""

    def stored(policy) -> int:
        config = dataclasses.replace(TINY, num_frames=400, remat=policy)
        graphdef, params, _ = split(abstract("ast", config))
        loss = lambda params, x: merge(graphdef, params)(x)[0].sum()
        shapes = jax.eval_shape(lambda p, x: jax.vjp(loss, p, x)[1], params, jnp.zeros((8, 400, 32)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    assert stored("blocks") < 0.5 * stored("dots") < 0.25 * stored("none")


@pytest.mark.parametrize("forms", ["plain", "cpu"])
def test_only_forms_that_are_asked_for_are_taken(model, x, forms):
    """The plain program holds nothing that a converter, another backend or forward-mode derivatives cannot
    take."""
    graphdef, params, _ = split(model)
    run = jax.jit(lambda params: merge(graphdef, params)(x)[0])
    with using(Kernels() if forms == "plain" else kernels_on(jax.devices("cpu")[0])):
        text = str(jax.make_jaxpr(run)(params))
    assert ("optimization_barrier" in text) == (forms == "cpu")
    assert "platform_index" not in text  # a choice between devices, which no converter can read


def test_kept_patches_alone_are_seen(model, x):
    """Logits of the patches that stay equal those of a model whose attention cannot see the others."""
    cut = AST(dataclasses.replace(TINY, patchout=(2, 1, 5)), rngs=nnx.Rngs(0))
    set_variables(cut, host_variables(model))
    np.testing.assert_array_equal(cut(x)[0], model(x)[0])  # evaluation sees all
    keys = jax.random.split(jax.random.key(0), 2)
    keep = np.stack([patchout(key, grid=TINY.grid, out=(2, 1, 5)) for key in keys])
    seen = np.zeros((2, TINY.num_tokens), bool)
    seen[:, :2] = True
    np.put_along_axis(seen, keep + 2, True, axis=1)
    assert (seen.sum(axis=1) == 2 + 3 * 4 - 5).all()

    def blind(q, k, v):
        scores = jnp.einsum("bqhk,bnhk->bhqn", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf))
        return jnp.einsum("bhqn,bnhk->bqhk", weights, v)

    with using(Kernels(attend=blind)):
        wanted, _ = model(x)
    got, out = cut(x, key=keys)
    np.testing.assert_allclose(got, wanted, atol=1e-4)  # float32, sums reordered
    assert np.abs(got - model(x)[0]).max() > 1e-2
    assert out["tokens"].shape[1] == seen[0].sum()


# ---- Derivatives of every kind, and layers put in from outside


def test_forward_mode_and_hessian_vector_products_of_the_plain_forms(model, x):
    """Of the logits' squares along one direction: jax.jvp is the gradient's share of it, and the hessian's
    product with it is the change of the gradient."""
    graphdef, params, _ = split(model)
    rng = np.random.default_rng(0)
    along = {path: jnp.asarray(rng.normal(size=value.shape), jnp.float32) for path, value in params.items()}

    def loss(params):
        with using(Kernels()):
            return (merge(graphdef, params)(x)[0] ** 2).mean()

    dot = lambda a, b: sum(np.vdot(np.float64(a[path]), np.float64(b[path])) for path in a)
    grad = jax.jit(jax.grad(loss), compiler_options=QUICK)
    _, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (along,)), compiler_options=QUICK)(params)
    assert float(slope) == pytest.approx(dot(grad(params), along), rel=1e-4)
    curved = jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (along,))[1], compiler_options=QUICK)(params)
    step = 1e-3
    moved = lambda by: {path: value + by * along[path] for path, value in params.items()}
    ahead, behind = grad(moved(step)), grad(moved(-step))
    change = dot({path: (np.float64(ahead[path]) - behind[path]) / (2 * step) for path in ahead}, along)
    # a central difference of float32 gradients: 1e-7 of their size over the step, and its own error of step^2
    assert dot(curved, along) == pytest.approx(change, rel=2e-2)


@pytest.mark.parametrize("forms", ["plain", "cpu"])
def test_a_layer_put_in_the_last_block_is_heard(model, x, forms):
    """A low-rank adapter around a linear layer changes the logits and gets a gradient, as one in any block
    does."""
    again = AST(TINY, rngs=nnx.Rngs(0))
    set_variables(again, host_variables(model))
    attention = again.blocks[-1].attention
    attention.qkv = nnx.LoRA(24, 4, 72, base_module=attention.qkv, rngs=nnx.Rngs(1))

    def total(adapted, x):
        return (adapted(x)[0] ** 2).sum()

    with using(Kernels() if forms == "plain" else kernels_on(jax.devices("cpu")[0])):
        before = model(x)[0]
        np.testing.assert_allclose(again(x)[0], before, atol=1e-5)  # one of its factors is 0
        gradient = nnx.grad(total, argnums=nnx.DiffState(0, nnx.LoRAParam))(again, x)
        factor = attention.qkv.lora_b
        factor[...] = jax.random.normal(jax.random.key(0), factor.shape)
        assert np.abs(again(x)[0] - before).max() > 1e-2
    slopes = gradient["blocks"][TINY.depth - 1]["attention"]["qkv"]["lora_b"][...]
    assert np.abs(slopes).max() > 1e-3


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_float32(model, x):
    half = AST(dataclasses.replace(TINY, dtype="bfloat16"), rngs=nnx.Rngs(0))
    set_variables(half, host_variables(model))
    assert {value.dtype for value in host_variables(half).values()} == {np.dtype(np.float32)}
    stream, products = set(), set()
    product = lambda a, b, *rest, **more: (
        products.add((a.dtype, b.dtype)) or jax.lax.dot_general(a, b, *rest, **more)
    )
    with using(Kernels(residual=lambda y: stream.add(y.dtype) or y, linear=product)):
        logits, out = half(x)
    assert stream == {jnp.dtype(jnp.float32)}
    assert products == {(jnp.dtype(jnp.bfloat16),) * 2}
    assert logits.dtype == out["embedding"].dtype == out["tokens"].dtype == jnp.float32
    assert 0 < float(jnp.abs(logits - model(x)[0]).max()) < 0.1  # bfloat16 has 8 bits: 0.4 % an operation


def test_drop_path_leaves_each_half_of_a_block_out_and_makes_up_for_it(x):
    config = dataclasses.replace(TINY, depth=3, drop_path=0.5)
    model = AST(config, rngs=nnx.Rngs(0))
    assert [block.drop_path for block in model.blocks] == [0.0, 0.25, 0.5]
    block, tokens = model.blocks[2], jax.random.normal(jax.random.key(0), (16, 7, TINY.width))
    attended = tokens + 2 * block.attention(block.norm1(tokens))
    whole = attended + 2 * block.mlp(block.norm2(attended))
    ways = [tokens, attended, tokens + 2 * block.mlp(block.norm2(tokens)), whole]
    found = block(tokens, None, jax.random.split(jax.random.key(1), 16))
    nearest = [int(np.argmin([jnp.abs(found[i] - way[i]).max() for way in ways])) for i in range(16)]
    # of 16 clips each way is taken by about 4
    assert set(nearest) == {0, 1, 2, 3}
    for i, way in enumerate(nearest):
        np.testing.assert_allclose(found[i], ways[way][i], rtol=1e-5, atol=1e-5)
    keys = jax.random.split(jax.random.key(2), len(x))
    assert np.array_equal(model(x)[0], model(x)[0])
    assert not np.array_equal(model(x, key=keys)[0], model(x)[0])
    for remat in ("dots", "blocks"):
        again = AST(dataclasses.replace(config, remat=remat), rngs=nnx.Rngs(0))
        np.testing.assert_allclose(again(x, key=keys)[0], model(x, key=keys)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="drop_path 1"):
        dataclasses.replace(TINY, drop_path=1.0)


def padded(x, frames):
    """Clips that end after so many frames; the rest is one value."""
    return x.at[:, frames:].set(0.3)


def without(model, x, heard):
    """The same blocks over the tokens that are heard alone, clip by clip."""
    tokens, found = model._embed(x), []
    for clip, own in zip(tokens, heard, strict=True):
        y = clip[own][None]
        for block in model.blocks:
            y = block(y)
        found.append(y[:, : model.config.num_prefix_tokens or None])
    return jnp.stack([model.norm(y).mean(axis=1)[0] for y in found])


@pytest.mark.parametrize("kind", [AST, CED, EAT], ids=["ast", "ced", "eat"])
def test_patches_whose_cells_are_all_the_same_are_left_out_of_attention_and_means(x, kind):
    fields = {field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)}
    config = kind.Config(**fields | {"mask_even": True, "distilled": kind is AST})
    model = kind(config, rngs=nnx.Rngs(0))
    short = padded(x, 22)
    # columns of 8 frames, 7 apart: those from frame 28 on hold nothing, and the fourth begins at 21
    heard = np.ones((len(x), *config.grid), bool)
    heard[:, :, 4:] = False
    prefix = np.ones((len(x), config.num_prefix_tokens), bool)
    heard = np.concatenate([prefix, heard.reshape(len(x), -1)], axis=1)
    seen = short
    if kind is CED:
        # each band in its own way, after which padding is not even
        model.input_norm.mean[...] = jnp.linspace(-1, 1, 32)
        seen = model.input_norm(short)
    logits, out = model(short, attention=True)
    np.testing.assert_allclose(out["embedding"], without(model, seen, heard), rtol=2e-5, atol=2e-6)
    assert not out["attention"][:, :, :, :, ~heard[0]].any()
    np.testing.assert_allclose(out["attention"].sum(axis=-1), 1, rtol=1e-5)
    plain = kind(dataclasses.replace(config, mask_even=False), rngs=nnx.Rngs(0))
    set_variables(plain, host_variables(model))
    assert np.abs(plain(short)[0] - logits).max() > 1e-3
    # nothing to leave out, and nothing else than that
    for same in (x, jnp.zeros_like(x)):
        np.testing.assert_allclose(model(same)[0], plain(same)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(same)[1]["sequence"], plain(same)[1]["sequence"], rtol=1e-5, atol=1e-6)
    if kind is CED:
        # mixed behind that norm: what either has is heard, and a mask over all of both is not
        pairs = jnp.stack([short[0], padded(x, 12)[1]])
        both = Between(lambda x: x.at[:, :8].set(0), lambda x: x.reshape(-1, 2, *x.shape[1:]).mean(axis=1))
        seen = both.mix(both.augment(model.input_norm(pairs)))
        columns = heard[:1].reshape(1, *config.grid) & (np.arange(config.grid[1]) > 0)
        found = model(pairs, between=both)[1]["embedding"]
        wanted = without(model, seen, columns.reshape(1, -1))
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_what_is_not_heard_is_left_out_beside_patchout_and_when_blocks_are_computed_again(x):
    config = dataclasses.replace(TINY, patchout=(1, 2, 3), mask_even=True)
    # few clips: each has a number of tokens of its own
    short, keys = padded(x[:2], 22), jax.random.split(jax.random.key(0), 2)
    model = AST(config, rngs=nnx.Rngs(0))
    drawn = jax.vmap(lambda key: patchout(key, grid=config.grid, out=config.patchout))(keys) + 2
    kept = np.zeros((len(short), config.num_tokens), bool)
    kept[:, :2] = True
    np.put_along_axis(kept, np.asarray(drawn), True, axis=1)
    heard = np.asarray(model._heard(short)) & kept
    assert heard.sum() < kept.sum()
    np.testing.assert_allclose(
        model(short, key=keys)[1]["embedding"], without(model, short, heard), rtol=2e-5, atol=2e-6
    )
    graphdef, params, _ = split(AST(dataclasses.replace(config, remat="blocks"), rngs=nnx.Rngs(0)))

    def total(params):
        logits = merge(graphdef, params)(short, key=keys)[0]
        return (logits**2).sum(), logits

    slopes, logits = jax.jit(jax.grad(total, has_aux=True), compiler_options=QUICK)(params)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(slopes))
    np.testing.assert_allclose(logits, model(short, key=keys)[0], rtol=1e-5, atol=1e-6)


def test_initial_weights_are_the_references():
    params = host_variables(
        AST(ASTConfig(width=192, depth=1, num_heads=3, num_classes=100), rngs=nnx.Rngs(0))
    )
    for path, std in {
        "blocks/0/attention/qkv/kernel": 0.02,
        "pos_embed": 0.02,
        "blocks/0/mlp/fc1/kernel": 0.02,
    }.items():
        assert params[path].std() == pytest.approx(std, rel=0.02)
    for path, bound in {
        "patch_embed/kernel": 1 / 16,
        "patch_embed/bias": 1 / 16,
        "head/kernel": 192**-0.5,
    }.items():
        assert np.abs(params[path]).max() <= bound
        assert params[path].std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    assert not params["blocks/0/mlp/fc1/bias"].any()


def test_a_recipe_decides_the_shape_and_an_older_card_is_brought_up_to_date():
    settings = Settings(
        run=Run(num_frames=64), model=Model(variant="tiny", depth=3, dtype="bfloat16", remat="dots")
    )
    wanted = {"num_classes": 7, "num_frames": 64, "depth": 3, "dtype": "bfloat16", "remat": "dots"}
    assert ASTConfig.from_settings(settings, num_classes=7) == ASTConfig.variant("tiny", **wanted)
    assert ASTConfig.upgraded({"width": 12, "mlp_ratio": 3, "remat": True}) == {
        "width": 12,
        "mlp_width": 36,
        "remat": "blocks",
    }
    assert ASTConfig.upgraded({"remat": False, "mlp_width": 9}) == {"remat": "none", "mlp_width": 9}


def test_levels_go_from_the_patches_to_the_head():
    """A block's number is a whole word: blocks/1 is not the beginning of blocks/10."""
    model = abstract("ast", dataclasses.replace(TINY, depth=12))
    level = lambda path: level_of(model.levels, path)
    assert [level(path) for path in ("patch_embed/kernel", "cls_token", "dist_token", "pos_embed")] == [0] * 4
    assert [level(f"blocks/{i}/mlp/fc1/kernel") for i in range(12)] == list(range(1, 13))
    assert (level("norm/scale"), level("head_norm/scale"), level("head/bias")) == (13, 14, 14)
    with pytest.raises(InputError, match="is of no level"):
        level("head_of_another/kernel")


def test_a_seed_decides_the_weights():
    first, again, other = (host_variables(build("ast", TINY, seed=seed)) for seed in (1, 1, 2))
    for path in ("head/kernel", "pos_embed"):
        np.testing.assert_array_equal(first[path], again[path])
        assert (first[path] != other[path]).all()


def test_arrays_put_in_take_the_models_types(model):
    half = {path: value.astype(np.float16) for path, value in host_variables(model).items()}
    again = AST(TINY, rngs=nnx.Rngs(0))
    set_variables(again, half)
    assert {value.dtype for value in host_variables(again).values()} == {np.dtype(np.float32)}


def test_wrong_length_says_what_was_wanted(model):
    with pytest.raises(InputError, match=r"40 frames, 32 mel bins\], got \[2, 41, 32\]"):
        model(jnp.zeros((2, 41, 32)))


@pytest.mark.parametrize(
    "wrong",
    [{"num_heads": 5}, {"remat": "some"}, {"dtype": "float16"}, {"strides": (0, 1)}, {"num_frames": 7}]
    + [{"patchout": wrong} for wrong in ((5, 0, 0), (0, 5, 0), (4, 4, 1), (0, 0, 25), (0, 0, -1))],
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(TINY, **wrong)


def test_set_variables_lists_everything_that_does_not_fit(model):
    params = host_variables(model)
    del params["cls_token"]
    params["extra"] = np.zeros(1, np.float32)
    params["head/bias"] = np.zeros(7, np.float32)
    with pytest.raises(
        InputError,
        match=r"3 arrays do not fit.*cls_token is missing.*extra is unknown.*head/bias has shape \(7,\)",
    ):
        set_variables(model, params)
