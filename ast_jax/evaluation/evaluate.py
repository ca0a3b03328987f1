"""A model's scores over a whole data set, complete and in order, and the metrics of them.

B batch, T frames, F mel bins, C classes, N examples.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.evaluation import metrics
from ast_jax.features import log_mel
from ast_jax.models import merge, normalise


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of every example of a data set, in its order."""

    ids: list[str]
    scores: Float[np.ndarray, "N C"]
    targets: Float[np.ndarray, "N C"]
    loss: float  # mean over examples, on logits

    def summary(self) -> dict[str, float]:
        """accuracy, mAP, auc, d_prime, loss and the number of examples they count."""
        return {"loss": self.loss, **metrics.summary(self.scores, self.targets)}

    def save(self, path: Path) -> None:
        np.savez_compressed(path, ids=np.array(self.ids), scores=self.scores, targets=self.targets)


def eval_step(
    params: Mapping[str, Array],
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    mean: float,
    std: float,
    loss: str,
) -> dict[str, Array]:
    """{scores [B, C], loss [B]} of a batch, float32: sigmoids for bce, a softmax for ce; the loss is on the logits."""
    logits = merge(graphdef, params)(normalise(features(batch), mean, std))
    scores = jax.nn.sigmoid(logits) if loss == "bce" else jax.nn.softmax(logits)
    return {"scores": scores, "loss": per_clip_loss(logits, batch["labels"], loss)}


def features(batch: Mapping[str, Array]) -> Float[Array, "B T F"]:
    """The batch's log-mel features, float32, with rows past each clip's own length 0 *before* normalisation.

    Zeros come after log_mel, as in the reference: a zero-padded waveform would give rows of -15.94 instead.
    """
    if "fbank" in batch:
        fbank = batch["fbank"].astype(jnp.float32)
    else:
        fbank = log_mel(batch["waveform"].astype(jnp.float32) / 32768, num_samples=batch["num_samples"])
    own = jnp.arange(fbank.shape[1])[None, :] < batch["length"][:, None]
    return jnp.where(own[..., None], fbank, 0.0)


def per_clip_loss(logits: Float[Array, "B C"], labels: Float[Array, "B C"], loss: str) -> Float[Array, "B"]:
    """bce: sigmoid cross-entropy, mean over classes; ce: softmax cross-entropy against labels as a distribution, soft ones too."""
    if loss == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, labels)


def predict_all(
    step: Callable[[Mapping[str, Array]], dict[str, Array]],
    batches: Iterable[Mapping[str, np.ndarray]],
    ids: list[str],
    *,
    watch: Callable[[Iterable], Iterator] = iter,
) -> Predictions:
    """Runs `step` over every batch and drops the rows that only fill one. `watch` may show how far it has come."""
    scores, targets, losses = [], [], []
    for batch in watch(batches):
        out = jax.device_get(step(batch))
        real = np.asarray(batch["mask"]) > 0
        scores.append(out["scores"][real])
        targets.append(np.asarray(batch["labels"])[real])
        losses.append(out["loss"][real])
    return Predictions(
        ids, np.concatenate(scores), np.concatenate(targets), float(np.concatenate(losses).mean())
    )
