"""Ten everyday sounds by parametric synthesis: parameters and a random stream in, one clip out.

S samples, O onsets of events.

The classes are told apart by how they move in time, not by which frequencies they hold: tonal ones share one pitch
range, noisy ones share one colouring, and every clip passes through a random equaliser into random background noise.
All randomness comes from `rng.random`, whose stream NumPy keeps the same from version to version.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

Wave = Float64[np.ndarray, " S"]
Onsets = Float64[np.ndarray, " O"]  # seconds
Ranges = dict[str, tuple[float, float]]

MARGIN = 0.1  # held-out clips: each range reaches this share of its width further, at both ends

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "siren": {
        "pitch_hz": (600.0, 1000.0),
        "period_s": (0.7, 1.6),
        "sweep_octaves": (0.7, 1.3),
        "colour": (-3.0, 3.0),
    },
    "alarm_beep": {
        "pitch_hz": (350.0, 600.0),
        "per_s": (2.0, 3.5),
        "duty": (0.35, 0.6),
        "colour": (-3.0, 3.0),
    },
    "helicopter": {"per_s": (8.0, 13.0), "depth_db": (16.0, 28.0), "colour": (-5.0, 1.0)},
    "bell": {"pitch_hz": (450.0, 750.0), "per_s": (1.2, 2.5), "decay_s": (0.12, 0.35), "colour": (-3.0, 3.0)},
    "bird_chirp": {
        "pitch_hz": (2000.0, 3200.0),
        "per_s": (5.0, 9.0),
        "chirp_s": (0.07, 0.12),
        "sweep_octaves": (0.8, 1.6),
        "colour": (-2.0, 4.0),
    },
    "dog_bark": {
        "pitch_hz": (280.0, 450.0),
        "per_s": (1.6, 3.2),
        "bark_s": (0.12, 0.22),
        "bend_octaves": (0.4, 0.8),
        "colour": (-3.0, 3.0),
    },
    "clock_tick": {"per_s": (3.0, 7.0), "decay_s": (0.004, 0.01), "colour": (-2.0, 4.0)},
    "rain": {
        "per_s": (40.0, 120.0),
        "decay_s": (0.003, 0.008),
        "drop_share": (0.4, 0.8),
        "colour": (-1.0, 5.0),
    },
    "sea_waves": {"period_s": (0.9, 2.0), "depth_db": (14.0, 24.0), "colour": (-4.0, 2.0)},
    "engine": {
        "per_s": (18.0, 28.0),
        "decay_s": (0.006, 0.012),
        "rev_octaves": (0.1, 0.4),
        "colour": (-6.0, 0.0),
    },
}
RECORDING: dict[str, tuple[float, float]] = {
    "peak_octave": (-1.3, 2.2),
    "peak_db": (-6.0, 6.0),
    "noise_db_per_octave": (-4.0, 0.0),
    "snr_db": (14.0, 30.0),
    "level_dbfs": (-16.0, -4.0),
    "onset_s": (0.06, 0.3),
}


def widened(ranges: Ranges, held_out: bool) -> Ranges:
    """The ranges of a split: held-out clips also come from beyond both ends."""
    margin = MARGIN if held_out else 0.0
    return {
        name: (low - margin * (high - low), high + margin * (high - low))
        for name, (low, high) in ranges.items()
    }


def draw(rng: Generator, ranges: Ranges) -> dict[str, float]:
    """One value from each range, uniformly."""
    return {name: low + (high - low) * rng.random() for name, (low, high) in ranges.items()}


def filtered(x: Wave, gain: Callable[[int], np.ndarray]) -> Wave:
    """x through a zero-phase filter given as gain(frequency in cycles/sample...)"""
    size = -(-len(x) // 1024) * 1024
    return np.fft.irfft(np.fft.rfft(x, size) * gain(size), size)[: len(x)]


def noise(rng: Generator, size: int) -> Wave:
    """White, uniform in [-1, 1)."""
    return 2 * rng.random(size) - 1


def onsets(rng: Generator, per_s: float, time: Wave, jitter: float = 0.05) -> Onsets:
    """Seconds at which events start: about `per_s` a second"""
    count = int(time[-1] * per_s * 1.3) + 2
    gaps = (1 + jitter * (2 * rng.random(count) - 1)) / per_s
    starts = np.cumsum(gaps) - gaps[0] * rng.random()
    return starts[starts < time[-1]]


def since(starts: Onsets, time: Wave) -> tuple[Wave, np.ndarray]:
    """Seconds since the latest start; inf before the first."""
    last = np.searchsorted(starts, time, side="right") - 1
    return np.where(last >= 0, time - starts[np.maximum(last, 0)], np.inf), last


def tone(rng: Generator, pitch_hz: Wave, time: Wave, harmonics: int = 5, step: int = 1) -> Wave:
    """A voice with this pitch at each sample: harmonics that fall off at a random rate, none above 7 kHz."""
    rate = 1 / time[1]
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate
    x = np.zeros_like(time)
    roll = 0.3 + 0.5 * rng.random()
    for k in range(1, harmonics + 1, step):
        x += roll ** ((k - 1) / step) * np.where(k * pitch_hz < 7000, 1.0, 0.0) * np.sin(k * phase)
    return x


def bump(age: Wave, length: float) -> Wave:
    """Smooth burst of given length"""
    inside = np.clip(age / length, 0, 1)
    return np.sin(np.pi * inside) ** 0.5


def siren(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """A pitch that swings up and down."""
    sweep = np.sin(2 * np.pi * (time / p["period_s"] + rng.random()))
    return tone(rng, p["pitch_hz"] * 2 ** (p["sweep_octaves"] / 2 * sweep), time)


def alarm_beep(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """A steady pitch, switched on and off."""
    age, _ = since(onsets(rng, p["per_s"], time, 0.0), time)
    gate = np.clip((p["duty"] / p["per_s"] - age) / 0.005, 0, 1) * np.clip(age / 0.005, 0, 1)
    return tone(rng, np.full_like(time, p["pitch_hz"]), time, 13, 2) * np.where(np.isfinite(age), gate, 0)


def helicopter(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Noise that beats about ten times a second."""
    blade = np.sin(2 * np.pi * (p["per_s"] * time + rng.random()))
    return noise(rng, len(time)) * 10 ** (p["depth_db"] / 40 * blade)


