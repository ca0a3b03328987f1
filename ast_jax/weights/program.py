"""A model as pure functions for machines without this package: from a waveform to features, and from features
to scores.

B batch (any size), S samples, T frames, F mel bins, C classes.
"""

import bisect
from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax.features.front_end import FrontEnd
from ast_jax.models import merge
from ast_jax.models.kernels import PLAIN, using
from ast_jax.objectives import activation
from ast_jax.weights.pretrained import LoadedModel, fit_frames

# what a program takes: features before normalisation, or sounds with the front end inside
Takes = Literal["log_mel", "waveform"]
INPUTS: dict[str, tuple[str, ...]] = {"log_mel": ("fbank",), "waveform": ("waveform", "num_samples")}
OUTPUTS = ("logits", "scores")

Judge = Callable[[Mapping[str, Array], Float[Array, "B T F"]], tuple[Array, Array]]
Hear = Callable[[Float[Array, "B S"], Int[Array, " B"]], Float[Array, "B T F"]]


def samples(loaded: LoadedModel) -> int:
    """S: as many as a window of the model has."""
    return loaded.front_end.span(loaded.model.config.num_frames)


def shapes(loaded: LoadedModel, takes: Takes) -> dict[str, tuple[tuple[int, ...], type]]:
    """Each input's shape behind the batch, and its type."""
    if takes == "log_mel":
        return {"fbank": ((loaded.model.config.num_frames, loaded.front_end.num_mel_bins), np.float32)}
    return {"waveform": ((samples(loaded),), np.float32), "num_samples": ((), np.int32)}


def judge(loaded: LoadedModel) -> tuple[Judge, dict[str, Array]]:
    """(arrays by path, features before normalisation) -> (logits, scores), and the arrays."""
    graphdef, arrays = loaded.parts

    def run(arrays, fbank):
        # it is to run anywhere
        with using(PLAIN):
            logits, _ = merge(graphdef, arrays)(loaded.front_end.normalise(fbank))
        return logits, activation(loaded.activation)(logits)

    return run, arrays


def hear(loaded: LoadedModel) -> Hear:
    """(waveforms, padded to S; how many samples of each are sound) -> the features that `predict` makes of a
    window: in float32, the front end's padding past a sound's own end.
    """
    front_end, frames = loaded.front_end, loaded.model.config.num_frames
    least = _least_samples(front_end, frames, samples(loaded))

    def run(waveform, num_samples):
        fbank = front_end.features(waveform, num_samples=num_samples)[:, :frames]
        own = num_samples[:, None, None] >= jnp.asarray(least)[None, :, None]
        # typed: jax2onnx writes a bare number as a double
        return jnp.where(own, fbank, jnp.asarray(front_end.padding, fbank.dtype))

    return run


def function(loaded: LoadedModel, takes: Takes) -> tuple[Callable, dict[str, Array]]:
    """(arrays by path, inputs in order) -> (logits, scores), and the arrays."""
    run, arrays = judge(loaded)
    if takes == "log_mel":
        return run, arrays
    heard = hear(loaded)
    return lambda arrays, waveform, num_samples: run(arrays, heard(waveform, num_samples)), arrays


def _least_samples(front_end: FrontEnd, frames: int, most: int) -> np.ndarray:
    """The fewest samples of which each frame is one; the first frame is of any sound."""
    lengths = range(most + 1)
    found = [bisect.bisect_left(lengths, frame + 1, key=front_end.num_frames) for frame in range(frames)]
    return np.array([0, *found[1:]], np.int32)


def examples(loaded: LoadedModel, takes: Takes, batch: int) -> dict[str, np.ndarray]:
    """Random inputs; of waveforms, a whole one, a half, a third."""
    rng, front_end = np.random.default_rng(0), loaded.front_end
    if takes == "log_mel":
        shape = (batch, loaded.model.config.num_frames, front_end.num_mel_bins)
        return {"fbank": rng.normal(front_end.mean, front_end.std, shape).astype(np.float32)}
    whole = samples(loaded)
    lengths = np.array([whole // (row + 1) for row in range(batch)], np.int32)
    sound = rng.normal(0, 0.1, (batch, whole)) * (np.arange(whole) < lengths[:, None])
    return {"waveform": sound.astype(np.float32), "num_samples": lengths}


def features(loaded: LoadedModel, inputs: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B T F"]:
    """The same as this package hears it: on the host, each sound alone."""
    if "fbank" in inputs:
        return inputs["fbank"]
    frames, front_end = loaded.model.config.num_frames, loaded.front_end
    sounds = zip(inputs["waveform"], inputs["num_samples"], strict=True)
    heard = [front_end.features(sound[:length])[None] for sound, length in sounds]
    return np.concatenate([fit_frames(fbank, frames, front_end.padding) for fbank in heard])
