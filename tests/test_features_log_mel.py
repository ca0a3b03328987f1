"""The front end against torchaudio's filterbank in float64 and, on real sounds, the formula itself.

golden/log_mel.npz holds the former.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import soxr
from golden.make_log_mel import FILE, signals

from ast_jax.features import log_mel, num_frames, spec

SIGNALS = signals()
GOLDEN = dict(np.load(FILE))
FILTERS = GOLDEN.pop("mel_filters")  # torchaudio's
on_device = jax.jit(log_mel, static_argnames="num_mel_bins")
BODIES = {"numpy": log_mel, "device": lambda x, **kw: np.asarray(on_device(jnp.asarray(x), **kw))}
each_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def formula(waveform: np.ndarray) -> np.ndarray:
    """The front end said plainly, frame by frame, in float64, with torchaudio's mel weights."""
    x = waveform.astype(np.float64)
    x = np.pad(x - x.mean(), (0, max(0, 400 - len(x))))
    rows = []
    for start in range(0, len(x) - 399, 160):
        frame = x[start : start + 400] - x[start : start + 400].mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        spectrum = np.fft.fft(frame * np.hanning(400), 512)[:256]
        rows.append(
            np.log(np.maximum(np.abs(spectrum) ** 2 @ FILTERS.astype(np.float64), 1.1920928955078125e-07))
        )
    return np.stack(rows)


def assert_float32_parity(got: np.ndarray, want: np.ndarray) -> None:
    """5e-4 nats within 50 dB of the frame's peak, 3e-5 of the peak in energy everywhere.

    Below that the logarithm of a float32 run is rounding noise, torchaudio's own too (2e-2 nats on a chirp).
    """
    assert got.shape == want.shape
    got, want = got.astype(np.float64), want.astype(np.float64)
    peak = want.max(axis=1, keepdims=True)
    near = want >= peak - np.log(1e5)
    assert np.abs(got - want)[near].max() <= 5e-4
    assert (np.abs(np.exp(got) - np.exp(want)) / np.exp(peak)).max() <= 3e-5


def test_golden_file_holds_every_signal():
    assert list(GOLDEN) == list(SIGNALS)


@pytest.mark.parametrize("name", SIGNALS)
def test_formula_is_torchaudios(name):
    np.testing.assert_allclose(formula(SIGNALS[name]), GOLDEN[name], rtol=0, atol=2e-6)  # the file's float32


@each_body
@pytest.mark.parametrize("name", SIGNALS)
def test_float32_meets_torchaudio(name, body):
    assert_float32_parity(body(SIGNALS[name]), GOLDEN[name])


@each_body
def test_float32_meets_torchaudio_in_a_padded_batch_too(body):
    lengths = np.array([len(x) for x in SIGNALS.values()])
    batch = np.stack([np.pad(x, (0, 9000 - len(x)), constant_values=7.0) for x in SIGNALS.values()])
    for row, want in zip(body(batch, num_samples=lengths), GOLDEN.values(), strict=True):
        assert_float32_parity(row[: len(want)], want)


@pytest.mark.parametrize("name", SIGNALS)
def test_float64_meets_torchaudio_everywhere(name):
    got = log_mel(SIGNALS[name].astype(np.float64))
    np.testing.assert_allclose(
        got, GOLDEN[name], rtol=0, atol=2e-6
    )  # required: 5e-4; the file's float32 leaves 1e-6


@pytest.mark.parametrize("name", ["tone_7900", "chirp_up", "short_80"])
def test_device_body_in_float64_meets_torchaudio_everywhere(name):
    with jax.enable_x64(True):
        got = log_mel(jnp.asarray(SIGNALS[name], jnp.float64))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(got), GOLDEN[name], rtol=0, atol=2e-6)


