"""What a data set is before preparing (a listing of clips) and after it (a handle on finished shards).

Letters: T frames, F mel bins, S samples, C classes, K labels of one clip.
"""

import copy
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from etils import epath
from jaxtyping import Int64

from ast_jax.errors import InputError

METADATA = "metadata.json"  # written last of the files a prepared directory holds
CLIPS = "clips.npz"  # ids, label sets and lengths, so that sampling needs no pass over the shards
SKIPPED = "skipped.csv"


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound file and its labels (indices into the listing's label names)."""

    id: str
    path: str
    labels: tuple[int, ...]


@dataclass
class Listing:
    """Every clip of a data set by split, in the order that the shards keep: by file name, then by path.

    `left_out` holds (path, reason, detail) of files that are nobody's fault, such as a text file in a class's folder: they are
    listed in skipped.csv but do not count towards `max_skipped`. `notes` goes into the metadata as it is.
    Raises InputError for no clips, two clips of one id, a label out of range, several labels in a single-label set.
    """

    name: str
    label_names: Sequence[str]
    multi_label: bool
    splits: Mapping[str, Sequence[Clip]]
    notes: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self):
        self.label_names = tuple(self.label_names)
        self.splits = {
            split: sorted(clips, key=lambda clip: (os.path.basename(clip.path), clip.path))
            for split, clips in self.splits.items()
            if clips
        }
        _check(self)

    def fingerprint(self, source_dir: str | os.PathLike, stored_as: str) -> str:
        """Twelve hex digits that change with the clips' paths under `source_dir`, byte sizes, labels, splits, or `stored_as`.

        A file whose content changes while its size stays is not noticed: reading every byte would cost as much as preparing.
        """
        digest = hashlib.sha256(json.dumps([stored_as, self.label_names, self.multi_label]).encode())
        root = root_of(source_dir)
        for split, clips in self.splits.items():
            for clip in clips:
                row = (split, clip.id, below(clip.path, root), _num_bytes(clip.path), clip.labels)
                digest.update(f"{row}\n".encode())
        return digest.hexdigest()[:12]


def _check(listing: Listing) -> None:
    if not listing.splits:
        raise InputError(f"{listing.name}: no clips found; check the source directory and its layout")
    if len(set(listing.label_names)) != len(listing.label_names):
        raise InputError(f"{listing.name}: a label name occurs twice among {', '.join(listing.label_names)}")
    seen: dict[str, str] = {}
    for split, clips in listing.splits.items():
        if not re.fullmatch(r"[A-Za-z]\w*", split) or split == "all":
            raise InputError(
                f"{listing.name}: split {split!r}: a split's name is letters, digits and _, and not 'all'"
            )
        for clip in clips:
            if clip.id in seen:
                raise InputError(
                    f"{listing.name}: two clips are called {clip.id!r}: {seen[clip.id]} and {clip.path}"
                )
            seen[clip.id] = clip.path
            if any(not 0 <= label < len(listing.label_names) for label in clip.labels):
                raise InputError(
                    f"{listing.name}: {clip.id}: labels {clip.labels} of {len(listing.label_names)} classes"
                )
            if not listing.multi_label and len(clip.labels) != 1:
                raise InputError(
                    f"{listing.name}: {clip.id}: {len(clip.labels)} labels, one wanted in a single-label set"
                )


def root_of(source_dir: str | os.PathLike) -> str:
    """The directory that paths are told relative to: a table's own directory if the source is a table."""
    return (
        os.path.dirname(os.path.abspath(source_dir))
        if os.path.isfile(source_dir)
        else os.path.abspath(source_dir)
    )


def below(path: str, root: str) -> str:
    """`path` relative to `root`, whole if it lies elsewhere. Not os.path.relpath, which takes ten times as long, for millions of clips."""
    path = os.path.abspath(path)
    return path[len(root) + 1 :] if path.startswith(root + os.sep) else path


def place(path: str | os.PathLike) -> Any:
    """A path, or a bucket's address such as gs://bucket/data, with a path's methods; reading one needs gcsfs."""
    return epath.Path(path) if "://" in os.fspath(path) else Path(path)


def _num_bytes(path: str) -> int:
    """Size of a regular file, -1 for anything else: the size of a directory differs between file systems."""
    if "://" in path:
        remote = epath.Path(path)
        return remote.stat().length if remote.exists() else -1
    try:
        status = os.stat(path)
    except OSError:  # no such file, or not for us to see: reading it will tell
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


