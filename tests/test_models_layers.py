"""Linear layers and the GELU against their definitions in float64, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from ast_jax.models.kernels import gelu
from ast_jax.models.layers import linear, with_stored_gradient


@pytest.fixture(scope="module")
def layer():
    return linear(6, 4, "float32", nnx.Rngs(0))


def test_a_linear_layer_and_its_gradients_are_the_products_they_stand_for(layer):
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 4))
    graphdef, params = nnx.split(layer)
    y, pull = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x), params, jnp.float32(x))
    d_params, dx = pull(jnp.float32(g))
    kernel = np.float64(layer.kernel[...])
    close = lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=2e-6)  # float32 sums of 10
    close(y, x @ kernel)
    close(dx, g @ kernel.T)
    close(d_params["kernel"][...], np.einsum("bni,bno->io", x, g))
    close(d_params["bias"][...], g.sum((0, 1)))


def test_the_kernels_gradient_transposes_nothing(layer):
    graphdef, params = nnx.split(layer)
    loss = lambda params, x: nnx.merge(graphdef, params)(x).sum()
    program = str(jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((2, 5, 6))))
    assert "dot_general" in program
    assert "transpose[" not in program


def test_gelu_is_exact_in_float32_and_rounds_to_bfloat16():
    x = np.linspace(-9, 9, 1001)
    wanted = x * (1 + erf(x / np.sqrt(2))) / 2
    np.testing.assert_allclose(gelu(jnp.float32(x)), wanted, atol=1e-6)  # 9 times float32's rounding
    half = jnp.bfloat16(x)
    wanted = np.float64(half) * (1 + erf(np.float64(half) / np.sqrt(2))) / 2
    np.testing.assert_allclose(
        np.float64(gelu(half)), wanted, rtol=0.02, atol=1e-3
    )  # 8 bits, a few operations


def test_gelus_slope_is_the_normal_distributions():
    x = np.linspace(-5, 5, 101)
    wanted = (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    got = jax.vmap(jax.grad(gelu))(jnp.float32(x))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_storing_changes_no_value_and_no_gradient():
    x = jnp.arange(3.0)
    value, pull = jax.vjp(with_stored_gradient, x)
    assert value.tolist() == x.tolist()
    assert pull(2 * x)[0].tolist() == (2 * x).tolist()


def test_a_program_for_converters_holds_no_choice_between_devices(layer):
    graphdef, params = nnx.split(layer)
    run = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))
    program = lambda: str(jax.make_jaxpr(run)(params, jnp.ones((2, 5, 6))))
    assert "platform_index" in program()
    with device_free(True):
        assert "platform_index" not in program(), "jax2onnx cannot read one"
    assert "platform_index" in program()
