r"""When, not only what: real clips put into noise at known times, found by a model that was told when, by one
that was told what alone, and by windows of a model of clips.

  python -m benchmarks.collages --source_dir=ESC-50-master --weights=vit_small.npz --out=collages.json

Collages of 10.24 s hold 3 to 6 pieces of ESC-10's clips, .4 to 2.5 s long, that may overlap, 0 to 20 dB above
a noise of the collage's own: training ones of folds 1 to 3, those that choose one threshold of fold 4, test
ones of fold 5. The three models are the same AST-small, from the same weights, on the same pieces of 2.56 s.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from ast_jax.events import Event, write_events
from ast_jax.events.decode import Rules
from ast_jax.events.metrics import event_based, overlap_based, segment_based
from ast_jax.features import load_audio
from ast_jax.inference.predict import Tagger

RATE, SECONDS = 16_000, 10.24
FOLDS = {"train": (1, 2, 3), "dev": (4,), "test": (5,)}
SYSTEMS = {
    "strong": ["--config.loss=frames_bce"],
    "weak": ["--config.loss=bce"],
    "windows": ["--config.loss=bce", "--config.model.head=clip"],
}
SETTINGS = [
    *("--config=events:seconds=2.56", "--config.num_frames=256", "--config.model.variant=small"),
    *("--config.model.strides=(16,12)", "--config.model.distilled=False", "--config.batch_size=16"),
    *("--config.lr=2e-4", "--config.layer_decay=0.65", "--config.lr_warmup=linear"),
    *(
        "--config.lr_warmup_steps=20",
        "--config.clip_norm=1",
        "--config.freq_mask=16",
        "--config.lr_decay_epochs=()",
    ),
]
RULES = Rules(median_s=0.25, low=0.5, min_duration_s=0.1, min_gap_s=0.3)


def loud_part(wave: np.ndarray) -> np.ndarray:
    """ESC-50 fills short sounds up with zeros."""
    there = np.flatnonzero(np.abs(wave) > 1e-4)
    return wave[there[0] : there[-1] + 1] if len(there) else wave


def collage(rng: np.random.Generator, clips: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, list]:
    """A waveform, and (onset, offset, label) of what is in it."""
    noise = rng.normal(size=round(SECONDS * RATE))
    noise = 0.01 * (noise if rng.random() < 0.5 else np.cumsum(noise - noise.mean()) / 60)
    wave, events = noise.copy(), []
    for _ in range(rng.integers(3, 7)):
        label, sound = clips[rng.integers(len(clips))]
        size = min(len(sound), round(RATE * rng.uniform(0.4, 2.5)))
        begin = rng.integers(len(sound) - size + 1)
        part = sound[begin : begin + size]
        rms = np.sqrt(np.mean(part**2))
        if rms < 1e-4 or size < 0.3 * RATE:
            continue
        gain = np.sqrt(np.mean(noise**2)) * 10 ** (rng.uniform(0, 20) / 20) / rms
        start = rng.integers(len(wave) - size)
        wave[start : start + size] += gain * part
        events.append((start / RATE, (start + size) / RATE, label))
    return wave / max(1.0, 1.1 * np.abs(wave).max()), events


def make(source_dir: Path, counts: dict[str, int], home: Path) -> dict[str, list[Event]]:
    """Writes collages and their tables; returns the events by split."""
    with (source_dir / "meta" / "esc50.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["esc10"] == "True"]
    truth = {}
    for split, folds in FOLDS.items():
        rng = np.random.default_rng(len(split))
        own = [row for row in rows if int(row["fold"]) in folds]
        clips = [
            (row["category"], loud_part(load_audio(source_dir / "audio" / row["filename"]))) for row in own
        ]
        truth[split] = []
        for number in range(counts[split]):
            wave, events = collage(rng, clips)
            name = f"{split}{number:03d}.wav"
            soundfile.write(home / name, wave, RATE)
            truth[split] += [Event(name, *event) for event in sorted(events)]
        (home / f"{split}.tsv").write_text(write_events(truth[split], "tsv"))
    return truth


def train(system: str, home: Path, weights: str, epochs: int) -> float:
    """Seconds of training on the collages."""
    tables = {"train": "train.tsv", "test": "dev.tsv"}
    places = [
        f"--config.dataset.source_dir={home}",
        f"--config.dataset.data_dir={home / 'data'}",
        f"--config.dataset.options={ {'tables': tables, 'cut_s': 2.56} }",
        f"--config.init_from={weights}",
        f"--config.epochs={epochs}",
        f"--workdir={home / system}",
    ]
    subprocess.run([sys.executable, "-m", "ast_jax.main", *SETTINGS, *SYSTEMS[system], *places], check=True)
    return json.loads((home / system / "results.json").read_text())["seconds"]


def found(tagger: Tagger, home: Path, split: str, threshold: float) -> list[Event]:
    """What is heard in the collages of a split."""
    paths = sorted(home.glob(f"{split}*.wav"))
    return [
        event._replace(file=path.name)
        for path in paths
        for event in tagger.events(path, threshold=threshold, rules=RULES)
    ]


def main() -> None:
    """See above."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--source_dir", type=Path, required=True)
    flags.add_argument("--weights", required=True)
    flags.add_argument("--home", type=Path, required=True, help="where collages and runs are kept")
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--epochs", type=int, default=5)
    flags.add_argument(
        "--collages", type=int, nargs=3, default=(90, 20, 40), metavar=("TRAIN", "DEV", "TEST")
    )
    asked = flags.parse_args()
    asked.home.mkdir(parents=True, exist_ok=True)
    truth = make(asked.source_dir, dict(zip(FOLDS, asked.collages, strict=True)), asked.home)
    rows = {}
    for system in SYSTEMS:
        seconds = train(system, asked.home, asked.weights, asked.epochs)
        tagger = Tagger(asked.home / system, which="last")
        lenient = {
            threshold: overlap_based(truth["dev"], found(tagger, asked.home, "dev", threshold)).micro.f1
            for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
        }
        threshold = max(lenient, key=lambda key: lenient[key])
        events = found(tagger, asked.home, "test", threshold)
        rows[system] = {
            "threshold": threshold,
            "lenient_f1": round(overlap_based(truth["test"], events).micro.f1, 4),
            "event_f1_200ms": round(event_based(truth["test"], events).micro.f1, 4),
            "segment_f1_1s": round(segment_based(truth["test"], events).micro.f1, 4),
            "events": len(events),
            "seconds": round(seconds),
        }
        print(system, rows[system], flush=True)
        about = {
            "command": "python -m benchmarks.collages",
            "machine": platform.machine(),
            "epochs": asked.epochs,
        }
        about |= {"collages": list(asked.collages), "test_events": len(truth["test"]), "settings": SETTINGS}
        asked.out.write_text(json.dumps({**about, "systems": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
