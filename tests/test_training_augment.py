"""Each augmentation against a direct NumPy statement of its definition, its distribution, and its
independence of the batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ast_jax.datasets.pipeline import FrameGrid, fit
from ast_jax.features import FrontEnd, Kaldi, log_mel, num_frames
from ast_jax.features.spec import LOG_FLOOR
from ast_jax.objectives import objective
from ast_jax.settings import Augment, Objective
from ast_jax.training.augment import (
    AUGMENTATIONS,
    MODEL_STREAM,
    Augmentation,
    augmented,
    example_keys,
    gain,
    mix_power,
    mix_waveforms,
    noise,
    roll,
    rows_of,
    spec_mask,
    stripes,
    time_shift,
)
from ast_jax.training.step import Step, between_layers, features, inputs, moved

T, F, TIME, FREQ = 100, 64, 30, 24
FLOOR = np.log(LOG_FLOOR)


def step_of(mean: float, std: float, **augmentations) -> Step:
    augment = Augment(**augmentations)
    return Step(Kaldi(mean=mean, std=std), objective(Objective()), augment, rows_of(augment))


PLAIN = step_of(0.0, 0.5)  # (x - 0) / (2 x 0.5): what comes out is what went in


def loud_and_quiet(clips: int) -> dict[str, np.ndarray]:
    """A batch of clips of 64 frames, of which some stretches are loud, and the same as events; the last
    eighth is padding.
    """
    front_end, grid = PLAIN.front_end, FrameGrid(0.02, 0.04, 16)
    rng, rows = np.random.default_rng(0), []
    for index in range(clips):
        events = [(0.01 * on, 0.01 * (on + rng.integers(6, 12)), 0) for on in (rng.integers(0, 20), 36)]
        x = np.full((56, 128), -1.0, np.float16)
        for onset_s, offset_s, _ in events:
            x[round(100 * onset_s) : round(100 * offset_s)] = 1.0
        example = {"index": index, "labels": [0], "fbank": x, "events": np.array(events)}
        shape = {"kind": "log_mel", "num_frames": 64, "num_classes": 1, "front_end": front_end}
        rows.append(fit(example, **shape, grid=grid))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("settings", [{"roll": 30}, {"time_shift": 30}, {"roll": 9, "time_shift": 12}])
def test_targets_of_steps_go_where_the_sounds_go(settings):
    """Each known target is what is heard within half a step of its step's middle."""
    batch, number = {key: jnp.asarray(value) for key, value in loud_and_quiet(40).items()}, jnp.int32(5)
    step = step_of(0.0, 0.5, **settings)
    heard = np.asarray(inputs(batch, number, step))[..., 0] > 0
    told = moved(batch, number, step, FrameGrid(0.02, 0.04, 16), frames=64)
    targets, known = np.asarray(told["frames"])[..., 0], np.asarray(told["frames_known"])
    # in a circle of whole steps nothing is lost
    assert 0.3 < known.mean() <= 14 / 16
    assert "time_shift" in settings or known.mean() == 14 / 16
    reach = 2 * len(settings)
    for clip, i in zip(*np.nonzero(known), strict=True):
        middle = 2 + 4 * i
        around = heard[clip, max(0, middle - reach) : middle + reach + 1]
        assert around.min() <= targets[clip, i] <= around.max()
    unmoved = np.asarray(batch["frames"])[..., 0]
    assert (targets != unmoved).any(axis=1).mean() > 0.8


def for_many(augment, n: int) -> np.ndarray:
    """`augment(key)` for n clips' keys, float64."""
    keys = example_keys(0, jnp.int32(3), jnp.arange(n))
    return np.asarray(jax.jit(jax.vmap(augment))(keys), np.float64)


# ---- SpecAugment


def masks(n: int) -> np.ndarray:
    return for_many(lambda key: spec_mask(key, jnp.ones((T, F)), freq_mask=FREQ, time_mask=TIME), n) == 0


