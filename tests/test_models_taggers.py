"""PANNs and PSLA against the published classes, from a waveform to log-odds, gradients and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tagger_oracles import logit, panns_model, psla_model, saved
from test_features_log_mel import formula as kaldi

from ast_jax.models import (
    abstract,
    family,
    kernels_on,
    merge,
    num_parameters,
    using,
)
from ast_jax.models.base import split
from ast_jax.models.efficientnet import SCALES
from ast_jax.objectives import objective
from ast_jax.settings import Objective, Optimizer
from ast_jax.training.optim import optimizer_of, rates_of, schedule
from ast_jax.training.step import Step, init_state, train_step
from ast_jax.weights import load_model, panns_layout, psla_layout
from ast_jax.weights.pretrained import with_config

# Unoptimised, and by the older of two ways to write fused loops: PSLA is compiled in a third of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

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


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [*((name, 32_000) for name in PANNS), ("cnn14", 16_000)],
    ids=lambda value: str(value),
)
def test_a_panns_scores_are_the_published_classes_from_a_waveform(tmp_path, name, rate_hz):
    """Log-odds of clips and, where it judges them, scores of steps, before they are repeated for each frame.
    1e-4 of their size: two float32 spectrograms and up to 12 convolutions, in other orders.
    """
    torch = pytest.importorskip("torch")
    model = panns_model(name, rate_hz=rate_hz)
    loaded = loaded_panns(tmp_path, name, model)
    assert loaded.front_end.sample_rate_hz == rate_hz
    takes_rows = name == "wavegram_logmel_cnn14"
    for frames in (64, 100, 230) if takes_rows else (64, 101, 230):
        again = with_config(loaded, num_frames=frames)
        waveform = sounds(2, (frames - 1) * loaded.front_end.frame_shift + (320 if takes_rows else 17))
        told = model(torch.from_numpy(waveform))
        fbank = np.stack([again.front_end.features(x) for x in waveform])
        assert fbank.shape[1] == frames
        assert_same_scores(again.logits(fbank), told["clipwise_output"])
        assert again.judges_steps == ("decision" in name)
        if again.judges_steps:
            size, steps = 32, frames // 32
            by_step = told["framewise_output"][:, : size * steps : size].detach()
            # of two steps each is the other's neighbour, and both hear the same
            assert steps == 2 or np.ptp(by_step, axis=1).max() > 0.003
            np.testing.assert_allclose(again.frame_scores(fbank), by_step, rtol=0, atol=1e-4)


def assert_same_scores(log_odds, scores) -> None:
    """Log-odds of two clips are those of PyTorch's scores, to 1e-4 of their size."""
    wanted = logit(scores)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.03  # it does hear them
    np.testing.assert_allclose(log_odds, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("scale", "lengths"), [("tiny", (64, 101, 230)), ("b0", (64,)), ("b2", (64,))])
def test_psla_is_the_published_arithmetic_from_a_waveform(tmp_path, scale, lengths):
    """Kaldi's front end in float64, said frame by frame, then the published net: to 1e-4, float32, up to 70
    layers. B2's padding is not what its input alone would have.
    """
    torch = pytest.importorskip("torch")
    model = psla_model(SCALES[scale])
    saved(model, tmp_path / "psla.pth")
    loaded = load_model(tmp_path / "psla.pth", mean=-4.0, std=5.0)
    assert loaded.model.config.scale == scale
    for frames in lengths:
        waveform = sounds(2, 400 + 160 * (frames - 1) + 17)
        seen = np.stack([kaldi(x) for x in waveform]).astype(np.float32)
        assert seen.shape == (2, frames, 128)
        again = with_config(loaded, num_frames=frames)
        fbank = np.stack([again.front_end.features(x) for x in waveform])
        assert_same_scores(quick_logits(again, fbank), model(torch.from_numpy((seen + 4) / 5)))


def quick_logits(loaded, fbank) -> np.ndarray:
    """`LoadedModel.logits`, unoptimised."""
    graphdef, arrays = loaded.parts

    def forward(arrays, fbank):
        with using(kernels_on(jax.devices()[0])):
            return merge(graphdef, arrays)(loaded.front_end.normalise(fbank))[0]

    return np.asarray(jax.jit(forward, compiler_options=QUICK)(arrays, fbank))


# ---- Training


