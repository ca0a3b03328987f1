r"""An hour of sound, made of real clips at known times, tagged by a model that never heard them; and the
probe on ESC-10.

  python -m benchmarks.prove_recording [--work=DIR]     # docs/proofs/recording.json,
  docs/images/recording_timeline.png

The 80 clips of ESC-10's fold 1, six times each in random order, faint noise and pauses between them, an hour
in all; then the same as 44.1 kHz stereo mp3, 48 kHz flac and 8 kHz wav. Windows stand side by side; one
counts where a clip fills at least half of it, and is right if its highest score is that clip's class. DIR
keeps what is done: the command goes on where it stopped. Needs ../shared (or $AST_JAX_SHARED) with
data/ESC-50-master and weights/.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from safetensors.numpy import save_file

from ast_jax.datasets.esc50 import list_clips
from ast_jax.features import SAMPLE_RATE, load_audio
from benchmarks.prove import DINO, DOCS, ESC10, ROOT, about, train

HOUR = 3600 * SAMPLE_RATE
REPEATS, NOISE = 6, 1e-4  # of each clip; standard deviation of the background
WINDOW_S = 5.125  # of a model of 512 frames
FLAGS = (
    f"--config.dataset.source_dir={ESC10}",
    f"--config.init_from={DINO}",
    "--config.model.variant=small",
    "--config.model.strides=(16,32)",
    "--config.model.distilled=False",
    "--config.batch_size=16",
    "--config.epochs=9",
    "--config.lr=2e-4",
    "--config.layer_decay=0.65",
    "--config.roll=128",
    "--config.time_shift=256",
)  # AST-small from DINOv2's ViT-S/14 on folds 2 to 5, as in benchmarks/prove.py: about 24 CPU minutes
PROBE = ("--num_frames=512", "--strides=16,16", "--mean=-6.6268077", "--std=5.358466")
Event = tuple[float, float, str]  # start_s, end_s, class


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_recording", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "prove")
    work = parser.parse_args().work.absolute()
    trained = train(work, "recording-model", "configs/esc50.py:fold=1", *FLAGS)
    model = f"--model={work / 'recording-model'}"
    work = work / "recording"
    work.mkdir(parents=True, exist_ok=True)
    hour, events = compose(work / "hour.wav")
    record: dict[str, Any] = {
        "command": "python -m benchmarks.prove_recording",
        "model": {"held_out": "fold 1", "clip_accuracy": trained["accuracy"], "curve": trained["curve"]},
        "clips_in_the_hour": len(events),
    }
    once = lambda name, *flags: kept(work / f"{name}.json", lambda: run(*flags))

    def tag(name: str, file: Path) -> dict[str, Any]:
        return once(name, "predict", model, "--csv", f"--hop_s={WINDOW_S}", str(file))

    plain = tag("wav_16k", hour)
    record["wav_16k"] = judged(plain, events)
    picture(hour, work, model)
    save(record)
    probe = once("probe", "probe", f"--model={DINO}", *PROBE, "--json", str(ESC10))
    record["probe"] = json.loads(probe["out"]) | {
        "seconds": round(probe["seconds"]),
        "flags": " ".join(PROBE),
    }
    save(record)
    tiny = f"--model={tiny_model(work / 'tiny')}"
    for name, file in (("one_hour", hour), ("three_hours", three_hours(hour, work))):
        found = once(name, "predict", tiny, "--csv", str(file))
        record[name] = {"windows": len(table(found)[0]), "peak_memory_mb": found["peak_memory_mb"]}
        save(record)
    for name, make in FORMATS.items():
        found = tag(name, make(hour, work))
        record[name] = judged(found, events) | {"same_top_label_as_wav_16k": agreement(found, plain)}
        save(record)


def save(record: dict[str, Any]) -> None:
    """What is known so far; the same command adds the rest."""
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "recording.json").write_text(json.dumps(record | about(), indent=2) + "\n")
    print(json.dumps(record, indent=2), flush=True)


def compose(path: Path) -> tuple[Path, list[Event]]:
    """The hour, 16 kHz wav, and what is heard in it when; always the same."""
    listing, rng = list_clips(ESC10), np.random.default_rng(0)
    clips = [clip for _ in range(REPEATS) for clip in listing.splits["fold1"]]
    sounds = {clip.path: load_audio(clip.path) for clip in clips}
    order = rng.permutation(len(clips))
    free = HOUR - sum(len(sounds[clip.path]) for clip in clips)
    pauses = (rng.dirichlet(np.ones(len(clips) + 1)) * free).astype(int)  # of any length, free samples in all
    hour, at, events = rng.normal(0, NOISE, HOUR).astype(np.float32), 0, []
    for pause, i in zip(pauses, order, strict=False):
        sound, at = sounds[clips[i].path], at + pause
        hour[at : at + len(sound)] += sound
        label = listing.label_names[clips[i].labels[0]]
        events.append((at / SAMPLE_RATE, (at + len(sound)) / SAMPLE_RATE, label))
        at += len(sound)
    soundfile.write(path, hour, SAMPLE_RATE)
    return path, events


def _mp3_44k_stereo(hour: Path, work: Path) -> Path:
    mono = soxr.resample(load_audio(hour), SAMPLE_RATE, 44_100)
    soundfile.write(work / "hour.mp3", np.stack([mono, 0.7 * mono], axis=1), 44_100, format="MP3")
    return work / "hour.mp3"


def _flac_48k(hour: Path, work: Path) -> Path:
    soundfile.write(work / "hour.flac", soxr.resample(load_audio(hour), SAMPLE_RATE, 48_000), 48_000)
    return work / "hour.flac"


def _wav_8k(hour: Path, work: Path) -> Path:
    soundfile.write(work / "hour8k.wav", soxr.resample(load_audio(hour), SAMPLE_RATE, 8_000), 8_000)
    return work / "hour8k.wav"


FORMATS = {"mp3_44k_stereo": _mp3_44k_stereo, "flac_48k": _flac_48k, "wav_8k": _wav_8k}


def three_hours(hour: Path, work: Path) -> Path:
    with soundfile.SoundFile(work / "three_hours.wav", "w", SAMPLE_RATE, 1) as file:
        for _ in range(3):
            file.write(load_audio(hour))
    return work / "three_hours.wav"


def tiny_model(path: Path) -> Path:
    """A model of one narrow block with random weights: beside it, the memory that decoding and features take
    shows.
    """
    from flax import nnx

    from ast_jax.models import AST, ASTConfig, host_variables
    from ast_jax.weights import LoadedModel

    if not path.is_dir():
        config = ASTConfig(num_classes=10, num_frames=512, width=16, depth=1, num_heads=1, strides=(16, 16))
        names = [f"class {i}" for i in range(10)]
        model = AST(config, rngs=nnx.Rngs(0))
        loaded = LoadedModel(model, names, model.front_end.with_statistics(-6.6, 5.4), "softmax")
        path.mkdir()
        save_file(host_variables(loaded.model), path / "model.safetensors")
        (path / "model_card.json").write_text(json.dumps(loaded.card()))
    return path


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


# Runs the package and says at the end how much memory it had at most. What wait4 says would not do: Linux
# counts in what the parent had when it started the child.
MEASURED = """
import atexit, re, runpy, sys
def peak():
    with open("/proc/self/status") as file:
        kilobytes = re.search(r"VmHWM:\\s*(\\d+)", file.read())[1]
    print(f"peak {kilobytes}", file=sys.stderr)
