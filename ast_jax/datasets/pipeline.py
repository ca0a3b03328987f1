"""From prepared shards to batches of one static shape; any step's batch can be asked for by its number.

B batch, S samples, T frames, F mel bins, C classes.

A batch holds `fbank` float16 [B, T, F] or `waveform` int16 [B, S], and for both kinds `length` int32 [B]
(frames that come from the clip: rows past it are padding), `labels` float32 [B, C], `index` int32 [B]
(position in the sampled stream: the key of everything random about this example) and `mask` float32 [B] (0 on
rows that only fill the batch); `waveform` batches also hold `num_samples` int32 [B]. With mixup there are
`share` float32 [B], each clip's share in the mix (1: not mixed), and `partner` and `partner_length`
(and `partner_samples`), of the clip to mix in; `labels` are mixed already. Where labels of a set may be
unknown there is `known` float32 [B, C], 1 where it is known whether the class is there.
"""

import dataclasses
import functools
import math
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ast_jax.features import REFERENCE, FrontEnd

Batch = dict[str, np.ndarray]


@runtime_checkable
class Examples(Protocol):
    """Random access to examples: those of `PreparedSet.source(splits)`, or a stream over them."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Mixup:
    """How clips are mixed in pairs: `probability` a clip, shares Beta(alpha, alpha), not folded to >= 1/2.

    A partner is drawn uniformly from the whole set, as AST's and PSLA's code does; with `sampled`, in the way
    in which clips are, as PANNs' does, and every clip has one.
    """

    probability: float = 0.0
    alpha: float = 10.0
    sampled: bool = False


class TrainStream:
    """The sampled stream as a random-access sequence: position p -> example, for `epochs` passes.

    An epoch is what `draws` says, filled up to whole batches with empty rows: epochs begin at batch
    boundaries, the last, partial batch is trained on, and the position is all a resumed run needs. With
    mixup, an example brings its share and, below 1, its partner, both from (seed, position). After `views`
    epochs, if that is not 0, the first ones come again, position by position.
    """

    def __init__(
        self,
        source: Examples,
        draws: "Draws",
        *,
        batch_size: int,
        epochs: int,
        mixup: Mixup = Mixup(),
        views: int = 0,
    ):
        self.source, self.draws, self.epochs, self.mixup = source, draws, epochs, mixup
        self.batch_size = batch_size
        self.slots = steps_per_epoch(draws.size, batch_size) * batch_size
        self.period = (views or epochs) * self.slots

    def __len__(self) -> int:
        return self.epochs * self.slots

    def __getitem__(self, position: int) -> dict[str, Any]:
        position %= self.period
        epoch, slot = divmod(position, self.slots)
        if slot >= self.draws.size:
            return self.empty(position)
        example = {**self.source[self.draws.at(epoch, slot)], "index": position}
        if self.mixup.probability:
            # numpy leaves a last zero away: position 0 would draw what the order of epoch 1 is drawn from
            rng = np.random.default_rng((self.draws.seed, 1, position or 2**40))
            mixes = rng.random() < self.mixup.probability
            example["share"] = rng.beta(self.mixup.alpha, self.mixup.alpha) if mixes else 1.0
            if self.mixup.sampled:
                example["partner"] = self.source[self.draws.at(epoch, slot, partner=True)]
            elif example["share"] < 1:
                example["partner"] = self.source[int(rng.integers(len(self.source)))]
        return example

    def empty(self, position: int) -> dict[str, Any]:
        """A row that only fills a batch."""
        return {"index": position} | ({"share": 1.0} if self.mixup.probability else {})

    def ids(self, position: int, count: int) -> list[str]:
        """The ids of the clips at `count` positions from `position` on, with those mixed in: `a` or `a+b`."""
        examples = [self[p] for p in range(position, position + count)]
        parts = [[part["id"] for part in (e, e.get("partner", {})) if "id" in part] for e in examples]
        return ["+".join(names) for names in parts if names]


class Draws:
    """Which clip an epoch's n-th draw is: a permutation of all, from (seed, epoch); one permutation after the
    other where an epoch has another `size`.
    """

    def __init__(self, clips: int, *, seed: int, size: int = 0):
        self.clips, self.seed, self.size = clips, seed, size or clips
        # two, for reader threads meet at an epoch's end; and as many of partners
        self._order = functools.lru_cache(maxsize=4)(self._draw)

    def at(self, epoch: int, slot: int, *, partner: bool = False) -> int:
        """The number of a clip; the `partner` of a clip is drawn in the same way."""
        if self.size == self.clips:
            return int(self._order(epoch, partner)[slot])
        turn, place = divmod(epoch * self.size + slot, self.clips)
        return int(self._order(turn, partner)[place])

    def _draw(self, epoch: int, partner: bool) -> np.ndarray:
        return self._rng(epoch, partner).permutation(self.clips)

    def _rng(self, epoch: int, partner: bool) -> np.random.Generator:
        # uses are told apart by how many numbers there are; the last of more than two is no zero
        return np.random.default_rng((self.seed, 2, epoch, 0, 1) if partner else (self.seed, epoch))


class WeightedDraws(Draws):
    """Draws with replacement, likelier in proportion to `weights` [clips]."""

    def __init__(self, weights: Float[np.ndarray, " N"], *, seed: int, size: int = 0):
        super().__init__(len(weights), seed=seed, size=size)
        self._cumulative = np.cumsum(weights / weights.sum())

    def at(self, epoch: int, slot: int, *, partner: bool = False) -> int:
        return int(self._order(epoch, partner)[slot])

    def _draw(self, epoch: int, partner: bool) -> np.ndarray:
        drawn = np.searchsorted(self._cumulative, self._rng(epoch, partner).random(self.size))
        return drawn.clip(max=self.clips - 1)


class RoundRobinDraws(Draws):
    """PANNs' balance: class after class, all of them in an order drawn anew each round, and of each class its
    next clip, in an order drawn anew when all have come. A clip and its partner are two turns.
    """

    def __init__(self, label_sets: list[np.ndarray], num_classes: int, *, seed: int, size: int = 0):
        super().__init__(len(label_sets), seed=seed, size=size)
        members: list[list[int]] = [[] for _ in range(num_classes)]
        for clip, labels in enumerate(label_sets):
            for label in labels:
                members[label].append(clip)
        # classes without a clip have no turn
        self._members = [np.array(clips) for clips in members if clips]
        self._of_class = functools.lru_cache(maxsize=2 * len(self._members))(self._class_order)

    def at(self, epoch: int, slot: int, *, partner: bool = False) -> int:
        turn = 2 * (epoch * self.size + slot) + partner
        round_, place = divmod(turn, len(self._members))
        label = int(self._order(round_, False)[place])
        # each class has had one turn in each round before
        time, position = divmod(round_, len(self._members[label]))
        return int(self._of_class(label, time)[position])

    def _draw(self, epoch: int, partner: bool) -> np.ndarray:
        return self._rng(epoch, partner).permutation(len(self._members))

    def _class_order(self, label: int, time: int) -> np.ndarray:
        # counted from 1: with a last zero it would be another stream
        return np.random.default_rng((self.seed, 3, label, time + 1)).permutation(self._members[label])


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


class FrameGrid(NamedTuple):
    """Where a model's steps of time lie: their middles begin at `first_s`, `step_s` apart, `num` of them."""

    first_s: float
    step_s: float
    num: int

    @classmethod
    def of(cls, front_end: FrontEnd, time_steps: tuple[int, int, int]) -> "FrameGrid":
        """From the frames that a step sees, those from one to the next, and how many steps there are."""
        size, stride, num = time_steps
        first_s = front_end.span(size) / front_end.sample_rate_hz / 2
        return cls(first_s, front_end.seconds(stride), num)


