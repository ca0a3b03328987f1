"""A student sees what its teacher sees, and learns what it says; what was said may be kept."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.features.batches import resampled
from ast_jax.features.front_end import Kaldi
from ast_jax.models import AST, ASTConfig, host_variables
from ast_jax.models.panns import CNN6
from ast_jax.models.passt import PaSST, PaSSTConfig
from ast_jax.objectives import objective
from ast_jax.settings import Augment, Data, Objective, Run, Settings
from ast_jax.sharding import make_layout
from ast_jax.training import augment
from ast_jax.training.step import Step, inputs
from ast_jax.training.taught import TOP, Taught
from ast_jax.training.teacher import teacher_of
from ast_jax.weights import LoadedModel, load_model
from ast_jax.weights.model_card import CARD

LABELS, FRAMES = ["cat", "dog", "owl"], 32
TINY = {"width": 8, "depth": 1, "num_heads": 2, "strides": (16, 16)}


def saved_model(path, labels, *, num_frames=FRAMES, seed=0, family=(AST, ASTConfig), scale=1):
    kind, config = family
    model = kind(config(num_classes=len(labels), num_frames=num_frames, **TINY), rngs=nnx.Rngs(seed))
    nnx.update(model, jax.tree.map(lambda value: scale * value, nnx.state(model)))
    rng = np.random.default_rng(seed)
    model.head.kernel[...] = jnp.asarray(rng.normal(size=(8, len(labels))).astype(np.float32))
    front_end = model.front_end.with_statistics(-4.0, 5.0)
    card = {"label_names": labels, "activation": "sigmoid", "channels": "mean"}
    loaded = LoadedModel(model, front_end=front_end, **card)
    np.savez(path, **host_variables(model), **{CARD: json.dumps(loaded.card())})
    return path


def batch():
    rng = np.random.default_rng(3)
    fbank = rng.normal(-4, 5, (4, FRAMES, 128)).astype(np.float16)
    return {
        "fbank": jnp.asarray(fbank),
        "length": jnp.full(4, FRAMES, jnp.int32),
        "index": jnp.arange(4, dtype=jnp.int32),
        "mask": jnp.ones(4),
        "labels": jnp.zeros((4, 3)),
    }


def student(front_end, **settings):
    """The step of a student whose features are scaled otherwise than its teacher's."""
    chosen = Augment(**settings)
    return Step(
        front_end.with_statistics(0.0, 2.0),
        objective(Objective()),
        augment=chosen,
        rows=augment.rows_of(chosen),
    )


class Toy(PreparedSet):
    """As far as a teacher has to know one."""

    def __init__(self):
        self.name, self.label_names, self.splits = "toy", tuple(LABELS), ("train",)
        self.directory = Path("toy-1/1.0.0")

    def num_examples(self, _):
        return 4


def taught(settings, what, rows=None):
    teach = teacher_of(settings, what, make_layout(), Toy(), Path("nowhere"))
    return np.asarray(teach(rows or batch(), 7)["taught"])


def asking(*teachers):
    return Settings(objective=Objective(teacher=",".join(map(str, teachers))), run=Run(num_frames=FRAMES))


def test_teachers_say_what_they_would_of_the_same_masked_clip(tmp_path):
    """Two of them, their mean; one knows the classes in another order, among more, and hears longer clips."""
    first = saved_model(tmp_path / "a.npz", LABELS)
    second = saved_model(tmp_path / "b.npz", ["owl", "bat", "cat", "dog"], num_frames=48, seed=1)
    loaded = load_model(first)
    what = student(loaded.front_end, freq_mask=40, time_mask=10, noise=True)
    seen = np.asarray(inputs(batch(), jnp.int32(7), what)) * (what.front_end.spread * 2.0)
    assert np.abs(seen - np.asarray(batch()["fbank"], np.float32)).max() > 1  # it is masked
    alone = loaded.scores(seen)
    np.testing.assert_allclose(taught(asking(first), what), alone, atol=1e-5)
    both = (alone + load_model(second).scores(seen)[:, [2, 3, 0]]) / 2
    np.testing.assert_allclose(taught(asking(first, second), what), both, atol=1e-5)


