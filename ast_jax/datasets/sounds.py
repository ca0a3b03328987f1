"""Ten everyday sounds by parametric synthesis: a name and a random stream in, a recording out.

S samples, M microphones (channels).

The classes are told apart by how they move in time rather than by the frequencies they hold: every recording
has its own pitch, pace, equaliser, background noise and level. All randomness comes from `rng.random`, whose
numbers NumPy keeps the same from version to version.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

Span = tuple[float, float]

# Held-out recordings: each range reaches this share of its width further, at both ends.
MARGIN = 0.1

# What is drawn for each recording, uniformly, and the range that training recordings draw it from. `per_s`:
# events a second; `tilt`: of the sound's spectrum, dB an octave.
RANGES: dict[str, dict[str, Span]] = {
    "siren": {"pitch_hz": (500, 1200), "period_s": (0.7, 1.6), "sweep_octaves": (0.7, 1.3), "tilt": (-3, 3)},
    "alarm_clock": {"pitch_hz": (140, 320), "per_s": (2, 3.5), "duty": (0.35, 0.6), "tilt": (-3, 3)},
    "bell": {"pitch_hz": (400, 900), "per_s": (1.2, 2.5), "decay_s": (0.12, 0.35), "tilt": (-3, 3)},
    "bird_chirp": {
        "pitch_hz": (1600, 3200), "per_s": (5, 9), "chirp_s": (0.07, 0.12), "sweep_octaves": (0.8, 1.6),
        "tilt": (-2, 4),
    },
    "dog_bark": {
        "pitch_hz": (250, 500), "per_s": (1.6, 3.2), "bark_s": (0.12, 0.22), "bend_octaves": (0.4, 0.8),
        "tilt": (-3, 3),
    },
    "clock_tick": {"per_s": (3, 7), "decay_s": (0.004, 0.01), "tilt": (-2, 4)},
    "rain": {"per_s": (40, 120), "decay_s": (0.003, 0.008), "drops": (0.4, 0.8), "tilt": (-2, 4)},
    "sea_waves": {"period_s": (0.9, 2), "depth_db": (14, 24), "tilt": (-4, 2)},
    "engine": {"per_s": (18, 28), "decay_s": (0.006, 0.012), "rev_octaves": (0.1, 0.4), "tilt": (-5, 1)},
    "helicopter": {"per_s": (8, 13), "depth_db": (16, 28), "tilt": (-5, 1)},
}  # fmt: skip
RECORDING: dict[str, Span] = {
    "brightness": (0.3, 0.8),  # each harmonic's amplitude as a share of the one below it
    "peak_octave": (-1.3, 2.2),  # where the equaliser has its bump, above 1 kHz
    "peak_db": (-8, 8),
    "noise_tilt": (-5, 1),  # of the background's spectrum, dB an octave
    "snr_db": (16, 30),  # the sound's loudest 25 ms over the background noise
    "level_dbfs": (-16, -4),  # of the highest peak
    "onset_s": (0.06, 0.3),  # before it there is background noise alone
    "far_side": (0.5, 1),  # what the second microphone hears of the sound
}
NAMES = tuple(RANGES)


def ranges(name: str, held_out: bool) -> dict[str, Span]:
    """The range of every parameter of a class, those of the recording among them."""
    margin = MARGIN if held_out else 0.0
    both = RANGES[name] | RECORDING
    return {
        key: (low - margin * (high - low), high + margin * (high - low)) for key, (low, high) in both.items()
    }


def record(
    name: str, rng: np.random.Generator, *, seconds: float, rate_hz: int, microphones: int, held_out: bool
) -> Float64[np.ndarray, "S M"]:
    """One recording of a sound of class `name`, within [-1, 1]."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    p = {key: low + (high - low) * rng.random() for key, (low, high) in ranges(name, held_out).items()}
    sound = equalised(SOUNDS[name](p, time, rng), rate_hz, p["tilt"], p["peak_octave"], p["peak_db"])
    sound *= np.clip((time - p["onset_s"]) / 0.01, 0, 1)
    hop = rate_hz // 40
    power = np.sort(np.square(sound[: len(sound) // hop * hop]).reshape(-1, hop).mean(axis=1))
    loud = np.sqrt(power[int(0.95 * len(power))])
    channels = []
    for gain in (1.0, p["far_side"])[:microphones]:
        background = equalised(white(rng, len(time)), rate_hz, p["noise_tilt"])
        background *= loud * 10 ** (-p["snr_db"] / 20) / np.sqrt(np.square(background).mean())
        channels.append(gain * sound + background)
    mix = np.stack(channels, axis=1)
    return mix * (10 ** (p["level_dbfs"] / 20) / np.abs(mix).max())


def equalised(
    x: Float64[np.ndarray, " S"], rate_hz: int, tilt: float, peak_octave: float = 0.0, peak_db: float = 0.0
) -> Float64[np.ndarray, " S"]:
    """Through a filter without delay: `tilt` dB an octave from 40 Hz to 8 kHz, and a bump an octave wide."""
    size = -(-len(x) // 1024) * 1024  # a length with small factors only
    octave = np.log2(np.clip(np.fft.rfftfreq(size, 1 / rate_hz), 40, 8000) / 1000)
    gain_db = tilt * octave + peak_db * np.exp(-2 * (octave - peak_octave) ** 2)
    return np.fft.irfft(np.fft.rfft(x, size) * 10 ** (gain_db / 20), size)[: len(x)]


def white(rng: np.random.Generator, size: int) -> Float64[np.ndarray, " S"]:
    return 2 * rng.random(size) - 1


def tone(
    pitch_hz: Float64[np.ndarray, " S"], time: Float64[np.ndarray, " S"], brightness: float, harmonics: int
) -> Float64[np.ndarray, " S"]:
    """A harmonic tone that follows `pitch_hz`; harmonics above 7 kHz are left out.

    Pitches are rounded to 1/1024 Hz: sums of them are exact, so that the last bit of one processor's power
    function does not add up to another waveform.
    """
    pitch_hz = np.rint(pitch_hz * 1024) / 1024
    phase = 2 * np.pi * time[1] * np.cumsum(pitch_hz)
    before, now, twice_cosine = np.zeros_like(time), np.sin(phase), 2 * np.cos(phase)
    x = np.zeros_like(time)
    for k in range(1, harmonics + 1):
        x += brightness ** (k - 1) * now * (k * pitch_hz < 7000)
        before, now = now, twice_cosine * now - before  # sin((k + 1) phase), without another sine
    return x


def since_last(
    rng: np.random.Generator, time: Float64[np.ndarray, " S"], per_s: float, jitter: float
) -> tuple[Float64[np.ndarray, " S"], Int64[np.ndarray, " S"]]:
    """Seconds since the latest event, and its number.

    About `per_s` events a second, each gap off by up to the share `jitter`.
    """
    count = int(1.5 * time[-1] * per_s) + 9
    gaps = (1 + jitter * white(rng, count)) / per_s
    starts = np.cumsum(gaps) - (1 + rng.random()) * gaps[0]  # the first one before time 0
    number = np.searchsorted(starts, time, side="right") - 1
    return time - starts[number], number


def gate(age: Float64[np.ndarray, " S"], length_s: float) -> Float64[np.ndarray, " S"]:
    """On for `length_s`, with edges of 5 ms."""
    return np.clip(age / 0.005, 0, 1) * np.clip((length_s - age) / 0.005, 0, 1)


def bow(age: Float64[np.ndarray, " S"], length_s: float) -> Float64[np.ndarray, " S"]:
    """Up and down again within `length_s`."""
    return np.sqrt(np.maximum(np.sin(np.pi * np.clip(age / length_s, 0, 1)), 0))


def siren(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tone that slowly rises and falls."""
    sweep = np.sin(2 * np.pi * (time / p["period_s"] + rng.random()))
    return tone(p["pitch_hz"] * 2 ** (p["sweep_octaves"] / 2 * sweep), time, p["brightness"], 5)


def alarm_clock(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A buzzer, on and off."""
    age, _ = since_last(rng, time, p["per_s"], 0.0)
    return tone(np.full_like(time, p["pitch_hz"]), time, 0.7 + 0.3 * p["brightness"], 30) * gate(
        age, p["duty"] / p["per_s"]
    )


def bell(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strokes on a bell: partials that are no multiples of one another, the higher ones dying away sooner."""
    age, _ = since_last(rng, time, p["per_s"], 0.15)
    x = np.zeros_like(time)
    for ratio in (0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.5):
        swing = np.sin(2 * np.pi * (p["pitch_hz"] * ratio * time + rng.random()))
        x += (0.3 + rng.random()) * np.exp(-age * (0.5 + 0.5 * ratio) / p["decay_s"]) * swing
    return x


def bird_chirp(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Short whistles, all rising or all falling fast."""
    age, _ = since_last(rng, time, p["per_s"], 0.15)
    octaves = p["sweep_octaves"] * (1 if rng.random() < 0.5 else -1)
    pitch = p["pitch_hz"] * 2 ** (octaves * (np.clip(age / p["chirp_s"], 0, 1) - 0.5))
    return tone(pitch, time, p["brightness"], 3) * bow(age, p["chirp_s"])


def dog_bark(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Barks: a rough tone whose pitch goes up and down with its loudness."""
    age, _ = since_last(rng, time, p["per_s"], 0.15)
    shape = bow(age, p["bark_s"])
    pitch = p["pitch_hz"] * 2 ** (p["bend_octaves"] * (shape - 1))
    return (tone(pitch, time, p["brightness"], 9) + 0.2 * white(rng, len(time))) * shape


def clock_tick(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Clicks at an even pace, every second one weaker."""
    age, number = since_last(rng, time, p["per_s"], 0.02)
    return white(rng, len(time)) * np.exp(-age / p["decay_s"]) * np.where(number % 2, 1.0, 0.6)


def rain(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hiss, and drops of all sizes at no pace at all."""
    age, number = since_last(rng, time, p["per_s"], 1.0)
    size = rng.random(number[-1] + 1)[number] ** 2
    splash = (0.4 + 2 * size) * np.exp(-age / p["decay_s"])
    return white(rng, len(time)) * (0.4 * (1 - p["drops"]) + p["drops"] * splash)


def sea_waves(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that swells and ebbs."""
    swell = np.sin(2 * np.pi * (time / p["period_s"] + rng.random()))
    return white(rng, len(time)) * 10 ** (p["depth_db"] / 40 * swell)


def engine(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bursts in quick succession, their pace going up and down."""
    pace = p["per_s"] * 2 ** (p["rev_octaves"] * np.sin(2 * np.pi * (0.7 * time + rng.random())))
    age = (np.cumsum(np.rint(pace * 1024)) / 1024 * time[1] % 1) / pace
    return white(rng, len(time)) * np.exp(-age / p["decay_s"])


def helicopter(p: dict[str, float], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise in the rhythm of the blades."""
    blades = np.sin(2 * np.pi * (p["per_s"] * time + rng.random()))
    return white(rng, len(time)) * 10 ** (p["depth_db"] / 40 * blades)


SOUNDS: dict[str, Callable[[dict[str, float], np.ndarray, np.random.Generator], np.ndarray]] = {
    sound.__name__: sound
    for sound in (
        siren,
        alarm_clock,
        bell,
        bird_chirp,
        dog_bark,
        clock_tick,
        rain,
        sea_waves,
        engine,
        helicopter,
    )
}