def fit(
    example: dict[str, Any],
    *,
    kind: str,
    num_frames: int,
    num_classes: int,
    front_end: FrontEnd = REFERENCE,
    grid: FrameGrid | None = None,
    partly: bool = False,
) -> Batch:
    """One example at the static shape: padded or cut at its end, labels as 0/1 [C].

    With `grid` also `frames` [t, C], the same for each step of time, and `frames_known` [t], 0 where that is
    not known, or past the end. Where labels are known `partly` also `known` [C]; a mixed label is known where
    it is of both. An empty example is masked out.
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
    if partly:
        mixed_in = _known(partner, num_classes) if share < 1 else 1
        batch["known"] = _known(example, num_classes) * mixed_in
    if grid is not None:
        batch["frames"], batch["frames_known"] = _frames(example, num_classes, grid)
        reached = grid.first_s + grid.step_s * np.arange(grid.num) < front_end.seconds(int(batch["length"]))
        if partner and share < 1:
            other, known = _frames(partner, num_classes, grid)
            batch["frames"] = share * batch["frames"] + (1 - share) * other
            batch["frames_known"] = batch["frames_known"] * known
        batch["frames_known"] = batch["frames_known"] * reached.astype(np.float32)
    if "share" in example:
        batch["share"] = share
        batch["partner"], batch[partner_count] = pad(partner.get(stored))
        if kind == "waveform":
            frames = front_end.num_frames(int(batch[partner_count])) if partner else 0
            batch["partner_length"] = np.array(min(frames, num_frames), np.int32)
    return batch


def _frames(example: dict[str, Any], num_classes: int, grid: FrameGrid) -> tuple[np.ndarray, np.ndarray]:
    events = example.get("events")
    frames = step_labels(() if events is None else events, num_classes, grid)
    return frames, np.full(grid.num, events is not None, np.float32)


def step_labels(events: Iterable[Any], num_classes: int, grid: FrameGrid) -> np.ndarray:
    """[t, C], float32: 1 where an event (onset and offset in seconds, label) covers the middle of a step; one
    that is shorter than a step, the nearest.
    """
    frames = np.zeros((grid.num, num_classes), np.float32)
    for onset_s, offset_s, label in events:
        first, last = ((time - grid.first_s) / grid.step_s for time in (onset_s, offset_s))
        start, end = math.ceil(max(0.0, first)), math.ceil(last)
        if end <= start:
            start = max(0, round((first + last) / 2))
            end = start + 1
        frames[start:end, int(label)] = 1
    return frames


def _hot(example: dict[str, Any], num_classes: int) -> np.ndarray:
    hot = np.zeros(num_classes, np.float32)
    hot[example.get("labels", [])] = 1
    return hot


def _known(example: dict[str, Any], num_classes: int) -> np.ndarray:
    return np.asarray(example.get("known", np.ones(num_classes)), np.float32)


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
    batch_size: int,
    start_step: int = 0,
    num_threads: int = 4,
    **shape: Any,
) -> Generator[Batch, None, None]:
    """Batches of `stream` from number `start_step` on, read ahead by `num_threads` threads, in order.

    `shape` is what `fit` brings each example to.
    """
    import grain

    fitted = functools.partial(fit, **shape)
    dataset = grain.MapDataset.source(stream).map(fitted).batch(batch_size, drop_remainder=False)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    rows = iter(dataset[start_step:].to_iter_dataset(options))
    try:
        yield from rows
    finally:
        rows.close()  # else its threads read on, and the process waits for them at its end