atexit.register(peak)
runpy.run_module("ast_jax", run_name="__main__", alter_sys=True)
"""


def run(*arguments: str) -> dict[str, Any]:
    """A command of the package in a process of its own: what it printed, its seconds and its peak memory."""
    print(" ".join(["python -m ast_jax", *arguments]), file=sys.stderr, flush=True)
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if child.returncode:
        sys.exit(f"error: status {child.returncode} of {' '.join(arguments)}:\n{child.stderr}")
    peak = int(child.stderr.rsplit("peak ", 1)[1])
    return {
        "out": child.stdout,
        "seconds": time.monotonic() - began,
        "peak_memory_mb": round(peak / 1024),
    }


def table(found: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """[W, 2] seconds and the top label of each window."""
    rows = list(csv.reader(found["out"].splitlines()))
    labels = rows[0][3:]
    tops = [labels[int(np.argmax([float(score) for score in row[3:]]))] for row in rows[1:]]
    return np.array([[float(value) for value in row[1:3]] for row in rows[1:]]), tops


def judged(found: dict[str, Any], events: list[Event]) -> dict[str, Any]:
    times, tops = table(found)
    spans = np.array([event[:2] for event in events])
    overlap = np.minimum(times[:, None, 1], spans[None, :, 1]) - np.maximum(
        times[:, None, 0], spans[None, :, 0]
    )
    main_event, share = overlap.argmax(axis=1), overlap.max(axis=1) / WINDOW_S
    right = np.array([top == events[i][2] for top, i in zip(tops, main_event, strict=True)])
    counts, whole = share >= 0.5, share >= 0.9
    return {
        "windows": len(tops),
        "windows_that_count": int(counts.sum()),
        "right": round(float(right[counts].mean()), 4),
        "right_where_one_clip_fills_nine_tenths": round(float(right[whole].mean()), 4),
        "seconds": round(found["seconds"], 1),
        "clips_per_s": round(len(tops) / found["seconds"], 1),
        "peak_memory_mb": found["peak_memory_mb"],
    }


def agreement(found: dict[str, Any], plain: dict[str, Any]) -> float:
    """The share of windows with the same top label as the same window of the 16 kHz file."""
    pairs = zip(
        table(found)[1], table(plain)[1], strict=False
    )  # an encoder may add a few milliseconds at the end
    return round(float(np.mean([one == other for one, other in pairs])), 4)


def picture(hour: Path, work: Path, model: str) -> None:
    """The first two minutes, as `--plot` draws them."""
    minutes, _ = soundfile.read(hour, frames=120 * SAMPLE_RATE, dtype="float32")
    soundfile.write(work / "minutes.wav", minutes, SAMPLE_RATE)
    target = ROOT / "docs" / "images" / "recording_timeline.png"
    run("predict", model, f"--plot={target}", str(work / "minutes.wav"))


if __name__ == "__main__":
    main()
