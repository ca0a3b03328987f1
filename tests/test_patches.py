"""Patch geometry: grids, kernels of another size, positions of another grid."""

import functools

import numpy as np
import pytest
import weights_oracles

from ast_jax.errors import InputError
from ast_jax.models.patches import adapt_kernel, adapt_positions, grid_shape, positions_by_place


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("num_frames", "strides", "grid"),
    [
        (1024, (10, 10), (12, 101)),
        (512, (10, 10), (12, 50)),
        (128, (10, 10), (12, 12)),
        (1024, (12, 12), (10, 85)),
        (1024, (14, 14), (9, 73)),
        (1024, (16, 16), (8, 64)),
        (1024, (10, 8), (12, 127)),
    ],
)
def test_published_grids(num_frames, strides, grid):
    assert grid_shape(128, num_frames, (16, 16), strides) == grid


def test_a_spectrogram_of_one_patch_has_it():
    assert grid_shape(16, 16, (16, 16), (10, 10)) == (1, 1)
    assert grid_shape(35, 25, (16, 16), (10, 10)) == (2, 1)


@pytest.mark.parametrize(
    ("size", "strides"), [((15, 100), (10, 10)), ((128, 15), (10, 10)), ((128, 100), (0, 10))]
)
def test_no_grid_below_one_patch(size, strides):
    with pytest.raises(InputError, match=r"smaller than one patch|1 or more"):
        grid_shape(*size, (16, 16), strides)


def test_kernel_of_the_same_size_is_only_folded():
    kernel = random(16, 16, 3, 5)
    np.testing.assert_allclose(adapt_kernel(kernel, (16, 16))[:, :, 0], kernel.sum(2), atol=1e-6)
    np.testing.assert_allclose(adapt_kernel(kernel, (16, 16), rgb="mean")[:, :, 0], kernel.mean(2), atol=1e-6)
    np.testing.assert_array_equal(adapt_kernel(kernel[:, :, :1], (16, 16), rgb="mean"), kernel[:, :, :1])
    with pytest.raises(InputError, match="rgb='max'"):
        adapt_kernel(kernel, (16, 16), rgb="max")


@pytest.mark.parametrize("size", [(16, 16), (20, 14), (31, 16)])
def test_a_larger_kernel_answers_an_enlarged_patch_as_before(size):
    kernel, patch = random(14, 14, 1, 6), random(14, 14)
    enlarged = patch
    for axis in (0, 1):  # NumPy's own linear interpolation is the witness; it holds the edges as well
        places = (np.arange(size[axis]) + 0.5) * 14 / size[axis] - 0.5
        enlarged = np.apply_along_axis(
            lambda line, p=places: np.interp(p, np.arange(14), line), axis, enlarged
        )
    before = np.einsum("hw,hwid->d", patch, kernel)
    after = np.einsum("hw,hwid->d", enlarged, adapt_kernel(kernel, size))
    np.testing.assert_allclose(after, before, atol=1e-4)  # float32 kernels, 200 products of size 1


def test_kernel_resize_is_the_one_timm_has():
    torch = pytest.importorskip("torch")
    weights_oracles.timm()
    from timm.layers import resample_patch_embed

    kernel = random(14, 14, 1, 3)
    theirs = resample_patch_embed(
        torch.from_numpy(kernel.transpose(3, 2, 0, 1)), [10, 16], interpolation="bilinear", antialias=False
    )
    np.testing.assert_allclose(
        adapt_kernel(kernel, (10, 16)), theirs.numpy().transpose(2, 3, 1, 0), atol=1e-5
    )


def test_positions_cut_from_the_middle():
    positions = random(24, 24, 2)
    np.testing.assert_array_equal(adapt_positions(positions, (12, 12)), positions[6:18, 6:18])
    np.testing.assert_array_equal(adapt_positions(positions, (24, 24)), positions)
    audioset = random(12, 101, 2)
    np.testing.assert_array_equal(adapt_positions(audioset, (12, 50)), audioset[:, 25:75])
    np.testing.assert_array_equal(adapt_positions(audioset, (5, 13)), audioset[4:9, 44:57])


