"""From prepared shards to batches of one static shape; any step's batch can be asked for by its number.

B batch, S samples, T frames, F mel bins, C classes.

A batch holds `fbank` float16 [B, T, F] or `waveform` int16 [B, S], and for both kinds `length` int32 [B]
(frames that come from the clip: rows past it are padding), `labels` float32 [B, C], `index` int32 [B]
(position in the sampled stream: the key of everything random about this example) and `mask` float32 [B] (0 on
rows that only fill the batch); `waveform` batches also hold `num_samples` int32 [B]. With mixup there are
`share` float32 [B], each clip's share in the mix (1: not mixed), and `partner`, `partner_length` or
`partner_samples`, of the clip to mix in; `labels` are mixed already.
"""

import functools
import math
from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ast_jax.features import REFERENCE, FrontEnd

Batch = dict[str, np.ndarray]


@runtime_checkable
class Examples(Protocol):
    """Random access to examples: those of `PreparedSet.source(splits)`, or a stream over them."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Any]: ...


class TrainStream:
    """The sampled stream as a random-access sequence: position p -> example, for `epochs` passes.

    An epoch is a permutation drawn from (seed, epoch), or with `weights` as many draws with replacement,
    filled up to whole batches with empty rows: epochs begin at batch boundaries, the last, partial batch is
    trained on, and the position is all a resumed run needs. With `mixup` > 0 an example brings its partner,
    drawn uniformly from the whole set (not by `weights`, as in the reference) and its share, Beta(10, 10) and
    not folded to >= 1/2, both from (seed, position).
    """

    def __init__(
        self,
        source: Examples,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        mixup: float = 0.0,
        weights: Float[np.ndarray, " N"] | None = None,
    ):
        self.source, self.seed, self.epochs, self.mixup = source, seed, epochs, mixup
        self.batch_size = batch_size
        self.slots = steps_per_epoch(len(source), batch_size) * batch_size
        self._cumulative = None if weights is None else np.cumsum(weights / weights.sum())
        self._order = functools.lru_cache(maxsize=2)(self._draw)  # two: reader threads meet at an epoch's end

    def __len__(self) -> int:
        return self.epochs * self.slots

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, slot = divmod(position, self.slots)
        if slot >= len(self.source):
            return self.empty(position)
        example = {**self.source[int(self._order(epoch)[slot])], "index": position}
        if self.mixup:
            rng = np.random.default_rng((self.seed, 1, position))
            example["share"] = rng.beta(10, 10) if rng.random() < self.mixup else 1.0
            if example["share"] < 1:
                example["partner"] = self.source[int(rng.integers(len(self.source)))]
        return example

    def empty(self, position: int) -> dict[str, Any]:
        """A row that only fills a batch."""
        return {"index": position} | ({"share": 1.0} if self.mixup else {})

    def ids(self, position: int, count: int) -> list[str]:
        """The ids of the clips at `count` positions from `position` on, with those mixed in: `a` or `a+b`."""
        examples = [self[p] for p in range(position, position + count)]
        parts = [[part["id"] for part in (e, e.get("partner", {})) if "id" in part] for e in examples]
        return ["+".join(names) for names in parts if names]

    def _draw(self, epoch: int) -> np.ndarray:
        rng, size = np.random.default_rng((self.seed, epoch)), len(self.source)
        if self._cumulative is None:
            return rng.permutation(size)
        return np.searchsorted(self._cumulative, rng.random(size)).clip(max=size - 1)


def balanced_weights(label_sets: list[np.ndarray], class_counts: np.ndarray) -> Float[np.ndarray, " N"]:
    """The reference's sampling weight of each example.

    It is the sum over its labels of 1000 / (clips of that class + 0.01).
    """
    per_class = 1000 / (class_counts + 0.01)
    return np.array([per_class[labels].sum() for labels in label_sets])


class EvalStream:
    """The source once, in order, filled up to whole batches with empty rows."""

    def __init__(self, source: Examples, *, batch_size: int):
        self.source = source
        self.slots = steps_per_epoch(len(source), batch_size) * batch_size

    def __len__(self) -> int:
        return self.slots

    def __getitem__(self, position: int) -> dict[str, Any]:
        if position >= len(self.source):
            return self.empty(position)
        return {**self.source[position], "index": position}

    def empty(self, position: int) -> dict[str, Any]:
        """A row that only fills a batch."""
        return {"index": position}


class HostRows:
    """The rows of every batch that host p of P reads, one batch after the other, as a sequence of their own.

    Batch s holds positions s B to s B + B - 1 of the stream, filled up to `rows` with empty rows where the
    devices take more; host p reads the p-th of P equal pieces of it. So together the hosts read each example
    once, and each of them as many batches as the others.
    """

    def __init__(
        self, stream: TrainStream | EvalStream, *, batch_size: int, rows: int, host: int = 0, hosts: int = 1
    ):
        self.stream, self.batch_size, self.host, self.own = stream, batch_size, host, rows // hosts

    def __len__(self) -> int:
        return len(self.stream) // self.batch_size * self.own

    def __getitem__(self, number: int) -> dict[str, Any]:
        step, row = divmod(number, self.own)
        row += self.host * self.own
        if row >= self.batch_size:
            return self.stream.empty(0)
        return self.stream[step * self.batch_size + row]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches that hold every example, the last one partial."""
    return math.ceil(num_examples / batch_size)


