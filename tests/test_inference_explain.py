"""What explains an answer: rollout against NumPy, gradients against finite differences, regions by their
definition.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.features import load_audio
from ast_jax.inference import explain
from ast_jax.inference.attribution import gradient_times_input, marked_region
from ast_jax.inference.predict import Tagger
from ast_jax.inference.windows import Grid
from ast_jax.models import AST, ASTConfig, host_variables, set_variables
from ast_jax.models.attention import attend
from ast_jax.weights import LoadedModel

TINY = ASTConfig(
    num_classes=3,
    num_frames=40,
    num_mel_bins=128,
    patch_shape=(48, 8),
    strides=(40, 6),
    width=16,
    depth=2,
    num_heads=2,
)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A model at std 0.7, norms at scale 1: its attention is far from even, its labels far from each
    other.
    """
    model = AST(TINY, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    params = {
        path: (rng.normal(0, 0.7, value.shape) + path.endswith("scale")).astype(np.float32)
        for path, value in host_variables(model).items()
    }
    set_variables(model, params)
    return LoadedModel(
        model, ["bell", "rain", "siren"], model.front_end.with_statistics(-5.0, 3.0), "softmax"
    )


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(0, 0.5, (2, 40, 128)), jnp.float32)


@pytest.fixture(scope="module")
def weights(loaded, x) -> np.ndarray:
    """[B, L, H, N, N] as the model gives them on the way."""
    return np.asarray(loaded.model(x, attention=True)[1]["attention"])


def test_the_weights_are_those_that_the_model_attends_with(loaded, x, weights):
    model = loaded.model
    prefix = [jnp.broadcast_to(token[...], (2, 1, 16)) for token in (model.cls_token, model.dist_token)]
    tokens = jnp.concatenate([*prefix, model.patch_embed(x)], axis=1) + model.pos_embed[...]
    for i, block in enumerate(model.blocks):
        heads = block.attention.qkv(block.norm1(tokens)).reshape(2, -1, 3, 2, 8)
        expected = attend(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        ours = jnp.einsum("bhqn,bnhk->bqhk", weights[:, i], heads[:, :, 2])
        # the scale goes on the query there, on the product here: one float32 rounding of scores near 20
        np.testing.assert_allclose(ours, expected, atol=2e-5)
        assert np.ptp(weights[:, i]) > 0.5  # a head that attends evenly would show nothing
        tokens = block(tokens)


def test_rollout_is_the_product_of_mixed_attention_in_numpy(loaded, x, weights):
    maps, rollout = loaded.model.attention_maps(x)
    weights = weights.astype(np.float64).swapaxes(0, 1)
    f, t = TINY.grid
    assert maps.shape == (2, 2, 2, f, t)
    for clip in range(2):
        product = np.eye(2 + f * t)
        for layer in weights:
            mixed = 0.5 * sum(layer[clip]) / len(layer[clip]) + 0.5 * np.eye(2 + f * t)
            product = mixed @ product
        np.testing.assert_allclose(product.sum(axis=1), 1, atol=1e-6)
        expected = (product[0, 2:] + product[1, 2:]) / 2
        np.testing.assert_allclose(rollout[clip].reshape(-1), expected, atol=1e-6)
        head = (weights[1][clip, 0, 0, 2:] + weights[1][clip, 0, 1, 2:]) / 2
        np.testing.assert_allclose(maps[clip, 1, 0].reshape(-1), head, atol=1e-6)


def test_gradient_times_input_is_the_slope_of_each_logit(loaded, x):
    """Towards `direction`, by central differences in float32: rounding of 1e-6 over a step of 2e-3, and its
    third order.
    """
    clip, labels, step = x[0], np.array([2, 0]), 1e-3
    logits = jax.jit(lambda clip: loaded.model(clip[None])[0][0])
    found = np.asarray(gradient_times_input(loaded.model, clip, jnp.asarray(labels)))
    gradient = found / np.asarray(clip)
    for seed in range(3):
        direction = jnp.asarray(np.random.default_rng(seed).normal(0, 1, clip.shape), jnp.float32)
        ahead, behind = (logits(clip + s * direction) for s in (step, -step))
        slopes = np.asarray((ahead - behind) / (2 * step))[labels]
        np.testing.assert_allclose(
            (gradient * np.asarray(direction)).sum(axis=(1, 2)), slopes, rtol=2e-3, atol=2e-3
        )
    assert abs(slopes[0] - slopes[1]) > 0.02  # the labels are not one


def test_a_patchs_value_goes_to_the_cells_it_covers(loaded):
    grid = np.random.default_rng(0).random(TINY.grid)
    cells = loaded.model.over_cells(grid)
    assert cells.shape == (40, 128)
    for frame, mel in [(0, 0), (7, 45), (20, 90), (39, 10), (3, 127)]:
        covering = [
            grid[f, t]
            for f in range(TINY.grid[0])
            for t in range(TINY.grid[1])
            if 40 * f <= mel < 40 * f + 48 and 6 * t <= frame < 6 * t + 8
        ]
        assert cells[frame, mel] == pytest.approx(np.mean(covering) if covering else 0)
    np.testing.assert_array_equal(loaded.model.over_cells(np.stack([grid, 2 * grid]))[1], 2 * cells)


def test_the_marked_region_is_the_strongest_share():
    relevance = np.zeros((50, 128))
    relevance[10:30, 40:60] = 1
    relevance[40:, 100:] = -5
    marked = marked_region(relevance, share=0.05)
    assert marked.sum() == 320
    assert marked[10:30, 40:60].sum() == 320
    assert marked_region(np.zeros((4, 8)), share=0.25).sum() == 8


def test_a_window_is_that_part_of_the_file(tmp_path):
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3)
    soundfile.write(tmp_path / "a.wav", wave, 16_000)
    whole = load_audio(tmp_path / "a.wav")
    front_end = AST(TINY, rngs=nnx.Rngs(0)).front_end
    grid = Grid(8000, 8000, TINY.num_frames, front_end)
    for start_s, samples in ((1.25, whole[20_000:28_000]), (2.9, whole[46_400:])):
        np.testing.assert_array_equal(
            explain.window_at(tmp_path / "a.wav", start_s, grid), front_end.features(samples)
        )
    with pytest.raises(InputError, match=r"lasts 3\.0 s, and --start_s is 4"):
        explain.window_at(tmp_path / "a.wav", 4.0, grid)


def test_the_command_draws_the_best_window_and_keeps_every_map(loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ast_jax.inference.predict.load_model", lambda source, **_: loaded)
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000)
    out = tmp_path / "a.png"
    invoke("explain", ["--model=m", str(tmp_path / "a.wav"), "--label=siren", "--label=bell", f"--out={out}"])
    assert out.read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "a.npz") as maps:
        assert maps["labels"].tolist() == ["siren", "bell"]
        assert maps["attention"].shape == (2, 2, *TINY.grid)
        assert maps["gradient"].shape == (2, *maps["fbank"].shape)
        start_s, frames = float(maps["start_s"]), len(maps["fbank"])
    # the window on which the first label scores highest, told again by the tagger itself
    tags = Tagger(["m"]).tag(tmp_path / "a.wav")
    assert start_s == tags.times_s[tags.scores[:, 2].argmax()]
    assert frames <= 40
    assert f"from {start_s:.2f} s: siren" in capsys.readouterr().out
    with pytest.raises(InputError, match="no label 'cat': it has bell; rain; siren"):
        invoke("explain", ["--model=m", str(tmp_path / "a.wav"), "--label=cat"])