def test_one_whole_band_an_axis():
    hidden = masks(200)
    for clip in hidden:
        rows, columns = clip.all(axis=1), clip.all(axis=0)
        np.testing.assert_array_equal(clip, rows[:, None] | columns[None, :])
        for band in (rows, columns):
            assert (np.diff(band.astype(int)) == 1).sum() + band[0] <= 1  # one run


def test_widths_are_uniform_and_starts_fall_as_in_the_reference():
    n, rng = 4000, np.random.default_rng(0)
    hidden = masks(n)
    for axis, widest, size in ((1, TIME, T), (2, FREQ, F)):
        bands = hidden.all(axis=3 - axis)
        widths, starts = bands.sum(axis=1), bands.argmax(axis=1)
        counts = np.bincount(widths, minlength=widest)
        assert len(counts) == widest  # 0 .. widest - 1
        assert stats.chisquare(counts).pvalue > 0.01
        value = rng.uniform(0, widest, n)  # the definition, drawn by NumPy
        expected = np.floor(rng.uniform(0, 1, n) * (size - value))
        assert stats.ks_2samp(starts[widths > 0], expected[value >= 1]).pvalue > 0.01
        late = starts[widths > 0] / (size - widths[widths > 0])  # where in what is left: whatever the width
        assert abs(stats.pearsonr(late, widths[widths > 0]).statistic) < 0.05  # three standard deviations


def test_the_two_masks_of_a_clip_are_drawn_apart():
    hidden = masks(4000)
    widths = [hidden.all(axis=axis).sum(axis=1) for axis in (2, 1)]
    assert abs(stats.pearsonr(*widths).statistic) < 0.05  # three standard deviations


def test_masked_cells_are_zero_and_others_untouched():
    x = jnp.asarray(np.random.default_rng(0).normal(-5, 1, (T, F)), jnp.float32)
    y = np.asarray(spec_mask(jax.random.key(1), x, freq_mask=FREQ, time_mask=TIME))
    assert (y != np.asarray(x)).any()
    assert set(np.unique(y[y != np.asarray(x)])) == {0.0}
    np.testing.assert_array_equal(spec_mask(jax.random.key(1), x, freq_mask=0, time_mask=0), x)


def test_a_mask_wider_than_the_clip_is_held_to_it():
    hidden = for_many(lambda key: spec_mask(key, jnp.ones((8, 4)), freq_mask=48, time_mask=192), 500) == 0
    for axis, size in ((1, 8), (2, 4)):  # widths as of a mask of the clip's own size: something stays
        counts = np.bincount(hidden.all(axis=3 - axis).sum(axis=1), minlength=size)
        assert len(counts) == size
        assert stats.chisquare(counts).pvalue > 0.01


def test_masks_are_zeros_before_normalisation():
    """The reference masks the padded spectrogram, with zeros that then become (0 - mean) / (2 std) like the
    padding."""
    rows = batch_of(
        {"fbank": np.full((20, 128), -9, np.float16)}, {"fbank": np.full((60, 128), -9, np.float16)}
    )
    x = np.asarray(inputs(rows, jnp.int32(0), step_of(-4.0, 4.5, time_mask=60)))
    values = np.unique(x.round(4))
    np.testing.assert_allclose(values, [-5 / 9, 4 / 9], atol=1e-4)


# ---- Mixup in the power domain


