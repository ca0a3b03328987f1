r"""Shards to batches, and sound files to shards, in clips/s a core.

  python -m benchmarks.input_pipeline [--clips=600] [--batch=32] [--sounds=400] [--work=DIR] [--json=FILE]

Reading: 10 s clips as float16 log-mels from ArrayRecord shards to padded batches [32, 1024, 128], beside a
torch DataLoader that reads the same clips from one .npy file each. Everything on one core, in seconds of
processor time. The limit is the copy rate: each clip's bytes once. Preparing: 10 s sounds at 44.1 kHz, mono
wav and stereo ogg, decoded, resampled, log-mel, written; one worker on one core.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

from benchmarks import timing


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.input_pipeline", description=__doc__)
    parser.add_argument("--clips", type=int, default=600, help="of 10 s, in the shards that are read")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sounds", type=int, default=400, help="files a kind, prepared")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a folder for the files; default: a temporary one")
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    timing.one_core()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        read = reading(work, args)
        prepared = [preparing(work, kind, args.sounds) for kind in ("wav, mono", "ogg, stereo")]
    timing.table(f"reading, one core, {timing.machine()}", read)
    timing.table("preparing, one core", prepared)
    timing.write(args.json, {"reading": read, "preparing": prepared})


def reading(work: Path, args: argparse.Namespace) -> list[timing.Row]:
    shards(work, args.clips)
    steps = args.clips // args.batch
    made = {
        "ours": functools.partial(our_reader, work, args.clips, args.batch),
        "torch DataLoader": functools.partial(data_loader, work, args.clips, args.batch),
    }
    seconds = timing.in_processes(made, repeats=args.repeats, clock=time.process_time)
    rate, clips, clip_bytes = timing.copy_rate(), steps * args.batch, 998 * 128 * 2
    return [
        {
            "shards to batches": name,
            "clips/s": clips / value,
            "ours is faster by": value / seconds["ours"],
            "share of the copy rate": 2 * clips * clip_bytes / value / rate,
        }
        for name, value in seconds.items()
    ]


def our_reader(work: Path, clips: int, batch: int):
    from ast_jax.datasets.pipeline import Draws, TrainStream, batches

    source = shards(work, clips)

    def ours():
        stream = TrainStream(source, Draws(len(source), seed=0), batch_size=batch, epochs=1)
        read = batches(stream, kind="log_mel", batch_size=batch, num_frames=1024, num_classes=10)
        for _ in range(clips // batch):
            assert next(read)["fbank"].shape == (batch, 1024, 128)
        read.close()

    return ours


def shards(work: Path, clips: int):
    """A prepared set of 10 s log-mels, from short wav files of noise that are prepared the usual way."""
    from ast_jax.datasets.prepare import prepare

    folder = work / "short"
    for index in range(clips):
        write_sound(folder / f"class{index % 10}" / f"{index:05d}.wav", index, rate=16_000, channels=1)
    prepared = prepare("folder", source_dir=folder, data_dir=work / "data", progress=False)
    return prepared.source(prepared.splits)


def data_loader(work: Path, clips: int, batch: int):
    """A torch DataLoader without workers over the same clips, one .npy file each, padded alike."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    source = shards(work, clips)
    files = work / "npy"
    files.mkdir(exist_ok=True)
    for index in range(len(source)):
        np.save(files / f"{index}.npy", source[index]["fbank"])

    class Clips(torch.utils.data.Dataset):
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            padded = np.zeros((1024, 128), np.float16)
            fbank = np.load(files / f"{index}.npy")
            padded[: len(fbank)] = fbank
            return padded, np.eye(10, dtype=np.float32)[index % 10]

    def theirs():
        rows = iter(torch.utils.data.DataLoader(Clips(), batch_size=batch, shuffle=True))
        for _ in range(clips // batch):
            next(rows)

    return theirs


def preparing(work: Path, kind: str, sounds: int) -> timing.Row:
    from ast_jax.datasets.prepare import prepare

    suffix, channels = kind.split(", ")
    folder = work / suffix
    for index in range(sounds):
        path = folder / f"class{index % 4}" / f"{index:05d}.{suffix}"
        write_sound(path, index, rate=44_100, channels=2 if channels == "stereo" else 1)
    began = time.process_time()
    prepare("folder", source_dir=folder, data_dir=work / "data", progress=False, workers=1)
    seconds = time.process_time() - began
    return {"10 s at 44.1 kHz": kind, "clips": sounds, "clips/s": sounds / seconds}


def write_sound(path: Path, seed: int, *, rate: int, channels: int) -> None:
    """Ten seconds of noise that falls with frequency, as sounds do: a codec has as much to do with it as with
    a recording.
    """
    import numpy as np
    import soundfile

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((10 * rate, channels)).astype(np.float32)
    noise[1:] += 0.9 * noise[:-1]  # darker than white
    tone = np.sin(np.arange(10 * rate, dtype=np.float32) * (0.01 + 0.0001 * (seed % 50)))[:, None]
    sound = 0.05 * noise + 0.2 * tone
    soundfile.write(path, sound, rate)


if __name__ == "__main__":
    main()
