"""Attention in its forms: each against the plain one, gradients included, and the choice by device."""

import functools
import re
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ast_jax.models import attention, cpu
from ast_jax.models.kernels import PLAIN, kernels_on

TOKENS, HEADS, HEAD_SIZE = 30, 2, 8
splash = functools.partial(attention.splash_attention, interpret=True)


def qkv(tokens: int = TOKENS, dtype=jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(2, tokens, HEADS, HEAD_SIZE)), dtype) for _ in range(3))


def value_and_grads(attend):
    """The output and the gradients of a sum that weighs each entry differently."""
    weights = jnp.arange(HEAD_SIZE, dtype=jnp.float32)[None, None, None]

    def total(q, k, v):
        out = attend(q, k, v).astype(jnp.float32)
        return (out * weights).sum(), out

    return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))


def direct(q, k, v):
    """The definition, in float64 NumPy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bqhk,bnhk->bhqn", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqn,bnhk->bqhk", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("rows", [TOKENS, 2])
def test_the_plain_form_is_the_definition(rows):
    q, k, v = qkv()
    np.testing.assert_allclose(attention.attend(q[:, :rows], k, v), direct(q[:, :rows], k, v), atol=1e-6)


@pytest.mark.parametrize("attend", [attention.attend, cpu.attend], ids=["plain", "cpu"])
def test_the_softmax_stays_in_float32(attend):
    """Scores of 1000 tokens that are all but equal: weights of 1/1000, which bfloat16's softmax would blur by
    0.4 %."""
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 1000, 1, 8)) * 0.3, jnp.bfloat16) for _ in range(2))
    v = jnp.ones((1, 1000, 1, 8), jnp.bfloat16)
    text = jax.jit(attend).lower(q, k, v).as_text()
    assert "stablehlo.exponential" in text
    assert not [line for line in text.splitlines() if "exponential" in line and "bf16" in line]
    # each of 1000 weights is rounded to bfloat16 on its own, 2^-9 of it: the errors average out
    np.testing.assert_allclose(attend(q, k, v).astype(jnp.float32), 1.0, atol=4e-3)


def test_tokens_for_tpus_are_padded_to_what_large_tiles_divide():
    wanted = {1: (128, 128), 474: (512, 512), 641: (768, 384), 1214: (1280, 640), 1281: (1536, 512)}
    assert {tokens: attention.tiled(tokens) for tokens in wanted} == wanted
    for tokens in range(1, 5000):
        padded, tile = attention.tiled(tokens)
        assert padded % tile == 0
        assert tokens <= padded < tokens + 3 * 128
        assert tile >= 256 or padded == tile == 128


@pytest.mark.parametrize("wrap", [False, True], ids=["one device", "under a mesh"])
def test_splash_attention_is_the_plain_form(wrap):
    """30 tokens padded to 128, so the padding's segment matters. 1e-6: the same sums in float32, tile by
    tile."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    ours = attention.on_each_device(splash, mesh) if wrap else splash
    (grads, out), (want_grads, want) = (
        value_and_grads(ours)(*qkv()),
        value_and_grads(attention.attend)(*qkv()),
    )
    np.testing.assert_allclose(out, want, atol=1e-6)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6 * float(jnp.abs(expected).max()) + 1e-6)


@pytest.mark.parametrize("at_once", [True, False], ids=["all heads", "head by head"])
@pytest.mark.parametrize("rows", [TOKENS, 2])
def test_attention_for_cpus_is_the_plain_form(monkeypatch, rows, at_once):
    """Scores up to 120: a softmax that lost its maximum would overflow. 1e-5: what float32 leaves of
    such a score."""
    monkeypatch.setattr(cpu, "_CACHE", 1 << 30 if at_once else 0)
    q, k, v = qkv()
    q = 24 * q[:, :rows]
    grads, out = value_and_grads(cpu.attend)(q, k, v)
    want_grads, want = value_and_grads(attention.attend)(q, k, v)
    np.testing.assert_allclose(out, want, atol=1e-5)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_attention_for_cpus_in_16_bits_is_as_close_to_the_definition_as_the_plain_form():
    q, k, v = qkv(dtype=jnp.bfloat16)
    truth = direct(*(x.astype(jnp.float32) for x in (q, k, v)))
    error = lambda attend: np.abs(np.asarray(attend(q, k, v), np.float64) - truth).max()
    assert error(cpu.attend) <= 1.5 * error(attention.attend)