def mixed_power(a, b, b_length, share) -> np.ndarray:
    """log(l^2 e^a + (1 - l)^2 e^b), no power from rows of b past its end, not under log_mel's floor."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    power = share**2 * np.exp(a)
    power[:b_length] += (1 - share) ** 2 * np.exp(b[:b_length])
    return np.log(np.maximum(power, LOG_FLOOR))


def run_mix_power(a, b, b_length, share) -> np.ndarray:
    arrays = (
        jnp.asarray(a, jnp.float32),
        jnp.int32(T),
        jnp.asarray(b, jnp.float32),
        jnp.int32(b_length),
        jnp.float32(share),
    )
    return np.asarray(jax.jit(functools.partial(mix_power, front_end=Kaldi()))(*arrays))


@pytest.mark.parametrize(("b_length", "share"), [(T, 0.5), (T, 0.3), (40, 0.3), (1, 0.8), (0, 0.6)])
def test_mix_power_is_its_definition(b_length, share):
    a, b = np.random.default_rng(1).uniform(FLOOR, 8, (2, T, F)).astype(np.float32)
    got = run_mix_power(a, b, b_length, share)
    np.testing.assert_allclose(got, mixed_power(a, b, b_length, share), atol=2e-5)  # float32 near 16 nats
    # A partner that has ended adds no power: what is left is the clip, softer.
    loud = a[b_length:] > FLOOR - 2 * np.log(share)
    np.testing.assert_allclose(got[b_length:][loud], (a[b_length:] + 2 * np.log(share))[loud], atol=2e-5)


def test_two_silences_mix_to_the_floor():
    silence = np.full((T, F), FLOOR, np.float32)
    np.testing.assert_allclose(run_mix_power(silence, silence, T, 0.5), FLOOR, rtol=1e-6)


class Decibels(FrontEnd):
    """Of power: 10 log10 of what is nats of power in the reference's."""

    nats = np.log(10) / 10
    silence = -80.0


def test_features_in_decibels_mix_and_grow_as_power_does():
    front_end = Decibels(16_000, 400, 160, F)
    a, b = np.random.default_rng(1).uniform(-90, 30, (2, T, F)).astype(np.float32)
    mix = functools.partial(mix_power, front_end=front_end)
    got = jax.jit(mix)(jnp.asarray(a), jnp.int32(T), jnp.asarray(b), jnp.int32(T), jnp.float32(0.3))
    power = 0.09 * 10 ** (a.astype(np.float64) / 10) + 0.49 * 10 ** (b.astype(np.float64) / 10)
    np.testing.assert_allclose(got, np.maximum(10 * np.log10(power), -80), atol=2e-4)  # float32 near 90 dB
    x = np.zeros((1, 1), np.float32)
    added = for_many(lambda key: gain(key, jnp.asarray(x), most_db=6.0, front_end=front_end), 500)
    assert stats.kstest(added[:, 0, 0], stats.uniform(-6, 12).cdf).pvalue > 0.01


# ---- Mixup of waveforms


def mixed_waveform(a, b, share) -> np.ndarray:
    """The reference's steps on two clips at their own lengths, its last mean removed too."""
    a, b = a - a.mean(), b - b.mean()
    other = np.zeros_like(a)
    other[: len(b)] = b[: len(a)]
    mixed = share * a + (1 - share) * other
    return mixed - mixed.mean()


def padded(sound, size) -> np.ndarray:
    return np.pad(sound, (0, size - len(sound)))


@pytest.mark.parametrize(("own", "other"), [(800, 800), (800, 500), (500, 800), (1000, 1000), (700, 1)])
def test_mix_waveforms_is_the_references(own, other):
    rng = np.random.default_rng(own + other)
    a, b = rng.normal(0.2, 0.3, own), rng.normal(-0.1, 0.3, other)
    arrays = (padded(a, 1000), own, padded(b, 1000), other)
    wave, count, partner, partner_count = (
        jnp.asarray(x, jnp.int32 if np.isscalar(x) else jnp.float32) for x in arrays
    )
    got = np.asarray(jax.jit(mix_waveforms)(wave, count, partner, partner_count, jnp.float32(0.3)))
    want = mixed_waveform(a, b, 0.3)
    np.testing.assert_allclose(got[:own] - got[:own].mean(), want, atol=1e-6)  # log_mel removes the last mean
    assert not got[own:].any()


