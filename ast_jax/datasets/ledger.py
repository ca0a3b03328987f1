"""What is noted while shards are written, and where it goes: metadata.json, clips.npz, skipped.csv."""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fsencode
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.datasets.extract import FEATURE_VERSION, Extraction, Record
from ast_jax.datasets.listing import Clip, Listing, relative_to, source_root
from ast_jax.datasets.prepared import CLIPS, METADATA, SKIPPED
from ast_jax.datasets.workers import Outcome, Unreadable
from ast_jax.errors import InputError, printable


@dataclass
class _Split:
    ids: list[str] = field(default_factory=list)
    labels: list[tuple[int, ...]] = field(default_factory=list)
    num_samples: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    # (example, onset, offset, label) of each event; examples of which events are known
    events: list[tuple[int, float, float, int]] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    # the classes judged of each example; None: all of them
    judged: list[Sequence[int] | None] = field(default_factory=list)
    cells: int = 0
    total: float = 0.0
    squares: float = 0.0


class Ledger:
    """Collects records and skipped clips of one listing, in the order they are written."""

    def __init__(
        self, listing: Listing, source_dir: str | PathLike, contents: Mapping[str, str], rate_hz: int
    ):
        """`contents`: each file's digest (`contents.digests`); `rate_hz`: of the samples that are counted."""
        self.rate_hz = rate_hz
        self.listing, self.contents = listing, contents
        # clips whose records come from a set prepared before
        self.num_kept = 0
        self._file_of = {path: file for file, path in enumerate(contents)}
        self.root = source_root(source_dir)
        self.splits = {split: _Split() for split in listing.splits}
        self.skipped: list[tuple[str, str, str, str]] = []
        # of clips that were heard, but are not what their files say
        self.notes: list[tuple[str, str, str, str]] = []
        # of events that are in no record of their clip
        self.unheard: list[tuple[str, str, str, str]] = []
        # pieces of clips of which it is known what is heard and not when
        self.num_vague = 0
        self.start()

    def start(self) -> None:
        """Sets the clock from which clips a second are counted."""
        self.started = time.monotonic()

    @property
    def num_clips(self) -> int:
        return sum(len(clips) for clips in self.listing.splits.values())

    def note(self, split: str, clip: Clip, outcome: Outcome) -> list[Record]:
        """Adds a clip's records, or why there are none; returns the records."""
        if isinstance(outcome, Unreadable):
            self.skip(clip, *outcome)
            return []
        for record in outcome:
            self.add(split, record, self._file_of[clip.path])
            events = clip.events_in(record.start_s, record.num_samples / self.rate_hz)
            books = self.splits[split]
            books.events += [(len(books.known), *event) for event in events or ()]
            books.known.append(events is not None)
            books.judged.append(self._judged(clip, piece=record.id != clip.id))
        self._note_unheard(clip, outcome)
        return outcome

    def _judged(self, clip: Clip, piece: bool) -> Sequence[int] | None:
        """The classes that are known of a record; of a piece of a clip of which nobody knows when its labels
        are heard, all but these.
        """
        known = None if self.listing.known is None else self.listing.known.get(clip.id)
        if not (piece and clip.timed and clip.events is None and clip.labels):
            return known
        self.num_vague += 1
        classes = range(len(self.listing.label_names)) if known is None else known
        return [label for label in classes if label not in clip.labels]

    def _note_unheard(self, clip: Clip, records: Sequence[Record]) -> None:
        ends_s = [record.start_s + record.num_samples / self.rate_hz for record in records]
        end_s = max(ends_s, default=0.0)
        for onset_s, _, label in clip.events or ():
            if onset_s >= end_s:
                name = self.listing.label_names[label]
                detail = f"{name} at {onset_s:g} s: what is stored of its file ends at {end_s:g} s"
                self.unheard.append((clip.id, "", "event left out", detail))

    def add(self, split: str, record: Record, file: int) -> None:
        books = self.splits[split]
        # What was heard otherwise than its file says is decoded again another time, and told again.
        books.files.append(-1 if record.note else file)
        if record.note:
            self.notes.append((record.id, "", "heard", record.note))
        books.ids.append(record.id)
        books.labels.append(record.labels)
        books.num_samples.append(record.num_samples)
        books.cells += record.cells
        books.total += record.total
        books.squares += record.squares

    def skip(self, clip: Clip, reason: str, detail: str) -> None:
        self.skipped.append((clip.id, clip.path, reason, detail))

    def check(self, max_skipped: float, list_path: Path) -> None:
        """Raises InputError if too large a share was skipped, or all of a split.

        `list_path` then lists them.
        """
        share = len(self.skipped) / self.num_clips
        emptied = [split for split, books in self.splits.items() if not books.ids]
        if share <= max_skipped and not emptied:
            return
        self.write_skipped(list_path)
        first = "; ".join(f"{Path(path).name}: {reason}" for _, path, reason, _ in self.skipped[:3])
        wanted = f"split {emptied[0]} has none left" if emptied else f"max_skipped allows {max_skipped:.1%}"
        raise InputError(
            f"{self.listing.name}: {len(self.skipped)} of {self.num_clips} clips ({share:.1%}) cannot be "
            f"read, {wanted}. First: {first}. All are listed in {list_path}: mend or remove them, or raise "
            "config.dataset.max_skipped"
        )

    def write(self, directory: Path, dataset: str, how: Extraction, options: dict) -> None:
        """Writes the three files beside the shards in `directory`, metadata.json last."""
        self.write_skipped(directory / SKIPPED)
        np.savez(directory / CLIPS, **self._columns())
        files = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
        metadata = {
            "name": self.listing.name,
            "dataset": dataset,
            "kind": how.kind,
            "channels": how.channels,
            "cut_s": how.cut_s,
            "front_end": how.front_end.card(),
            "labels_of": "pieces" if how.cut_s is not None and self.listing.events is not None else "clips",
            "feature_version": FEATURE_VERSION,
            "options": options,
            "created": time.time(),
            "source": self.root,
            "seconds": round(time.monotonic() - self.started, 3),
            "multi_label": self.listing.multi_label,
            "num_clips": self.num_clips,
            "num_skipped": len(self.skipped),
            "num_left_out": len(self.listing.left_out),
            "num_noted": len(self.notes),
            "num_kept": self.num_kept,
            # Below one frame, to which the front end pads them.
            "num_short": sum(
                length < how.front_end.frame_length
                for books in self.splits.values()
                for length in books.num_samples
            ),
            "notes": {**self.listing.notes, **({"told": told} if (told := self._told()) else {})},
            "splits": {split: self._summary(split) for split in self.splits},
            "label_names": self.listing.label_names,
            "files": files,
        }
        (directory / METADATA).write_text(json.dumps(metadata, indent=1))

    def _told(self) -> list[str]:
        unheard, vague = len(self.unheard), self.num_vague
        told = list(self.listing.notes.get("told", ()))
        if unheard:
            told.append(f"{unheard} events begin after the end of what is stored: left out, see {SKIPPED}")
        if vague:
            told.append(
                f"{vague} pieces are of files of which it is not known when: their labels are unknown"
            )
        return told

    def _summary(self, split: str) -> dict:
        books = self.splits[split]
        counts = np.zeros(len(self.listing.label_names), int)
        for labels in books.labels:
            counts[list(labels)] += 1
        fbank = {"count": books.cells, "sum": books.total, "sum_squares": books.squares}
        return {"num_examples": len(books.ids), "fbank": fbank, "class_counts": counts.tolist()}

    def _columns(self) -> dict[str, Any]:
        paths = [relative_to(path, self.root) for path in self.contents]
        columns: dict[str, Any] = {
            "files/paths": np.array([fsencode(path) for path in paths]),
            "files/digests": np.array([digest.encode() for digest in self.contents.values()], "S"),
        }
        partly = self.listing.known is not None or self.num_vague > 0
        for split, books in self.splits.items():
            columns[f"{split}/ids"] = np.array([i.encode() for i in books.ids])
            columns[f"{split}/labels"] = np.array(
                [label for labels in books.labels for label in labels], np.int64
            )
            columns[f"{split}/offsets"] = np.cumsum(
                [0, *(len(labels) for labels in books.labels)], dtype=np.int64
            )
            columns[f"{split}/num_samples"] = np.array(books.num_samples, np.int64)
            columns[f"{split}/files"] = np.array(books.files, np.int64)
            if self.listing.events is not None:
                columns[f"{split}/events"] = np.array(books.events, np.float64).reshape(-1, 4)
                columns[f"{split}/events_known"] = np.array(books.known, bool)
            if partly:
                columns[f"{split}/known"] = self._packed(books.judged)
        return columns

    def _packed(self, judged: Sequence[Sequence[int] | None]) -> np.ndarray:
        """A bit for each example and class: whether it is known if the class is there."""
        known = np.zeros((len(judged), len(self.listing.label_names)), bool)
        for row, classes in zip(known, judged, strict=True):
            row[slice(None) if classes is None else list(classes)] = True
        return np.packbits(known, axis=1)

    def write_skipped(self, path: Path) -> None:
        """A row for each clip that could not be read, then one for each that was heard though its file says
        otherwise, one for each event after its file's end, then one for each file left out.

        Paths are relative to the source.
        """
        left_out = (("", path, *why) for path, *why in self.listing.left_out)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "path", "reason", "detail"))
            for id, clip_path, *why in (*self.skipped, *self.notes, *self.unheard, *left_out):
                shown = printable(clip_path and relative_to(clip_path, self.root))
                rows.writerow((id, shown, *(printable(word) for word in why)))
