"""Shows what a model's answer rests on, over the spectrogram of a sound file.

Writes a picture (attention rollout where the model attends, and gradient x input for each label, over the
spectrogram) and, beside it, an .npz with everything drawn and the attention of every layer and head. T
frames, F mel bins, L layers, H heads, f x t patches, K labels, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ast_jax.errors import InputError
from ast_jax.evaluation.style import LIGHT, Png, sheet
from ast_jax.features import FrontEnd
from ast_jax.features.audio import SoundSource, name_of
from ast_jax.inference.attribution import (
    gradient_times_input,
    marked_region,
    smoothed,
)
from ast_jax.inference.windows import Grid, decoded
from ast_jax.models import merge
from ast_jax.weights import LoadedModel
from ast_jax.weights.pretrained import fit_frames


@dataclass(frozen=True, repr=False)
class Explanation:
    """One window of sound and what the answer to it rests on; a notebook shows its picture.

    Arrays over [T, F] hold the sound's own frames, without padding.
    """

    fbank: Float[np.ndarray, "T F"]  # log-mel, nats
    scores: Float[np.ndarray, " C"]
    labels: Int[np.ndarray, " K"]  # those explained
    # attention, for no label in particular; None of a model without
    rollout: Float[np.ndarray, "T F"] | None
    # gradient x input; negative: against the label
    gradient: Float[np.ndarray, "K T F"]
    # of the class and distillation tokens to each patch, padding included; None of a model without
    attention: Float[np.ndarray, "L H f t"] | None
    label_names: Sequence[str]
    front_end: FrontEnd
    start_s: float = 0.0

    def best(self) -> list[tuple[str, float]]:
        """The labels explained and their scores."""
        return [(self.label_names[c], float(self.scores[c])) for c in self.labels]

    def __repr__(self) -> str:
        told = ", ".join(f"{label} {score:.3f}" for label, score in self.best())
        return f"Explanation of {told}, from {self.start_s:.2f} s"

    def _repr_png_(self) -> bytes:
        return self.picture()

    def picture(self) -> Png:
        """The spectrogram, then over it the rollout and each label's gradient x input, its marked region
        outlined.
        """
        panels: list[tuple[str, Any, bool]] = [("What was heard", None, False)]
        if self.rollout is not None:
            panels.append(("Attention rollout: where any answer may come from", self.rollout, False))
        for (label, score), gradient in zip(self.best(), self.gradient, strict=True):
            panels.append((f"For {label} ({score:.3f}): gradient x input", gradient, True))
        shown = self.front_end.picture(self.fbank)
        frames, bins = shown.shape
        extent = (self.start_s, self.start_s + self.front_end.seconds(frames), 0, bins)
        low, high = np.percentile(shown, [1, 99.5])
        with sheet(LIGHT, 7.0, 1.9 * len(panels)) as (figure, png):
            all_axes = figure.subplots(len(panels), 1, sharex=True)
            for axes, (title, relevance, outlined) in zip(all_axes, panels, strict=True):
                look = {"origin": "lower", "aspect": "auto", "extent": extent}
                back = {"cmap": "magma"} if relevance is None else {"cmap": "gray_r", "alpha": 0.5}
                axes.imshow(shown.T, vmin=low, vmax=high, **back, **look)
                if relevance is not None:
                    _lay_over(axes, relevance, look)
                if outlined:
                    marked = marked_region(relevance).T.astype(float)
                    axes.contour(marked, levels=[0.5], colors=LIGHT.ink, linewidths=1, extent=extent)
                axes.set_title(title, size=10)
                axes.set(ylabel="mel bin", yticks=[0, bins // 2, bins])
            axes.set_xlabel("seconds")
            return png()


class Explainer:
    """Explains one model's answers; what it compiles is shared by every window."""

    def __init__(self, loaded: LoadedModel):
        self.loaded, self.config = loaded, loaded.model.config

        def attend(graphdef, arrays, x):
            return merge(graphdef, arrays).attention_maps(x)

        def gradient(graphdef, arrays, x, labels):
            return gradient_times_input(merge(graphdef, arrays), x, labels)

        self._attend, self._gradient = (jax.jit(body, static_argnums=0) for body in (attend, gradient))

    def explain(
        self, fbank: Float[np.ndarray, "t F"], labels: Sequence[int], *, start_s: float = 0.0
    ) -> Explanation:
        """Explains the score of each label on one window, of which what lies past the model's length is cut
        off.
        """
        fbank, chosen = fbank[: self.config.num_frames], np.asarray(labels, np.int32)
        # As the model is now: it may have been trained since.
        graphdef, arrays = self.loaded.parts
        front_end, own, attention, rollout = self.loaded.front_end, len(fbank), None, None
        padded = fit_frames(fbank[None], self.config.num_frames, front_end.padding)
        x = front_end.normalise(jnp.asarray(padded))
        if hasattr(self.loaded.model, "attention_maps"):
            (attention,), (rolled,) = jax.device_get(self._attend(graphdef, arrays, x))
            rollout = self.loaded.model.over_cells(rolled)[:own]
        return Explanation(
            fbank,
            scores=np.asarray(self.loaded.scores(fbank[None]))[0],
            labels=chosen,
            rollout=rollout,
            gradient=np.asarray(self._gradient(graphdef, arrays, x[0], jnp.asarray(chosen)))[:, :own],
            attention=attention,
            label_names=self.loaded.label_names,
            front_end=front_end,
            start_s=start_s,
        )


def _lay_over(axes, relevance: Float[np.ndarray, "T F"], look: dict) -> None:
    """What speaks for the answer in red, against it in blue, its strength as opacity."""
    from matplotlib.colors import to_rgb

    smooth = smoothed(relevance).T
    strength = np.clip(np.abs(smooth) / max(np.percentile(np.abs(smooth), 99.5), 1e-30), 0, 1)
    colour = np.where(smooth[..., None] >= 0, to_rgb(LIGHT.published), to_rgb(LIGHT.measured))
    axes.imshow(np.concatenate([colour, 0.75 * strength[..., None]], axis=-1), **look)


def window_at(
    sound: SoundSource, start_s: float, grid: Grid, *, flag: str = "--start_s"
) -> Float[np.ndarray, "T F"]:
    """Features of the window of the sound from `start_s` on, or of as much as there is; decodes no further.
    `flag` is what asks for it.

    Raises InputError if the sound ends before, AudioError if it cannot be heard.
    """
    rate, window = grid.front_end.sample_rate_hz / grid.each, grid.window // grid.each
    start, heard, kept = round(start_s * rate), 0, []
    for block in decoded(sound, grid):
        kept.append(block[max(0, start - heard) : max(0, start + window - heard)])
        heard += len(block)
        if heard >= start + window:
            break
    if not sum(map(len, kept)):
        length = f"{name_of(sound)} lasts {heard / rate:.1f} s"
        raise InputError(f"{length}, and {flag} is {start_s:g}: choose less")
    return grid.front_end.features(np.concatenate(kept))


def label_indices(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Places of labels given by name. Raises InputError for one that the model does not know."""
    unknown = [name for name in wanted if name not in names]
    if unknown:
        known = "; ".join(names[:20]) + (" ..." if len(names) > 20 else "")
        raise InputError(f"the model has no label {', '.join(map(repr, unknown))}: it has {known}")
    return [names.index(name) for name in wanted]
