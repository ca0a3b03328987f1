r"""When, not only what: real clips put into noise at known times, found by a model that was told when, by one
that was told what alone, and by windows of a model of clips.

  python -m benchmarks.collages [--systems=strong] [--work=DIR]

DIR keeps collages and runs, so that what was stopped goes on.

Collages of 10.24 s hold 3 to 6 pieces of ESC-10's clips, .2 to 2.5 s long, that may overlap, 0 to 20 dB above
a noise of the collage's own: training ones of folds 1 to 3, those that choose thresholds and rules of fold 4,
test ones of fold 5. An event begins and ends where its piece is audible, whose quiet ends nobody would mark.
The three models are the same AST-small, from the same weights, on the same pieces of 2.56 s.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ast_jax.events import Decoder, Event, Rules, write_events
from ast_jax.events.metrics import event_based, overlap_based, segment_based
from ast_jax.features import load_audio
from ast_jax.inference.frames import Track, steps_of
from ast_jax.inference.predict import Tagger
from ast_jax.inference.windows import Heard, hear
from benchmarks.prove import DINO, ESC10, ROOT, record

RATE, SECONDS = 16_000, 10.24
FOLDS = {"train": (1, 2, 3), "dev": (4,), "test": (5,)}
COLLAGES = {"train": 160, "dev": 30, "test": 40}
# dB below a piece's loudest 20 ms at which it counts as silent
AUDIBLE_DB = 20
SYSTEMS = {
    "strong": ["--config.loss=frames_bce"],
    "weak": ["--config.loss=bce"],
    "windows": ["--config.loss=bce", "--config.model.head=clip"],
}
SETTINGS = [
    *("--config=events:seconds=2.56", "--config.num_frames=256", "--config.model.variant=small"),
    *("--config.model.strides=(16,16)", "--config.model.distilled=False", "--config.batch_size=8"),
    *("--config.lr=2e-4", "--config.layer_decay=0.65", "--config.clip_norm=1", "--config.freq_mask=16"),
    *("--config.lr_warmup=linear", "--config.lr_warmup_steps=20", "--config.epochs=3"),
    *("--config.lr_decay=0.4", "--config.lr_decay_epochs=(2,3)"),
]
THRESHOLDS = np.round(np.arange(0.1, 0.96, 0.05), 2)
RULES = [
    Rules(median_s=median, low=low, min_duration_s=0.15, min_gap_s=gap)
    for median, low, gap in itertools.product((0.0, 0.5), (0.4, 0.6, 0.8), (0.2, 0.5))
]


class Placed(NamedTuple):
    """An event, and how far it is above the noise."""

    event: Event
    snr_db: float


def loud_part(wave: np.ndarray) -> np.ndarray:
    """ESC-50 fills short sounds up with zeros."""
    there = np.flatnonzero(np.abs(wave) > 1e-4)
    return wave[there[0] : there[-1] + 1] if len(there) else wave


def audible(part: np.ndarray) -> np.ndarray:
    """From the first to the last 20 ms that are not silent."""
    size = RATE // 50
    levels = np.array([np.mean(part[i : i + size] ** 2) for i in range(0, len(part), size)])
    there = np.flatnonzero(levels > levels.max() * 10 ** (-AUDIBLE_DB / 10))
    return part[there[0] * size : (there[-1] + 1) * size] if len(there) else part[:0]


def collage(
    rng: np.random.Generator, clips: list[tuple[str, np.ndarray]]
) -> tuple[np.ndarray, list[tuple[float, float, str, float]]]:
    """A waveform, and (onset, offset, label, dB above the noise) of what is in it."""
    noise = rng.normal(size=round(SECONDS * RATE))
    noise = 0.01 * (noise if rng.random() < 0.5 else np.cumsum(noise - noise.mean()) / 60)
    wave, events = noise.copy(), []
    for _ in range(rng.integers(3, 7)):
        label, sound = clips[rng.integers(len(clips))]
        size = min(len(sound), round(RATE * rng.uniform(0.4, 2.5)))
        begin = rng.integers(len(sound) - size + 1)
        part = audible(sound[begin : begin + size])
        if len(part) < 0.2 * RATE or (rms := np.sqrt(np.mean(part**2))) < 1e-4:
            continue
        snr_db = rng.uniform(0, 20)
        gain = np.sqrt(np.mean(noise**2)) * 10 ** (snr_db / 20) / rms
        start = rng.integers(len(wave) - len(part))
        wave[start : start + len(part)] += gain * part
        events.append((start / RATE, (start + len(part)) / RATE, label, snr_db))
    return wave / max(1.0, 1.1 * np.abs(wave).max()), events


def make(counts: dict[str, int], home: Path) -> dict[str, list[Placed]]:
    """Writes collages and their tables; returns the events by split."""
    with (ESC10 / "meta" / "esc50.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["esc10"] == "True"]
    truth: dict[str, list[Placed]] = {}
    for split, folds in FOLDS.items():
        rng = np.random.default_rng(len(split))
        own = [row for row in rows if int(row["fold"]) in folds]
        clips = [(row["category"], loud_part(load_audio(ESC10 / "audio" / row["filename"]))) for row in own]
        truth[split] = []
        for number in range(counts[split]):
            wave, events = collage(rng, clips)
            name = f"{split}{number:03d}.wav"
            if not (home / name).exists():
                soundfile.write(home / name, wave, RATE)
            truth[split] += [Placed(Event(name, *times), snr) for *times, snr in sorted(events)]
        (home / f"{split}.tsv").write_text(write_events([placed.event for placed in truth[split]], "tsv"))
    return truth


def train(system: str, home: Path, *flags: str) -> dict[str, Any]:
    """A run's results on the collages; one that is there stays as it is."""
    tables = {"train": "train.tsv", "test": "dev.tsv"}
    places = [
        f"--config.dataset.source_dir={home}",
        f"--config.dataset.data_dir={home / 'data'}",
        f"--config.dataset.options={ {'tables': tables, 'cut_s': 2.56} }",
        f"--config.init_from={DINO}",
        f"--workdir={home / system}",
    ]
    results = home / system / "results.json"
    if not results.is_file():
        command = [sys.executable, "-m", "ast_jax.main", *SETTINGS, *SYSTEMS[system], *flags, *places]
        subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(results.read_text())