def bell(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Strokes of inharmonic partials that die away."""
    age, _ = since(onsets(rng, p["per_s"], time, 0.15), time)
    age = np.where(np.isfinite(age), age, 1e3)
    x = np.zeros_like(time)
    for ratio in (0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.5):
        x += (
            (0.3 + rng.random())
            * np.exp(-age * (0.5 + 0.5 * ratio) / p["decay_s"])
            * np.sin(2 * np.pi * p["pitch_hz"] * ratio * time + 6 * rng.random())
        )
    return x


def bird_chirp(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Fast short sweeps, up or down."""
    starts = onsets(rng, p["per_s"], time, 0.15)
    age, _ = since(starts, time)
    age = np.where(np.isfinite(age), age, 1e3)
    direction = np.where(rng.random() < 0.5, 1.0, -1.0)
    where = np.clip(age / p["chirp_s"], 0, 1) - 0.5
    return tone(rng, p["pitch_hz"] * 2 ** (direction * p["sweep_octaves"] * where), time, 3) * bump(
        age, p["chirp_s"]
    )


def dog_bark(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Rough bursts whose pitch bends."""
    age, _ = since(onsets(rng, p["per_s"], time, 0.15), time)
    age = np.where(np.isfinite(age), age, 1e3)
    shape = bump(age, p["bark_s"])
    return (
        tone(rng, p["pitch_hz"] * 2 ** (p["bend_octaves"] * (shape - 1)), time, 9)
        + 0.2 * noise(rng, len(time))
    ) * shape


def clock_tick(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Clicks at an even pace, every second one louder."""
    age, last = since(onsets(rng, p["per_s"], time, 0.02), time)
    age = np.where(np.isfinite(age), age, 1e3)
    return noise(rng, len(time)) * np.exp(-age / p["decay_s"]) * np.where(last % 2, 1.0, 0.6)


def rain(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """A hiss with many small drops in it."""
    age, last = since(onsets(rng, p["per_s"], time, 1.0), time)
    age = np.where(np.isfinite(age), age, 1e3)
    size = 0.2 + rng.random(last[-1] + 2)[last] ** 2
    return noise(rng, len(time)) * (
        (1 - p["drop_share"]) * 0.4 + p["drop_share"] * 2 * size * np.exp(-age / p["decay_s"])
    )


def sea_waves(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """Noise that swells slowly."""
    swell = np.sin(2 * np.pi * (time / p["period_s"] + rng.random()))
    return noise(rng, len(time)) * 10 ** (p["depth_db"] / 40 * swell)


def engine(p: dict[str, float], time: Wave, rng: Generator) -> Wave:
    """A quick train of explosions whose pace wavers."""
    revs = p["per_s"] * 2 ** (p["rev_octaves"] * np.sin(2 * np.pi * (0.7 * time + rng.random())))
    turn = np.cumsum(revs) * time[1]
    age = (turn % 1) / revs
    return noise(rng, len(time)) * np.exp(-age / p["decay_s"])


SOUNDS = {
    f.__name__: f
    for f in (siren, alarm_beep, bell, bird_chirp, dog_bark, clock_tick, rain, sea_waves, engine, helicopter)
}


def clip(name: str, rng: Generator, *, seconds: float, rate_hz: int, held_out: bool) -> Wave:
    """One clip of a class, within [-1, 1]: the sound, through a random equaliser, from a random onset on, in random noise."""
    rate = rate_hz
    time = np.arange(int(seconds * rate)) / rate
    p = draw(rng, widened(RANGES[name], held_out))
    r = draw(rng, widened(RECORDING, held_out))
    x = SOUNDS[name](p, time, rng)

    def eq(size):
        octave = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / rate), 40) / 1000)
        db = p["colour"] * octave + r["peak_db"] * np.exp(-((octave - r["peak_octave"]) ** 2) / 0.5)
        return 10 ** (np.clip(db, -25, 25) / 20)

    x = filtered(x, eq)
    x = x * np.clip((time - r["onset_s"]) / 0.01, 0, 1)

    def colour(size):
        octave = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / rate), 40) / 1000)
        return 10 ** (r["noise_db_per_octave"] * octave / 20)

    floor = filtered(noise(rng, len(time)), colour)
    hop = rate // 40
    frames = x[: len(x) // hop * hop].reshape(-1, hop)
    loud = np.quantile((frames**2).mean(1), 0.95)
    floor *= np.sqrt(loud / (floor**2).mean()) * 10 ** (-r["snr_db"] / 20)
    x = x + floor
    return x * 10 ** (r["level_dbfs"] / 20) / np.abs(x).max()
