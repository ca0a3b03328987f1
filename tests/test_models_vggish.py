"""The baseline on VGGish: its front end stated directly, its arithmetic against PyTorch, its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tagger_oracles import logit, saved, vggish_model, vggish_perceptron

from ast_jax.errors import InputError
from ast_jax.features.vggish import VGGishMel
from ast_jax.models import abstract, build, family, host_variables, merge, set_variables
from ast_jax.models.base import split
from ast_jax.weights import initialise, read_source

CHANNELS, WIDTH, HIDDEN, CLASSES = (4, 8, 8, 16), 32, 24, 5
SMALL = {"channels": CHANNELS, "width": WIDTH, "hidden": HIDDEN, "num_classes": CLASSES}


def sounds(count: int, samples: int) -> np.ndarray:
    """Noise whose loudness changes."""
    rng = np.random.default_rng(samples)
    loud = np.repeat(rng.uniform(0.01, 0.5, (count, 16)), -(-samples // 16), axis=1)[:, :samples]
    return (rng.normal(size=(count, samples)) * loud).astype(np.float32)


def stated(x: np.ndarray) -> np.ndarray:
    """VGGish's log-mel, frame by frame and band by band, in float64."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)
    edges = np.linspace(mel(125), mel(7500), 66)
    rows = []
    for start in range(0, len(x) - 399, 160):
        magnitude = np.abs(np.fft.rfft(x[start : start + 400].astype(np.float64) * hann, 512))
        row = np.zeros(64)
        for k in range(1, 257):
            place = mel(k * 16_000 / 512)
            for band in range(64):
                low, middle, high = edges[band : band + 3]
                share = min((place - low) / (middle - low), (high - place) / (high - middle))
                row[band] += max(0, share) * magnitude[k]
        rows.append(np.log(row + 0.01))
    return np.array(rows)


def test_its_front_end_is_the_published_one():
    """1e-5: float32 against float64; a sound without a whole frame is one frame, padded."""
    front_end, x = VGGishMel(), sounds(1, 2_000)[0]
    want = stated(x)
    assert front_end.features(x).shape == want.shape == (front_end.num_frames(2_000), 64)
    np.testing.assert_allclose(front_end.features(x), want, atol=1e-5)
    np.testing.assert_allclose(jax.jit(front_end.features)(jnp.asarray(x)), want, atol=1e-5)
    short = np.pad(x[:90], (0, 310))
    np.testing.assert_allclose(front_end.features(x[:90]), stated(short), atol=1e-5)
    np.testing.assert_allclose(front_end.features(np.zeros(400, np.float32)), front_end.silence)


def test_vggish_has_the_published_number_of_parameters():
    _, params, _ = split(abstract("vggish_mlp", family("vggish_mlp").Config()))
    sizes = {path: np.prod(value.shape) for path, value in params.items()}
    assert sum(size for path, size in sizes.items() if path.startswith("net/")) == 72_141_184


