"""When sounds are heard: scores of short steps of time, put together over windows, and the events in them.

A model that judges steps (`out["frames"]`) is heard in windows that overlap by half; one that judges clips
alone is heard in short windows close to each other. What is called a tagger here is a `predict.Tagger`. B
windows a batch, T frames, F mel bins, t steps of a window, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.events import Decoder, Event, Rules
from ast_jax.features.audio import SoundSource, name_of
from ast_jax.inference.windows import BATCH, Forward, Grid, Heard, cut, hear
from ast_jax.models.base import steps_with_sound

# Of models that judge clips: seconds heard at once, and from one window to the next.
CLIP_WINDOW_S, CLIP_HOP_S = 1.0, 0.2


@dataclass(frozen=True)
class Steps:
    """How scores of time lie in a sound: `num` a window, `each` samples apart, the first one's middle `first`
    samples after the window's beginning; windows begin a whole number of steps apart.
    """

    grid: Grid
    num: int
    each: int
    first: float
    forward: Forward
    # steps of a window that hold sound, of its frames of sound
    heard: Callable[[int], int]
    # what was substituted, in a line
    note: str = ""

    @property
    def step_s(self) -> float:
        """Seconds from one step to the next."""
        return self.each / self.grid.front_end.sample_rate_hz

    @property
    def latency_s(self) -> float:
        """Seconds after which nothing that is still to come changes a step."""
        return self.grid.window_s

    @property
    def offset_s(self) -> float:
        """Where the first step begins to be the nearest one."""
        return self.first / self.grid.front_end.sample_rate_hz - self.step_s / 2


def steps_of(tagger: Any, *, window_s: float | None = None, hop_s: float | None = None) -> Steps:
    """The steps of these models. `window_s` and `hop_s` are as for `Tagger.grid`; of a model of clips, one
    second and a fifth of one unless they are given. Raises InputError.
    """
    tagger.check_heads()
    if not all(loaded.judges_steps for loaded in tagger.models):
        return _by_windows(tagger, window_s, hop_s)
    models = tagger.models
    front_end, (size, stride, num) = models[0].front_end, models[0].model.time_steps
    grid = tagger.grid(window_s=window_s, hop_s=hop_s)
    each = stride * front_end.frame_shift
    grid = replace(grid, hop=max(1, grid.hop // each) * each)
    first = (front_end.frame_shift * (size - 1) + front_end.frame_length) / 2
    heard = lambda frames: int(steps_with_sound(models[0].model, np.int64(frames)))
    return Steps(grid, num, each, first, _framewise(models), heard)


def _by_windows(tagger: Any, window_s: float | None, hop_s: float | None) -> Steps:
    longest = tagger.grid().window_s
    window_s = min(CLIP_WINDOW_S, longest) if window_s is None else window_s
    hop_s = min(CLIP_HOP_S, window_s) if hop_s is None else hop_s
    grid = tagger.grid(window_s=window_s, hop_s=hop_s)
    apart_s = round(grid.hop / grid.front_end.sample_rate_hz, 4)
    note = (
        f"this model judges clips, not steps of time: heard in windows of {grid.window_s:g} s, {apart_s:g} s "
        "apart (--window_s, --hop_s), each as a clip"
    )
    forward: Forward = lambda fbank, lengths: np.asarray(tagger.scores(fbank, lengths))[:, None]
    return Steps(grid, 1, grid.hop, grid.window / 2, forward, lambda frames: 1, note)


def _framewise(models: Sequence[Any]) -> Forward:
    def forward(fbank: np.ndarray, lengths: Any) -> Any:
        del lengths
        scores = [loaded.frame_scores(fbank) for loaded in models]
        return scores[0] if len(scores) == 1 else np.mean([np.asarray(s) for s in scores], axis=0)

    return forward


class Track:
    """The scores of one sound in time, put together from its windows as they come and read off at once: only
    what may still change is held. It stands for the list of a sound's answers.

    Where windows overlap, a step has their mean, each weighed by how far it is from that window's edges: what
    a model says where it hears one side alone counts less, and no edge of a window is a seam.
    """

    def __init__(self, heard: Heard, steps: Steps, decoder: Decoder, label_names: Sequence[str]):
        self._heard, self._steps, self._decoder, self._names = heard, steps, decoder, label_names
        self._answers, self._begin = 0, 0  # windows so far; the first step that is not final
        self._sums = np.zeros((0, len(label_names)))
        self._weights = np.zeros((0, 1))
        self._ends_s = 0.0
        self.events: list[Event] = []

    def __len__(self) -> int:
        return self._answers

    def append(self, answer: Float[np.ndarray, "t C"]) -> None:
        """Takes the scores of the next window."""
        steps, number = self._steps, self._answers
        start_s, self._ends_s = self._heard.starts_s[number], self._heard.ends_s[number]
        rate = steps.grid.front_end.sample_rate_hz
        frames = steps.grid.front_end.num_frames(round((self._ends_s - start_s) * rate))
        count = min(steps.heard(frames), len(answer))
        place = round(start_s * rate) // steps.each - self._begin
        weights = np.minimum(np.arange(1, steps.num + 1), np.arange(steps.num, 0, -1))[:count, None]
        if (lacking := place + count - len(self._sums)) > 0:
            self._sums = np.pad(self._sums, ((0, lacking), (0, 0)))
            self._weights = np.pad(self._weights, ((0, lacking), (0, 0)))
        self._sums[place : place + count] += weights * np.asarray(answer[:count], np.float64)
        self._weights[place : place + count] += weights
        self._answers += 1
        self._settle(place + steps.grid.hop // steps.each)

    def end(self) -> list[Event]:
        """The sound has ended: all its events, in order of their beginning."""
        self._settle(len(self._sums))
        self._note(self._decoder.end(), last=self._begin)
        self.events.sort(key=lambda event: (event.onset_s, event.label, event.offset_s))
        return self.events

    def _settle(self, count: int) -> None:
        """The first `count` steps that are held are final."""
        count = min(count, len(self._sums))
        scores = self._sums[:count] / self._weights[:count]
        self._sums, self._weights = self._sums[count:], self._weights[count:]
        self._begin += count
        self._note(self._decoder.push(scores))

    def _note(self, stretches: Iterable[Any], last: int = -1) -> None:
        when = {"first_s": self._steps.offset_s, "step_s": self._steps.step_s, "ends_s": self._ends_s}
        for found in stretches:
            event = found.event(name_of(self._heard.file), self._names, steps=last, **when)
            if event is not None:
                self.events.append(event)


def _track(
    heard: Heard, steps: Steps, rules: Rules, thresholds: Sequence[float], names: Sequence[str]
) -> Track:
    return Track(heard, steps, Decoder(rules, np.asarray(thresholds), steps.step_s), names)


def events_of(
    files: Iterable[SoundSource],
    tagger: Any,
    steps: Steps,
    rules: Rules,
    thresholds: Sequence[float],
    *,
    batch_size: int = BATCH,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[Heard, list[Event]]]:
    """Each file with its events; windows are batched across files, and memory does not grow with a file's
    length.
    """

    track = partial(_track, steps=steps, rules=rules, thresholds=thresholds, names=tagger.label_names)
    for heard in hear(
        files, steps.grid, steps.forward, batch_size=batch_size, advance=advance, collect=track
    ):
        yield heard, heard.answers.end()


def read_off(
    file: SoundSource,
    windows: Sequence[Any],
    answers: Iterable[Float[np.ndarray, "t C"]],
    steps: Steps,
    rules: Rules,
    thresholds: Sequence[float],
    names: Sequence[str],
) -> list[Event]:
    """The events of a sound whose windows (`cut`) were answered already."""
    heard = Heard(file, [window.start_s for window in windows], [window.end_s for window in windows])
    track = _track(heard, steps, rules, thresholds, names)
    for answer in answers:
        track.append(answer)
    return track.end()


def live_events(
    blocks: Iterable[Float[np.ndarray, " _"]],
    tagger: Any,
    steps: Steps,
    rules: Rules,
    thresholds: Sequence[float],
) -> Iterator[Event]:
    """Events of a live waveform, each as soon as it has ended and nothing can change it."""
    heard = Heard("<stdin>")
    track = _track(heard, steps, rules, thresholds, tagger.label_names)
    for window in cut(blocks, steps.grid):
        fbank = steps.grid.empty(1)
        fbank[0, : len(window.fbank)] = window.fbank
        heard.starts_s.append(window.start_s)
        heard.ends_s.append(window.end_s)
        track.append(np.asarray(steps.forward(fbank, np.array([len(window.fbank)])))[0])
        yield from track.events
        track.events.clear()
    yield from track.end()
