"""A model's scores over a whole data set, complete and in order, and the metrics of them.

B batch, S samples, T frames, F mel bins, C classes, N examples.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.evaluation.predictions import Predictions
from ast_jax.features import log_mel
from ast_jax.models import merge, normalise
from ast_jax.models.attention import Attend, attend


def eval_step(
    params: Mapping[str, Array],
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    mean: float,
    std: float,
    loss: str,
    attend: Attend = attend,
) -> dict[str, Array]:
    """{scores [B, C], loss [B]} of a batch, float32: sigmoids for bce, a softmax for ce; the loss is on the logits.

    With them its `labels` and `mask`: on several hosts each of them read only a part of the batch.
    """
    logits = merge(graphdef, params)(normalise(features(batch), mean, std), attend=attend)
    scores = jax.nn.sigmoid(logits) if loss == "bce" else jax.nn.softmax(logits)
    out = {"scores": scores, "loss": per_clip_loss(logits, batch["labels"], loss)}
    return out | {key: batch[key] for key in ("labels", "mask")}


def features(batch: Mapping[str, Array]) -> Float[Array, "B T F"]:
    """The batch's log-mel features, float32, with rows past each clip's own length 0 *before* normalisation."""
    return pad_rows(log_mels(batch), batch["length"])


def log_mels(batch: Mapping[str, Array]) -> Float[Array, "B T F"]:
    """The features as stored, or made here from waveforms; what rows past a clip's own length hold means nothing."""
    if "fbank" in batch:
        return batch["fbank"].astype(jnp.float32)
    return log_mel(waveform(batch), num_samples=batch["num_samples"])


def pad_rows(fbank: Float[Array, "B T F"], length: Int[Array, " B"]) -> Float[Array, "B T F"]:
    """0 on rows past each clip's own length: after log_mel, as in the reference; a zero-padded waveform would give -15.94 there."""
    own = jnp.arange(fbank.shape[1])[None, :] < length[:, None]
    return jnp.where(own[..., None], fbank, 0.0)


def waveform(batch: Mapping[str, Array], key: str = "waveform") -> Float[Array, "B S"]:
    """Samples in [-1, 1]; 16-bit as they are stored, or floats that were mixed already."""
    stored = batch[key]
    return stored if jnp.issubdtype(stored.dtype, jnp.floating) else stored.astype(jnp.float32) / 32768


def per_clip_loss(logits: Float[Array, "B C"], labels: Float[Array, "B C"], loss: str) -> Float[Array, " B"]:
    """bce: sigmoid cross-entropy, mean over classes; ce: softmax cross-entropy against labels as a distribution, soft ones too."""
    if loss == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, labels)


def predict_all(outputs: Iterable[Mapping[str, Array]], ids: list[str]) -> Predictions:
    """Joins what `eval_step` gave for each batch and drops the rows that only fill one."""
    kept = []
    for batch in outputs:
        out = jax.device_get(dict(batch))
        real = out.pop("mask") > 0
        kept.append({key: value[real] for key, value in out.items()})
    whole = {key: np.concatenate([out[key] for out in kept]) for key in ("scores", "labels", "loss")}
    return Predictions(ids, whole["scores"], whole["labels"], float(whole["loss"].mean()))