class Listened:
    """What a model says of the steps of a split's collages, from which events are read off at will."""

    def __init__(self, tagger: Tagger, paths: Sequence[Path]):
        self.names, self.steps = tagger.label_names, steps_of(tagger)
        self.files: list[Heard] = list(hear(paths, self.steps.grid, self.steps.forward))

    def events(self, rules: Rules, thresholds: Sequence[float] | np.ndarray) -> list[Event]:
        """By these rules, with a threshold a class."""
        found = []
        for heard, name in ((heard, Path(str(heard.file)).name) for heard in self.files):
            decoder = Decoder(rules, np.asarray(thresholds), self.steps.step_s)
            track = Track(heard, self.steps, decoder, self.names)
            for answer in heard.answers:
                track.append(np.asarray(answer))
            found += [event._replace(file=name) for event in track.end()]
        return found


def choose(listened: Listened, truth: list[Event]) -> tuple[Rules, np.ndarray]:
    """The rules and, class by class, the thresholds that find most by the lenient measure; each threshold is
    judged with its neighbours, as a class has a dozen events.
    """
    best: tuple[float, Rules, np.ndarray] | None = None
    for rules in RULES:
        tables = []
        for threshold in THRESHOLDS:
            events = listened.events(rules, np.full(len(listened.names), threshold))
            labels = overlap_based(truth, events).labels
            tables.append([labels[name].f1 if name in labels else 0.0 for name in listened.names])
        smooth = np.pad(np.array(tables), ((1, 1), (0, 0)), mode="edge")
        smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
        thresholds = THRESHOLDS[smooth.argmax(axis=0)]
        f1 = overlap_based(truth, listened.events(rules, thresholds)).micro.f1
        if best is None or f1 > best[0]:
            best = f1, rules, thresholds
    assert best is not None
    return best[1:]


def judged(truth: list[Placed], found: list[Event]) -> dict[str, Any]:
    """F1 three ways, and the share found, by the lenient measure, of events that are so far above noise."""
    reference = [placed.event for placed in truth]
    bands = {
        f"{low}_to_{low + 5}_db": [p.event for p in truth if low <= p.snr_db < low + 5]
        for low in (0, 5, 10, 15)
    }
    one = lambda events: [event._replace(label="sound") for event in events]
    return {
        "lenient_f1": round(overlap_based(reference, found).micro.f1, 4),
        "event_f1_200ms": round(event_based(reference, found).micro.f1, 4),
        "segment_f1_1s": round(segment_based(reference, found).micro.f1, 4),
        # if labels are left aside, or times as long as they touch
        "lenient_f1_of_any_label": round(overlap_based(one(reference), one(found)).micro.f1, 4),
        "f1_of_any_overlap": round(overlap_based(reference, found, share=1e-6).micro.f1, 4),
        "lenient_f1_by_class": {
            name: round(counts.f1, 3) for name, counts in overlap_based(reference, found).labels.items()
        },
        "found_by_snr": {
            band: round(overlap_based(own, found).micro.recall, 3) for band, own in bands.items()
        },
        "events": len(found),
    }


def proof(work: Path, systems: Sequence[str]) -> dict[str, Any]:
    """The figures of these models on the test collages."""
    work.mkdir(parents=True, exist_ok=True)
    truth, rows = make(COLLAGES, work), {}
    for system in systems:
        results = train(system, work)
        tagger = Tagger(work / system, which="last")
        dev, test = (Listened(tagger, sorted(work.glob(f"{split}*.wav"))) for split in ("dev", "test"))
        rules, thresholds = choose(dev, [placed.event for placed in truth["dev"]])
        rows[system] = {
            **judged(truth["test"], test.events(rules, thresholds)),
            "thresholds": dict(zip(tagger.label_names, thresholds.tolist(), strict=True)),
            "rules": vars(rules),
            "mAP_of_dev_pieces": results["metrics"]["mAP"],
            "seconds": round(results["seconds"]),
        }
        print(system, rows[system], flush=True)
    return {
        "collages": COLLAGES,
        "test_events": len(truth["test"]),
        "settings": SETTINGS,
        "systems": rows,
    }


def main() -> None:
    """See above."""
    flags = argparse.ArgumentParser(
        "python -m benchmarks.collages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--work", type=Path, default=ROOT / "runs" / "collages")
    flags.add_argument("--systems", default=",".join(SYSTEMS))
    asked = flags.parse_args()
    command = f"python -m benchmarks.collages --systems={asked.systems}"
    record("collages", command, lambda: proof(asked.work.absolute(), asked.systems.split(",")))


if __name__ == "__main__":
    main()
