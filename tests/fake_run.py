"""Writes a work directory as a finished run leaves it, with invented figures, for plots and report."""

import json
import wave
from pathlib import Path

import numpy as np

from ast_jax.config import base
from ast_jax.evaluation import metrics

SOUNDS = [
    "siren",
    "clock tick",
    "rain",
    "bell",
    "engine",
    "chirp",
    "dog",
    "crying baby",
    "helicopter",
    "sea waves",
]


def write_fake_run(
    directory: Path,
    *,
    labels: list[str] = SOUNDS,
    clips: int = 400,
    multi_label: bool = False,
    epochs: int = 25,
    frames: int = 512,
    published: dict | None = None,
    audio: bool = False,
) -> Path:
    """Every file of the interface; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    scores, targets = _predictions(rng, len(labels), clips, multi_label)
    ids = [f"1-{i:05d}-A" for i in range(clips)]
    np.savez(directory / "predictions.npz", ids=np.array(ids), scores=scores, targets=targets)
    np.savez(
        directory / "examples.npz",
        fbank=np.stack([_fbank(rng, frames) for _ in range(8)]),
        ids=np.array(ids[:8]),
        labels=targets[:8],
    )
    (directory / "labels.txt").write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    config = json.loads(base().to_json_best_effort())
    config |= {
        "lr": 1e-5,
        "epochs": epochs,
        "metric": "mAP" if multi_label else "accuracy",
        "published": published,
    }
    config["model"] |= {"variant": "small", "strides": [16, 16]}
    config["dataset"] |= {"name": "esc50", "mean": -6.6268077, "options": {"fold": 1}}
    config["of_a_later_version"] = "<unknown>"
    (directory / "config.json").write_text(json.dumps(config))
    card = {"model": {"width": 384, "depth": 12, "num_heads": 6}, "label_names": labels}
    (directory / "model_card.json").write_text(json.dumps(card))
    figures = metrics.for_json(metrics.summary(scores, targets))
    rows = _log(rng, epochs, figures)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main = "mAP" if multi_label else "accuracy"
    results = {
        "metrics": {name: figures[name] for name in ("accuracy", "mAP", "auc", "d_prime")},
        "epoch": epochs,
        "step": epochs * 34,
        "best": {"epoch": max(1, epochs - 3), "metric": main, "value": figures[main]},
        "last": {"epoch": epochs, "accuracy": figures["accuracy"], "mAP": figures["mAP"]},
        "interval": {"metric": main, "low": figures[main] - 0.02, "high": figures[main] + 0.02},
        "per_class": metrics.per_class(scores, targets, labels),
        "seconds": 1234.5,
        "num_examples": clips,
        "versions": {"python": "3.13.1", "jax": "0.12.0.1", "flax": "0.12.12", "ast_jax": "0.1.0"},
    }
    (directory / "results.json").write_text(json.dumps(results, allow_nan=False))
    if audio:
        (directory / "audio").mkdir(exist_ok=True)
        for name in ids:
            _write_wav(directory / "audio" / f"{name}.wav", rng)
    return directory


def _predictions(rng, classes: int, clips: int, multi_label: bool):
    if not multi_label:
        true = rng.integers(classes, size=clips)
        logits = rng.normal(size=(clips, classes)) + 3.5 * np.eye(classes)[true]
        logits += 2 * np.eye(classes)[(true + 1) % classes] * (rng.random((clips, 1)) < 0.3)
        scores = np.exp(2 * logits)
        return (scores / scores.sum(1, keepdims=True)).astype(np.float32), np.eye(classes, dtype=np.float32)[
            true
        ]
    targets = (rng.random((clips, classes)) < 2.7 / classes).astype(np.float32)
    skill = rng.uniform(0.3, 4, classes)
    return (1 / (1 + np.exp(3 - rng.normal(size=targets.shape) - skill * targets))).astype(
        np.float32
    ), targets


def _fbank(rng, frames: int) -> np.ndarray:
    """A rising tone with harmonics, padded at the end and masked in the middle, normalised."""
    time, mel = np.meshgrid(np.arange(frames), np.arange(128), indexing="ij")
    picture = rng.normal(-0.5, 0.2, (frames, 128))
    for harmonic in range(1, 5):
        ridge = 15 * harmonic + 12 * np.sin(time / rng.uniform(20, 80))
        picture += 1.6 / harmonic * np.exp(-(((mel - ridge) / 3) ** 2))
    picture[frames * 9 // 10 :] = 0.618
    picture[:, 60:75] = 0.618
    picture[100:130] = 0.618
    return picture.astype(np.float32)


def _log(rng, epochs: int, final: dict) -> list[dict]:
    rows: list[dict] = []
    for step in range(1, epochs * 34 + 1):
        epoch = (step - 1) // 34 + 1
        loss = 2.3 * np.exp(-step / (9 * epochs)) + 0.05 + 0.15 * rng.random()
        lr, clips_per_s = 1e-4 * 0.85 ** max(0, epoch - 5), 80 + 5 * rng.random()
        row = {"kind": "train", "step": step, "epoch": epoch, "loss": loss, "lr": lr, "step_s": 0.6}
        rows.append(row | {"clips_per_s": clips_per_s, "data_wait": 0.02 + 0.05 * rng.random() ** 4})
        if step % 34 == 0:
            done = 1 - np.exp(-4 * epoch / epochs) + 0.01 * rng.normal()
            grown = {k: final[k] and final[k] * min(done, 1) for k in ("accuracy", "mAP", "auc", "d_prime")}
            loss = 2.2 * np.exp(-4 * epoch / epochs) + 0.3
            rows.append(
                {"kind": "eval", "step": step, "epoch": epoch, "loss": loss, **grown, "num_examples": 400}
            )
    return rows


def _write_wav(path: Path, rng) -> None:
    samples = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * np.arange(16_000) / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
