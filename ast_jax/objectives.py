"""What is minimised, and what scores are: one row an objective. Nothing else asks which loss a model was
trained with.

B batch, C classes. A model's card stores the *activation* of its objective by name; everything after training
reads that.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.settings import Objective as ObjectiveSettings
from ast_jax.tables import look_up

# What a model computed, its "logits" [B, C] among it, and a batch with its "labels" [B, C]; where some labels
# are not known also "known" [B, C], 1 for those that are.
Out = Mapping[str, Any]
Batch = Mapping[str, Any]

# From logits to scores, 0 to 1: several labels may be true at once, or exactly one.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}


@dataclasses.dataclass(frozen=True)
class Row:
    """An objective of the table.

    `loss(out, batch, settings)` gives each class's part [B, C]; a clip's loss is their mean for a sigmoid,
    their sum for a softmax. Of logits and labels alone, or of whatever else the model put into `out`: a loss
    that has no parts by class gives each clip's [B].
    """

    loss: Callable[[Out, Batch, ObjectiveSettings], Float[Array, "B C"] | Float[Array, " B"]]
    activation: str = "sigmoid"
    # whether a batch has to say what is heard at each step of time too
    frames: bool = False

    @property
    def taught(self) -> Callable[[Out, Batch, ObjectiveSettings], Float[Array, "B C"]]:
        """The loss to a teacher's scores in the place of labels, which ends at 0."""
        return _soft_bce if self.activation == "sigmoid" else _soft_ce

    def uniform(self, num_classes: int) -> float:
        """A label that says nothing: what smoothing pulls labels towards."""
        return 0.5 if self.activation == "sigmoid" else 1 / num_classes


def _bce(out: Out, batch: Batch, _: ObjectiveSettings) -> Float[Array, "B C"]:
    """Sigmoid cross-entropy; labels may be anything from 0 to 1."""
    return optax.sigmoid_binary_cross_entropy(out["logits"], batch["labels"])


def _ce(out: Out, batch: Batch, _: ObjectiveSettings) -> Float[Array, "B C"]:
    """Softmax cross-entropy against labels as a distribution."""
    return -batch["labels"] * jax.nn.log_softmax(out["logits"])


def _focal(out: Out, batch: Batch, settings: ObjectiveSettings) -> Float[Array, "B C"]:
    """(1 - p_t)^gamma times the cross-entropy, p_t the probability of what is true (Lin et al.

    2017, equation 4).
    """
    p, labels = jax.nn.sigmoid(out["logits"]), batch["labels"]
    wrong = p * (1 - labels) + (1 - p) * labels
    return _powered(wrong, settings.focal_gamma) * _bce(out, batch, settings)


def _asymmetric(out: Out, batch: Batch, settings: ObjectiveSettings) -> Float[Array, "B C"]:
    """ASL (Ridnik et al. 2021, equations 4 to 7): absent labels are focused more than present ones, and cost
    nothing below the margin. Soft labels count as both, by their shares.
    """
    absent_gamma, present_gamma, margin = settings.asymmetric
    logits, labels = out["logits"], batch["labels"]
    p = jax.nn.sigmoid(logits)
    present = _powered(1 - p, present_gamma) * -jax.nn.log_sigmoid(logits)
    shifted = jnp.maximum(p - margin, 0)
    absent = _powered(shifted, absent_gamma) * -jnp.log(jnp.maximum(1 - shifted, 1e-8))
    return labels * present + (1 - labels) * absent


def _soft_bce(out: Out, batch: Batch, settings: ObjectiveSettings) -> Float[Array, "B C"]:
    """For labels that are another model's scores: what the cross-entropy exceeds their own entropy by, 0
    where they agree.
    """
    labels = batch["labels"]
    entropy = -jax.scipy.special.xlogy(labels, labels) - jax.scipy.special.xlogy(1 - labels, 1 - labels)
    return _bce(out, batch, settings) - entropy


