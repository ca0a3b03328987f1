"""The model's facts: parameter counts, token order, the exactness of its shortcuts, and what it refuses."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, host_variables, merge, normalise, set_variables, split

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


def count(config: ASTConfig) -> int:
    shapes = nnx.eval_shape(lambda: AST(config, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in split(shapes)[1].values())


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
    assert count(config) == parameters


def test_default_is_the_papers_audioset_model():
    config = ASTConfig()
    assert config.grid == (12, 101)
    assert config.num_tokens == 1214
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
    logits = model(x)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32


def test_cutting_the_last_block_changes_nothing(model, x):
    # float32 rounding only: the same sums in another order
    np.testing.assert_allclose(model(x), model.classify(model.tokens(x)), rtol=1e-5, atol=1e-5)


def test_forward_pass_against_a_direct_statement(model, x):
    np.testing.assert_allclose(
        model(x), direct(host_variables(model), np.asarray(x, np.float64), TINY), rtol=1e-4, atol=1e-4
    )


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
    assert model.tokens(x).shape[1] == 1 + 5 * 5
    np.testing.assert_allclose(
        model(x), direct(host_variables(model), np.asarray(x, np.float64), config), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("policy", ["dots", "blocks"])
def test_remat_gives_the_same_gradients(model, x, policy):
    again = AST(dataclasses.replace(TINY, remat=policy), rngs=nnx.Rngs(0))
    set_variables(again, host_variables(model))
    grads = [
        jax.jit(jax.grad(lambda p, g=g: (merge(g, p)(x) ** 2).sum()), compiler_options=QUICK)(p)
        for g, p in (split(model), split(again))
    ]
    for path, value in grads[0].items():
        # recomputed in another fusion: rounding of sums whose terms are up to 1e2
        np.testing.assert_allclose(grads[1][path], value, rtol=1e-3, atol=1e-3, err_msg=path)


def test_remat_stores_less_the_more_it_recomputes():
    """Arrays that the backward pass finds stored, at a length where tokens outweigh parameters."""

    def stored(policy) -> int:
        config = dataclasses.replace(TINY, num_frames=400, remat=policy)
        graphdef, params = split(AST(config, rngs=nnx.Rngs(0)))
        loss = lambda params, x: merge(graphdef, params)(x).sum()
        shapes = jax.eval_shape(lambda p, x: jax.vjp(loss, p, x)[1], params, jnp.zeros((8, 400, 32)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    assert stored("blocks") < 0.5 * stored("dots") < 0.25 * stored("none")


def test_what_products_read_is_stored_on_cpus_alone(model, x):
    """In the program for CPUs: what linear layers read (four a block, the last one's query apart) and two gradients a block."""
    graphdef, params = split(model)
    loss = jax.jit(jax.grad(lambda params: merge(graphdef, params)(x).sum())).trace(params)
    barriers = {
        p: loss.lower(lowering_platforms=(p,)).as_text().count("optimization_barrier") for p in ("cpu", "tpu")
    }
    assert barriers == {"cpu": (4 + 2) * TINY.depth + 1, "tpu": 0}


def test_kept_patches_alone_are_seen(model, x):
    """Logits of the patches that stay equal those of a model whose attention cannot see the others; all in order: the same."""
    patches = math.prod(TINY.grid)
    everything = jnp.tile(jnp.arange(patches), (2, 1))
    np.testing.assert_array_equal(model.embed(x, everything), model.embed(x))
    keep = jnp.array([[0, 3, 7, 20], [1, 2, 5, 24]])
    seen = jnp.zeros((2, 2 + patches), bool).at[:, :2].set(True)
    seen = seen.at[jnp.arange(2)[:, None], keep + 2].set(True)

    def blind(q, k, v):
        scores = jnp.einsum("bqhk,bnhk->bhqn", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf))
        return jnp.einsum("bhqn,bnhk->bqhk", weights, v)

    np.testing.assert_allclose(
        model(x, keep=keep), model(x, attend=blind), atol=1e-4
    )  # float32, sums reordered
    assert np.abs(model(x, keep=keep) - model(x)).max() > 1e-2


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_float32(model, x):
    half = AST(dataclasses.replace(TINY, dtype="bfloat16"), rngs=nnx.Rngs(0))
    set_variables(half, host_variables(model))
    assert {value.dtype for value in host_variables(half).values()} == {np.dtype(np.float32)}
    assert half.blocks[0](half.embed(x)).dtype == jnp.bfloat16
    logits = half(x)
    assert logits.dtype == jnp.float32
    assert 0 < float(jnp.abs(logits - model(x)).max()) < 0.1  # bfloat16 has 8 bits: 0.4 % an operation


def test_initial_weights_are_the_references():
    params = host_variables(AST(ASTConfig(width=192, depth=1, num_heads=3, num_classes=100), rngs=nnx.Rngs(0)))
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


def test_normalise_halves_the_scale():
    assert float(normalise(jnp.float32(0), -4.2677393, 4.5689974)) == pytest.approx(
        0.467, abs=5e-4
    )  # padding
    assert float(normalise(jnp.float32(-15.942), -4.2677393, 4.5689974)) == pytest.approx(
        -1.278, abs=5e-4
    )  # silence


def test_wrong_length_says_what_was_wanted(model):
    with pytest.raises(InputError, match=r"40 frames, 32 mel bins\], got \[2, 41, 32\]"):
        model(jnp.zeros((2, 41, 32)))


@pytest.mark.parametrize(
    "wrong",
    [{"num_heads": 5}, {"remat": "some"}, {"dtype": "float16"}, {"strides": (0, 1)}, {"num_frames": 7}],
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
        InputError, match=r"3 parameters.*cls_token is missing.*extra is unknown.*head/bias has shape \(7,\)"
    ):
        set_variables(model, params)
