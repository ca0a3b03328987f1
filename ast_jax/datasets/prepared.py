"""What a data set is after preparing: a handle on a finished directory of shards.

Letters: T frames, F mel bins, S samples, C classes, K labels of one clip.
"""

import contextlib
import copy
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from etils import epath
from jaxtyping import Bool, Int64

from ast_jax import system
from ast_jax.datasets.extract import from_int16, identity, sums
from ast_jax.datasets.listing import num_bytes
from ast_jax.errors import InputError
from ast_jax.features import REFERENCE, FrontEnd
from ast_jax.features.front_end import from_card
from ast_jax.terminal import write_json

# Written last of the files a prepared directory holds.
METADATA = "metadata.json"
# Ids, label sets and lengths, so that sampling needs no pass over the shards.
CLIPS = "clips.npz"
SKIPPED = "skipped.csv"


def path_or_bucket(path: str | os.PathLike) -> Any:
    """A path, or a bucket's address (gs://bucket/data) with a path's methods; reading one needs gcsfs."""
    return epath.Path(path) if "://" in os.fspath(path) else Path(path)


class ClipSource:
    """Random access to the examples of one or several splits, one after the other.

    It can be pickled and shared by threads. `source[i]` is {'id': str, 'fbank': float16 [T, F] or 'waveform':
    int16 [S], 'labels': int64 [K]}, arrays read-only. `labels`, one array an example, take the place of the
    stored ones; `events`, likewise, are beside them: 'events' [n, 3], onset and offset in seconds and label,
    where they are known; so is `known`: 'known' bool [C], for which classes it is known if they are there.
    `chosen` are the positions of the examples there are, all of them by default.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        splits: Sequence[str],
        labels: Sequence[np.ndarray] | None = None,
        events: Sequence[np.ndarray | None] | None = None,
        known: Bool[np.ndarray, "N C"] | None = None,
        chosen: np.ndarray | None = None,
    ):
        self._directory, self._splits, self._labels = os.fspath(directory), tuple(splits), labels
        self._events, self._known, self._chosen = events, known, chosen
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
        return int(self._ends[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        parts, i = self._parts or self._open(), index.__index__()
        if not 0 <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        place = i if self._chosen is None else int(self._chosen[i])
        part = int(np.searchsorted(self._ends, place, side="right"))
        example = parts[part][place - (int(self._ends[part - 1]) if part else 0)]
        labels = example["labels"] if self._labels is None else self._labels[i]
        events = None if self._events is None else self._events[i]
        own = {} if events is None else {"events": events}
        own |= {} if self._known is None else {"known": self._known[i]}
        return {**example, "id": example["id"].decode(), "labels": labels, **own}

    def __getstate__(self):
        return self._directory, self._splits, self._labels, self._events, self._known, self._chosen

    def __setstate__(self, state):
        self._directory, self._splits, self._labels, self._events, self._known, self._chosen = state
        self._close()

    def __repr__(self) -> str:
        return f"ClipSource({self._directory!r}, {self._splits})"


class PreparedSet:
    """A finished directory of shards, here or in a bucket, and what is known of it without reading them.

    Raises InputError if the directory holds no finished set, or if a shard is not as long as it was when it
    was written.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = path_or_bucket(directory)
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
        # by the name of a split that is made of others': these, and positions among their examples
        self._parts: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        self._front_end: FrontEnd | None = None
        # When it was prepared and what became of its sounds since, where whoever opened it has compared them.
        self.told = ""
        for file, size in self.metadata["files"].items():
            if num_bytes(os.fspath(self.directory / file)) != size:
                raise InputError(
                    f"{self.directory / file} is damaged ({size} bytes wanted): "
                    "delete its directory, prepare again"
                )

    @property
    def front_end(self) -> FrontEnd:
        """What its features are made with: by which it was prepared, or that of `with_front_end`."""
        return self._front_end or from_card(self.metadata.get("front_end"))

    def with_front_end(self, front_end: FrontEnd) -> "PreparedSet":
        """The same clips for `front_end`.

        Raises InputError if its shards hold other features, or another sample rate.
        """
        about = self.metadata
        same = (self.kind, about["channels"], about["cut_s"])
        stored, wanted = identity(*same, about.get("front_end")), identity(*same, front_end.card())
        if stored != wanted:
            raise InputError(f"{self.directory} holds {stored}, wanted {wanted}: prepare the set again")
        other = copy.copy(self)
        other._front_end = front_end
        return other

    def source(self, splits: str | Sequence[str]) -> ClipSource:
        """The examples of `splits`, one split after the other, each in the order of its listing."""
        named = self._named(splits)
        labels = self.label_sets(splits) if self._relabelled or named[0] in self._parts else None
        stored, chosen = self._parts.get(named[0], (named, None))
        return ClipSource(self.directory, stored, labels, self.events(splits), self.known(splits), chosen)

    def events(self, splits: str | Sequence[str]) -> list[np.ndarray | None] | None:
        """Each example's events [n, 3] (onset and offset in seconds, label), in the order of
        `source(splits)`; None for one of which they are not known, and for a set without any.
        """
        found: list[np.ndarray | None] = []
        for split in self._named(splits):
            if split in self._parts:
                stored, positions = self._parts[split]
                all_events = self.events(stored)
                if all_events is None:
                    return None
                found += [all_events[i] for i in positions]
                continue
            if f"{split}/events" not in self._columns():
                return None
            events, known = self._column(split, "events"), self._column(split, "events_known")
            ends = np.searchsorted(events[:, 0], np.arange(len(known) + 1))
            pieces = (events[a:b, 1:] for a, b in itertools.pairwise(ends))
            found += [own if sure else None for own, sure in zip(pieces, known.tolist(), strict=True)]
        return found

    def known(self, splits: str | Sequence[str]) -> Bool[np.ndarray, "N C"] | None:
        """Of each example, in the order of `source(splits)`, of which classes it is known whether they are
        there; None where everything is known of all of them.
        """
        columns = [f"{split}/known" for split in self._named(splits)]
        if not any(column in self._columns() for column in columns):
            return None
        packed = np.concatenate([self._columns()[column] for column in columns])
        known = np.unpackbits(packed, axis=1, count=len(self.label_names)).astype(bool)
        return None if known.all() else known

    def known_counts(self, splits: str | Sequence[str]) -> Int64[np.ndarray, " C"]:
        """Of how many examples it is known whether they have each label."""
        known = self.known(splits)
        if known is None:
            return np.full(len(self.label_names), self.num_examples(splits), np.int64)
        return known.sum(axis=0, dtype=np.int64)

    def with_labels(
        self,
        labels: Mapping[str, Sequence[Sequence[int]]],
        told: Mapping[str, Sequence[int]] | None = None,
    ) -> "PreparedSet":
        """The same clips with other labels: {split: the labels of each of its clips, in the order of `ids`}.

        `told` has the places of those of which everything is known now. Shards stay as they are.
        """
        other = self._with_label_sets(labels)
        other._relabelled = True
        for split, places in (told or {}).items():
            if f"{split}/known" in other._clips:
                packed = other._clips[f"{split}/known"].copy()
                packed[list(places)] = 255
                other._clips[f"{split}/known"] = packed
        return other

    def _with_label_sets(self, labels: Mapping[str, Sequence[Any]]) -> "PreparedSet":
        other = copy.copy(self)
        other._clips = dict(self._columns())
        for split, sets in labels.items():
            other._clips[f"{split}/labels"] = np.array([label for own in sets for label in own], np.int64)
            other._clips[f"{split}/offsets"] = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        return other

    def with_parts(self, of: Sequence[str], parts: Mapping[str, np.ndarray]) -> "PreparedSet":
        """The same with more splits: {name: positions among the examples of the splits `of`}. Mean and
        deviation of each are those of all of `of`. Such a split is read by itself, not beside others.
        """
        other, stored = copy.copy(self), self._named(of)
        other._clips, other._parts = dict(self._columns()), dict(self._parts)
        other.splits, about = (*self.splits, *parts), dict(self.metadata["splits"])
        sums = [self._sums(split) for split in stored]
        whole = {key: sum(each[key] for each in sums) for key in ("count", "sum", "sum_squares")}
        for name, positions in parts.items():
            other._parts[name] = stored, positions
            about[name] = {"num_examples": len(positions), "fbank": whole}
            for column in ("ids", "files", "num_samples", "known"):
                if all(f"{split}/{column}" in self._columns() for split in stored):
                    values = np.concatenate([self._column(split, column) for split in stored])
                    other._clips[f"{name}/{column}"] = values[positions]
        other.metadata = {**self.metadata, "splits": about}
        labels = self.label_sets(of)
        chosen = {name: [labels[i] for i in positions] for name, positions in parts.items()}
        return other._with_label_sets(chosen)

    def num_examples(self, splits: str | Sequence[str]) -> int:
        return sum(self.metadata["splits"][split]["num_examples"] for split in self._named(splits))

    def class_counts(self, splits: str | Sequence[str]) -> Int64[np.ndarray, " C"]:
        """How many examples carry each label."""
        labels = np.concatenate([self._column(split, "labels") for split in self._named(splits)])
        return np.bincount(labels, minlength=len(self.label_names)).astype(np.int64)

    def statistics(self, splits: str | Sequence[str]) -> tuple[float, float]:
        """Mean and standard deviation over every cell of the clean, unpadded features, as they are stored.

        To nine decimals, so that the same clips give the same figures however splits group the sums.
        """
        parts = [self._sums(split) for split in self._named(splits)]
        count, total, squares = (sum(part[key] for part in parts) for key in ("count", "sum", "sum_squares"))
        mean = total / count
        return round(mean, 9), round(float(np.sqrt(max(squares / count - mean**2, 0.0))), 9)

    def _sums(self, split: str) -> dict[str, int | float]:
        """Known since preparing; or, of waveforms for another front end, measured once and kept."""
        if split in self._parts:
            return self.metadata["splits"][split]["fbank"]
        told = lambda card: json.dumps(card, sort_keys=True)
        stored = told(self.metadata.get("front_end") or REFERENCE.card())
        if self._front_end is None or told(self._front_end.card()) == stored:
            return self.metadata["splits"][split]["fbank"]
        digest = hashlib.sha256(told(self._front_end.card()).encode()).hexdigest()
        path = self.directory / f"statistics-{digest[:12]}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if split not in kept:
            kept[split] = dict(zip(("count", "sum", "sum_squares"), self._measured(split), strict=True))
            with contextlib.suppress(OSError):  # not ours to write to: measured again then
                write_json(path, kept)
        return kept[split]

    def _measured(self, split: str) -> list[int | float]:
        source, front_end, cores = self.source(split), self.front_end, system.cores()

        def total(positions: Iterable[int]) -> list[int | float]:
            waveforms = (from_int16(source[i]["waveform"]) for i in positions)
            parts = (sums(front_end.features(waveform).astype(np.float64)) for waveform in waveforms)
            return [sum(part) for part in zip(*parts, strict=True)]

        with ThreadPoolExecutor(cores) as pool:
            shares = pool.map(total, (range(core, len(source), cores) for core in range(cores)))
            return [sum(share) for share in zip(*filter(None, shares), strict=True)]

    def label_sets(self, splits: str | Sequence[str]) -> list[np.ndarray]:
        """Each example's labels, int64 [K], in the order of `source(splits)`."""
        sets: list[np.ndarray] = []
        for split in self._named(splits):
            sets += np.split(self._column(split, "labels"), self._column(split, "offsets")[1:-1])
        return sets

    def ids(self, splits: str | Sequence[str]) -> list[str]:
        """Each example's id, in the order of `source(splits)`."""
        return [i.decode() for split in self._named(splits) for i in self._column(split, "ids").tolist()]

    def file_digests(self) -> dict[str, str]:
        """{path below metadata's `source`, whole elsewhere: digest} of the files it was made from.

        Nothing, where it was prepared before these were kept.
        """
        columns = self._columns()
        if "files/paths" not in columns:
            return {}
        paths = map(os.fsdecode, columns["files/paths"].tolist())
        return dict(
            zip(paths, (digest.decode() for digest in columns["files/digests"].tolist()), strict=True)
        )

    def files(self, split: str) -> Int64[np.ndarray, " N"]:
        """The file of each example, a position in `file_digests`; -1 if it was heard otherwise than said."""
        return self._column(split, "files")

    def num_samples(self, splits: str | Sequence[str]) -> Int64[np.ndarray, " N"]:
        """Each example's length in samples at the front end's rate, in the order of `source(splits)`."""
        return np.concatenate([self._column(split, "num_samples") for split in self._named(splits)])

    def _named(self, splits: str | Sequence[str]) -> tuple[str, ...]:
        splits = (splits,) if isinstance(splits, str) else tuple(splits)
        unknown = [split for split in splits if split not in self.splits]
        if unknown or not splits:
            raise InputError(
                f"{self.name}: no split {', '.join(map(repr, unknown)) or '(none given)'}; "
                f"it has {', '.join(self.splits)}"
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