def test_the_loss_is_by_its_share_to_the_teachers_scores():
    """Against the formulas; where student and teacher agree it is 0."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)), np.eye(3)[[0, 1, 2, 0, 1]]
    scores = rng.uniform(0.05, 0.95, (5, 3))
    p = 1 / (1 + np.exp(-logits))
    cross = lambda target: -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(axis=1)
    entropy = -(scores * np.log(scores) + (1 - scores) * np.log1p(-scores)).mean(axis=1)
    wanted = 0.75 * (cross(scores) - entropy) + 0.25 * cross(labels)
    rows = {"labels": jnp.asarray(labels, jnp.float32), "taught": jnp.asarray(scores, jnp.float32)}
    what = objective(Objective(loss="bce", teacher="a", teacher_weight=0.75))
    given = {"logits": jnp.asarray(logits, jnp.float32)}
    np.testing.assert_allclose(what.training(given, rows), wanted, rtol=1e-5)
    np.testing.assert_allclose(what.per_clip(given, rows), cross(labels), rtol=1e-5)
    whole = objective(Objective(loss="ce", teacher="a", teacher_weight=1.0))
    same = jnp.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), jnp.float32)
    np.testing.assert_allclose(whole.training(given, rows | {"taught": same}), np.zeros(5), atol=1e-6)


def test_a_teacher_that_cannot_teach_is_refused(tmp_path):
    other = saved_model(tmp_path / "a.npz", ["cat", "dog"])
    what = student(load_model(other).front_end)
    with pytest.raises(InputError, match=r"a\.npz does not know owl"):
        taught(asking(other), what)
    from ast_jax.features.slaney import Slaney

    with pytest.raises(InputError, match=r"hears kind=kaldi .* and the student kind=slaney"):
        taught(asking(other), Step(Slaney(), what.objective))
    with pytest.raises(InputError, match=r"config.teacher_views is how often a teacher is asked: set"):
        taught(Settings(objective=Objective(teacher_views=2)), what)
    with pytest.raises(InputError, match=r"views that come again: set teacher_views"):
        taught(Settings(objective=Objective(teacher=str(other), teacher_scores="said")), what)


def test_a_teacher_of_another_front_end_hears_the_mixed_sounds_through_its_own(tmp_path, capsys):
    """At 32 kHz, from a student's 16; masks are the student's alone."""
    path = saved_model(tmp_path / "a.npz", LABELS, family=(PaSST, PaSSTConfig), scale=8)
    loaded, what = load_model(path), student(Kaldi(), freq_mask=40)
    rng, samples = np.random.default_rng(0), what.front_end.span(FRAMES)
    tones = np.sin(rng.uniform(0.05, 2.5, (2, 4, 1)) * np.arange(samples))
    sounds = (9000 * tones + rng.normal(0, 300, tones.shape)).astype(np.int16)
    lengths = np.array([samples, samples // 2, samples, 900], np.int32)
    for clip, length in enumerate(lengths):
        sounds[0, clip, length:] = 0
    share = np.array([1.0, 0.3, 0.6, 1.0], np.float32)
    rows = {key: value for key, value in batch().items() if key != "fbank"} | {
        "waveform": jnp.asarray(sounds[0]),
        "num_samples": jnp.asarray(lengths),
        "partner": jnp.asarray(sounds[1]),
        "partner_samples": jnp.full(4, samples, jnp.int32),
        "partner_length": jnp.full(4, FRAMES, jnp.int32),
        "share": jnp.asarray(share),
    }
    settings = dataclasses.replace(asking(path), data=Data(kind="waveform"))
    found = taught(settings, what, rows)
    for clip, length in enumerate(lengths):
        own, other = sounds[0, clip, :length] / 32768, sounds[1, clip] / 32768
        if share[clip] < 1:
            mixed_in = (other - other.mean())[:length]
            own = share[clip] * (own - own.mean()) + (1 - share[clip]) * mixed_in
        heard = scipy.signal.resample_poly(own, 2, 1).astype(np.float32)[: loaded.front_end.span(FRAMES)]
        wanted = loaded.scores(loaded.front_end.features(heard)[None])[0]
        np.testing.assert_allclose(found[clip], wanted, atol=2e-4)
    assert np.ptp(found, axis=0).max() > 0.5, "clips that are all alike show nothing"
    assert "it is asked about the sounds as they are mixed, without masks" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"or set config.dataset.kind=waveform"):
        taught(asking(path), what, rows)


@pytest.mark.parametrize("mixes", [True, False])
def test_a_teacher_whose_first_layer_normalises_hears_masks_and_mixes_behind_it(tmp_path, mixes):
    """As its student does: a masked cell is 0 there, and not 0 dB before."""
    model = CNN6(CNN6.Config(num_classes=3, num_frames=FRAMES, channels=(8, 8, 8, 8)), rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda value: 1.35 * value, nnx.state(model, nnx.Param)))
    rng = np.random.default_rng(0)
    means, variances = rng.uniform(-60, -20, 64), rng.uniform(50, 400, 64)
    model.bn0.mean[...], model.bn0.var[...] = (jnp.asarray(x, jnp.float32) for x in (means, variances))
    loaded = LoadedModel(model, LABELS, model.front_end, "sigmoid")
    np.savez(tmp_path / "a.npz", **host_variables(model), **{CARD: json.dumps(loaded.card())})
    chosen = Augment(time_stripes=(2, 9), freq_stripes=(2, 20))
    what = Step(
        model.front_end, objective(Objective()), chosen, augment.rows_of(chosen), mixes_features=mixes
    )
    fbank = rng.normal(-40, 15, (2, 4, FRAMES, 64)).astype(np.float16)
    rows = batch() | {"fbank": jnp.asarray(fbank[0])}
    if mixes:
        lengths = {"partner_length": jnp.full(4, FRAMES, jnp.int32)}
        rows |= {"partner": jnp.asarray(fbank[1]), "share": jnp.array([1.0, 0.4, 0.7, 0.5])} | lengths
    found = taught(asking(tmp_path / "a.npz"), what, rows)
    sounds = np.stack([fbank[0], fbank[1]], axis=1).reshape(8, FRAMES, 64) if mixes else fbank[0]
    normal = (sounds.astype(np.float32) - means) / np.sqrt(variances + 1e-5)
    keys = augment.example_keys(0, jnp.int32(7), rows["index"])
    if mixes:
        keys = jnp.stack([keys, augment.stream(keys, augment.PARTNER_STREAM)], axis=1).reshape(-1)
    draw = lambda key, x: augment.stripes(key, x, time=(2, 9), freq=(2, 20))
    masked = np.asarray(jax.vmap(draw)(augment.stream(keys, 7), jnp.asarray(normal, jnp.float32)))
    assert 0.1 < (masked == 0).mean() < 0.9
    if mixes:
        share = np.array([1.0, 0.4, 0.7, 0.5])[:, None, None]
        masked = share * masked[::2] + (1 - share) * masked[1::2]
    as_heard = masked * np.sqrt(variances + 1e-5) + means
    np.testing.assert_allclose(found, loaded.scores(as_heard.astype(np.float32)), atol=1e-4)
    assert np.abs(found - loaded.scores(fbank[0])).max() > 1e-3


@pytest.mark.parametrize("rates", [(16_000, 32_000), (32_000, 16_000), (44_100, 16_000), (8000, 8000)])
def test_resampling_on_the_device_is_scipys(rates):
    sound = np.random.default_rng(0).normal(size=(2, 1001)).astype(np.float32)
    found, counts = resampled(jnp.asarray(sound), jnp.array([1001, 500]), rates)
    wanted = scipy.signal.resample_poly(sound, rates[1], rates[0], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert counts.tolist() == [wanted.shape[1], scipy.signal.resample_poly(sound[0, :500], *rates[::-1]).size]


# ---- What was said is kept


@pytest.mark.parametrize("num_classes", [3, 50])
def test_scores_are_kept_in_16_bits_and_those_beside_the_largest_as_their_mean(num_classes, tmp_path):
    scores = np.random.default_rng(0).uniform(size=(6, num_classes)).astype(np.float32) ** 4
    kept = Taught(tmp_path, {"a": 1}, num_classes=num_classes)
    assert kept.read(0, 6) is None
    given = kept.write(3, scores)
    wanted = scores.astype(np.float16).astype(np.float32)
    if num_classes > TOP:
        order = np.argsort(-scores, axis=1)
        rest = np.take_along_axis(scores, order[:, TOP:], axis=1).mean(axis=1, keepdims=True)
        np.put_along_axis(wanted, order[:, TOP:], rest, axis=1)
    np.testing.assert_allclose(given, wanted, rtol=1e-6)
    again = Taught(tmp_path, {"a": 1}, num_classes=num_classes)
    np.testing.assert_array_equal(again.read(3, 6), given)
    np.testing.assert_array_equal(again.read(5, 2), given[2:4])
    # never written, past the end, and one byte that changed
    assert again.read(2, 2) is None
    assert again.read(6, 4) is None
    path, size = again.directory / "scores.bin", again.row.itemsize
    damaged = bytearray(path.read_bytes())
    damaged[5 * size + 1] ^= 1
    path.write_bytes(damaged)
    assert again.read(4, 2) is None
    np.testing.assert_array_equal(again.read(6, 3), given[3:])
    assert Taught(tmp_path, {"a": 2}, num_classes=num_classes).read(6, 3) is None


def test_a_view_is_asked_about_once_by_whichever_student(tmp_path, monkeypatch):
    """Two steps a period: step 7 shows what step 1 did."""
    path = saved_model(tmp_path / "a.npz", LABELS)
    what = dataclasses.replace(student(load_model(path).front_end, freq_mask=40), period=2)
    objective = Objective(teacher=str(path), teacher_views=1, teacher_scores=str(tmp_path / "said"))
    settings = Settings(objective=objective, run=Run(num_frames=FRAMES, batch_size=4))
    online = taught(asking(path), what)
    first = taught(settings, what)
    np.testing.assert_allclose(first, online, atol=1e-3)
    assert np.array_equal(first, first.astype(np.float16))
    (said,) = (tmp_path / "said").iterdir()
    rows = np.fromfile(said / "scores.bin", np.uint8).reshape(8, -1)
    assert rows[4:].any(axis=1).all()
    assert not rows[:4].any()

    def unasked(*_, **__):
        raise AssertionError("a teacher was asked again")

    monkeypatch.setattr("ast_jax.training.teacher.taught", unasked)
    np.testing.assert_array_equal(taught(settings, what), first)
    monkeypatch.undo()
    other = saved_model(tmp_path / "b.npz", LABELS, seed=1)
    run = Run(num_frames=FRAMES, batch_size=4, seed=5)
    for number, changed in enumerate(
        (
            dataclasses.replace(settings, run=run),
            dataclasses.replace(settings, augment=Augment(freq_mask=40)),
            dataclasses.replace(settings, objective=dataclasses.replace(objective, teacher=str(other))),
        )
    ):
        taught(changed, what)
        assert len([*(tmp_path / "said").iterdir()]) == 2 + number