FRAMES, CLASSES, CLIPS = 64, 5, 6
# Of the others gradients and statistics of one step. Which of four the wavegram takes for the largest turns
# on rounding, step after step: its paths part. B0 is not narrowed, and three steps are what a test may take.
STEPS = {"cnn14": 40, "psla_tiny": 40, "psla_b0": 3}
PSLA, PANN = {"lr": 1e-2}, {"lr": 1e-3, "amsgrad": True, "adam_b1": 0.9}


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
        self.scale = name.removeprefix("psla_") if name.startswith("psla") else ""
        if self.scale:
            self.theirs, options = psla_model(SCALES[self.scale]), {"drop_connect": 0.0}
            self.theirs.effnet._global_params = self.theirs.effnet._global_params._replace(
                drop_connect_rate=0
            )
            self.given = np.random.default_rng(0).normal(size=(CLIPS, FRAMES, 128)).astype(np.float16)
            self.given = self.given.astype(np.float32)
        else:
            self.theirs, options = panns_model(name), {"dropout": (0.0, 0.0)}
            self.given = sounds(CLIPS, (FRAMES - (name != "wavegram_logmel_cnn14")) * 320)
        saved(self.theirs, tmp_path / "start.pth", **({} if self.scale else {"iteration": 0}))
        stated = {"mean": 0.0, "std": 1.0} if self.scale else {"facts": {"family": name}}
        self.loaded = load_model(tmp_path / "start.pth", num_frames=FRAMES, **stated, **options)
        front_end = self.loaded.front_end
        fbank = self.given if self.scale else [front_end.features(x) for x in self.given]
        self.rows = batch() | {"fbank": np.stack(fbank)}
        self.graphdef, self.params, self.statistics = split(self.loaded.model)
        self.step = Step(front_end, objective(Objective(loss="bce")))

    def steps(self, settings: Optimizer):
        """The state and the loss after each of some steps."""
        rate = schedule(*rates_of(settings, 10))
        optimizer = optimizer_of(settings, rate, dict.fromkeys(self.params, 1.0))
        options = {"optimizer": optimizer, "step": self.step, "forms": kernels_on(jax.devices()[0])}
        one = functools.partial(train_step, graphdef=self.graphdef, **options)
        one = jax.jit(one, compiler_options=QUICK)
        state = init_state(self.params, self.statistics, optimizer)
        rows = {key: jnp.asarray(value) for key, value in self.rows.items()}
        while True:
            state, figures = one(state, rows)
            yield state, float(figures["loss"])

    def loss(self):
        """PyTorch's, of the real rows."""
        torch, real = self.torch, self.rows["mask"] > 0
        told = self.theirs(torch.from_numpy(self.given[real]))
        score = told if self.scale else told["clipwise_output"]
        score = score.clamp(1e-7, 1 - 1e-7)
        return torch.nn.functional.binary_cross_entropy(score, torch.from_numpy(self.rows["labels"][real]))

    def as_ours(self, values: dict) -> dict[str, np.ndarray]:
        """PyTorch's arrays by our paths."""
        if self.scale:
            table = psla_layout.rows_of(self.scale) + psla_layout.heads()
        else:
            table = panns_layout.rows_of(self.name, self.loaded.model.config)
        return {
            row.ours: row.read(*(np.array(values[key]) for key in row.theirs))
            for row in table
            if all(key in values for key in row.theirs)
        }


@pytest.fixture(scope="module", params=[*PANNS, "psla_tiny", "psla_b0"])
def pair(request, tmp_path_factory):
    torch = pytest.importorskip("torch")
    without = torch.nn.functional.dropout
    torch.nn.functional.dropout = lambda x, *_, **__: x
    yield Pair(request.param, tmp_path_factory.mktemp("pair"), torch)
    torch.nn.functional.dropout = without


def test_gradients_statistics_and_steps_are_pytorchs(pair):
    """Gradients to 1e-3 of their norm: float32 through batch statistics of five clips; losses to 1e-3, forty
    steps of CNN14 and of a narrow PSLA, three of PSLA-B0.

    Adam's eps is large: gradients near 0, whose signs are rounding's, are else whole steps.
    """
    torch = pair.torch
    settings = Optimizer(adam_eps=1e-2, weight_decay=0.0, **(PSLA if pair.scale else PANN))
    adam = torch.optim.Adam(
        pair.theirs.parameters(),
        lr=settings.lr,
        eps=settings.adam_eps,
        betas=(settings.adam_b1, settings.adam_b2),
        amsgrad=settings.amsgrad,
    )
    pair.theirs.train()
    ours, wanted, losses = pair.steps(settings), [], []
    steps = STEPS.get(pair.name, 1)
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
    assert steps < 40 or wanted[-1] < 0.8 * wanted[0]
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
