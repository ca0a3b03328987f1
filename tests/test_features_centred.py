"""Front ends other than the reference's, against librosa and transformers, on the host and on the device;
front ends never share shards."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from ast_jax.datasets.extract import Extraction
from ast_jax.errors import InputError
from ast_jax.features import Kaldi
from ast_jax.features.front_end import Povey, from_card
from ast_jax.features.passt import PaSSTMel
from ast_jax.features.samples import Samples
from ast_jax.features.slaney import HTKDecibels, Slaney
from ast_jax.inference.windows import Grid, cut
from ast_jax.settings import Augment, Model, Run, Settings
from ast_jax.training.program import train_program

# CNN14's at 32 kHz, and at 16 kHz; CED's
FRONT_ENDS = [Slaney(), Slaney(16_000, 512, 160, high_hz=8000.0), HTKDecibels()]
OTHERS = [PaSSTMel(), Povey()]


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def by_librosa(x: np.ndarray, front_end: Slaney) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=x.astype(np.float64),
        sr=front_end.sample_rate_hz,
        n_fft=front_end.frame_length,
        hop_length=front_end.frame_shift,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=front_end.num_mel_bins,
        fmin=front_end.low_hz,
        fmax=front_end.high_hz,
        **({"htk": True, "norm": None} if isinstance(front_end, HTKDecibels) else {}),
    )
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).T


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=["32 kHz", "16 kHz", "HTK"])
@pytest.mark.parametrize("samples", [5_000, 16_000, 31_999])
def test_it_is_librosas(front_end, samples):
    """1e-4 dB: float32 against float64, on noise whose quietest band is 50 dB below the loudest (rtol)."""
    x = sound(samples)
    want = by_librosa(x, front_end)
    assert front_end.features(x).shape == want.shape == (front_end.num_frames(samples), 64)
    np.testing.assert_allclose(front_end.features(x), want, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(front_end.features)(jnp.asarray(x)), want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("front_end", FRONT_ENDS[:2], ids=["32 kHz", "16 kHz"])
def test_it_is_torchlibrosas(front_end):
    """1e-4 of the largest decibel: the published classes' own layers, float32 both."""
    stft, torch = pytest.importorskip("torchlibrosa.stft"), pytest.importorskip("torch")
    rate_hz, length = front_end.sample_rate_hz, front_end.frame_length
    spectrogram = stft.Spectrogram(n_fft=length, hop_length=front_end.frame_shift, win_length=length)
    log_mel = stft.LogmelFilterBank(
        sr=rate_hz, n_fft=length, n_mels=64, fmin=50, fmax=front_end.high_hz, amin=1e-10, top_db=None
    )
    x = sound(16_000)
    want = log_mel(spectrogram(torch.from_numpy(x)[None]))[0, 0].numpy()
    made = front_end.features(x)
    assert made.shape == want.shape
    np.testing.assert_allclose(made, want, rtol=0, atol=1e-4 * np.abs(want).max())


