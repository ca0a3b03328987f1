"""Linear layers and the GELU against their definitions in float64, on every form; BatchNorm against
PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from ast_jax.models import cpu
from ast_jax.models.base import merge, num_parameters, split, variables
from ast_jax.models.kernels import PLAIN, Kernels, depthwise, gelu, kernels_on, using
from ast_jax.models.layers import BatchNorm, linear

FORMS = {"plain": PLAIN, "cpu": kernels_on(jax.devices("cpu")[0])}


@pytest.fixture(scope="module")
def layer():
    return linear(6, 4, "float32", nnx.Rngs(0))


@pytest.mark.parametrize("forms", FORMS)
def test_a_linear_layer_and_its_gradients_are_the_products_they_stand_for(layer, forms):
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 4))
    graphdef, params = nnx.split(layer)
    with using(FORMS[forms]):
        y, pull = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x), params, jnp.float32(x))
        d_params, dx = pull(jnp.float32(g))
    kernel = np.float64(layer.kernel[...])
    close = lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=2e-6)  # float32 sums of 10
    close(y, x @ kernel)
    close(dx, g @ kernel.T)
    close(d_params["kernel"][...], np.einsum("bni,bno->io", x, g))
    close(d_params["bias"][...], g.sum((0, 1)))


def test_the_kernels_gradient_transposes_nothing_on_cpus(layer):
    graphdef, params = nnx.split(layer)
    loss = lambda params, x: nnx.merge(graphdef, params)(x).sum()
    program = lambda: str(jax.make_jaxpr(jax.grad(lambda p, x: loss(p, x)))(params, jnp.ones((2, 5, 6))))
    with using(FORMS["plain"]):
        assert "transpose[" in program()
    with using(FORMS["cpu"]):
        text = program()
    assert "dot_general" in text
    assert "transpose[" not in text


def test_gelu_is_exact_in_float32_and_rounds_to_bfloat16():
    x = np.linspace(-9, 9, 1001)
    wanted = x * (1 + erf(x / np.sqrt(2))) / 2
    np.testing.assert_allclose(gelu(jnp.float32(x)), wanted, atol=1e-6)  # 9 times float32's rounding
    half = jnp.bfloat16(x)
    wanted = np.float64(half) * (1 + erf(np.float64(half) / np.sqrt(2))) / 2
    # 8 bits, a few operations; the tanh form is a tenth off at -3
    np.testing.assert_allclose(np.float64(gelu(half)), wanted, rtol=0.06, atol=1e-5)


def test_gelus_slope_is_the_normal_distributions():
    x = np.linspace(-5, 5, 101)
    wanted = (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    got = jax.vmap(jax.grad(gelu))(jnp.float32(x))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_storing_changes_no_value_and_no_gradient():
    x = jnp.arange(3.0)
    value, pull = jax.vjp(cpu.with_stored_gradient, x)
    assert value.tolist() == x.tolist()
    assert pull(2 * x)[0].tolist() == (2 * x).tolist()


# ---- Depthwise convolutions


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, (1, 1)), (5, 2, (1, 2)), (3, 2, (0, 1)), (1, 1, (0, 0))]
)
def test_each_channel_meets_its_own_kernel_forward_and_backward(size, stride, padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 12, 3)), rng.normal(size=(size, size, 1, 3))
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    wanted = np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0])
    slope = rng.normal(size=wanted.shape)
    of_kernel = np.einsum("bhwcij,bhwc->ijc", windows, slope)[:, :, None]
    of_padded = np.zeros_like(padded)
    for i, j in np.ndindex(size, size):
        rows, columns = (
            slice(k, k + stride * (n - 1) + 1, stride) for k, n in zip((i, j), wanted.shape[1:3], strict=True)
        )
        of_padded[:, rows, columns] += slope * kernel[i, j, 0]
    height, width = (slice(padding[0], padding[0] + n) for n in x.shape[1:3])
    arrays = jnp.float32(x), jnp.float32(kernel)
    for form in (cpu.depthwise, depthwise):
        called = functools.partial(form, stride=stride, padding=padding)
        got, pull = jax.vjp(called, *arrays)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        of_x, of_weights = pull(jnp.float32(slope))
        np.testing.assert_allclose(of_weights, of_kernel, atol=2e-5)
        np.testing.assert_allclose(of_x, of_padded[:, height, width], atol=1e-5)


# ---- BatchNorm


def batches_of(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Three batches, each with a mean and a spread of its own."""
    rng = np.random.default_rng(0)
    return [rng.normal(2 * step, 1 + step, shape).astype(np.float32) for step in range(3)]


