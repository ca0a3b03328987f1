"""Tags sounds of any length and format.

A file longer than the model's length is heard in overlapping windows, decoded as a stream. Several models are an
ensemble, the mean of their scores. S samples, T frames, F mel bins, B windows a batch, W windows of a file, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.audio import Source
from ast_jax.inference.answers import Tags
from ast_jax.inference.windows import BATCH, Grid, Heard, cut, hear
from ast_jax.weights import load_model


class Tagger:
    """One or several models (an ensemble: their mean score) over the same labels."""

    def __init__(self, sources: Sequence[str | Path]):
        self.models = [load_model(source) for source in sources]
        first = self.models[0]
        self.label_names = first.label_names
        for source, model in zip(sources, self.models, strict=True):
            for what, own, wanted in (
                ("has other labels", model.label_names, self.label_names),
                ("hears another length", model.model.config.num_frames, first.model.config.num_frames),
                ("hears other mel bins", model.model.config.num_mel_bins, first.model.config.num_mel_bins),
                ("mixes channels otherwise", model.channels, first.channels),
            ):
                if own != wanted:
                    raise InputError(f"{source} {what} than {sources[0]}: an ensemble needs the same")
        self.num_frames = first.model.config.num_frames

    def grid(self, *, window_s: float | None = None, hop_s: float | None = None) -> Grid:
        """How sounds are cut for these models; see `Grid.of`."""
        first = self.models[0]
        return Grid.of(first.model.config, window_s=window_s, hop_s=hop_s, channels=first.channels)

    def tag(self, file: Source, *, window_s: float | None = None, hop_s: float | None = None) -> Tags:
        """Scores of every window of one sound file, by path or as bytes. Raises AudioError if it cannot be heard."""
        grid = self.grid(window_s=window_s, hop_s=hop_s)
        (heard,) = hear([file], grid, self._forward)
        if heard.error is not None:
            raise heard.error
        return Tags.of(heard, grid.window_s)

    def tag_all(
        self,
        files: Iterable[Source],
        grid: Grid,
        *,
        batch_size: int = BATCH,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Heard]:
        """Every file in turn, windows batched across files; see `hear`. `Tags.of` makes tags of what was heard."""
        return hear(files, grid, self._forward, batch_size=batch_size, advance=advance)

    def listen(self, blocks: Iterable[Float[np.ndarray, " _"]], grid: Grid) -> Iterator[Tags]:
        """Tags of each window of a live waveform, as soon as it is full."""
        for window in cut(blocks, grid):
            fbank = np.zeros((1, grid.num_frames, grid.num_mel_bins), np.float32)
            fbank[0, : len(window.fbank)] = window.fbank
            scores = np.asarray(self._forward(fbank, None))
            yield Tags(np.array([window.start_s]), np.array([window.end_s]), grid.window_s, scores)

    def _forward(self, fbank: Float[np.ndarray, "B T F"], lengths) -> Float[Any, "B C"]:
        """The mean score of the models; how many frames are sound they know by the zero rows."""
        scores = [model.scores(fbank) for model in self.models]
        return scores[0] if len(scores) == 1 else np.mean([np.asarray(s) for s in scores], axis=0)