def by_transformers(x: np.ndarray, front_end) -> np.ndarray:
    """The same numbers of transformers' own spectrograms, in float64."""
    audio = pytest.importorskip("transformers.audio_utils")
    centred, rate_hz = isinstance(front_end, PaSSTMel), front_end.sample_rate_hz
    fft, low_hz, high_hz = (1024, 0.0, 15_000.0) if centred else (512, 20.0, 8000.0)
    filters = audio.mel_filter_bank(
        fft // 2 + 1,
        128,
        low_hz,
        high_hz,
        rate_hz,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    if centred:
        emphasised = x[1:].astype(np.float64) - 0.97 * x[:-1]
        window = np.pad(np.hanning(800), 112)
        power = np.abs(
            librosa.stft(emphasised, n_fft=1024, hop_length=320, window=window, pad_mode="reflect")
        )
        return np.log(power.T**2 @ filters + 1e-5)
    return audio.spectrogram(
        x.astype(np.float64) * 2**15,
        audio.window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T - 30 * np.log(2)


# Kaldi's lowest filters are narrower than an FFT bin: one of them is empty
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("front_end", OTHERS, ids=["PaSST", "Povey"])
@pytest.mark.parametrize("samples", [5_000, 16_000, 31_999])
def test_it_is_kaldis(front_end, samples):
    """1e-3 nats in the quietest band: float32 against float64, and filters made in float32."""
    x = sound(samples)
    want = by_transformers(x, front_end)
    assert front_end.features(x).shape == want.shape == (front_end.num_frames(samples), 128)
    np.testing.assert_allclose(front_end.features(x), want, atol=1e-3)
    np.testing.assert_allclose(jax.jit(front_end.features)(jnp.asarray(x)), want, atol=1e-3)


def test_silence_is_what_a_front_end_says():
    for front_end in (*FRONT_ENDS, *OTHERS):
        made = front_end.features(np.zeros(8_000, np.float32))
        np.testing.assert_allclose(made, front_end.silence, rtol=1e-6)


def test_a_padded_batch_hears_each_sound_as_if_alone():
    front_end, lengths = FRONT_ENDS[1], np.array([4_000, 9_999])
    batch = np.stack([np.pad(sound(n, n), (0, 10_000 - n)) for n in lengths])
    together = jax.jit(lambda x, n: front_end.features(x, num_samples=n))(batch, lengths)
    for row, x, count in zip(np.asarray(together), batch, lengths, strict=True):
        frames = front_end.num_frames(int(count))
        np.testing.assert_allclose(row[:frames], front_end.features(x[:count]), atol=1e-4)
    np.testing.assert_allclose(together[0, -20:], front_end.silence)


@pytest.mark.parametrize("samples", [0, 1, 3, 400])
def test_a_sound_shorter_than_a_frame_is_finite(samples):
    made = FRONT_ENDS[1].features(sound(samples))
    assert made.shape == (FRONT_ENDS[1].num_frames(samples), 64)
    assert np.isfinite(made).all()


def test_front_ends_are_told_apart_and_the_references_shards_keep_their_name():
    names = {
        str(Extraction(front_end=f).identity) for f in (Kaldi(), Kaldi(num_mel_bins=64), *FRONT_ENDS, *OTHERS)
    }
    assert len(names) == 7
    assert all(from_card(f.card()).card() == f.card() for f in (*FRONT_ENDS, *OTHERS))


def test_windows_are_cut_at_its_rate():
    front_end = FRONT_ENDS[0]
    grid = Grid.of(front_end, 101)
    assert grid.window_s == 1.0
    windows = list(cut([sound(64_000)], grid))
    assert [window.start_s for window in windows] == [0.0, 0.5, 1.0]
    assert all(window.fbank.shape == (101, 64) for window in windows)


@pytest.mark.parametrize("fields", [{"high_hz": 17_000.0}, {"low_hz": 20_000.0}, {"frame_length": 511}])
def test_what_cannot_be_heard_is_refused(fields):
    with pytest.raises(InputError, match="front end slaney"):
        Slaney(**fields)


def test_samples_are_a_waveform_row_by_row_on_the_host_and_on_the_device():
    """Nothing is lost, the last row ends in zeros; its picture is decibels that tell a tone from silence."""
    front_end, x = Samples(), sound(1000)
    rows = front_end.features(x)
    assert rows.shape == (front_end.num_frames(1000), 320) == (4, 320)
    np.testing.assert_array_equal(rows.reshape(-1)[:1000], x)
    assert not rows.reshape(-1)[1000:].any()
    np.testing.assert_array_equal(front_end.features(jnp.asarray(x)[None])[0], rows)
    assert from_card(front_end.card()) == front_end
    tone = np.sin(2 * np.pi * 1000 / 32_000 * np.arange(32_000)).astype(np.float32)
    drawn = front_end.picture(front_end.features(np.concatenate([tone, np.zeros(32_000, np.float32)])))
    assert drawn.shape == (200, 64)
    assert drawn[50].max() > drawn[150].max() + 60


def test_what_only_log_powers_take_is_refused_for_samples():
    settings = Settings(
        model=Model(family="wavegram_logmel_cnn14"), augment=Augment(gain_db=6.0), run=Run(num_frames=64)
    )
    with pytest.raises(InputError, match=r"config\.gain_db: the model hears samples"):
        train_program(settings, 3)
