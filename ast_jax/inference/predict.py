r"""Tags sound files of any length and format.

  python -m ast_jax predict --model=runs/quickstart FILE ... [--top=5] [--json]

A file longer than the model's length is heard in overlapping windows, decoded as a stream, so that memory does not grow
with the file. S samples, T frames, F mel bins, W windows, C classes.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features import SAMPLE_RATE, AudioError, log_mel, stream_audio
from ast_jax.features.spec import FRAME_LENGTH, FRAME_SHIFT
from ast_jax.models import merge, normalise, split
from ast_jax.weights import load_model

BATCH = 8  # windows at a time: one compiled shape for every file


@dataclass(frozen=True)
class Tags:
    """What a model heard: a score for each window and class, and where the windows lie."""

    times_s: Float[np.ndarray, " W"]  # where each window begins
    window_s: float
    scores: Float[np.ndarray, "W C"]

    @property
    def overall(self) -> Float[np.ndarray, " C"]:
        """The mean over windows."""
        return self.scores.mean(axis=0)


class Tagger:
    """One or several models (an ensemble: their mean score) over the same labels."""

    def __init__(self, sources: Sequence[str | Path]):
        self.models = [load_model(source) for source in sources]
        first = self.models[0]
        self.label_names = first.label_names
        for source, model in zip(sources, self.models, strict=True):
            if model.label_names != self.label_names:
                raise InputError(
                    f"{source} has other labels than {sources[0]}: an ensemble needs the same ones in one order"
                )
            if model.model.config.num_frames != first.model.config.num_frames:
                raise InputError(
                    f"{source} hears another length than {sources[0]}: an ensemble needs models of one length"
                )
        self.num_frames = first.model.config.num_frames
        self.window = FRAME_LENGTH + (self.num_frames - 1) * FRAME_SHIFT  # samples
        self._score = [_scorer(model) for model in self.models]

    def tag(self, file: str | Path | bytes, *, hop_s: float | None = None) -> Tags:
        """Scores of every window of a sound file, `hop_s` apart (default half a window).

        Raises AudioError for a file that cannot be heard.
        """
        hop = self.window // 2 if hop_s is None else max(1, round(hop_s * SAMPLE_RATE))
        channels = self.models[0].channels
        found = list(self._windows(stream_audio(file, channels=channels), hop))
        scores = [self._batch_scores(found[i : i + BATCH]) for i in range(0, len(found), BATCH)]
        times = np.arange(len(found)) * hop / SAMPLE_RATE
        return Tags(times, self.window / SAMPLE_RATE, np.concatenate(scores))

    def _windows(self, blocks: Iterable[np.ndarray], hop: int) -> Iterator[Float[np.ndarray, "t F"]]:
        """Log-mels of windows `hop` samples apart; the last one holds what is left, if that is more than was heard already."""
        held, first = np.zeros(0, np.float32), True
        for block in blocks:
            held = np.concatenate([held, block])
            while len(held) >= self.window + hop:
                yield log_mel(held[: self.window])
                held, first = held[hop:], False
        while first or len(held) > self.window - hop:
            yield log_mel(held[: self.window])
            held, first = held[hop:], False

    def _batch_scores(self, clips: list[np.ndarray]) -> Float[np.ndarray, "W C"]:
        fbank = np.zeros((BATCH, self.num_frames, clips[0].shape[-1]), np.float32)
        for row, clip in zip(fbank, clips, strict=False):
            row[: len(clip)] = clip
        return np.mean([np.asarray(score(fbank)) for score in self._score], axis=0)[: len(clips)]


def _scorer(loaded):
    """Padded log-mels [W, T, F] to scores [W, C]: sigmoids for several labels a clip, else a softmax."""
    graphdef, params = split(loaded.model)
    activation = jax.nn.sigmoid if loaded.multi_label else jax.nn.softmax
    forward = jax.jit(
        lambda params, fbank: activation(merge(graphdef, params)(normalise(fbank, loaded.mean, loaded.std)))
    )
    return lambda fbank: forward(params, fbank)


def main(argv: Sequence[str]) -> None:
    """The command. Files that cannot be heard are reported, the others are tagged all the same; then the status is 1."""
    parser = argparse.ArgumentParser("python -m ast_jax predict", description="Tags sound files.")
    parser.add_argument(
        "--model", action="append", required=True, help="a run or checkpoint; repeat it for an ensemble"
    )
    parser.add_argument("--top", type=int, default=5, help="labels shown per file")
    parser.add_argument(
        "--hop_s", type=float, help="seconds between windows (default: half the model's length)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a file instead of a table")
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args(argv)
    tagger = Tagger(args.model)
    failed = 0
    for file in args.files:
        try:
            tags = tagger.tag(file, hop_s=args.hop_s)
        except AudioError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        row = describe(file, tags, tagger.label_names, args.top)
        print(json.dumps(row) if args.json else table(row), flush=True)
    if failed:
        print(f"{failed} of {len(args.files)} files could not be tagged", file=sys.stderr)
        sys.exit(1)


def describe(file: Path, tags: Tags, label_names: Sequence[str], top: int) -> dict[str, Any]:
    """The best labels of a file, and of each window when there are several."""

    def best(scores: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"label": label_names[i], "score": round(float(scores[i]), 4)} for i in np.argsort(-scores)[:top]
        ]

    row: dict[str, Any] = {"file": str(file), "tags": best(tags.overall)}
    if len(tags.scores) > 1:
        row["windows"] = [
            {
                "start_s": round(float(start), 3),
                "end_s": round(float(start) + tags.window_s, 3),
                "tags": best(scores),
            }
            for start, scores in zip(tags.times_s, tags.scores, strict=True)
        ]
    return row


def table(row: dict[str, Any]) -> str:
    return "\n".join([row["file"], *(f"  {tag['score']:7.4f}  {tag['label']}" for tag in row["tags"])])
