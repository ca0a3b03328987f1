"""Sounds of any length through a model of one length: cut into windows while they are decoded, batched across
files.

Memory does not grow with a file: a few windows of those that are decoded at a time (`ahead.py`), two batches
of features and the answers are all that is held.

S samples, t <= T frames, F mel bins, B windows a batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ast_jax.errors import InputError
from ast_jax.features import AudioError, FrontEnd, arrays, duration_s, stream_audio
from ast_jax.features.audio import SoundSource
from ast_jax.features.given import Given
from ast_jax.inference.ahead import readers

BATCH = 8  # windows computed at a time


class OneChannel(NamedTuple):
    """A channel of a file, heard by itself; counted from 1, as people do."""

    file: SoundSource
    number: int


Source = SoundSource | OneChannel


def parted(source: Source) -> tuple[SoundSource, int | None]:
    """The file, and which channel of it; None for what is heard of a file otherwise."""
    return source if isinstance(source, OneChannel) else (source, None)


Forward = Callable[[Float[np.ndarray, "B T F"], Int[np.ndarray, " B"]], object]  # features, frames of sound


@dataclass(frozen=True)
class Grid:
    """How a sound is cut: `window` samples, `hop` samples apart, each as `num_frames` of the front end's
    features.
    """

    window: int
    hop: int
    num_frames: int
    front_end: FrontEnd
    channels: str = "mean"

    @classmethod
    def of(
        cls,
        front_end: FrontEnd,
        num_frames: int,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        channels: str = "mean",
    ) -> "Grid":
        """Windows of the model's own length, half of one apart, unless it is said otherwise.

        Raises InputError: a window longer than the model, or so short that it holds no frame; a hop that
        leaves sound out.
        """
        rate, shortest, longest = front_end.sample_rate_hz, front_end.frame_length, front_end.span(num_frames)
        window = longest if window_s is None else round(window_s * rate)
        if not shortest <= window <= longest:
            raise InputError(
                f"window_s is {window_s:g}: the model hears {shortest / rate:g} to {longest / rate:g} s at "
                "once (`convert --num_frames` adapts a model to another length)"
            )
        hop = window // 2 if hop_s is None else round(hop_s * rate)
        if not 1 <= hop <= window:
            raise InputError(
                f"hop_s is {hop_s:g}: wanted more than 0 and at most the window, {window / rate:g} s, "
                "or sound between two windows would go unheard"
            )
        grid = cls(window, hop, num_frames, front_end, channels)
        # whole frames, where features are given
        whole = lambda samples: max(1, samples // grid.each) * grid.each
        return replace(grid, window=whole(window), hop=whole(hop))

    @property
    def window_s(self) -> float:
        return self.window / self.front_end.sample_rate_hz

    @property
    def each(self) -> int:
        """Samples that one entry of a block stands for: itself, or a whole frame where features are given."""
        return 1 if self.front_end.of_sound else self.front_end.frame_shift

    @property
    def least_new(self) -> int:
        """Samples of new sound that make another window at a sound's end: a frame, and a twentieth of a
        window.
        """
        return max(self.front_end.frame_length, self.window // 20)

    @property
    def shape(self) -> tuple[int, int]:
        """Of a window's features."""
        return self.num_frames, self.front_end.num_mel_bins

    def count(self, duration_s: float) -> int:
        """How many windows a sound of that length gives."""
        samples = round(duration_s * self.front_end.sample_rate_hz)
        whole, rest = divmod(max(0, samples - self.window), self.hop)
        return 1 + whole + (rest >= self.least_new)

    def empty(self, rows: int) -> Float[np.ndarray, "B T F"]:
        """Features of nothing but padding: a window's own go in front, as in training."""
        return np.full((rows, *self.shape), self.front_end.padding, np.float32)


class Window(NamedTuple):
    start_s: float
    end_s: float  # the sound's own end, where the window is longer
    fbank: Float[np.ndarray, "t F"]


