"""SpecAugment against the reference's definition, and its keys' independence of devices and batches."""

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.training.augment import example_keys, spec_mask

T, F, TIME, FREQ = 100, 64, 30, 24


def masks(n: int) -> np.ndarray:
    keys = example_keys(0, jnp.int32(3), jnp.arange(n))
    ones = jnp.ones((T, F))
    return np.asarray(jax.vmap(lambda key: spec_mask(key, ones, freq_mask=FREQ, time_mask=TIME))(keys)) == 0


def test_one_whole_band_an_axis():
    hidden = masks(200)
    for clip in hidden:
        rows, columns = clip.all(axis=1), clip.all(axis=0)
        np.testing.assert_array_equal(clip, rows[:, None] | columns[None, :])
        for band in (rows, columns):
            assert (np.diff(band.astype(int)) == 1).sum() + band[0] <= 1  # one run


def test_widths_and_starts_are_uniform_as_in_the_reference():
    hidden = masks(4000)
    for axis, widest, size in ((1, TIME, T), (2, FREQ, F)):
        bands = hidden.all(axis=3 - axis)
        widths = bands.sum(axis=1)
        # floor of U[0, widest): every width 0 .. widest - 1 equally often
        counts = np.bincount(widths, minlength=widest)
        assert len(counts) == widest
        expected = 4000 / widest
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < widest - 1 + 4 * np.sqrt(2 * (widest - 1))  # four standard deviations
        starts = bands.argmax(axis=1)[widths > 0]
        assert starts.max() <= size
        # floor(U x (size - v)) with v near its mean: the mean start is about half of what is left
        assert abs(starts.mean() - (size - widest / 2) / 2) < 2.0


def test_masked_cells_are_zero_and_others_untouched():
    x = jnp.asarray(np.random.default_rng(0).normal(-5, 1, (T, F)), jnp.float32)
    y = np.asarray(spec_mask(jax.random.key(1), x, freq_mask=FREQ, time_mask=TIME))
    assert set(np.unique(y[y != np.asarray(x)])) <= {0.0}
    np.testing.assert_array_equal(spec_mask(jax.random.key(1), x, freq_mask=0, time_mask=0), x)


def test_a_mask_wider_than_the_clip_is_held_to_it():
    y = jax.vmap(lambda k: spec_mask(k, jnp.ones((8, 4)), freq_mask=48, time_mask=192))(
        jax.random.split(jax.random.key(0), 50)
    )
    assert np.isfinite(np.asarray(y)).all()


def test_keys_belong_to_the_example_not_to_its_place_in_the_batch():
    together = example_keys(7, jnp.int32(5), jnp.array([10, 11, 12, 13]))
    apart = example_keys(7, jnp.int32(5), jnp.array([12, 13]))
    np.testing.assert_array_equal(jax.random.key_data(together)[2:], jax.random.key_data(apart))
    for other in (
        example_keys(7, jnp.int32(6), jnp.array([12, 13])),
        example_keys(8, jnp.int32(5), jnp.array([12, 13])),
    ):
        assert (jax.random.key_data(other) != jax.random.key_data(apart)).any()
