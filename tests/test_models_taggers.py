"""PANNs and PSLA against the published classes, from a waveform to log-odds, gradients and statistics."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tagger_oracles import efficientnet, logit, panns_model, psla_model, saved
from weights_oracles import timm

from ast_jax.errors import InputError
from ast_jax.models import abstract, build, family, host_variables, num_parameters
from ast_jax.models.base import split
from ast_jax.models.efficientnet import SCALES
from ast_jax.objectives import objective
from ast_jax.settings import Objective, Optimizer
from ast_jax.training.optim import optimizer_of, rates_of, schedule
from ast_jax.training.step import Step, init_state, train_step
from ast_jax.weights import LoadedModel, load_model, panns_layout, psla_layout, read_source
from ast_jax.weights.convert import convert
from ast_jax.weights.model_card import CARD

PANNS = ("cnn6", "cnn10", "cnn14", "cnn14_decision_max", "cnn14_decision_att", "wavegram_logmel_cnn14")


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("cnn6", {}, 4_837_455),
        ("cnn10", {}, 5_219_279),
        ("cnn14", {}, 80_753_615),
        ("cnn14_decision_max", {}, 80_753_615),
        ("wavegram_logmel_cnn14", {}, 81_065_487),
        ("psla", {"scale": "b2"}, 13_640_766),
        ("psla", {"scale": "b0"}, 9_407_672),
    ],
)
def test_they_have_the_published_number_of_parameters(name, options, count):
    assert num_parameters(abstract(name, family(name).Config(**options))) == count


def sounds(count: int, samples: int) -> np.ndarray:
    """Noise whose loudness changes, so that steps of time differ."""
    rng = np.random.default_rng(samples)
    loud = np.repeat(rng.uniform(0.01, 0.5, (count, 16)), -(-samples // 16), axis=1)[:, :samples]
    return (rng.normal(size=(count, samples)) * loud).astype(np.float32)


def loaded_panns(tmp_path, name: str, model, **changes):
    # as PANNs' training leaves it
    sampler = {"indexes": np.arange(9), "random_state": np.random.RandomState(0)}
    saved(model, tmp_path / "panns.pth", iteration=7, sampler=sampler)
    return load_model(tmp_path / "panns.pth", facts={"family": name}, **changes)


@pytest.mark.parametrize("name", PANNS)
def test_a_panns_log_odds_are_the_published_classes_from_a_waveform(tmp_path, name):
    """1e-4 of their size: two float32 spectrograms and up to 12 convolutions, in other orders."""
    torch = pytest.importorskip("torch")
    rate_hz = 16_000 if name == "cnn14" else 32_000
    model = panns_model(name, rate_hz=rate_hz)
    loaded = loaded_panns(tmp_path, name, model)
    assert loaded.front_end.sample_rate_hz == rate_hz
    takes_rows = name == "wavegram_logmel_cnn14"
    for frames in {"cnn14": (64, 101, 230), "wavegram_logmel_cnn14": (64, 100, 230)}.get(name, (101,)):
        waveform = sounds(2, (frames - 1) * loaded.front_end.frame_shift + (320 if takes_rows else 17))
        told = model(torch.from_numpy(waveform))
        again = loaded_panns(tmp_path, name, model, num_frames=frames)
        fbank = np.stack([again.front_end.features(x) for x in waveform])
        assert fbank.shape[1] == frames
        wanted = logit(told["clipwise_output"])
        assert np.abs(wanted[0] - wanted[1]).max() > 0.03  # it does hear them
        np.testing.assert_allclose(again.logits(fbank), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("scale", "frames"), [("tiny", 101), ("b2", 64)])
def test_psla_is_the_published_arithmetic(tmp_path, scale, frames):
    """1e-4 of their size: float32, up to 70 layers. B2's padding is not what its input alone would have."""
    torch = pytest.importorskip("torch")
    model = psla_model(SCALES[scale])
    saved(model, tmp_path / "psla.pth")
    loaded = load_model(tmp_path / "psla.pth", mean=-4.0, std=5.0, num_frames=frames)
    assert loaded.model.config.scale == scale
    fbank = np.random.default_rng(0).normal(-4, 5, (2, frames, 128)).astype(np.float32)
    wanted = logit(model(torch.from_numpy((fbank + 4) / 5)))
    assert np.abs(wanted[0] - wanted[1]).max() > 0.03  # it does hear them
    np.testing.assert_allclose(loaded.logits(fbank), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


# ---- Training


FRAMES, CLASSES, CLIPS, STEPS = 64, 5, 6, 40
_ADAM = {"lr": 1e-3, "amsgrad": True, "adam_b1": 0.9}
RATES = {"cnn14": _ADAM, "wavegram_logmel_cnn14": _ADAM, "psla": {"lr": 1e-2}}


def batch() -> dict[str, np.ndarray]:
    """Clips of two loudnesses; the last row only fills the batch."""
    rng = np.random.default_rng(1)
    labels = (rng.random((CLIPS, CLASSES)) < 0.4).astype(np.float32)
    return {
        "labels": labels,
        "index": np.arange(CLIPS, dtype=np.int32),
        "mask": np.array([1] * (CLIPS - 1) + [0], np.float32),
        "length": np.full(CLIPS, FRAMES, np.int32),
    }


class Pair:
    """A tagger in PyTorch and the same here, without dropout, in training."""

    def __init__(self, name: str, tmp_path, torch):
        self.torch, self.name = torch, name
        rows = batch()
        if name != "psla":
            self.theirs, options = panns_model(name), {"dropout": (0.0, 0.0)}
            self.given = sounds(CLIPS, (FRAMES - (name == "cnn14")) * 320)
        else:
            self.theirs, options = psla_model(SCALES["tiny"]), {"drop_connect": 0.0}
            self.theirs.effnet._global_params = self.theirs.effnet._global_params._replace(
                drop_connect_rate=0
            )
            self.given = np.random.default_rng(0).normal(size=(CLIPS, FRAMES, 128)).astype(np.float16)
            self.given = self.given.astype(np.float32)
        saved(self.theirs, tmp_path / "start.pth", **({} if name == "psla" else {"iteration": 0}))
        stated = {"mean": 0.0, "std": 1.0} if name == "psla" else {}
        self.loaded = load_model(tmp_path / "start.pth", num_frames=FRAMES, **stated, **options)
        front_end = self.loaded.front_end
        fbank = [front_end.features(x) for x in self.given] if name != "psla" else self.given
        self.rows = rows | {"fbank": np.stack(fbank)}
        self.graphdef, self.params, self.statistics = split(self.loaded.model)
        self.step = Step(front_end, objective(Objective(loss="bce")))

    def steps(self, settings: Optimizer):
        """The state and the loss after each of some steps."""
        rate = schedule(*rates_of(settings, 10))
        optimizer = optimizer_of(settings, rate, dict.fromkeys(self.params, 1.0))
        one = functools.partial(train_step, graphdef=self.graphdef, optimizer=optimizer, step=self.step)
        # unoptimised: compiled in half the time
        one = jax.jit(one, compiler_options={"xla_backend_optimization_level": 0})
        state = init_state(self.params, self.statistics, optimizer)
        rows = {key: jnp.asarray(value) for key, value in self.rows.items()}
        while True:
            state, figures = one(state, rows)
            yield state, float(figures["loss"])

    def loss(self):
        """PyTorch's, of the real rows."""
        torch, real = self.torch, self.rows["mask"] > 0
        told = self.theirs(torch.from_numpy(self.given[real]))
        score = told if self.name == "psla" else told["clipwise_output"]
        score = score.clamp(1e-7, 1 - 1e-7)
        return torch.nn.functional.binary_cross_entropy(score, torch.from_numpy(self.rows["labels"][real]))

    def as_ours(self, values: dict) -> dict[str, np.ndarray]:
        """PyTorch's arrays by our paths."""
        if self.name != "psla":
            table = panns_layout.rows_of(self.name, self.loaded.model.config)
        else:
            table = psla_layout.rows_of("tiny") + psla_layout.heads()
        return {
            row.ours: row.read(*(np.array(values[key]) for key in row.theirs))
            for row in table
            if all(key in values for key in row.theirs)
        }


@pytest.fixture(scope="module", params=["cnn14", "wavegram_logmel_cnn14", "psla"])
def pair(request, tmp_path_factory):
    torch = pytest.importorskip("torch")
    without = torch.nn.functional.dropout
    torch.nn.functional.dropout = lambda x, *_, **__: x
    yield Pair(request.param, tmp_path_factory.mktemp("pair"), torch)
    torch.nn.functional.dropout = without


def test_gradients_statistics_and_forty_steps_are_pytorchs(pair):
    """Gradients to 1e-3 of their norm: float32 through batch statistics of five clips; losses to 1e-3.

    Adam's eps is large: gradients near 0, whose signs are rounding's, are else whole steps.
    """
    torch = pair.torch
    settings = Optimizer(adam_eps=1e-2, weight_decay=0.0, **RATES[pair.name])
    adam = torch.optim.Adam(
        pair.theirs.parameters(),
        lr=settings.lr,
        eps=settings.adam_eps,
        betas=(settings.adam_b1, settings.adam_b2),
        amsgrad=settings.amsgrad,
    )
    pair.theirs.train()
    ours, wanted, losses = pair.steps(settings), [], []
    # which of four is the largest turns on rounding, step after step: the wavegram's paths part
    steps = 1 if pair.name == "wavegram_logmel_cnn14" else STEPS
    for step in range(steps):
        adam.zero_grad()
        loss = pair.loss()
        loss.backward()
        state, own = next(ours)
        if step == 0:
            assert_gradients(pair, state, settings)
            assert_statistics(pair, state, 1e-4)
        adam.step()
        wanted.append(float(loss.detach()))
        losses.append(own)
    assert steps == 1 or wanted[-1] < 0.8 * wanted[0]
    np.testing.assert_allclose(losses, wanted, rtol=1e-3)
    assert_statistics(pair, state, 1e-4)


def assert_gradients(pair, state, settings: Optimizer):
    """The first moment after one step is the gradient times 1 - b1."""
    moments = next(part.mu for part in state["opt"] if hasattr(part, "mu"))
    found = {key: p.grad.numpy() for key, p in pair.theirs.named_parameters() if p.grad is not None}
    wanted = pair.as_ours(found)
    assert wanted.keys() == pair.params.keys()
    # a bias before a norm has none: what is there is rounding
    least = 1e-5 * max(np.linalg.norm(gradient) for gradient in wanted.values())
    for path, gradient in wanted.items():
        own = np.asarray(moments[path]) / (1 - settings.adam_b1)
        # the largest of four, of two that differ by rounding, is either: a few places of 600,000 have the
        # other's gradient
        share = 2e-2 if path.startswith("pre_") else 1e-3
        assert np.linalg.norm(own - gradient) <= share * np.linalg.norm(gradient) + least, path


def assert_statistics(pair, state, share: float):
    """Running means to that share of the largest deviation, variances to that of the largest."""
    moved = pair.as_ours({key: value.numpy() for key, value in pair.theirs.state_dict().items()})
    for path, value in state["statistics"].items():
        var = moved[path.replace("/mean", "/var")]
        size = np.sqrt(var.max()) if path.endswith("mean") else var.max()
        np.testing.assert_allclose(value, moved[path], rtol=0, atol=share * size, err_msg=path)


# ---- Files


@pytest.mark.parametrize("name", ["cnn6", "cnn14_decision_att", "wavegram_logmel_cnn14", "psla"])
def test_their_files_come_back_bit_for_bit(tmp_path, name):
    """Into our model and out again, every entry that is not a count of batches or the frozen front end."""
    torch = pytest.importorskip("torch")
    is_psla = name == "psla"
    model = psla_model(SCALES["tiny"]) if is_psla else panns_model(name)
    saved(model, tmp_path / "theirs.pth", **({} if is_psla else {"iteration": 3}))
    stated = {"mean": 0.0, "std": 1.0} if is_psla else {}
    convert(tmp_path / "theirs.pth", tmp_path / "ours", to="flax", **stated)
    convert(tmp_path / "ours", tmp_path / "again.pth", to="psla" if is_psla else "panns")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    again = {k.removeprefix("module."): v for k, v in again.items()} if is_psla else again["model"]
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked") or key.startswith(("effnet._fc", "att_block.bn_att")):
            continue
        if key.startswith(("spectrogram_extractor", "logmel_extractor")):
            np.testing.assert_allclose(again[key], value, atol=1e-6)
        else:
            assert torch.equal(again[key], value), key
    model.load_state_dict(again, strict=not is_psla)  # psla's has the ImageNet classes beside
    assert load_model(tmp_path / "again.pth").card() == load_model(tmp_path / "ours").card()


def test_an_imagenet_net_is_the_same_from_both_libraries(tmp_path):
    """Both hold a B0's layers in the order of the paper: the same arrays, by place, under either's names."""
    torch = pytest.importorskip("torch")
    theirs = efficientnet(SCALES["b0"], colours=3).state_dict()
    counts = [key for key in theirs if key.endswith("num_batches_tracked")]
    theirs = {key: torch.rand(value.shape) for key, value in theirs.items() if key not in counts}
    other = timm().create_model("efficientnet_b0", pretrained=False).state_dict()
    other = [key for key in other if not key.endswith("num_batches_tracked")]
    renamed = dict(zip(other, theirs.values(), strict=True))
    for name, state in {"theirs.pth": theirs, "timm.pth": renamed}.items():
        torch.save(state, tmp_path / name)
    first, second = (read_source(tmp_path / name) for name in ("theirs.pth", "timm.pth"))
    assert first.model == second.model == {"scale": "b0"}
    assert first.arrays.keys() == second.arrays.keys()
    for path, value in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[path], value, err_msg=path)
    taken = first.arrays["net/blocks/3/depthwise/kernel"]
    np.testing.assert_array_equal(taken, theirs["_blocks.3._depthwise_conv.weight"].permute(2, 3, 1, 0))