# rows that only fill the batch, two of eight
MASK = np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32)


def of_torch(batches: list[np.ndarray]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs of torch.nn.BatchNorm on the real rows alone, and its statistics; channels are moved there and
    back."""
    torch = pytest.importorskip("torch")
    channels = batches[0].shape[-1]
    norm = (torch.nn.BatchNorm1d if batches[0].ndim < 4 else torch.nn.BatchNorm2d)(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
        there = lambda x: (
            torch.from_numpy(np.moveaxis(x, -1, 1).copy()) if x.ndim > 2 else torch.from_numpy(x)
        )
        back = lambda y: np.moveaxis(y.numpy(), 1, -1) if y.ndim > 2 else y.numpy()
        outputs = [back(norm(there(x[MASK > 0]))) for x in batches]
        norm.eval()
        outputs.append(back(norm(there(batches[0][MASK > 0]))))
    return outputs, {"mean": norm.running_mean.numpy(), "var": norm.running_var.numpy()}


def our_norm(channels: int) -> BatchNorm:
    norm = BatchNorm(channels)
    norm.scale[...], norm.bias[...] = jnp.linspace(0.5, 2, channels), jnp.linspace(-1, 1, channels)
    return norm


def training_pass(graphdef, arrays, x, mask):
    norm = merge(graphdef, arrays)
    y = norm(x, training=True, mask=mask)
    return y, variables(norm)


def through_jit(graphdef):
    return jax.jit(functools.partial(training_pass, graphdef))


def through_two_devices(graphdef):
    """A batch in two halves, along a named axis as pmap has it; arrays are the same on both afterwards."""

    def half(arrays, x, mask):
        with using(Kernels(batch_axis="data")):
            return training_pass(graphdef, arrays, x, mask)

    def run(arrays, x, mask):
        halves = (x.reshape(2, -1, *x.shape[1:]), mask.reshape(2, -1))
        y, new = jax.jit(jax.vmap(half, in_axes=(None, 0, 0), axis_name="data"))(arrays, *halves)
        for value in new.values():
            np.testing.assert_array_equal(value[0], value[1])
        return y.reshape(x.shape), {path: value[0] for path, value in new.items()}

    return run


@pytest.mark.parametrize("through", [through_jit, through_two_devices])
@pytest.mark.parametrize("shape", [(8, 3), (8, 5, 3), (8, 5, 4, 3)])
def test_batch_norm_is_pytorchs_on_the_real_rows(shape, through):
    """Three batches in training and the first again in evaluation, running statistics too."""
    batches = batches_of(shape)
    wanted, statistics = of_torch(batches)
    norm = our_norm(3)
    graphdef, run, arrays = split(norm)[0], through(split(norm)[0]), variables(norm)
    for x, expected in zip(batches, wanted[:3], strict=True):
        y, arrays = run(arrays, jnp.asarray(x), jnp.asarray(MASK))
        # float32 sums of up to 120 values around 4
        np.testing.assert_allclose(np.asarray(y)[MASK > 0], expected, atol=1e-5)
    for name, expected in statistics.items():
        np.testing.assert_allclose(arrays[name], expected, rtol=1e-5)
    evaluated = merge(graphdef, arrays)(jnp.asarray(batches[0]))
    np.testing.assert_allclose(np.asarray(evaluated)[MASK > 0], wanted[3], atol=1e-5)


def test_rows_that_fill_a_batch_move_no_statistic():
    x = batches_of((8, 5, 3))[1]
    norm = our_norm(3)
    run, arrays = through_jit(split(norm)[0]), variables(norm)
    junk = np.where(MASK[:, None, None] > 0, x, 1e6).astype(np.float32)
    for path, value in run(arrays, jnp.asarray(x), jnp.asarray(MASK))[1].items():
        np.testing.assert_array_equal(run(arrays, jnp.asarray(junk), jnp.asarray(MASK))[1][path], value)
    for value in run(arrays, jnp.asarray(x), jnp.zeros(8))[1].values():  # a batch of fillers alone
        assert np.isfinite(value).all()


def test_statistics_are_no_parameters():
    norm = BatchNorm(5)
    _, params, statistics = split(norm)
    assert (set(params), set(statistics)) == ({"scale", "bias"}, {"mean", "var"})
    assert num_parameters(norm) == 10
