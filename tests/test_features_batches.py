"""A batch's features: samples at full scale, each clip by its own length, padding past it."""

import jax.numpy as jnp
import numpy as np

from ast_jax.features import Kaldi, log_mel
from ast_jax.features.batches import features, waveform


class Padded(Kaldi):
    """Pads with what is no feature's value."""

    padding = 7.0


def test_16_bits_become_what_they_stand_for_and_floats_stay():
    stored = jnp.array([[-32768, 0, 16384]], jnp.int16)
    np.testing.assert_array_equal(waveform({"waveform": stored}), [[-1, 0, 0.5]])
    mixed = jnp.array([[0.25, -2.0]])
    np.testing.assert_array_equal(waveform({"partner": mixed}, "partner"), mixed)


def test_each_clip_is_heard_at_its_own_length_and_padded_behind():
    """The second is shorter than a frame: only a mean over its own samples leaves it what it is alone."""
    rng, counts = np.random.default_rng(0), (1000, 250)
    rows = [rng.normal(4000, 3000, count).astype(np.int16) for count in counts]
    padded = np.stack([np.pad(row, (0, 1360 - len(row))) for row in rows])
    batch = {
        "waveform": jnp.asarray(padded),
        "num_samples": jnp.asarray(counts),
        "length": jnp.array([4, 1]),
    }
    got = np.asarray(features(batch, Padded()))
    assert got.shape == (2, 7, 128)
    for x, row, length in zip(got, rows, (4, 1), strict=True):
        wanted = log_mel(row.astype(np.float64) / 32768)
        # float32 against float64 on white noise, as log_mel promises
        np.testing.assert_allclose(x[:length], wanted, atol=5e-4)
        assert (x[length:] == 7).all()


def test_stored_features_become_float32_and_are_padded():
    batch = {"fbank": jnp.full((1, 3, 128), -5.5, jnp.float16), "length": jnp.array([2])}
    got = features(batch, Padded())
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got[0, :, 0], [-5.5, -5.5, 7])
