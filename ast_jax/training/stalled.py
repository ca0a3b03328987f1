"""What to say of a training that gets nowhere: a loss as of answers that hear nothing, gradients that vanish
or blow up.

N clips, C classes.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.objectives import Objective

# Of the loss of such answers, which of mixed clips is not far from that of good ones; and global norms of a
# step's gradient, of parameters of ordinary size.
FALLEN, VANISHED, BLOWN_UP = 1.0, 1e-6, 1e3
# clips whose labels are looked at, at most
MOST = 3000


def chance(loss: Objective, prepared: PreparedSet, splits: Sequence[str]) -> float | None:
    """The training loss of each class's share as the answer to every clip, which mixing clips does not
    change; None where a loss is of more than labels, or a teacher or a second view takes part in it.
    """
    asked, known = loss.settings, prepared.known(splits)
    if loss.row.frames or asked.teacher or asked.consistency or ":" in asked.loss or known is not None:
        return None
    own = prepared.label_sets(splits)
    own = [own[i] for i in np.linspace(0, len(own) - 1, min(len(own), MOST)).astype(int)]
    labels = np.zeros((len(own), len(prepared.label_names)), np.float32)
    for row, of_clip in zip(labels, own, strict=True):
        row[of_clip] = 1
    shares = labels.mean(axis=0).clip(1e-4, 1 - 1e-4)
    logits = np.log(shares) - (np.log1p(-shares) if loss.activation == "sigmoid" else 0)
    answers = jnp.asarray(np.broadcast_to(logits, labels.shape), jnp.float32)
    return float(loss.training({"logits": answers}, {"labels": jnp.asarray(labels)}).mean())


def stalled(steps: Sequence[Mapping[str, float]], at_chance: float | None) -> list[str]:
    """What to say of the steps of an epoch, {loss, grad_norm} each, and what to do."""
    if not steps:
        return []
    loss, norm = (float(np.median([each[key] for each in steps])) for key in ("loss", "grad_norm"))
    told = []
    if norm < VANISHED:
        told.append(
            f"gradients have vanished (norm {norm:.1e}): nothing is learned any more; start anew with a "
            "lower config.lr and a warm-up (config.lr_warmup=linear), or thaw more (config.freeze)"
        )
    elif norm > BLOWN_UP:
        told.append(
            f"gradients are very large (norm {norm:.1e}): set config.clip_norm=1, a lower config.lr, or a "
            "warm-up (config.lr_warmup=linear)"
        )
    if at_chance is not None and loss > FALLEN * at_chance:
        told.append(
            f"training loss {loss:.4f} is no lower than of answers that hear nothing ({at_chance:.4f}): the "
            "model learns nothing yet; try another config.lr, config.lr_warmup=linear, config.clip_norm=1, "
            "pretrained weights (config.init_from), of an AST patches of whole columns"
        )
    return told