def _soft_ce(out: Out, batch: Batch, settings: ObjectiveSettings) -> Float[Array, "B C"]:
    """The same for a distribution over classes; labels are brought to the sum 1."""
    labels = batch["labels"]
    shares = labels / jnp.maximum(labels.sum(axis=-1, keepdims=True), 1e-8)
    return _ce(out, {"labels": shares}, settings) + jax.scipy.special.xlogy(shares, shares)


def _frames_bce(out: Out, batch: Batch, settings: ObjectiveSettings) -> Float[Array, "B C"]:
    """The cross-entropy of the clip, and of its steps of time where it is known what is heard in them, each a
    half; of a clip with labels alone, and in evaluation, its own.
    """
    clip = _bce(out, batch, settings)
    if "frames" not in batch:
        return clip
    known = batch["frames_known"][..., None]
    steps = (optax.sigmoid_binary_cross_entropy(out["frames"], batch["frames"]) * known).sum(axis=1)
    count = known.sum(axis=1)
    return jnp.where(count > 0, (clip + steps / jnp.maximum(count, 1)) / 2, clip)


OBJECTIVES: dict[str, Row] = {
    "bce": Row(_bce),
    "ce": Row(_ce, "softmax"),
    "focal": Row(_focal),
    "asymmetric": Row(_asymmetric),
    "soft_bce": Row(_soft_bce),
    "soft_ce": Row(_soft_ce, "softmax"),
    "frames_bce": Row(_frames_bce, frames=True),
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A row with its settings, ready for a step. Static under jit."""

    row: Row
    settings: ObjectiveSettings
    class_weights: tuple[float, ...] = ()
    pos_weight: tuple[float, ...] = ()

    @property
    def activation(self) -> str:
        """The row's: a key of ACTIVATIONS."""
        return self.row.activation

    def per_clip(self, out: Out, batch: Batch) -> Float[Array, " B"]:
        """Each clip's loss, as evaluation reports it: without smoothing or weights.

        Of a sigmoid the mean over the classes that are known of the clip, 0 where none is; a loss of all
        classes at once (a softmax, or one without parts by class) is 0 unless all of them are known.
        """
        return self._reduced(self.row.loss(out, batch, self.settings), batch.get("known"))

    def training(self, out: Out, batch: Batch) -> Float[Array, " B"]:
        """The same with smoothed labels and weighted classes, and with a teacher's scores (`taught` [B, C] in
        the batch) by their share.

        A teacher knows every class. So of a clip of which nothing is known its share of the teacher's part
        is all there is; and without a teacher nothing, while the clip still counts in a step's mean: what a
        labelled clip weighs does not depend on which clips are beside it.

        Raises InputError: weights of classes for a loss that has no parts by class.
        """
        labels, smoothing = batch["labels"], self.settings.label_smoothing
        labels = labels + smoothing * (self.row.uniform(labels.shape[-1]) - labels)
        parts = self.row.loss(out, {**batch, "labels": labels}, self.settings)
        if parts.ndim == 1 and (self.class_weights or self.pos_weight):
            raise InputError(
                f"config.loss {self.settings.loss} has no parts by class: leave config.class_weights and "
                "config.pos_weight empty"
            )
        if self.class_weights:
            parts = parts * jnp.asarray(self.class_weights)[None]
        if self.pos_weight:
            # Of a soft label, the share that is there weighs more: 1 + label (weight - 1).
            parts = parts * (1 + labels * (jnp.asarray(self.pos_weight)[None] - 1))
        loss = self._reduced(parts, batch.get("known"))
        if "taught" not in batch:
            return loss
        share, scores = self.settings.teacher_weight, jax.lax.stop_gradient(batch["taught"])
        theirs = self._reduced(self.row.taught(out, {**batch, "labels": scores}, self.settings))
        return share * theirs + (1 - share) * loss

    def apart(self, logits: Float[Array, "B C"], others: Float[Array, "B C"]) -> Float[Array, " B"]:
        """How far what is said of two views of each clip is apart: the Kullback-Leibler divergences of their
        scores both ways, halved, each towards the other as it stands.
        """
        activate = ACTIVATIONS[self.activation]

        def towards(own: Array, other: Array) -> Array:
            labels = jax.lax.stop_gradient(activate(other))
            return self._reduced(self.row.taught({"logits": own}, {"labels": labels}, self.settings))

        return (towards(logits, others) + towards(others, logits)) / 2

    def _reduced(self, parts: Array, known: Array | None = None) -> Float[Array, " B"]:
        by_class = parts.ndim > 1 and self.activation == "sigmoid"
        if by_class and known is not None:
            return (parts * known).sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
        loss = parts if parts.ndim == 1 else parts.mean(axis=-1) if by_class else parts.sum(axis=-1)
        return loss if known is None else loss * known.min(axis=-1)


def objective(
    settings: ObjectiveSettings, class_counts: np.ndarray | None = None, clips: int | np.ndarray = 0
) -> Objective:
    """The objective of a recipe. `class_counts` [C] of `clips` training clips (of as many a class, [C], as it
    is known of) decide weights that are to come from counts.

    Raises:
        InputError: no such loss or activation, or weights that are no numbers above 0 or not one a class.
    """
    row = look_up(OBJECTIVES, settings.loss, "loss")
    if row.activation not in ACTIVATIONS:
        raise InputError(f"config.loss {settings.loss} has the activation {row.activation!r}: {_known()}")
    if settings.pos_weight and row.activation != "sigmoid":
        raise InputError(f"config.pos_weight is for losses of sigmoids, and config.loss is {settings.loss}")
    counts = None if class_counts is None else np.maximum(np.asarray(class_counts, np.float64), 1)
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "class_weights": lambda counts: counts.mean() / counts,
        "pos_weight": lambda counts: (clips - np.minimum(counts, clips - 1)) / counts,
    }
    weights = {key: _weights(key, getattr(settings, key), rule, counts) for key, rule in rules.items()}
    return Objective(row, settings, **weights)


