"""A training that gets nowhere is told, and one that learns is not."""

import math
from unittest import mock

import jax
import numpy as np
import pytest

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.objectives import objective
from ast_jax.settings import Objective
from ast_jax.training.stalled import chance, stalled


def labelled(sets, num_classes):
    prepared = mock.Mock(spec=PreparedSet)
    prepared.label_sets.return_value = [np.array(own, int) for own in sets]
    prepared.known.return_value, prepared.label_names = None, [str(i) for i in range(num_classes)]
    return prepared


def test_chance_is_the_loss_of_each_classes_share_however_clips_are_mixed():
    one = labelled([[0], [0], [0], [1]], 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert chance(objective(Objective(loss="ce")), one, ["train"]) == pytest.approx(entropy, abs=1e-5)
    several = labelled([[0, 1], [0], [], [1]], 2)
    assert chance(objective(Objective(loss="bce")), several, ["train"]) == pytest.approx(
        math.log(2), abs=1e-5
    )
    # mixed by any shares the mean stays
    rng = np.random.default_rng(0)
    labels, share = np.eye(2)[[0, 0, 0, 1]], rng.random(4000)
    mixed = (
        share[:, None] * np.tile(labels, (1000, 1))
        + (1 - share[:, None]) * labels[rng.integers(4, size=4000)]
    )
    logits = np.broadcast_to(np.log([0.75, 0.25]), mixed.shape).astype(np.float32)
    loss = objective(Objective(loss="ce")).training({"logits": jax.numpy.asarray(logits)}, {"labels": mixed})
    assert float(loss.mean()) == pytest.approx(entropy, abs=0.02)
    for other in ({"teacher": "a"}, {"consistency": 1.0}, {"loss": "frames_bce"}):
        assert chance(objective(Objective(**other)), several, ["train"]) is None


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (0.5, 1.0, []),
        (0.6901, 1.0, ["no lower than of answers that hear nothing (0.6900)"]),
        (0.5, 1e-9, ["gradients have vanished"]),
        (0.9, 1e5, ["gradients are very large", "training loss 0.9000"]),
    ],
)
def test_what_is_said_is_of_the_middle_step_of_an_epoch(loss, norm, said):
    usual = {"loss": loss, "grad_norm": norm}
    steps = [usual, usual, {"loss": 9.0, "grad_norm": 1e9}, usual, {"loss": 0.0, "grad_norm": 0.0}]
    found = stalled(steps, 0.69)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))
    assert stalled([], 0.69) == []
    assert not any("hear nothing" in line for line in stalled(steps, None))
