"""A model's scores over a whole data set, complete and in order, and the metrics of them.

B batch, S samples, T frames, F mel bins, C classes, N examples.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.evaluation import metrics
from ast_jax.features import log_mel
from ast_jax.models import merge, normalise
from ast_jax.models.attention import Attend, attend


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

    def with_classes(self, columns: Int[np.ndarray, " C"]) -> "Predictions":
        """The same with the classes in another order."""
        return dataclasses.replace(self, scores=self.scores[:, columns], targets=self.targets[:, columns])

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path, ids=np.array(self.ids), scores=self.scores, targets=self.targets, loss=self.loss
        )

    @classmethod
    def load(cls, path: Path) -> "Predictions | None":
        """Saved scores; None if the file holds something else, weights for instance."""
        try:
            with np.load(path) as stored:
                if not {"ids", "scores", "targets"} <= set(stored.files):
                    return None
                loss = float(stored["loss"]) if "loss" in stored.files else float("nan")
                return cls([str(name) for name in stored["ids"]], stored["scores"], stored["targets"], loss)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as an .npz file ({error}): name a run, a checkpoint or saved scores"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Saved scores, and nothing else. Raises InputError for another file."""
        saved = cls.load(path)
        if saved is None:
            raise InputError(f"{path} holds no scores: evaluate the run again, with --again")
        return saved

    @classmethod
    def mean(cls, members: "Sequence[Predictions]") -> "Predictions":
        """An ensemble: the mean of the members' scores, as in the paper. Raises InputError unless they cover the same clips."""
        first = members[0]
        for other in members[1:]:
            if other.ids != first.ids or not np.array_equal(other.targets, first.targets):
                raise InputError(
                    f"the members of an ensemble were evaluated on different clips or labels ({len(first.ids)} and "
                    f"{len(other.ids)} clips): evaluate them on the same splits"
                )
        scores = np.mean([member.scores for member in members], axis=0)
        return dataclasses.replace(
            first, scores=scores, loss=float(np.mean([member.loss for member in members]))
        )


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