def activation(name: str) -> Callable[[Array], Array]:
    """From logits to scores. Raises InputError for an unknown one."""
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r}: {_known()}")
    return ACTIVATIONS[name]


def plain_loss(name: str) -> Callable[[Out, Batch], Float[Array, " B"]]:
    """Each clip's cross-entropy under an activation, where nobody says by what loss a model was trained."""
    return objective(ObjectiveSettings(loss="bce" if name == "sigmoid" else "ce")).per_clip


def stated_activation(card: Mapping[str, Any], loss: str | None = None) -> str | None:
    """The activation that a card states. Cards from before it did say whether clips have several labels,
    which is not the same where a run was trained by `bce` on one label a clip: its `loss`, where known,
    decides.
    """
    if "activation" in card:
        return card["activation"]
    if loss is not None:
        return {"bce": "sigmoid", "ce": "softmax"}.get(loss)
    several = card.get("multi_label")
    return None if several is None else "sigmoid" if several else "softmax"


def _weights(key: str, text: str, rule: Callable, counts: np.ndarray | None) -> tuple[float, ...]:
    if not text:
        return ()
    if text == "counts":
        return () if counts is None else tuple(float(weight) for weight in rule(counts))
    try:
        given = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"config.{key} is {text!r}: wanted counts, or a number a class by commas") from None
    if counts is not None and len(given) != len(counts):
        raise InputError(
            f"config.{key} has {len(given)} numbers for {len(counts)} classes: wanted one a class"
        )
    if not all(np.isfinite(weight) and weight >= 0 for weight in given):
        raise InputError(f"config.{key} is {text!r}: weights are finite numbers, at least 0")
    return given


def _powered(base: Array, exponent: float) -> Array:
    """base^exponent with a gradient of 0, not NaN, at 0."""
    return (
        jnp.ones_like(base)
        if exponent == 0
        else jnp.where(base > 0, jnp.maximum(base, 1e-30) ** exponent, 0.0)
    )


def _known() -> str:
    return f"choose {' or '.join(ACTIVATIONS)}"
