"""Makes log_mel.npz: what torchaudio's own filterbank, run in float64, says of the signals below, and its mel
weights.

    python tests/golden/make_log_mel.py                                     # with torchaudio installed
    python tests/golden/make_log_mel.py --kaldi=DIR/torchaudio/compliance/kaldi.py   # with torch and that one
    file

The tests import `signals` and need neither. Signals are a function of nothing: the raw stream of PCG64, which
NumPy promises to keep, and sines, all rounded to float32, so that float32 and float64 runs hear the same
samples.
"""

import argparse
import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("log_mel.npz")
RATE = 16_000  # Hz


def uniform(seed: int, samples: int) -> np.ndarray:
    """float64 in [-1, 1)."""
    return (np.random.PCG64(seed).random_raw(samples) >> np.uint64(11)) * 2.0**-52 - 1


def tone(hertz: float, samples: int = RATE // 2) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


def chirp(start: float, end: float, seconds: float = 0.5) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * (start * t + (end - start) * t**2 / (2 * seconds)))


def clicks(samples: int = RATE // 2) -> np.ndarray:
    x = np.zeros(samples)
    x[[0, 399, 1000, 1001, 2500, 5555]] = [1, -1, 0.5, -0.5, 1e-3, 0.9]
    return x


def square(hertz: float, samples: int = RATE // 2) -> np.ndarray:
    return np.where(np.arange(samples) * hertz / RATE % 1 < 0.5, 1.0, -1.0)


def signals() -> dict[str, np.ndarray]:
    """Name to float32 [S], 16 kHz."""
    noise = uniform(1, RATE // 2)
    made = {
        "noise": 0.5 * noise,
        "noise_full_scale": noise,
        "noise_quiet": 3e-5 * noise,
        "noise_low": np.cumsum(noise) / np.abs(np.cumsum(noise)).max(),
        "tone_50": 0.9 * tone(50),
        "tone_440": 0.5 * tone(440),
        "tone_7900": 0.8 * tone(7900),
        "tones_wide_apart": 0.7 * tone(300) + 2e-4 * tone(5000),
        "chirp_up": 0.8 * chirp(20, 8000),
        "chirp_down": 0.3 * chirp(6000, 100),
        "silence": np.zeros(RATE // 4),
        "clicks": clicks(),
        "dc": np.full(RATE // 4, 0.3),
        "dc_and_noise": 0.8 + 0.01 * noise[: RATE // 4],
        "square_full_scale": square(220),
        "square_slow": square(7),
        "nyquist": np.resize([1.0, -1.0], RATE // 4),
        "one_frame": 0.5 * noise[:400],
        "nearly_two_frames": 0.5 * noise[:559],
        "two_frames": 0.5 * noise[:560],
        "short_399": 0.5 * noise[:399],
        "short_80": 0.2 + 0.5 * noise[:80],
        "short_1": np.array([0.7]),
    }
    return {name: x.astype(np.float32) for name, x in made.items()}


def load_kaldi(path: str | None):
    """torchaudio's module compliance.kaldi, from the installed package or from its one file."""
    if path is None:
        return importlib.import_module("torchaudio.compliance.kaldi")
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # the file imports it for its MFCCs only
    module_spec = importlib.util.spec_from_file_location("kaldi", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def golden(fbank, x: np.ndarray) -> np.ndarray:
    """The reference's call, on float64.

    A signal under 25 ms crashes there; here it is zero-padded after its mean is removed.
    """
    import torch

    x = x.astype(np.float64)
    x = x - x.mean()
    x = np.pad(x, (0, max(0, 400 - len(x))))
    settings = {"htk_compat": True, "sample_frequency": RATE, "use_energy": False, "window_type": "hanning"}
    out = fbank(torch.from_numpy(x)[None], **settings, num_mel_bins=128, dither=0.0, frame_shift=10)
    return out.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kaldi", help="path of torchaudio's compliance/kaldi.py, where torchaudio is not installed"
    )
    kaldi = load_kaldi(parser.parse_args().kaldi)
    arrays = {
        name: golden(kaldi.fbank, x).astype(np.float32) for name, x in signals().items()
    }  # float32: 1e-6 nats
    weights, _ = kaldi.get_mel_banks(
        128, 512, float(RATE), 20.0, 0.0, 100.0, -500.0, 1.0
    )  # fbank's own defaults
    np.savez_compressed(FILE, **arrays, mel_filters=weights.numpy().T)
    print(f"{FILE.name}: {len(arrays)} signals, {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