def test_real_clips_meet_the_formula(shared):
    paths = sorted((shared / "data" / "ESC-50-master" / "audio").glob("*.ogg"))[::40]
    assert len(paths) == 10
    for path in paths:
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        x = soxr.resample(x.mean(axis=1), rate, 16_000)
        want = formula(x)
        np.testing.assert_allclose(log_mel(x.astype(np.float64)), want, rtol=0, atol=1e-9)
        for body in BODIES.values():
            assert_float32_parity(body(x), want)


def test_mel_filters_are_torchaudios_bit_for_bit():
    np.testing.assert_array_equal(spec.mel_filters(128), FILTERS)


def test_filter_3_is_empty_and_no_other():
    assert np.flatnonzero(~spec.mel_filters().any(axis=0)).tolist() == [3]


def test_constants_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        spec.mel_filters()[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        spec.window()[0] = 1


LENGTHS = [0, 1, 2, 80, 160, 161, 399, 400, 401, 559, 560, 561, 640, 719, 720, 5000, 16_079, 160_000]
PUBLISHED = {16_000: 98, 80_000: 498, 160_000: 998}  # samples: frames


@pytest.mark.parametrize(("samples", "frames"), PUBLISHED.items())
def test_published_frame_counts(samples, frames):
    assert num_frames(samples) == frames == 1 + (samples - 400) // 160


def test_num_frames_counts_whole_frames_over_many_lengths():
    for samples in [*range(2500), 159_999, 160_000, 160_079, 160_080, 160_081]:
        assert num_frames(samples) == max(
            1, sum(1 for start in range(0, samples, 160) if start + 400 <= samples)
        )


@each_body
@pytest.mark.parametrize("samples", LENGTHS)
def test_every_length_gives_its_frames(samples, body):
    x = noise(samples)
    got = body(x)
    assert got.shape == (num_frames(samples), 128)
    assert got.dtype == np.float32
    assert_float32_parity(got, formula(x) if samples else np.full((1, 128), np.log(2.0**-23)))


def test_device_body_traces_to_the_same_shapes():
    for samples in range(0, 1300, 39):
        shape = jax.eval_shape(log_mel, jax.ShapeDtypeStruct((2, samples), jnp.float32)).shape
        assert shape == (2, num_frames(samples), 128)


@each_body
def test_silence_is_the_logarithm_of_the_floor(body):
    np.testing.assert_allclose(body(np.zeros(800, np.float32)), -15.942385, rtol=0, atol=1e-6)
    assert pytest.approx(-15.942385, abs=1e-6) == spec.SILENCE


@each_body
def test_batch_axes_change_nothing(body):
    x = np.stack([noise(1200, seed) for seed in range(6)])
    alone = np.stack([body(clip) for clip in x])
    # A batched matrix product may sum in another order: float32 rounding, on noise without quiet bins.
    np.testing.assert_allclose(body(x), alone, rtol=0, atol=2e-4)
    np.testing.assert_allclose(body(x.reshape(2, 3, -1)), alone.reshape(2, 3, 6, 128), rtol=0, atol=2e-4)
    assert body(x[:0]).shape == (0, 6, 128)


def test_jit_vmap_and_plain_calls_agree():
    x = jnp.asarray(np.stack([noise(1200, seed) for seed in range(3)]))
    plain = log_mel(x)
    for way in (jax.jit(log_mel), jax.vmap(log_mel), jax.jit(jax.vmap(log_mel))):
        np.testing.assert_allclose(way(x), plain, rtol=0, atol=2e-4)  # order of summation, as above


@each_body
def test_num_samples_keeps_padding_out_of_the_sound(body):
    lengths = [2000, 1111, 399, 1, 0]
    batch = np.zeros((len(lengths), 2000), np.float32)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = 0.25 + noise(length)  # the offset would show, were the mean taken over the padding
        row[length:] = 9.0  # and so would this, were it heard
    got = body(batch, num_samples=np.array(lengths))
    for row, clip, length in zip(got, batch, lengths, strict=True):
        frames = num_frames(length)
        np.testing.assert_allclose(row[:frames], body(clip[:length]), rtol=0, atol=2e-4)
        beyond = -(-length // 160)  # the first frame that begins past the sound
        np.testing.assert_allclose(row[max(beyond, frames) :], spec.SILENCE, rtol=0, atol=1e-5)


@each_body
def test_more_samples_than_there_are_are_those_that_are_there(body):
    """On an offset, which a mean over too many would leave; 250 samples are one padded frame."""
    x = (0.25 + noise(250))[None]
    np.testing.assert_array_equal(body(x, num_samples=np.array([900])), body(x, num_samples=np.array([250])))


def test_num_samples_may_be_traced():
    x = jnp.asarray(noise(1500)[None].repeat(2, axis=0))
    lengths = jnp.array([1500, 700])
    under_jit = jax.jit(lambda x, n: log_mel(x, num_samples=n))(x, lengths)
    under_vmap = jax.vmap(lambda x, n: log_mel(x, num_samples=n))(x, lengths)
    want = log_mel(np.asarray(x), num_samples=np.asarray(lengths))
    np.testing.assert_allclose(under_jit, want, rtol=0, atol=2e-4)
    np.testing.assert_allclose(under_vmap, want, rtol=0, atol=2e-4)


@each_body
def test_other_mel_bin_counts(body):
    x = noise(900)
    assert body(x, num_mel_bins=64).shape == (4, 64)
    with pytest.raises(ValueError, match="at least 1"):
        body(x, num_mel_bins=0)


@each_body
def test_whole_numbers_are_refused(body):
    with pytest.raises(TypeError):
        body(np.zeros(1600, np.int16))


def test_types_stay_and_the_waveform_is_untouched():
    for dtype in (np.float32, np.float64):
        x = noise(2000).astype(dtype)
        before = x.copy()
        assert log_mel(x).dtype == dtype
        np.testing.assert_array_equal(x, before)


def test_every_product_on_the_device_has_the_highest_precision():
    """A TPU multiplies float32 in bfloat16 unless told otherwise; on a CPU no number would show it."""
    jaxpr = jax.make_jaxpr(log_mel)(jnp.zeros((2, 1600)))
    products = [eqn.params["precision"] for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    inner = [e for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "eqns") for e in p.eqns]
    assert not [e for e in inner if e.primitive.name == "dot_general"]  # none hidden in a nested call
    highest = jax.lax.Precision.HIGHEST
    assert products == [(highest, highest)] * 2


def test_the_numpy_path_needs_no_jax_and_the_name_is_the_function():
    code = (
        "import sys, numpy as np\n"
        "import ast_jax.features.log_mel\n"
        "from ast_jax.features import log_mel\n"
        "assert log_mel(np.zeros(16000, np.float32)).shape == (98, 128)\n"
        "heavy = {'jax', 'librosa', 'torch', 'numba', 'soundfile'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


BITS = """
import hashlib
import numpy as np
from ast_jax.features import load_audio, log_mel
from sys import argv
digest = hashlib.sha256(load_audio(argv[1]).tobytes())
for samples in range(3200, 30_000, 800):
    sound = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    digest.update(log_mel(sound).tobytes())
print(digest.hexdigest())
"""


def test_the_matrix_library_and_its_number_of_threads_change_no_bit(tmp_path):
    """Else shards would depend on how many workers wrote them: OpenBLAS's kernels for Haswell showed it."""
    sound = tmp_path / "six_channels.wav"
    soundfile.write(sound, np.random.default_rng(0).uniform(-0.5, 0.5, (50_001, 6)), 16_000)
    digests = set()
    for threads, kernels in (("1", "Haswell"), ("2", "Haswell"), ("4", "Haswell"), ("2", "Prescott")):
        limits = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "OPENBLAS_CORETYPE": kernels}
        done = subprocess.run(
            [sys.executable, "-c", BITS, sound], env={**os.environ, **limits}, capture_output=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1