def batch_of(*examples: dict, frames: int = 64, **partners) -> dict:
    """A batch as the pipeline makes it, of examples without labels' meaning."""
    kind = "log_mel" if "fbank" in examples[0] else "waveform"
    label = {"labels": np.array([0])}
    rows = []
    for i, example in enumerate(examples):
        mix = (
            {"share": partners["share"][i], "partner": {**partners["partner"][i], **label}}
            if partners
            else {}
        )
        rows.append(fit({**example, **label, "index": i, **mix}, kind=kind, num_frames=frames, num_classes=2))
    return {key: jnp.asarray(np.stack([row[key] for row in rows])) for key in rows[0]}


def sounds(*sizes: int) -> list[dict]:
    """White noise, so that every mel bin is within 50 dB of its frame's peak, on an offset that mixing must
    remove."""
    rng = np.random.default_rng(2)
    return [{"waveform": rng.normal(2000, 3000, size).clip(-32768, 32767).astype(np.int16)} for size in sizes]


def test_the_step_mixes_waveforms_at_their_own_lengths():
    """The model sees log_mel of what the reference would mix, rows past the clip's end 0; the partner
    shorter, longer, longest."""
    span = 400 + 63 * 160  # samples of 64 frames
    clips, partners = sounds(6000, 6000, 300, span), sounds(3000, 9000, 5000, 700)
    shares = [0.3, 0.55, 0.4, 0.7]
    got = np.asarray(inputs(batch_of(*clips, share=shares, partner=partners), jnp.int32(0), PLAIN))
    for row, clip, partner, share in zip(got, clips, partners, shares, strict=True):
        a, b = (x["waveform"].astype(np.float64) / 32768 for x in (clip, partner))
        want = log_mel(mixed_waveform(a, b, share))
        assert len(want) == num_frames(len(a))
        np.testing.assert_allclose(
            row[: len(want)], want, atol=5e-4
        )  # float32 against float64, as log_mel promises
        assert not row[len(want) :].any()


def test_clips_longer_than_the_model_mix_like_the_references_cut_after_log_mel():
    """The shards hold whole clips and the batch their beginnings: means of the whole differ only by an
    offset, which no frame keeps."""
    (clip,), (partner,), frames = sounds(9000), sounds(8000), 20
    got = np.asarray(
        inputs(batch_of(clip, frames=frames, share=[0.4], partner=[partner]), jnp.int32(0), PLAIN)
    )
    a, b = (x["waveform"].astype(np.float64) / 32768 for x in (clip, partner))
    np.testing.assert_allclose(got[0], log_mel(mixed_waveform(a, b, 0.4))[:frames], atol=5e-4)


def test_a_partner_that_has_ended_adds_nothing_to_the_step():
    clip = {"fbank": np.full((50, 128), -3, np.float16)}
    partner = {"fbank": np.full((20, 128), 2, np.float16)}
    got = np.asarray(inputs(batch_of(clip, share=[0.5], partner=[partner]), jnp.int32(0), PLAIN))[0]
    np.testing.assert_allclose(got[:20], np.log(0.25 * np.exp(-3) + 0.25 * np.exp(2)), atol=1e-5)
    np.testing.assert_allclose(got[20:50], -3 + np.log(0.25), atol=1e-5)
    assert not got[50:].any()


@pytest.mark.parametrize("kind", ["fbank", "waveform"])
def test_share_1_leaves_the_clip_untouched(kind):
    rng = np.random.default_rng(3)
    clip, partner = (
        sounds(5000, 6000)
        if kind == "waveform"
        else [{kind: rng.normal(-5, 3, (50, 128)).astype("f2")} for _ in "ab"]
    )
    alone, mixed = batch_of(clip), batch_of(clip, share=[1.0], partner=[partner])
    np.testing.assert_array_equal(inputs(mixed, jnp.int32(0), PLAIN), inputs(alone, jnp.int32(0), PLAIN))


# ---- Gain, noise, roll


def test_gain_is_one_uniform_constant_a_clip_and_keeps_the_floor():
    x = np.array([[FLOOR, FLOOR + 0.1], [-3.0, 4.0]], np.float32)
    y = for_many(lambda key: gain(key, jnp.asarray(x), most_db=6.0, front_end=Kaldi()), 2000)
    added = y[:, 1, 1] - 4.0
    np.testing.assert_allclose(y, np.maximum(x + added[:, None, None], FLOOR), atol=2e-6)
    assert stats.kstest(added * 10 / np.log(10), stats.uniform(-6, 12).cdf).pvalue > 0.01  # decibels of power


