"""Small trees of real sound files in the layouts of the data sets, and files broken in every way."""

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000  # Hz
FOLDER_RECIPE = Path(__file__).resolve().parents[1] / "configs/folder.py"


def tiny_flags(root: Path, **changes) -> list[str]:
    """The folder recipe on ROOT/sounds, shards in ROOT/data: an AST of two blocks, one epoch."""
    values = {
        "dataset.source_dir": root / "sounds",
        "dataset.data_dir": root / "data",
        "num_frames": 48,
        "model.width": 16,
        "model.depth": 2,
        "model.num_heads": 2,
        "model.strides": "(16,16)",
        "epochs": 1,
        "batch_size": 4,
        "least_steps": 0,
        "mixup": 0.0,
        "lr_warmup_steps": 0,
        "layer_decay": 1.0,
        "clip_norm": 0.0,
        **changes,
    }
    return [
        f"--config={FOLDER_RECIPE}:pretrained",
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """int16 noise: what a 16-bit wav file at 16 kHz holds exactly."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, num_samples, dtype=np.int16)


def write_wav(path: Path, num_samples: int = 3200, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(num_samples, seed), RATE, subtype="PCM_16")
    return path


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def class_tree(root: Path, clips: dict[str, int], num_samples: int = 3200) -> Path:
    """DIR/class/file.wav: `clips` says how many in each class; file names tell all clips apart."""
    for k, (label, count) in enumerate(clips.items()):
        for i in range(count):
            write_wav(
                root / label / f"{label.replace('/', '-')}-{i:02}.wav",
                num_samples + 160 * i,
                seed=100 * k + i,
            )
    return root


def esc50_tree(root: Path, clips: list[tuple[str, int, int, str, bool]]) -> Path:
    """ESC-50's layout; a clip is (filename, fold, target, category, esc10)."""
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    write_rows(root / "meta" / "esc50.csv", [header, *((*clip, "1", "A") for clip in clips)])
    for i, clip in enumerate(clips):
        write_wav(root / "audio" / clip[0], seed=i)
    return root


def broken_files(directory: Path) -> list[str]:
    """Sound files that cannot be used, one of each kind; returns their names."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = write_wav(directory / "whole.wav", 8000).read_bytes()
    (directory / "whole.wav").unlink()
    (directory / "cut-samples.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(directory / "cut-flac.flac", noise(16_000), RATE)
    (directory / "cut-flac.flac").write_bytes((directory / "cut-flac.flac").read_bytes()[:8000])
    (directory / "cut-in-header.wav").write_bytes(whole[:30])
    (directory / "empty.wav").write_bytes(b"")
    (directory / "text.wav").write_text("not a sound at all\n" * 50)
    soundfile.write(directory / "nan.wav", np.full(3200, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(directory / "no-samples.wav", np.zeros(0, np.int16), RATE)
    (directory / "a-directory.wav").mkdir()
    (directory / "gone.wav").symlink_to(directory / "nowhere.wav")
    return sorted(p.name for p in directory.iterdir())