def cut(blocks: Iterable[Float[np.ndarray, "_ ..."]], grid: Grid) -> Iterator[Window]:
    """The windows of a sound that comes in pieces, or of features that do, each as soon as it is full.

    What is left at the end is one more, if enough of it is new (`Grid.least_new`): a tail of a few samples
    would be a window of padding, with tags of its own.
    """
    window, hop = grid.window // grid.each, grid.hop // grid.each
    least_new = max(1, grid.least_new // grid.each)
    held, start = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while len(held) >= window:
            yield _window(held[:window], start, grid)
            held, start = held[hop:], start + hop
    if start == 0 or len(held) - (window - hop) >= least_new:
        yield _window(held, start, grid)


def decoded(
    file: Source, grid: Grid, tell: Callable[[str], None] | None = None
) -> Iterator[Float[np.ndarray, "_ ..."]]:
    """A file's sound in pieces, as the front end wants it (see `stream_audio`), or the features that it
    holds. Raises AudioError.
    """
    file, channel = parted(file)
    if isinstance(grid.front_end, Given):
        return iter([arrays.load_features(file, grid.front_end)])
    rate, channels = grid.front_end.sample_rate_hz, grid.channels if channel is None else channel - 1
    return stream_audio(file, channels=channels, sample_rate_hz=rate, tell=tell)


def length_s(file: Source, front_end: FrontEnd) -> float:
    """A file's seconds by its header. Raises AudioError."""
    file, _ = parted(file)
    return arrays.duration_s(file, front_end) if isinstance(front_end, Given) else duration_s(file)


def _window(sound: np.ndarray, start: int, grid: Grid) -> Window:
    rate = grid.front_end.sample_rate_hz / grid.each
    return Window(start / rate, (start + len(sound)) / rate, grid.front_end.features(sound))


@dataclass
class Heard:
    """One file: where its windows lie and what the model gave for each; or `error`, if it could not be heard
    to its end.
    """

    file: SoundSource
    starts_s: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    # a list of arrays, or what `collect` gave in its place
    answers: Any = field(default_factory=list)
    # what is odd about the file, a line each
    notes: list[str] = field(default_factory=list)
    error: AudioError | None = None
    decoded: bool = False
    # where it is one channel of the file
    channel: int | None = None

    @property
    def finished(self) -> bool:
        return self.decoded and (self.error is not None or len(self.answers) == len(self.starts_s))


def hear(
    files: Iterable[Source],
    grid: Grid,
    forward: Forward,
    *,
    batch_size: int = BATCH,
    advance: Callable[[float], None] = lambda seconds: None,
    collect: Callable[["Heard"], Any] = lambda heard: [],
) -> Iterator[Heard]:
    """`forward` of every window of every file, one compiled shape for all; files come out in order, each when
    it is finished.

    Args:
        forward: (features [B, T, F], frames of sound [B]) to an array [B, ...], which may still be computing.
        advance: told of every stretch of sound that was decoded, in seconds: for a progress bar.
        collect: what takes the place of a file's list of answers (`append`, and a length).
    """
    batches = _Batches(grid, forward, batch_size)
    waiting: deque[Heard] = deque()
    for reader in readers(files, lambda file, tell: cut(decoded(file, grid, tell), grid)):
        file, channel = parted(reader.file)
        waiting.append(heard := Heard(file, notes=reader.notes, channel=channel))
        heard.answers = collect(heard)
        try:
            for window in reader:
                advance(window.end_s - (heard.ends_s[-1] if heard.ends_s else 0))
                heard.starts_s.append(window.start_s)
                heard.ends_s.append(window.end_s)
                batches.add(heard, window.fbank)
        except AudioError as error:
            heard.error = error
        heard.decoded = True
        while waiting and waiting[0].finished:
            yield waiting.popleft()
    batches.flush()
    yield from waiting


class _Batches:
    """Collects windows, whosever they are; while one batch is computed the next is decoded."""

    def __init__(self, grid: Grid, forward: Forward, batch_size: int):
        self._grid, self._size, self._forward = grid, batch_size, forward
        self._owners: list[Heard] = []
        self._computing: tuple[list[Heard], object] | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._owners = []
        self._fbank = self._grid.empty(self._size)
        self._lengths = np.ones(self._size, np.int32)

    def add(self, owner: Heard, fbank: Float[np.ndarray, "t F"]) -> None:
        row = len(self._owners)
        self._fbank[row, : len(fbank)] = fbank
        self._lengths[row] = len(fbank)
        self._owners.append(owner)
        if len(self._owners) == self._size:
            self._compute()

    def _compute(self) -> None:
        before, self._computing = self._computing, (self._owners, self._forward(self._fbank, self._lengths))
        self._fresh()
        _deliver(before)

    def flush(self) -> None:
        if self._owners:
            self._compute()
        _deliver(self._computing)
        self._computing = None


def _deliver(batch: tuple[list[Heard], object] | None) -> None:
    if batch is not None:
        for owner, answer in zip(
            batch[0], np.asarray(batch[1]), strict=False
        ):  # rows that only fill the batch fall away
            owner.answers.append(answer)
