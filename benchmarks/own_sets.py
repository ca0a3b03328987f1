r"""Small sets of sounds as people have them, each with a held-out side that is not like the training side.

  python -m benchmarks.own_sets --out=sets [--only=digits,instruments,drums,lengths,esc10]

Each becomes OUT/<name>/{train,test}/<class>/*.wav:

- digits: ten words by espeak-ng, six voices, 8 kHz, about half a second, each take through another room
  and microphone; one voice is held out
- instruments: nine families of General MIDI by fluidsynth, one note a clip; another soundfont is held out
- drums: six kinds of one-shots of drum kits; two kits are held out
- lengths: dogs and babies of ESC-10, 40 clips of 0.2 to 60 s; 40 of other recordings are held out
- esc10_8, esc10_32 (and, if asked for, 5, 10 and 20): so many clips a class of ESC-10; its fifth fold is held
  out

The first three need Debian's espeak-ng; fluidsynth, timgm6mb-soundfont and fluid-soundfont-gm; and
hydrogen-drumkits. The last two need ESC-50-master (--source_dir).
"""

import argparse
import csv
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("en-us+m3", "en-gb+f2", "en-gb-scotland+m1", "en-us+f4", "en-gb-x-rp+m7", "en-029+m5")
SOUNDFONTS = Path("/usr/share/sounds/sf2")
# the first program of each family, eight programs long
FAMILIES = {
    "piano": 0, "chromatic": 8, "organ": 16, "guitar": 24, "bass": 32, "strings": 40, "brass": 56, "reed": 64,
    "pipe": 72,
}  # fmt: skip
KITS = Path("/usr/share/hydrogen/data/drumkits")
KITS_HELD_OUT = ("ForzeeStereo", "Millo_MultiLayered2")
DRUMS = {
    "kick": r"kick|bass ?drum|^bd",
    "snare": r"snare|^sd|^sn",
    "hihat": r"hat|^hh|^chh|^ho_",
    "tom": r"tom|^ft_",
    "cymbal": r"crash|ride|splash|china|^cc_|^rc_|cra_",
    "wood": r"cowbell|clave|stick|bell|agogo|^cb",
}

Clip = tuple[str, str, str, np.ndarray, int]  # split, class, name, waveform, sample rate


def digits(takes: int = 50) -> Iterator[Clip]:
    rng = np.random.default_rng(0)
    for voice in VOICES:
        for word in WORDS:
            for take in range(takes):
                speed, pitch, gap = rng.integers(90, 300), rng.integers(5, 95), rng.integers(20, 200)
                call = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
                with tempfile.NamedTemporaryFile(suffix=".wav") as file:
                    file.write(subprocess.run(call, check=True, capture_output=True).stdout)
                    file.flush()
                    sound, rate = soundfile.read(file.name, dtype="float32")
                sound = decimated(sound, rate, 8000)
                loud = np.flatnonzero(np.abs(sound) > 0.02)
                sound = sound[max(0, loud[0] - gap) : loud[-1] + gap]
                sound = heard_in_a_room(rng, sound)
                sound = sound * rng.uniform(0.1, 0.9) / np.abs(sound).max()
                sound = sound + rng.normal(0, 10 ** rng.uniform(-4, -2), len(sound))
                split = "test" if voice == VOICES[1] else "train"
                name = f"{WORDS.index(word)}_{voice.replace('+', '-')}_{take}"
                yield split, word, name, sound, 8000