class ClipSource:
    """Random access to the examples of one or several splits, one after the other; it can be pickled and shared by threads.

    `source[i]` is {'id': str, 'fbank': float16 [T, 128] or 'waveform': int16 [S], 'labels': int64 [K]}, arrays read-only.
    `labels`, one array an example, take the place of the stored ones.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        splits: Sequence[str],
        labels: Sequence[np.ndarray] | None = None,
    ):
        self._directory, self._splits, self._labels = os.fspath(directory), tuple(splits), labels
        self._close()

    def _close(self) -> None:
        self._lock = threading.Lock()
        self._parts: list | None = None
        self._ends = np.zeros(0, np.int64)

    def _open(self) -> list:
        with self._lock:
            if self._parts is None:
                import tensorflow_datasets as tfds

                builder = tfds.builder_from_directory(self._directory)
                parts = [builder.as_data_source(split) for split in self._splits]
                self._ends = np.cumsum([len(part) for part in parts])
                self._parts = parts
        return self._parts

    def __len__(self) -> int:
        self._open()
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        parts, i = self._parts or self._open(), index.__index__()
        if not 0 <= i < self._ends[-1]:
            raise IndexError(f"example {i} of {self._ends[-1]}")
        part = int(np.searchsorted(self._ends, i, side="right"))
        example = parts[part][i - (int(self._ends[part - 1]) if part else 0)]
        labels = example["labels"] if self._labels is None else self._labels[i]
        return {**example, "id": example["id"].decode(), "labels": labels}

    def __getstate__(self):
        return self._directory, self._splits, self._labels

    def __setstate__(self, state):
        self._directory, self._splits, self._labels = state
        self._close()

    def __repr__(self) -> str:
        return f"ClipSource({self._directory!r}, {self._splits})"


class PreparedSet:
    """A finished directory of shards, here or in a bucket, and what is known of it without reading them.

    Raises InputError if the directory holds no finished set, or if a shard is not as long as it was when it was written.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = place(directory)
        path = self.directory / METADATA
        if not path.is_file():
            raise InputError(
                f"{self.directory} holds no finished data set ({METADATA} is missing): prepare it first"
            )
        self.metadata: dict[str, Any] = json.loads(path.read_text())
        self.name: str = self.metadata["name"]
        self.kind: str = self.metadata["kind"]
        self.label_names: tuple[str, ...] = tuple(self.metadata["label_names"])
        self.multi_label: bool = self.metadata["multi_label"]
        self.splits: tuple[str, ...] = tuple(self.metadata["splits"])
        self._clips: dict[str, np.ndarray] = {}
        self._relabelled = False
        for file, size in self.metadata["files"].items():
            if _num_bytes(os.fspath(self.directory / file)) != size:
                raise InputError(
                    f"{self.directory / file} is damaged ({size} bytes wanted): delete its directory, prepare again"
                )

    def source(self, splits: str | Sequence[str]) -> ClipSource:
        """The examples of `splits`, one split after the other, each in the order of its listing."""
        return ClipSource(
            self.directory, self._known(splits), self.label_sets(splits) if self._relabelled else None
        )

    def with_labels(self, labels: Mapping[str, Sequence[Sequence[int]]]) -> "PreparedSet":
        """The same clips with other labels: {split: the labels of each of its clips, in the order of `ids`}. Shards stay as they are."""
        other = copy.copy(self)
        other._clips, other._relabelled = dict(self._columns()), True
        for split, sets in labels.items():
            other._clips[f"{split}/labels"] = np.array([label for own in sets for label in own], np.int64)
            other._clips[f"{split}/offsets"] = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        return other

    def num_examples(self, splits: str | Sequence[str]) -> int:
        return sum(self.metadata["splits"][split]["num_examples"] for split in self._known(splits))

    def class_counts(self, splits: str | Sequence[str]) -> Int64[np.ndarray, " C"]:
        """How many examples carry each label."""
        labels = np.concatenate([self._column(split, "labels") for split in self._known(splits)])
        return np.bincount(labels, minlength=len(self.label_names)).astype(np.int64)

    def statistics(self, splits: str | Sequence[str]) -> tuple[float, float]:
        """Mean and standard deviation over every cell of the clean, unpadded log-mel features, as they are stored.

        To nine decimals, so that the same clips give the same figures however splits group the sums.
        """
        sums = [self.metadata["splits"][split]["fbank"] for split in self._known(splits)]
        count, total, squares = (sum(s[key] for s in sums) for key in ("count", "sum", "sum_squares"))
        mean = total / count
        return round(mean, 9), round(float(np.sqrt(max(squares / count - mean**2, 0.0))), 9)

    def label_sets(self, splits: str | Sequence[str]) -> list[np.ndarray]:
        """Each example's labels, int64 [K], in the order of `source(splits)`."""
        sets: list[np.ndarray] = []
        for split in self._known(splits):
            sets += np.split(self._column(split, "labels"), self._column(split, "offsets")[1:-1])
        return sets

    def ids(self, splits: str | Sequence[str]) -> list[str]:
        """Each example's id, in the order of `source(splits)`."""
        return [i.decode() for split in self._known(splits) for i in self._column(split, "ids").tolist()]

    def num_samples(self, splits: str | Sequence[str]) -> Int64[np.ndarray, " N"]:
        """Each example's length in samples at 16 kHz, in the order of `source(splits)`."""
        return np.concatenate([self._column(split, "num_samples") for split in self._known(splits)])

    def _known(self, splits: str | Sequence[str]) -> tuple[str, ...]:
        splits = (splits,) if isinstance(splits, str) else tuple(splits)
        unknown = [split for split in splits if split not in self.splits]
        if unknown or not splits:
            raise InputError(
                f"{self.name}: no split {', '.join(map(repr, unknown)) or '(none given)'}; it has {', '.join(self.splits)}"
            )
        return splits

    def _column(self, split: str, column: str) -> np.ndarray:
        return self._columns()[f"{split}/{column}"]

    def _columns(self) -> dict[str, np.ndarray]:
        if not self._clips:
            with (self.directory / CLIPS).open("rb") as file, np.load(file) as arrays:
                self._clips = dict(arrays)
        return self._clips

    def __repr__(self) -> str:
        return f"PreparedSet({os.fspath(self.directory)!r})"
