"""What teachers said of a view of a clip, kept: asked once, by every student that sees the same views.

A file of rows of one size, by position in the training stream: the largest scores and their classes, the mean
of all others, a checksum. A row that is missing or torn fails its checksum, and is asked for again. N rows, C
classes.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.terminal import write_json

# Scores that are kept of each view, the largest; CED keeps as many (Dinkel et al. 2024, section 3).
TOP = 20
ABOUT, ROWS = "about.json", "scores.bin"


class Taught:
    """The scores of views that `about` tells from all others, in a directory of their own below `parent`,
    which the first ones make: runs of other views, teachers or data share the parent and nothing else.
    """

    def __init__(self, parent: Path, about: Mapping[str, Any], *, num_classes: int):
        kept = min(TOP, num_classes)
        self.num_classes = num_classes
        self.row = np.dtype(
            [("classes", "<u2", kept), ("scores", "<f2", kept), ("others", "<f4"), ("checksum", "<u4")]
        )
        said = json.dumps(about, sort_keys=True).encode()
        self.about, self.directory = about, parent / hashlib.blake2b(said, digest_size=8).hexdigest()

    def read(self, first: int, count: int) -> Float[np.ndarray, "N C"] | None:
        """Those of `count` views from position `first` on, or None if one of them is not there."""
        if not (self.directory / ROWS).exists():
            return None
        rows = np.fromfile(self.directory / ROWS, self.row, count, offset=first * self.row.itemsize)
        if len(rows) < count or (rows["checksum"] != _checksums(rows)).any():
            return None
        return self._decoded(rows)

    def write(self, first: int, scores: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
        """Keeps them, and gives them as `read` will: rounded to 16 bits, those beside the largest as their
        mean.
        """
        rows = self._encoded(scores)
        if not (self.directory / ROWS).exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / ABOUT, self.about)
            (self.directory / ROWS).touch()
        with (self.directory / ROWS).open("r+b") as file:
            file.seek(first * self.row.itemsize)
            file.write(rows.tobytes())
        return self._decoded(rows)

    def _encoded(self, scores: Float[np.ndarray, "N C"]) -> np.ndarray:
        rows = np.zeros(len(scores), self.row)
        kept = self.row["classes"].shape[0]
        order = np.argsort(-scores, axis=1, kind="stable")
        rows["classes"] = order[:, :kept]
        rows["scores"] = np.take_along_axis(scores, order[:, :kept], axis=1)
        if kept < self.num_classes:
            rows["others"] = np.take_along_axis(scores, order[:, kept:], axis=1).mean(axis=1)
        rows["checksum"] = _checksums(rows)
        return rows

    def _decoded(self, rows: np.ndarray) -> Float[np.ndarray, "N C"]:
        scores = np.repeat(rows["others"][:, None], self.num_classes, axis=1)
        np.put_along_axis(scores, rows["classes"].astype(np.int64), rows["scores"].astype(np.float32), axis=1)
        return scores


def _checksums(rows: np.ndarray) -> np.ndarray:
    # the checksum itself is the last field
    return np.array([zlib.crc32(row.tobytes()[:-4]) for row in rows], np.uint32)