class Pair:
    """The baseline in PyTorch and here, from the same file, its perceptron's arrays carried over."""

    def __init__(self, tmp_path, frames: int, *, released: bool):
        torch = pytest.importorskip("torch")
        self.net, self.top = vggish_model(CHANNELS, WIDTH), vggish_perceptron(CLASSES, HIDDEN)
        rng = np.random.default_rng(1)
        for norm in (self.top.norm, *self.top.norms):
            norm.running_mean += torch.from_numpy(rng.normal(0, 0.1, norm.running_mean.shape))
            norm.running_var *= torch.from_numpy(rng.uniform(0.5, 2, norm.running_var.shape))
        # PyTorch's first values let little through: louder, so that clips differ
        for layer in (*self.net.features, *self.net.embeddings, *self.top.layers, self.top.head):
            if hasattr(layer, "weight"):
                layer.weight.data *= 2.2
        self.pca = (4 * np.eye(128) + rng.normal(0, 0.2, (128, 128)), rng.normal(0, 0.2, (128, 1)))
        self.released = released
        state = dict(self.net.state_dict())
        if released:
            state |= {"pproc.pca_eigen_vectors": torch.from_numpy(self.pca[0])}
            state |= {"pproc.pca_means": torch.from_numpy(self.pca[1])}
        torch.save(state, tmp_path / "vggish.pth")
        config = family("vggish_mlp").Config(num_frames=frames, released=released, dropout=0.0, **SMALL)
        self.ours = build("vggish_mlp", config)
        self.account = initialise(self.ours, tmp_path / "vggish.pth")
        set_variables(self.ours, host_variables(self.ours) | self.perceptron())

    def perceptron(self) -> dict[str, np.ndarray]:
        names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
        found = {}
        for key, value in self.top.state_dict().items():
            value = np.array(value)  # PyTorch changes its own in place
            layer, kind = key.replace(".", "/").rsplit("/", 1)
            if "norm" in key and kind in names:
                found[f"classifier/{layer}/{names[kind]}"] = value
            elif "norm" not in key:
                own = {"weight": "kernel"}.get(kind, kind)
                found[f"classifier/{layer}/{own}"] = value.T
        return found

    def score(self, x: np.ndarray):
        """PyTorch's, of [B, T, 64]."""
        import torch

        patches = x[:, : x.shape[1] // 96 * 96].reshape(-1, 96, 64)
        embedding = self.net(torch.from_numpy(patches))
        if self.released:
            white = (embedding.double() - torch.from_numpy(self.pca[1].T)) @ torch.from_numpy(self.pca[0].T)
            byte = ((white.clamp(-2, 2) + 2) * 255 / 4).to(torch.uint8)
            embedding = (byte.float() - 128) / 128
        return self.top(embedding.reshape(len(x), -1, 128))


@pytest.mark.parametrize(("frames", "released"), [(96, False), (250, False), (288, True)])
def test_log_odds_are_pytorchs_from_a_waveform(tmp_path, frames, released):
    """1e-4 of their size: float32. Of released embeddings a number that rounding puts into another of the 256
    steps is allowed for: a thousandth.
    """
    pair = Pair(tmp_path, frames, released=released)
    pair.top.eval()
    x = np.stack([VGGishMel().features(each) for each in sounds(3, 240 + 160 * frames)])
    wanted = logit(pair.score(x))
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01  # it does hear them
    logits, out = pair.ours(jnp.asarray(x))
    share = 1e-3 if released else 1e-4
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=share * np.abs(wanted).max())
    assert out["frames"].shape == (3, frames // 96, CLASSES)
    assert out["sequence"].shape == (3, pair.ours.time_steps[2], HIDDEN)


def test_gradients_and_statistics_are_pytorchs(tmp_path):
    """1e-3 of their norm and 1e-5: float32 through the statistics of eight patches."""
    torch = pytest.importorskip("torch")
    pair = Pair(tmp_path, 192, released=False)
    x = np.stack([VGGishMel().features(each) for each in sounds(4, 240 + 160 * 192)])
    labels = np.eye(CLASSES, dtype=np.float32)[:4]
    score = pair.score(x).clamp(1e-7, 1 - 1e-7)
    torch.nn.functional.binary_cross_entropy(score, torch.from_numpy(labels)).backward()
    graphdef, params, statistics = split(pair.ours)
    # a fifth row that only fills the batch
    rows, real = jnp.concatenate([x, x[:1] + 3]), jnp.array([1.0, 1, 1, 1, 0])

    @jax.jit
    def loss(params):
        model = merge(graphdef, params, statistics)
        logits, _ = model(rows, key=jax.random.split(jax.random.key(0), 5), mask=real)
        target = np.concatenate([labels, labels[:1]])
        each = jnp.logaddexp(0, logits) - target * logits
        return (each.mean(axis=1) * real).sum() / 4, split(model)[2]

    gradients, moved = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert pair.net.features[0].weight.grad.norm() > 0
    biases = pair.net.embeddings[4].bias.grad.norm()
    for path, wanted in {
        "net/convs/0/kernel": pair.net.features[0].weight.grad.permute(2, 3, 1, 0),
        "net/convs/5/kernel": pair.net.features[13].weight.grad.permute(2, 3, 1, 0),
        "net/fc1/kernel": pair.net.embeddings[0].weight.grad.T,
        "net/embed/kernel": pair.net.embeddings[4].weight.grad.T,
        "classifier/layers/0/kernel": pair.top.layers[0].weight.grad.T,
        "classifier/norms/2/scale": pair.top.norms[2].weight.grad,
        "classifier/head/kernel": pair.top.head.weight.grad.T,
    }.items():
        wanted = wanted.numpy()
        assert np.linalg.norm(gradients[path] - wanted) <= 1e-3 * np.linalg.norm(wanted), path
    # BatchNorm cancels the last bias: what is there is rounding
    assert biases < 1e-3 * pair.net.embeddings[4].weight.grad.norm()
    theirs = pair.perceptron()
    for path, value in moved.items():
        np.testing.assert_allclose(value, theirs[path], atol=1e-5, err_msg=path)


# ---- Files


def tensorflow_arrays(model) -> dict[str, np.ndarray]:
    """As the published checkpoint holds them."""
    convolutions = (model.features[i] for i in (0, 3, 6, 8, 11, 13))
    names = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2")
    state = {}
    for name, layer in zip(names, convolutions, strict=True):
        state[f"vggish/{name}/weights"] = layer.weight.detach().permute(2, 3, 1, 0).numpy()
        state[f"vggish/{name}/biases"] = layer.bias.detach().numpy()
    for name, i in (("fc1/fc1_1", 0), ("fc1/fc1_2", 2), ("fc2", 4)):
        state[f"vggish/{name}/weights"] = model.embeddings[i].weight.detach().numpy().T
        state[f"vggish/{name}/biases"] = model.embeddings[i].bias.detach().numpy()
    return state


def test_both_files_of_it_are_one_model(tmp_path):
    pytest.importorskip("torch")
    model = vggish_model(CHANNELS, WIDTH)
    saved(model, tmp_path / "vggish.pth")
    np.savez(tmp_path / "vggish.npz", **tensorflow_arrays(model))
    torch_source, source = (read_source(tmp_path / name) for name in ("vggish.pth", "vggish.npz"))
    assert torch_source.arrays.keys() == source.arrays.keys()
    for path, value in source.arrays.items():
        np.testing.assert_array_equal(torch_source.arrays[path], value, err_msg=path)
    assert source.model == {"channels": CHANNELS, "width": WIDTH, "released": False}
    assert "the file holds no PCA" in source.notes[0]


def test_a_file_without_the_pca_starts_no_model_of_released_embeddings(tmp_path):
    pytest.importorskip("torch")
    saved(vggish_model(CHANNELS, WIDTH), tmp_path / "vggish.pth")
    model = build("vggish_mlp", family("vggish_mlp").Config(num_frames=96, released=True, **SMALL))
    with pytest.raises(InputError, match=r"vggish\.pth is another size.*net/pca/matrix has shape None"):
        initialise(model, tmp_path / "vggish.pth")


def test_a_torn_file_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    state = vggish_model(CHANNELS, WIDTH).state_dict()
    del state["embeddings.0.bias"]
    torch.save(state, tmp_path / "vggish.pth")
    with pytest.raises(InputError, match=r"looks like VGGish and lacks embeddings\.0\.bias"):
        read_source(tmp_path / "vggish.pth")