def test_noise_is_uniform_cells_of_one_uniform_strength_a_clip():
    x = np.random.default_rng(4).normal(0, 0.5, (T, F)).astype(np.float32)
    added = for_many(lambda key: noise(key, jnp.asarray(x)), 500) - x
    assert added.min() > -1e-6  # float32 near 2
    strength = 10 * added.max(
        axis=(1, 2)
    )  # the largest of 6400 cells is the strength itself, but for a few 1e-4
    assert strength.max() < 1
    assert stats.kstest(strength, "uniform").pvalue > 0.01
    clip = strength.argmax()
    cells = added[clip] * 10 / strength[clip]
    assert stats.kstest(cells.ravel(), "uniform").pvalue > 0.01
    corner = added[:, 0, 0] * 10 / strength  # drawn apart from the strength
    assert abs(stats.spearmanr(corner, strength).statistic) < 0.15  # three standard deviations
    for axis in (0, 1):  # cells are drawn one by one, not rows or columns
        assert np.ptp(cells, axis=axis).min() > 0.8


def test_roll_is_circular_by_minus_10_to_9_frames_each_as_often():
    x = np.random.default_rng(5).normal(size=(T, F)).astype(np.float32)
    shifts = range(-10, 10)
    rolled = np.stack([np.roll(x, shift, axis=0) for shift in shifts])
    y = for_many(lambda key: roll(key, jnp.asarray(x), most=10), 2000)
    same = (y[:, None, :, 0] == rolled[None, :, :, 0]).all(axis=-1)
    np.testing.assert_array_equal(same.sum(axis=1), 1)
    which = same.argmax(axis=1)
    np.testing.assert_array_equal(y, rolled[which])
    assert stats.chisquare(np.bincount(which, minlength=len(shifts))).pvalue > 0.01


def test_a_time_shift_loses_what_leaves_and_lets_padding_in():
    x = np.random.default_rng(6).normal(size=(T, F)).astype(np.float32)
    shifts = range(-7, 8)
    padded = np.pad(x, ((7, 7), (0, 0)))
    moved = np.stack([padded[7 - shift : 7 - shift + T] for shift in shifts])
    y = for_many(lambda key: time_shift(key, jnp.asarray(x), most=7), 2000)
    same = (y[:, None, :, 0] == moved[None, :, :, 0]).all(axis=-1)
    np.testing.assert_array_equal(same.sum(axis=1), 1)
    which = same.argmax(axis=1)
    np.testing.assert_array_equal(y, moved[which])
    assert stats.chisquare(np.bincount(which, minlength=len(shifts))).pvalue > 0.01


def test_noise_and_roll_work_on_the_normalised_padded_clip():
    """Noise lies on the padding too and is not divided by 2 std; the roll takes padding around."""
    rows = batch_of({"fbank": np.full((30, 128), -5, np.float16)})
    seen = lambda **options: np.asarray(inputs(rows, jnp.int32(0), step_of(-4.0, 0.05, **options)))[0]
    quiet = seen()
    added = seen(noise=True) - quiet
    assert 1e-3 < added.max() < 0.1
    assert added[30:].max() == pytest.approx(added[:30].max(), rel=0.01)  # one strength for sound and padding
    turned = seen(roll=10)
    assert any(np.array_equal(turned, np.roll(quiet, shift, axis=0)) for shift in range(-10, 10))


DRAWN = Augmentation("drawn", "sound", 0, lambda s: False, lambda key, x, s, _: x + jax.random.uniform(key))


