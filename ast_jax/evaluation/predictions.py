"""A model's scores over a data set as a file (predictions.npz, scores.npz): the one writer, the one reader.

N examples, C classes.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from ast_jax.errors import InputError
from ast_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of every example of a data set, in its order; a target of NaN is unknown."""

    ids: list[str]
    scores: Float[np.ndarray, "N C"]
    targets: Float[np.ndarray, "N C"]
    loss: float  # mean over examples of which anything is known, on logits

    @property
    def single_label(self) -> bool:
        """Whether every clip has exactly one true class."""
        return bool(((self.targets > 0).sum(axis=1) == 1).all())

    def summary(self, *, also: str = "", thresholds: np.ndarray | None = None) -> dict[str, float]:
        """The loss, every figure of the table of metrics and the one called `also`, and the number of
        examples.
        """
        figures = metrics.summary(self.scores, self.targets, also=also, thresholds=thresholds)
        return {"loss": self.loss, **figures}

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
            with path.open("rb") as file, np.load(file) as stored:
                if not {"ids", "scores", "targets"} <= set(stored.files):
                    return None
                ids = [str(name) for name in stored["ids"]]
                scores, targets = stored["scores"], stored["targets"]
                loss = float(stored["loss"]) if "loss" in stored.files else float("nan")
            if scores.ndim != 2 or scores.shape != targets.shape or len(scores) != len(ids):
                raise ValueError(f"{len(ids)} ids, scores {scores.shape}, targets {targets.shape}")
            return cls(ids, scores, targets, loss)
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
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
        """An ensemble: the mean of the members' scores, as in the paper.

        Raises InputError unless they cover the same clips.
        """
        first = members[0]
        for other in members[1:]:
            if other.ids != first.ids or not np.array_equal(other.targets, first.targets, equal_nan=True):
                raise InputError(
                    "the members of an ensemble were evaluated on different clips or labels "
                    f"({len(first.ids)} and {len(other.ids)} clips): evaluate them on the same splits"
                )
        scores = np.mean([member.scores for member in members], axis=0)
        return dataclasses.replace(
            first, scores=scores, loss=float(np.mean([member.loss for member in members]))
        )