def test_a_front_end_that_is_another_is_refused(tmp_path):
    pytest.importorskip("torch")
    model = panns_model("cnn6")
    model.logmel_extractor.melW.data[3] += 0.01
    with pytest.raises(InputError, match=r"melW is of another front end"):
        loaded_panns(tmp_path, "cnn6", model)


@pytest.mark.parametrize("name", ["psla", "wavegram_logmel_cnn14", "vggish_mlp"])
def test_they_run_as_onnx(tmp_path, name):
    """The parity line has the largest difference of logits, of random features."""
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    options = {
        "psla": {"scale": "tiny"},
        "wavegram_logmel_cnn14": {"channels": (4, 8)},
        "vggish_mlp": {"channels": (4, 4, 8, 8), "width": 16, "hidden": 8},
    }[name]
    model = build(name, family(name).Config(num_classes=3, num_frames=96, **options))
    if name == "vggish_mlp":
        # far from a score of 1, where float32 is coarse
        model.classifier.head.kernel[...] *= 0.01
    card = {"label_names": list("abc"), "activation": "sigmoid", "channels": "mean"}
    loaded = LoadedModel(model, front_end=model.front_end, **card)
    np.savez(tmp_path / "ours.npz", **host_variables(model), **{CARD: json.dumps(loaded.card())})
    line = convert(tmp_path / "ours.npz", tmp_path / "onnx", to="onnx")[-1]
    assert float(re.search(r"differ by at most (\S+)", line)[1]) < 1e-3, line