def test_two_rows_that_draw_alike_draw_apart():
    settings = Augment(augment=("test_training_augment:DRAWN",) * 2)
    rows, keys = rows_of(settings), example_keys(0, jnp.int32(3), jnp.arange(50))
    draw = lambda rows: augmented("sound", jnp.zeros((50, 1, 1)), keys, rows, settings, Kaldi())[:, 0, 0]
    first, second, both = draw(rows[:1]), draw(rows[1:]), draw(rows)
    np.testing.assert_allclose(both, first + second, rtol=1e-6)
    assert (first != second).all()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, []),
        ({"freq_mask": 4}, ["masks"]),
        ({"time_mask": 4}, ["masks"]),
        ({"gain_db": 1.0, "time_shift": 2}, ["gain", "time_shift"]),
        ({"noise": True, "roll": 3, "time_mask": 1}, ["masks", "noise", "roll"]),
    ],
)
def test_a_recipe_gets_what_it_asks_for_in_the_references_order(wanted, names):
    assert [row.name for row in rows_of(Augment(**wanted))] == names


# ---- Keys


def test_keys_belong_to_the_example_not_to_its_place_in_the_batch():
    together = example_keys(7, jnp.int32(5), jnp.array([10, 11, 12, 13]))
    apart = example_keys(7, jnp.int32(5), jnp.array([12, 13]))
    np.testing.assert_array_equal(jax.random.key_data(together)[2:], jax.random.key_data(apart))
    for other in (
        example_keys(7, jnp.int32(6), jnp.array([12, 13])),
        example_keys(8, jnp.int32(5), jnp.array([12, 13])),
    ):
        assert (jax.random.key_data(other) != jax.random.key_data(apart)).any()


def test_draws_do_not_depend_on_who_else_is_in_the_batch():
    rng = np.random.default_rng(6)
    clips, partners = (
        [{"fbank": rng.normal(-5, 3, (n, 128)).astype("f2")} for n in sizes]
        for sizes in ((64, 30, 50, 9), (9, 60, 64, 30))
    )
    rows = batch_of(*clips, share=[0.4, 1.0, 0.5, 0.6], partner=partners)
    augmented = step_of(-4.0, 4.5, freq_mask=40, time_mask=30, noise=True, roll=10, gain_db=6.0)
    draw = jax.jit(lambda rows, number: inputs(rows, number, augmented))
    together = np.asarray(draw(rows, jnp.int32(2)))
    for chosen in ([1], [3, 2, 0]):
        apart = np.asarray(draw({key: value[np.array(chosen)] for key, value in rows.items()}, jnp.int32(2)))
        np.testing.assert_allclose(
            apart, together[np.array(chosen)], atol=1e-6
        )  # another shape may round otherwise
    assert np.abs(np.asarray(draw(rows, jnp.int32(3))) - together).max() > 0.1


OWN = Augmentation("own", "sound", 2, lambda settings: False, lambda key, x, settings, front_end: x)


def test_no_two_uses_share_a_stream():
    streams = [row.stream for row in AUGMENTATIONS]
    assert len({*streams, MODEL_STREAM}) == len(streams) + 1
    rows = rows_of(Augment(augment=("test_training_augment:OWN", "test_training_augment:OWN"), noise=True))
    assert [row.name for row in rows] == ["noise", "own", "own"]
    assert len({row.stream for row in rows} - {*streams, MODEL_STREAM}) == 2


def test_augmentations_of_a_clip_are_drawn_apart():
    """A clip's gain tells nothing of its noise or its roll. Frames are 100 apart, so all three can be read
    off the first."""
    n, frames = 1000, 20
    ramp = np.broadcast_to(100 * np.arange(frames, dtype=np.float16)[:, None], (n, frames, 128))
    rows = {"fbank": ramp, "length": np.full(n, frames, np.int32), "index": np.arange(n, dtype=np.int32)}
    augmented = step_of(0.0, 0.5, gain_db=6.0, noise=True, roll=10)
    draw = jax.jit(lambda rows: inputs(rows, jnp.int32(0), augmented)[:, 0])
    first = np.asarray(draw({key: jnp.asarray(value) for key, value in rows.items()}), np.float64)
    rolled = np.round(first[:, 0] / 100)
    louder = first.min(axis=1) - 100 * rolled
    noisy = np.ptp(first, axis=1)
    for a, b in ((louder, noisy), (louder, rolled), (noisy, rolled)):
        assert abs(stats.spearmanr(a, b).statistic) < 0.1  # three standard deviations


