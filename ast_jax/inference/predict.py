"""Tags sounds of any length and format.

A file longer than the model's length is heard in overlapping windows, decoded as a stream. Several models are an
ensemble, the mean of their scores. S samples, T frames, F mel bins, B windows a batch, W windows of a file, C classes.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.audio import SoundSource
from ast_jax.inference.answers import Tags
from ast_jax.inference.windows import BATCH, Grid, Heard, cut, hear
from ast_jax.weights import load_model

Sound = SoundSource | BinaryIO | tuple[np.ndarray, float]


def as_source(sound: Sound) -> SoundSource:
    """Anything that is a sound in Python as what the decoder takes: a path, or a file's bytes.

    Raises InputError for samples that are no floats, or a rate that is none.
    """
    if isinstance(sound, tuple):
        samples, rate = sound
        samples = np.asarray(samples)
        if not np.issubdtype(samples.dtype, np.floating) or samples.ndim not in (1, 2):
            raise InputError(
                f"samples are {samples.dtype} {list(samples.shape)}: wanted floats in [-1, 1], [samples] or [samples, channels]"
            )
        import soundfile

        written = io.BytesIO()
        soundfile.write(written, samples, round(rate), format="WAV", subtype="FLOAT")
        return written.getvalue()
    if isinstance(sound, str | Path | bytes):
        return sound
    if hasattr(sound, "read"):
        return sound.read()
    raise InputError(
        f"a {type(sound).__name__} is no sound: give a path, bytes, an open file or (samples, rate in Hz)"
    )


class Tagger:
    """One model, or several over the same labels (an ensemble: their mean score).

    Tagger("runs/mine").tag("sound.wav").best()
    """

    def __init__(self, sources: str | Path | Sequence[str | Path]):
        sources = [sources] if isinstance(sources, str | Path) else list(sources)
        self.models = [load_model(source) for source in sources]
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

    def grid(self, *, window_s: float | None = None, hop_s: float | None = None) -> Grid:
        """How sounds are cut for these models; see `Grid.of`."""
        first = self.models[0]
        return Grid.of(
            first.front_end, self.num_frames, window_s=window_s, hop_s=hop_s, channels=first.channels
        )

    def tag(self, sound: Sound, *, window_s: float | None = None, hop_s: float | None = None) -> Tags:
        """Scores of every window of one sound: a path, a file's bytes, an open file, or (samples, rate in Hz), the samples
        floats in [-1, 1], [S] or [S, channels].

        Raises AudioError if it cannot be heard.
        """
        grid = self.grid(window_s=window_s, hop_s=hop_s)
        (heard,) = hear([as_source(sound)], grid, self.scores)
        if heard.error is not None:
            raise heard.error
        return Tags.of(heard, grid.window_s, self.label_names)

    def tag_all(
        self,
        files: Iterable[SoundSource],
        grid: Grid,
        *,
        batch_size: int = BATCH,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Heard]:
        """Every file in turn, windows batched across files; see `hear`. `Tags.of` makes tags of what was heard."""
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
        """The mean score of the models; how many frames are sound (`lengths`) they know by the padding."""
        scores = [model.scores(fbank) for model in self.models]
        return scores[0] if len(scores) == 1 else np.mean([np.asarray(s) for s in scores], axis=0)
