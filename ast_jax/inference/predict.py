"""Tags sounds of any length and format.

A file longer than the model's length is heard in overlapping windows, decoded as a stream. Several models are
an ensemble, the mean of their scores. S samples, T frames, F mel bins, B windows a batch, W windows of a
file, C classes.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.evaluation.style import Png
from ast_jax.events import SIMPLE, Event, Rules
from ast_jax.features.audio import AudioWarning, SoundSource
from ast_jax.inference.answers import Tags
from ast_jax.inference.rows import Kind, Rows
from ast_jax.inference.windows import BATCH, Forward, Grid, Heard, Source, cut, hear
from ast_jax.weights import LoadedModel, load_model

if TYPE_CHECKING:
    from ast_jax.inference.explain import Explainer, Explanation

Sound = SoundSource | BinaryIO | tuple[np.ndarray, float]


def as_source(sound: Any) -> SoundSource:
    """Anything that is a sound in Python as what the decoder takes: a path, or a file's bytes.

    Raises InputError for what is none of those that `Tagger.tag` names.
    """
    if isinstance(sound, tuple) and len(sound) == 2:
        return _as_wav(np.asarray(sound[0]), sound[1])
    data = sound.read() if hasattr(sound, "read") else sound
    if isinstance(data, bytes) or (data is sound and isinstance(sound, str | os.PathLike)):
        return data
    got = type(sound).__name__ if data is sound else f"file of {type(data).__name__}"
    raise InputError(
        f"a {got} is no sound: give a path, bytes, a file open for bytes, or (samples, rate in Hz)"
    )


def _as_wav(samples: np.ndarray, rate: Any) -> bytes:
    floats = np.issubdtype(samples.dtype, np.floating)
    if not floats or samples.ndim not in (1, 2) or samples.shape[1:] > samples.shape[:1]:
        raise InputError(
            f"samples are {samples.dtype} {list(samples.shape)}: wanted floats in [-1, 1], [samples] or "
            "[samples, channels]"
        )
    if not isinstance(rate, int | float | np.number) or not 1_000 <= rate <= 1_000_000:
        raise InputError(f"the rate of the samples is {rate!r}: wanted 1,000 to 1,000,000 Hz")
    import soundfile

    written = io.BytesIO()
    soundfile.write(written, samples.astype(np.float32), round(float(rate)), format="WAV", subtype="FLOAT")
    return written.getvalue()


class Tagger:
    """One model, or several over the same labels (an ensemble: their mean score).

    Tagger("runs/mine").tag("sound.wav").best()
    """

    def __init__(self, sources: str | Path | Sequence[str | Path], **options: Any):
        """`options` are those of `load_model`, for every source. Raises InputError."""
        sources = [sources] if isinstance(sources, str | Path) else list(sources)
        self.models = [load_model(source, **options) for source in sources]
        first = self.models[0]
        self.label_names = first.label_names
        for source, model in zip(sources, self.models, strict=True):
            for what, own, wanted in (
                ("has other labels", model.label_names, self.label_names),
                ("hears another length", model.model.config.num_frames, first.model.config.num_frames),
                ("has another front end", model.front_end.identity, first.front_end.identity),
                ("mixes channels otherwise", model.channels, first.channels),
            ):
                if own != wanted:
                    raise InputError(f"{source} {what} than {sources[0]}: an ensemble needs the same")
        self.num_frames = first.model.config.num_frames
        # of one model its own; an ensemble's scores are other scores
        self.thresholds = first.thresholds if len(self.models) == 1 else None

    def check_heads(self) -> None:
        """Raises InputError where a model's head is new: its scores would be random."""
        for model in self.models:
            if model.new_head:
                raise InputError(
                    "this model has no head for these classes, its scores would be random: train one (probe, "
                    "or config.init_from), or embed with it"
                )

    def heard_from(self, threshold: float | None = None) -> list[float]:
        """From which score on each class counts as heard: `threshold`, or else what the model's card says, or
        else 0.5.
        """
        known = self.thresholds or [None] * len(self.label_names)
        return (
            [0.5 if own is None else own for own in known] if threshold is None else [threshold] * len(known)
        )

    def events_from(self, threshold: float | None = None) -> tuple[list[float], str]:
        """The same of events, and a line that says whose thresholds these are. Of models that judge steps
        they are those chosen for steps, of an ensemble the mean of its models'; a clip's are of another
        scale. Of models that judge clips they are those of `heard_from`.
        """
        if threshold is not None:
            return self.heard_from(threshold), f"thresholds of events: {threshold:g}, as asked for"
        if all(model.judges_steps for model in self.models):
            known, whose = [model.frame_thresholds for model in self.models], "steps"
        else:
            known, whose = [self.thresholds], "clips"
        none_known = [0.5] * len(self.label_names)
        if any(own is None for own in known):
            lacking = "the model has" if len(self.models) == 1 else "not every model has"
            return none_known, f"thresholds of events: 0.5, {lacking} none of its own for {whose}"
        mean = "" if len(known) == 1 else ", the mean of the models'"
        chosen = [None if None in each else sum(each) / len(each) for each in zip(*known, strict=True)]
        found = [0.5 if own is None else own for own in chosen]
        line = (
            f"thresholds of events: each label's own of {whose}{mean}, {min(found):.3g} to {max(found):.3g}"
        )
        unknown = chosen.count(None)
        return found, line + (f"; 0.5 for {unknown} labels without one" if unknown else "")

    def grid(self, *, window_s: float | None = None, hop_s: float | None = None) -> Grid:
        """How sounds are cut for these models; see `Grid.of`."""
        first = self.models[0]
        return Grid.of(
            first.front_end, self.num_frames, window_s=window_s, hop_s=hop_s, channels=first.channels
        )

    def tag(self, sound: Any, *, window_s: float | None = None, hop_s: float | None = None) -> Tags:
        """Scores of every window of one sound: a path, a file's bytes, an open file, or (samples, rate in
        Hz), the samples floats in [-1, 1], [S] or [S, channels].

        Raises InputError if it is none of these, AudioError if it cannot be heard.
        """
        grid = self.grid(window_s=window_s, hop_s=hop_s)
        (heard,) = hear([as_source(sound)], grid, self.scores)
        if heard.error is not None:
            raise heard.error
        for note in heard.notes:
            warnings.warn(note, AudioWarning, stacklevel=2)
        return Tags.of(heard, grid.window_s, self.label_names)

    def events(
        self,
        sound: Any,
        *,
        threshold: float | None = None,
        rules: Rules = SIMPLE,
        window_s: float | None = None,
        hop_s: float | None = None,
    ) -> list[Event]:
        """What is heard when in one sound, as `tag` takes it; `threshold` is as for `events_from`.

        A model that judges clips alone is heard in short windows (`frames.steps_of`).
        """
        from ast_jax.inference.frames import events_of, steps_of

        steps = steps_of(self, window_s=window_s, hop_s=hop_s)
        thresholds, _ = self.events_from(threshold)
        ((heard, found),) = events_of([as_source(sound)], self, steps, rules, thresholds)
        if heard.error is not None:
            raise heard.error
        return found

    def plot(self, sound: Any, *, window_s: float | None = None, hop_s: float | None = None) -> Png:
        """A picture of one sound, as `tag` takes it: its spectrogram over what was heard when."""
        from ast_jax.inference.timeline import picture

        source = as_source(sound)
        tags = self.tag(source, window_s=window_s, hop_s=hop_s)
        return picture(source, tags, self.grid(window_s=window_s, hop_s=hop_s))

    def explain(
        self, sound: Any, labels: Sequence[str] = (), *, top: int = 2, start_s: float | None = None
    ) -> "Explanation":
        """What the scores of these labels, or else of the `top` best, rest on in one window of one sound: the
        one from `start_s` on, or else where the first label scores highest.

        Raises InputError: an unknown label, a sound that ends before, an ensemble.
        """
        from ast_jax.inference.explain import label_indices, window_at

        source, chosen = as_source(sound), label_indices(labels, self.label_names)
        if start_s is None:
            tags = self.tag(source)
            aim = chosen[0] if chosen else int(np.argmax(tags.overall))
            start_s = float(tags.times_s[np.argmax(tags.scores[:, aim])])
        explainer = self._explainer
        fbank = window_at(source, start_s, self.grid())
        chosen = chosen or np.argsort(-np.asarray(self.scores(fbank[None]))[0])[:top].tolist()
        return explainer.explain(fbank, chosen, start_s=start_s)

    @cached_property
    def _explainer(self) -> "Explainer":
        from ast_jax.inference.explain import Explainer

        return Explainer(self._only_model())

    def embed(
        self,
        *sounds: Any,
        kind: Kind = "token",
        layer: int | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
    ) -> Rows:
        """Embeddings of sounds, each as `tag` takes it: a row for each window, a window apart unless `hop_s`
        says otherwise, or for each step of time (kind="frames").

        Raises InputError: no such kind or layer, an ensemble, or what `tag` raises.
        """
        from ast_jax.inference.embed import rows_of

        loaded, grid = self._only_model(), self.grid(window_s=window_s, hop_s=hop_s)
        if hop_s is None:
            grid = replace(grid, hop=grid.window)
        forward, found = self._embedder(kind, layer), []
        for heard in hear(map(as_source, sounds), grid, forward):
            if heard.error is not None:
                raise heard.error
            found.append(rows_of(heard, loaded, kind))
        return Rows.join(found)

    @cached_property
    def _embedder(self) -> Callable[[Kind, int | None], Forward]:
        """Of a kind and a layer: each compiled once, however often `embed` is called."""
        from ast_jax.inference.embed import embedder

        loaded = self._only_model()
        return cache(lambda kind, layer: embedder(loaded, itemgetter(kind), layer))

    def _only_model(self) -> LoadedModel:
        if len(self.models) > 1:
            raise InputError(
                f"this is an ensemble of {len(self.models)} models: make a Tagger of one of them"
            )
        return self.models[0]

    def __repr__(self) -> str:
        return f"Tagger({', '.join(map(repr, self.models))})"

    def tag_all(
        self,
        files: Iterable[Source],
        grid: Grid,
        *,
        batch_size: int = BATCH,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Heard]:
        """Every file in turn, windows batched across files; see `hear`.

        `Tags.of` makes tags of what was heard.
        """
        return hear(files, grid, self.scores, batch_size=batch_size, advance=advance)

    def listen(self, blocks: Iterable[Float[np.ndarray, " _"]], grid: Grid) -> Iterator[Tags]:
        """Tags of each window of a live waveform, as soon as it is full."""
        for window in cut(blocks, grid):
            fbank = grid.empty(1)
            fbank[0, : len(window.fbank)] = window.fbank
            scores = np.asarray(self.scores(fbank))
            times = np.array([window.start_s]), np.array([window.end_s])
            yield Tags(*times, grid.window_s, scores, self.label_names)

    def scores(self, fbank: Float[np.ndarray, "B T F"], lengths: Any = None) -> Float[Any, "B C"]:
        """The mean score of the models; how many frames are sound (`lengths`) they know by the padding.

        Raises InputError for a model whose head is new.
        """
        self.check_heads()
        scores = [model.scores(fbank) for model in self.models]
        return scores[0] if len(scores) == 1 else np.mean([np.asarray(s) for s in scores], axis=0)