# ---- PANNs': stripes on normalised features, mixup after them


def test_stripes_have_torchlibrosas_widths_and_places():
    """Over 4,000 clips: one stripe along time is 0 to 15 frames wide, all alike; it lies inside, and a second
    one adds to it.
    """
    draw = lambda count: lambda key: stripes(key, jnp.ones((64, 8)), time=(count, 16), freq=(0, 0))[:, 0]
    one, two = (1 - for_many(draw(count), 4000) for count in (1, 2))
    widths = one.sum(axis=1)
    assert stats.chisquare(np.bincount(widths.astype(int), minlength=16)).pvalue > 0.01
    edges = np.diff(np.pad(one, ((0, 0), (1, 1))), axis=1)
    assert ((edges == 1).sum(axis=1) == (widths > 0)).all()
    # the mean of min(w1 + w2 - overlap): more than one's 7.5, less than 15
    assert 12 < two.sum(axis=1).mean() < 15
    freq = for_many(lambda key: stripes(key, jnp.ones((64, 8)), time=(0, 0), freq=(2, 4))[0], 400)
    assert set(np.unique(8 - freq.sum(axis=1))) == set(range(7))


def test_features_are_mixed_after_their_masks_each_clip_beside_its_partner():
    """Without masks it is the plain mean by shares of both clips' normalised features, padding too."""
    rng = np.random.default_rng(0)
    clip = lambda frames: {"fbank": rng.normal(-4, 2, (frames, 128)).astype(np.float16)}
    own, partner = [clip(64), clip(20)], [clip(30), clip(64)]
    rows = batch_of(*own, share=[0.25, 1.0], partner=partner)
    plain = dataclasses.replace(step_of(-4.0, 2.0), mixes_features=True)
    seen = np.asarray(inputs(rows, jnp.int32(0), plain))
    normal = lambda e: (np.pad(np.float64(e["fbank"]), ((0, 64 - len(e["fbank"])), (0, 0))) + 4) / 4
    for row, share, a, b in zip(seen, (0.25, 1.0), own, partner, strict=True):
        np.testing.assert_allclose(row, share * normal(a) + (1 - share) * normal(b), atol=1e-6)
    # ones and threes, each with a mask of its own: cells of both, of one of them, and of none
    masked = dataclasses.replace(step_of(-4.0, 2.0, time_stripes=(1, 60)), mixes_features=True)
    flat = lambda value: [{"fbank": np.full((64, 128), value, np.float16)}] * 8
    seen = np.asarray(inputs(batch_of(*flat(0), share=[0.5] * 8, partner=flat(8)), jnp.int32(0), masked))
    assert set(np.unique(seen)) == {0.0, 0.5, 1.5, 2.0}


def test_a_model_that_normalises_by_itself_gets_features_as_they_are():
    """`features`, then `between_layers`, is `inputs`: what such a model does around its first layer."""
    rng = np.random.default_rng(0)
    clip = lambda: {"fbank": rng.normal(-4, 2, (64, 128)).astype(np.float16)}
    rows = batch_of(clip(), clip(), share=[0.25, 0.75], partner=[clip(), clip()])
    step = dataclasses.replace(step_of(0.0, 0.5, time_stripes=(2, 16)), mixes_features=True)
    between, x = between_layers(rows, jnp.int32(0), step), features(rows, jnp.int32(0), step)
    assert x.shape == (4, 64, 128)
    np.testing.assert_array_equal(x[0], rows["fbank"][0].astype(np.float32))
    np.testing.assert_array_equal(x[1], rows["partner"][0].astype(np.float32))
    np.testing.assert_array_equal(between.mix(between.augment(x)), inputs(rows, jnp.int32(0), step))