def test_positions_of_a_line_stay_on_it():
    """Linear interpolation gives a linear ramp back, held at the ends: cell centres 0.5 apart at the same
    scale."""
    ramp = np.broadcast_to(np.arange(4.0)[None, :, None], (3, 4, 1)).astype(np.float32)
    wide = adapt_positions(ramp, (3, 8))
    np.testing.assert_allclose(wide[0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    np.testing.assert_allclose(
        adapt_positions(ramp, (3, 8), mode="nearest")[0, :, 0], [0, 0, 1, 1, 2, 2, 3, 3]
    )
    with pytest.raises(InputError, match="bicubic"):
        adapt_positions(ramp, (3, 8), mode="bicubic")


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("old", "new"),
    [((24, 24), (12, 101)), ((14, 14), (12, 50)), ((12, 101), (12, 120)), ((12, 101), (15, 70))],
)
def test_positions_as_the_reference_makes_them(old, new, mode):
    torch = pytest.importorskip("torch")
    positions = random(*old, 3)
    x = torch.from_numpy(positions).permute(2, 0, 1)[None]
    align = {} if mode == "nearest" else {"align_corners": False}
    resize = functools.partial(torch.nn.functional.interpolate, mode=mode, **align)
    start = old[1] // 2 - new[1] // 2
    x = x[..., start : start + new[1]] if new[1] <= old[1] else resize(x, size=(old[0], new[1]))
    start = old[0] // 2 - new[0] // 2
    x = x[:, :, start : start + new[0]] if new[0] <= old[0] else resize(x, size=(new[0], new[1]))
    np.testing.assert_allclose(
        adapt_positions(positions, new, mode=mode), x[0].permute(1, 2, 0).numpy(), atol=1e-4
    )
    # torch reckons places up to 101 in float32: an ulp there is 8e-6, times differences of up to 6


def by_place(positions, extent, strides, new_strides, **kwargs):
    return positions_by_place(
        positions, extent=extent, patch_shape=(16, 16), strides=strides, new_strides=new_strides,
        **{"new_patch_shape": (16, 16), **kwargs},
    )  # fmt: skip


def test_positions_by_place_follow_the_patch_centres():
    """Positions that *are* their patch's centre stay so at any stride, as far as old centres reach."""
    f, t = np.meshgrid(np.arange(12) * 10 + 8.0, np.arange(101) * 10 + 8.0, indexing="ij")
    centres = np.stack([f, t], -1).astype(np.float32)
    new = by_place(centres, (128, 1024), (10, 10), (16, 12))
    assert new.shape == (8, 85, 2)
    np.testing.assert_allclose(new[:, 0, 0], np.minimum(np.arange(8) * 16 + 8, 118))  # outside: held
    np.testing.assert_allclose(new[0, :, 1], np.minimum(np.arange(85) * 12 + 8, 1008), rtol=1e-6)
    near = by_place(centres, (128, 1024), (10, 10), (16, 12), mode="nearest")
    assert set(near[0, :, 1]) <= set(centres[0, :, 1])
    assert np.abs(near[0, :84, 1] - (np.arange(84) * 12 + 8)).max() <= 5


def test_positions_by_place_from_strides_of_two_kinds():
    """Patches of 16 x 16 every 4 bins and 12 frames: each axis by its own stride."""
    f, t = np.meshgrid(np.arange(29) * 4 + 8.0, np.arange(85) * 12 + 8.0, indexing="ij")
    new = by_place(np.stack([f, t], -1).astype(np.float32), (128, 1024), (4, 12), (6, 10))
    np.testing.assert_allclose(new[:, 0, 0], np.arange(19) * 6 + 8)
    np.testing.assert_allclose(new[0, :, 1], np.minimum(np.arange(101) * 10 + 8, 1016), rtol=1e-6)


def test_positions_by_place_at_the_same_strides_are_the_same():
    positions = random(12, 101, 2)
    np.testing.assert_array_equal(by_place(positions, (128, 1024), (10, 10), (10, 10)), positions)


def test_positions_by_place_know_the_patch_size():
    line = np.arange(10.0, dtype=np.float32)[None, :, None]  # patch 16, stride 16: centres 8, 24, ...
    new = by_place(line, (16, 160), (16, 16), (16, 8), new_patch_shape=(16, 8))  # centres 4, 12, 20, ...
    np.testing.assert_allclose(new[0, :4, 0], [0, 0.25, 0.75, 1.25])