def heard_in_a_room(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """Through a microphone whose response wanders by 12 dB, and with an echo that decays."""
    spectrum = np.fft.rfft(sound, 2 * len(sound))
    bends = rng.uniform(-12, 12, 9)
    gain_db = np.interp(np.linspace(0, 8, len(spectrum)), np.arange(9), bends)
    echo = rng.normal(0, 1, 1200) * np.exp(-np.arange(1200) / rng.uniform(30, 400)) * rng.uniform(0, 0.3)
    echo[0] = 1
    spectrum = spectrum * 10 ** (gain_db / 20) * np.fft.rfft(echo, 2 * len(sound))
    return np.fft.irfft(spectrum)[: len(sound)]


def instruments() -> Iterator[Clip]:
    fonts = {"train": "FluidR3_GM.sf2", "test": "TimGM6mb.sf2"}
    rng = np.random.default_rng(0)
    for split, font in fonts.items():
        for family, first in FAMILIES.items():
            low, high = (28, 52) if family == "bass" else (48, 84)
            for program in range(first, first + 8):
                notes = rng.integers(low, high, 6)
                rendered = played(SOUNDFONTS / font, program, notes.tolist())
                for note, sound in zip(notes, rendered, strict=True):
                    if np.abs(sound).max() > 1e-3:
                        yield split, family, f"{program}_{note}", sound, 22050


def played(font: Path, program: int, notes: list[int], seconds: float = 2.0) -> list[np.ndarray]:
    """Each note for three quarters of its `seconds`, by fluidsynth."""
    ticks = round(480 * 2 * seconds)  # at the usual 120 beats a minute, 480 ticks a beat

    def after(count: int) -> bytes:
        """A number as MIDI has it: seven bits a byte, the last without its top bit."""
        parts = [count & 127]
        while count := count >> 7:
            parts.append(count & 127 | 128)
        return bytes(reversed(parts))

    track = b"\x00" + bytes([0xC0, program])
    for note in notes:
        track += after(0) + bytes([0x90, note, 100]) + after(ticks * 3 // 4) + bytes([0x80, note, 0])
        track += after(ticks // 4) + bytes([0xB0, 120, 0])
    track += b"\x00\xff\x2f\x00"
    song = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + (480).to_bytes(2, "big")
    song += b"MTrk" + len(track).to_bytes(4, "big") + track
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "a.mid"), Path(folder, "a.wav")
        midi.write_bytes(song)
        call = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-r", "22050", "-F", str(wav), str(font)]
        subprocess.run([*call, str(midi)], check=True, capture_output=True)
        sound = soundfile.read(wav, dtype="float32", always_2d=True)[0].mean(axis=1)
    count = round(22050 * seconds)
    return [sound[i * count : (i + 1) * count] for i in range(len(notes))]


def drums() -> Iterator[Clip]:
    for path in sorted(KITS.rglob("*")):
        kind = next((kind for kind, text in DRUMS.items() if re.search(text, path.stem.lower())), None)
        if path.suffix not in (".wav", ".flac", ".aiff") or not kind:
            continue
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if len(sound) < 1000 or np.abs(sound).max() < 1e-3:
            continue
        kit = path.relative_to(KITS).parts[0]
        split = "test" if kit in KITS_HELD_OUT else "train"
        yield split, kind, f"{kit}_{path.stem}".replace(" ", "_"), sound.mean(axis=1), rate


def lengths(source_dir: Path) -> Iterator[Clip]:
    rng = np.random.default_rng(0)
    rows = esc10(source_dir)
    for kind in ("dog", "crying_baby"):
        for split, folds in (("train", "123"), ("test", "45")):
            own = [row for row in rows if row["category"] == kind and row["fold"] in folds]
            for number in range(20):
                seconds = float(np.exp(rng.uniform(np.log(0.2), np.log(60))))
                sound, rate = [], 44100
                while sum(map(len, sound)) < seconds * rate:  # one recording after the other
                    row = own[rng.integers(len(own))]
                    part, rate = soundfile.read(source_dir / "audio" / row["filename"], dtype="float32")
                    loud = np.flatnonzero(np.abs(part) > 0.1 * np.abs(part).max())
                    sound.append(part[loud[0] : loud[-1] + 1])
                yield split, kind, f"{number}", np.concatenate(sound)[: round(seconds * rate)], rate


def esc10_part(source_dir: Path, count: int) -> Iterator[Clip]:
    rows = esc10(source_dir)
    for kind in sorted({row["category"] for row in rows}):
        own = [row for row in rows if row["category"] == kind]
        train = [row for row in own if row["fold"] != "5"]
        # first recordings' first takes; few clips are of few folds
        chosen = sorted(train, key=lambda row: (row["filename"][2:], row["fold"]))[:count]
        for split, part in (("train", chosen), ("test", [row for row in own if row["fold"] == "5"])):
            for row in part:
                sound, rate = soundfile.read(source_dir / "audio" / row["filename"], dtype="float32")
                yield split, kind, row["filename"].removesuffix(".wav"), sound, rate


def esc10(source_dir: Path) -> list[dict[str, str]]:
    with open(source_dir / "meta" / "esc50.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["esc10"] == "True"]


def decimated(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import librosa

    return librosa.resample(sound, orig_sr=rate, target_sr=wanted)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--only", default="digits,instruments,drums,lengths,esc10_8,esc10_32")
    flags.add_argument("--source_dir", type=Path, default=Path("../shared/data/ESC-50-master"))
    asked = flags.parse_args()
    made = {
        "digits": digits,
        "instruments": instruments,
        "drums": drums,
        "lengths": lambda: lengths(asked.source_dir),
    }
    for count in (5, 8, 10, 20, 32):
        made[f"esc10_{count}"] = functools.partial(esc10_part, asked.source_dir, count)
    for name in asked.only.split(","):
        counts = {"train": 0, "test": 0}
        for split, kind, stem, sound, rate in made[name]():
            path = asked.out / name / split / kind / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.clip(sound, -1, 1), rate, subtype="PCM_16")
            counts[split] += 1
        print(f"{asked.out / name}: {counts}", flush=True)


if __name__ == "__main__":
    main()
