r"""log_mel on one core, in NumPy and under jit, beside torchaudio's Kaldi fbank and transformers'
ASTFeatureExtractor.

  python -m benchmarks.features [--seconds=10] [--repeats=9] [--json=FILE]

One clip at a time, every library held to one thread. The limit is the copy rate: bytes of waveform in and of
features out.
"""

import argparse
import os
import time

from benchmarks import timing

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read when NumPy and torch are imported
    import numpy as np

    from ast_jax.features import log_mel, num_frames

    parser = argparse.ArgumentParser("python -m benchmarks.features", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of sound")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    timing.one_core()

    sound = np.random.default_rng(0).uniform(-0.5, 0.5, round(args.seconds * 16_000)).astype(np.float32)
    contestants = {"ours": lambda: log_mel(sound), "ours, under jit": under_jit(sound)}
    contestants |= torchaudio_fbank(sound) | transformers_extractor(sound)
    seconds = timing.in_turn(contestants, repeats=args.repeats, clock=time.process_time)
    moved = sound.nbytes + num_frames(len(sound)) * 128 * 4
    rate = timing.copy_rate()
    rows = [
        {
            "log-mel of one clip": name,
            "ms": 1e3 * value,
            "ours is faster by": value / seconds["ours"],
            "share of the copy rate": moved / value / rate,
        }
        for name, value in seconds.items()
    ]
    timing.table(f"{args.seconds:g} s of sound, one core, {timing.machine()}", rows)
    timing.write(args.json, {"rows": rows, "copy_bytes_per_s": rate})


def under_jit(sound):
    """The device body, as a training step on waveforms has it."""
    import jax

    from ast_jax.features import log_mel

    compiled, x = jax.jit(log_mel), jax.device_put(sound)
    return lambda: compiled(x).block_until_ready()


def torchaudio_fbank(sound):
    """The reference's call, mean removal included."""
    try:
        import torch
        from torchaudio.compliance.kaldi import fbank
    except (ImportError, OSError) as error:
        print(f"torchaudio is absent: {error}")
        return {}
    torch.set_num_threads(1)
    waveform = torch.from_numpy(sound)[None]
    options = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": 128}
    return {
        "torchaudio fbank": lambda: fbank(
            waveform - waveform.mean(), sample_frequency=16_000, dither=0.0, frame_shift=10, **options
        )
    }


def transformers_extractor(sound):
    """Normalisation and padding to 1024 frames included: it cannot be asked for less."""
    try:
        from transformers import ASTFeatureExtractor
    except ImportError as error:
        print(f"transformers is absent: {error}")
        return {}
    extractor = ASTFeatureExtractor()
    return {
        "transformers ASTFeatureExtractor": lambda: extractor(
            sound, sampling_rate=16_000, return_tensors="np"
        )
    }


if __name__ == "__main__":
    main()
