r"""How close mixup of stored log-mels comes to mixup of waveforms, on the real ESC-10 clips: in nats, and in
accuracy.

  python -m benchmarks.prove_mixup [--work=DIR]        # writes docs/proofs/mixup.json; DIR keeps the runs

Expected, for a mel filter of one FFT bin and two sounds whose power differs by the factor r <= 1: the
waveform mix lies a mean of log(1 + r) below its expected power, 0.69 at equal power; wider filters average
the cross term away.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prove import ESC10, ROOT, record, train

SEEDS = (0, 1)
SAMPLES = 80_000  # the first 5 s of a clip
FRAMES = 498
FLOOR = np.log(1.1920929e-7)  # of log_mel, nats
NEAR = np.log(100)  # nats: 20 dB
TRAIN, HELD_OUT = "('fold3','fold4','fold5')", "('fold1','fold2')"
SMALL = {
    "num_frames": 256,
    "model.depth": 3,
    "epochs": 14,
    "lr_decay_epochs": "(9,10,11,12,13,14)",
    "dataset.train": TRAIN,
    "dataset.eval": HELD_OUT,
}
KINDS = {
    "waveform": {"mixup": 0.5, "dataset.kind": "waveform"},
    "log_mel": {"mixup": 0.5},
    "no mixup": {},
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_mixup", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "prove_mixup")
    work = parser.parse_args().work.absolute()
    proof = lambda: {"nats": difference(), "accuracy": accuracies(work)}
    record("mixup", "python -m benchmarks.prove_mixup", proof)


def difference(seed: int = 0) -> dict[str, Any]:
    """log-mel mixed in the power domain, as from shards, minus log-mel of the mixed waveforms, over 400
    random pairs.
    """
    from ast_jax.features import load_audio

    sounds = [load_audio(path)[:SAMPLES] for path in sorted((ESC10 / "audio").iterdir())]
    rng = np.random.default_rng(seed)
    partners = rng.integers(len(sounds), size=len(sounds))
    shares = rng.beta(10, 10, len(sounds))
    found = [
        one_pair(sound, sounds[p], share) for sound, p, share in zip(sounds, partners, shares, strict=True)
    ]
    ours, flipped, gap, band = (np.concatenate(column) for column in zip(*found, strict=True))
    near = gap < NEAR
    heard = np.isfinite(gap)
    return {
        "pairs": len(sounds),
        "all cells": spread(ours),
        "cells where both sounds are above the floor": spread(ours[heard]) | {"share": float(heard.mean())},
        "cells where both sounds are within 20 dB": spread(ours[near]) | {"share": float(near.mean())},
        "the same, mel bins 0 to 31": spread(ours[near & (band < 32)]),
        "the same, mel bins 96 to 127": spread(ours[near & (band >= 96)]),
        "yardstick: the partner's sign flipped, both on waveforms": spread(flipped),
        "yardstick, cells within 20 dB": spread(flipped[near]),
    }


def one_pair(sound: np.ndarray, partner: np.ndarray, share: float) -> tuple[np.ndarray, ...]:
    """Per cell of the clip's own frames: power mix minus waveform mix, flipped minus plain waveform mix,
    level difference (infinite where one adds nothing), mel bin.
    """
    import jax.numpy as jnp

    from ast_jax.features import Kaldi, log_mel
    from ast_jax.training.augment import mix_power, mix_waveforms

    padded = lambda x: np.pad(x, (0, SAMPLES - len(x)))
    counts = jnp.int32(len(sound)), jnp.int32(len(partner))
    mix = lambda other: np.asarray(
        mix_waveforms(padded(sound), counts[0], padded(other), counts[1], jnp.float32(share))
    )
    exact, flipped = (log_mel(mix(other)[: len(sound)]) for other in (partner, -partner))
    stored = [log_mel(x).astype(np.float16).astype(np.float32) for x in (sound, partner)]
    rows = [np.pad(x, ((0, FRAMES - len(x)), (0, 0))) for x in stored]
    lengths = [jnp.int32(len(x)) for x in stored]
    power = mix_power(rows[0], lengths[0], rows[1], lengths[1], jnp.float32(share), front_end=Kaldi())
    frames = len(exact)
    levels = stored[0] + 2 * np.log(share), rows[1][:frames] + 2 * np.log(1 - share)
    heard = (np.arange(frames)[:, None] < len(stored[1])) & (np.minimum(*levels) > FLOOR)
    gap = np.where(heard, np.abs(levels[0] - levels[1]), np.inf)
    band = np.broadcast_to(np.arange(exact.shape[1]), exact.shape)
    cells = np.asarray(power)[:frames] - exact, flipped - exact, gap, band
    return tuple(np.ravel(x) for x in cells)


def spread(nats: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(nats, [0.05, 0.5, 0.95])
    figures = {
        "bias": nats.mean(dtype=float),
        "std": nats.std(dtype=float),
        "median": middle,
        "p5": low,
        "p95": high,
    }
    return {name: round(float(value), 4) for name, value in figures.items()} | {"cells": len(nats)}


def accuracies(work: Path) -> dict[str, Any]:
    """The same small model from scratch, trained on folds 3 to 5 and evaluated on folds 1 and 2 (160 clips),
    two seeds, paired.
    """
    runs: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        for kind, settings in KINDS.items():
            flags = [f"--config.{key}={value}" for key, value in {**SMALL, **settings, "seed": seed}.items()]
            name = f"{kind.replace(' ', '_')}-seed{seed}"
            source = f"--config.dataset.source_dir={ESC10}"
            runs[f"{kind}, seed {seed}"] = train(work, name, "configs/esc50.py:cpu", source, *flags)
    mean = lambda kind, metric: float(np.mean([runs[f"{kind}, seed {seed}"][metric] for seed in SEEDS]))
    means = {kind: {metric: mean(kind, metric) for metric in ("accuracy", "mAP")} for kind in KINDS}
    both = {metric: means["log_mel"][metric] - means["waveform"][metric] for metric in ("accuracy", "mAP")}
    scores = [saved(work / f"{kind}-seed{seed}") for kind in ("waveform", "log_mel") for seed in SEEDS]
    return {
        "settings": json.loads(json.dumps(SMALL)),
        "means": means,
        "log_mel minus waveform": both,
        "largest interval of one run, mAP": max(scores, key=lambda pair: pair[1] - pair[0]),
        "runs": runs,
    }


def saved(workdir: Path) -> tuple[float, float]:
    """The 95 % interval over clips of a run's mAP."""
    from ast_jax.evaluation import metrics

    with np.load(workdir / "predictions.npz") as stored:
        return metrics.bootstrap_interval(
            stored["scores"], stored["targets"], metrics.mean_average_precision, repeats=200
        )


if __name__ == "__main__":
    main()