@pytest.mark.parametrize("tokens", [1214, 146])
def test_splash_attention_compiles_to_its_kernels_for_tpus(tokens):
    """Lowered here, without a TPU, at AST-base's shape: forward, and backward for queries and for keys with
    values."""
    shape = jax.ShapeDtypeStruct((2, tokens, 12, 64), jnp.bfloat16)
    grad = jax.grad(lambda q, k, v: attention.splash_attention(q, k, v).astype(jnp.float32).sum(), (0, 1, 2))
    text = jax.jit(grad).trace(shape, shape, shape).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's kernel is traced as if an H100 with cuDNN 9.10 were here: tracing asks the machine."""
    from jax._src.cudnn import fused_attention_stablehlo as kernel

    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernel, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(kernel, "is_cuda_compute_capability_equal", lambda _: False)


@pytest.mark.parametrize(
    ("tokens", "dtype", "kernels"), [(30, jnp.bfloat16, 2), (31, jnp.bfloat16, 2), (30, jnp.float32, 0)]
)
def test_flash_attention_is_cudnns_in_16_bits_and_plain_in_32(cudnn, tokens, dtype, kernels):
    """Lowered for CUDA without a GPU, forward and backward; an odd number of tokens is refused by cuDNN
    unless padded."""
    grad = jax.grad(lambda q, k, v: attention.flash_attention(q, k, v).astype(jnp.float32).sum(), (0, 1, 2))
    text = jax.jit(grad).trace(*qkv(tokens, dtype)).lower(lowering_platforms=("cuda",)).as_text()
    assert len(set(re.findall(r"__cudnn\$fmha\w+", text))) == kernels


def test_flash_attention_hides_its_padding_and_takes_the_heads_it_can(monkeypatch):
    """In cuDNN's place stands XLA's form of it, which knows lengths too. 2e-2: weights in bfloat16."""
    whole, called = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, *, implementation, **options):
        called.append(q.shape)
        return whole(q, k, v, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    for tokens in (30, 31):
        q, k, v = qkv(tokens, jnp.bfloat16)
        got, wanted = attention.flash_attention(q, k + 1, v), direct(q, k + 1, v)
        assert got.shape == q.shape
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=2e-2)
    assert [shape[1] for shape in called] == [30, 32]  # an odd number is refused
    called.clear()
    for size in (8, 12, 128, 136):
        x = jnp.ones((1, 4, 1, size), jnp.bfloat16)
        attention.flash_attention(x, x, x)
    assert [shape[-1] for shape in called] == [8, 128]


def test_few_query_rows_take_the_plain_form():
    """Those of the last block: lowering for TPU and CUDA holds no kernel, and the values are the plain
    ones."""
    q, k, v = qkv(dtype=jnp.bfloat16)
    for form in (attention.flash_attention, splash):
        np.testing.assert_array_equal(form(q[:, :2], k, v), attention.attend(q[:, :2], k, v))


def test_the_forms_are_chosen_by_the_device_they_run_on():
    device = lambda platform, capability=None: Mock(
        spec=jax.Device, platform=platform, compute_capability=capability
    )
    one, four = Mesh(np.array(jax.devices()[:1]), ("data",)), Mock(spec=Mesh, size=4, axis_names=("data",))
    assert kernels_on(jax.devices("cpu")[0], one).attend is cpu.attend
    assert kernels_on(jax.devices("cpu")[0], None, "data").batch_axis == "data"
    assert kernels_on(device("gpu", "9.0"), four).attend is attention.flash_attention
    assert kernels_on(device("gpu", "8.0")).attend is attention.flash_attention
    assert kernels_on(device("gpu", "9.0"), None, "data").batch_axis == "data"
    assert kernels_on(device("gpu", "7.5")) == kernels_on(device("gpu", "gfx942")) == PLAIN
    assert kernels_on(device("tpu"), one).attend is attention.splash_attention
    assert kernels_on(device("tpu"), None, "data").attend is attention.splash_attention
    # each device on its own rows
    assert kernels_on(device("tpu"), four).attend is not attention.splash_attention