def fit(
    example: dict[str, Any], *, kind: str, num_frames: int, num_classes: int, front_end: FrontEnd = REFERENCE
) -> Batch:
    """One example at the static shape: padded or cut at its end, labels as 0/1 [C].

    An empty one is masked out.
    """
    labels = _hot(example, num_classes)
    batch: Batch = {
        "index": np.array(example["index"], np.int32),
        "mask": np.array("labels" in example, np.float32),
    }
    if kind == "log_mel":
        stored, count, partner_count = "fbank", "length", "partner_length"
        shape = (num_frames, front_end.num_mel_bins)
        pad = functools.partial(_pad, shape=shape, dtype=np.float16, padding=front_end.padding)
    else:
        stored, count, partner_count = "waveform", "num_samples", "partner_samples"
        pad = functools.partial(_pad, shape=(front_end.span(num_frames),), dtype=np.int16)
    batch[stored], batch[count] = pad(example.get(stored))
    if kind == "waveform":
        frames = min(front_end.num_frames(int(batch[count])), num_frames)
        batch["length"] = np.array(frames if "labels" in example else 0, np.int32)
    partner = example.get("partner", {})
    share = np.array(example.get("share", 1.0), np.float32)
    batch["labels"] = labels if share == 1 else share * labels + (1 - share) * _hot(partner, num_classes)
    if "share" in example:
        batch["share"] = share
        batch["partner"], batch[partner_count] = pad(partner.get(stored))
    return batch


def _hot(example: dict[str, Any], num_classes: int) -> np.ndarray:
    hot = np.zeros(num_classes, np.float32)
    hot[example.get("labels", [])] = 1
    return hot


def _pad(
    array: np.ndarray | None, *, shape: tuple[int, ...], dtype: Any, padding: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The array at this shape, its end cut or padding behind it, and how much of it there is.

    None is an empty one.
    """
    padded = np.empty(shape, dtype)
    count = 0 if array is None else min(len(array), len(padded))
    padded[:count] = 0 if array is None else array[:count]
    padded[count:] = padding
    return padded, np.array(count, np.int32)


def batches(
    stream: Examples,
    *,
    kind: str,
    batch_size: int,
    num_frames: int,
    num_classes: int,
    front_end: FrontEnd = REFERENCE,
    start_step: int = 0,
    num_threads: int = 4,
) -> Generator[Batch, None, None]:
    """Batches of `stream` from number `start_step` on, read ahead by `num_threads` threads, in order."""
    import grain

    fitted = functools.partial(
        fit, kind=kind, num_frames=num_frames, num_classes=num_classes, front_end=front_end
    )
    dataset = grain.MapDataset.source(stream).map(fitted).batch(batch_size, drop_remainder=False)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    rows = iter(dataset[start_step:].to_iter_dataset(options))
    try:
        yield from rows
    finally:
        rows.close()  # else its threads read on, and the process waits for them at its end
