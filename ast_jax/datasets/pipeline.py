"""From prepared shards to batches of one static shape, by position: any step's batch can be asked for by its number.

B batch, S samples, T frames, F mel bins, C classes.

A batch holds `fbank` float16 [B, T, F] or `waveform` int16 [B, S], and for both kinds `length` int32 [B] (frames that
come from the clip: rows past it are padding), `labels` float32 [B, C], `index` int32 [B] (position in the sampled
stream: the key of everything random about this example) and `mask` float32 [B] (0 on rows that only fill the batch);
`waveform` batches also hold `num_samples` int32 [B].
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ast_jax.features.spec import FRAME_LENGTH, FRAME_SHIFT, NUM_MEL_BINS, num_frames as frames_of

Batch = dict[str, np.ndarray]


@runtime_checkable
class Source(Protocol):
    """Random access to examples: those of `PreparedSet.source(splits)`, or a stream over them."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Any]: ...


class TrainStream:
    """The sampled stream as a random-access sequence: position p -> example, for `epochs` shuffled passes.

    Each epoch is a permutation drawn from (seed, epoch) and filled up to whole batches with empty rows, so that
    epochs begin at batch boundaries, the last, partial batch is trained on, and the position is all a resumed run needs.
    """

    def __init__(self, source: Source, *, batch_size: int, epochs: int, seed: int):
        self.source, self.seed, self.epochs = source, seed, epochs
        self.slots = steps_per_epoch(len(source), batch_size) * batch_size

    def __len__(self) -> int:
        return self.epochs * self.slots

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, slot = divmod(position, self.slots)
        if slot >= len(self.source):
            return {"index": position}
        example = self.source[int(_order(self.seed, epoch, len(self.source))[slot])]
        return {**example, "index": position}


@functools.lru_cache(maxsize=2)  # two: reader threads meet at an epoch's end
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class EvalStream:
    """The source once, in order, filled up to whole batches with empty rows."""

    def __init__(self, source: Source, *, batch_size: int):
        self.source = source
        self.slots = steps_per_epoch(len(source), batch_size) * batch_size

    def __len__(self) -> int:
        return self.slots

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**(self.source[position] if position < len(self.source) else {}), "index": position}


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches that hold every example, the last one partial."""
    return math.ceil(num_examples / batch_size)


def fit(example: dict[str, Any], *, kind: str, num_frames: int, num_classes: int) -> Batch:
    """One example at the static shape: padded with zeros or cut at its end, labels as 0/1 [C]; an empty one is masked out."""
    labels = np.zeros(num_classes, np.float32)
    labels[example.get("labels", [])] = 1
    common = {"labels": labels, "index": np.int32(example["index"]), "mask": np.float32("labels" in example)}
    if kind == "log_mel":
        fbank = np.zeros((num_frames, NUM_MEL_BINS), np.float16)
        clip = example.get("fbank", fbank[:0])[:num_frames]
        fbank[: len(clip)] = clip
        return {"fbank": fbank, "length": np.int32(len(clip)), **common}
    waveform = np.zeros(FRAME_LENGTH + (num_frames - 1) * FRAME_SHIFT, np.int16)
    clip = example.get("waveform", waveform[:0])[: len(waveform)]
    waveform[: len(clip)] = clip
    length = min(frames_of(len(clip)), num_frames) if "labels" in example else 0
    return {"waveform": waveform, "length": np.int32(length), "num_samples": np.int32(len(clip)), **common}


def batches(
    stream: Source,
    *,
    kind: str,
    batch_size: int,
    num_frames: int,
    num_classes: int,
    start_step: int = 0,
    num_threads: int = 4,
) -> Iterator[Batch]:
    """Batches of `stream` from number `start_step` on, read ahead by `num_threads` threads, in order."""
    import grain

    fitted = functools.partial(fit, kind=kind, num_frames=num_frames, num_classes=num_classes)
    dataset = grain.MapDataset.source(stream).map(fitted).batch(batch_size, drop_remainder=False)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    yield from dataset[start_step:].to_iter_dataset(options)
