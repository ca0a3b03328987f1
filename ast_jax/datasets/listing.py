"""What a data set is before preparing: clips by split, each a sound file and its labels."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etils import epath

from ast_jax.errors import InputError

# Onset and offset in seconds, and the index of a label.
Span = tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound file and its labels (indices into the listing's label names).

    Of a set with events a Listing says in `timed` that labels hold somewhere in the file, and in `events`
    where, if that is known; else they hold of the file and of whatever it is cut into.
    """

    id: str
    path: str
    labels: tuple[int, ...]
    events: tuple[Span, ...] | None = None
    timed: bool = False

    def events_in(self, start_s: float, length_s: float) -> list[Span] | None:
        """Of a part of the file the events that reach into it, from its own beginning on; None: not known."""
        if self.events is None:
            return None
        end_s = start_s + length_s
        return [
            (max(0.0, onset - start_s), min(length_s, offset - start_s), label)
            for onset, offset, label in self.events
            if onset < end_s and offset > start_s
        ]

    def labels_in(self, start_s: float, length_s: float, piece: bool) -> tuple[int, ...]:
        """Those of a part of the file; none of a `piece` if nobody knows which of the labels are its own."""
        events = self.events_in(start_s, length_s)
        if events is not None:
            return tuple(sorted({label for _, _, label in events}))
        return () if self.timed and piece else self.labels


@dataclass
class Listing:
    """Every clip of a data set by split, in the order that the shards keep: by file name, then by path.

    `left_out` holds (path, reason, detail) of files that are nobody's fault, such as a text file in a class's
    folder: they are listed in skipped.csv but do not count towards `max_skipped`. `notes` goes into the
    metadata as it is. `events` has, by a clip's id, (onset, offset, label) in seconds of each event in it,
    where that is known; a clip that is not there has labels alone. What is stored of a clip with events has
    the labels of those that reach into it; of a piece of one with labels alone these are not known. `known`
    has, by a clip's id, the classes that were judged of it: of the others nobody said whether they are there.
    A clip that is not there is known as a whole; one with () has no label of any kind, also in a single-label
    set. `drawn` is whether the splits were drawn here, because nobody gave any.

    Raises InputError for no clips, two clips of one id, a label out of range or not among the classes that
    were judged, several labels in a single-label set, events in one.
    """

    name: str
    label_names: Sequence[str]
    multi_label: bool
    splits: Mapping[str, Sequence[Clip]]
    notes: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    events: Mapping[str, Sequence[Span]] | None = None
    known: Mapping[str, Sequence[int]] | None = None
    drawn: bool = False

    def __post_init__(self):
        self.label_names = tuple(self.label_names)
        self.splits = {
            split: sorted(clips, key=lambda clip: (os.path.basename(clip.path), clip.path))
            for split, clips in self.splits.items()
            if clips
        }
        if self.events is not None:
            self.splits = {
                split: [replace(clip, timed=True, events=_spans(self.events.get(clip.id))) for clip in clips]
                for split, clips in self.splits.items()
            }
        if self.known is not None:
            self.known = {id: tuple(sorted(set(classes))) for id, classes in self.known.items()}
        _check(self)

    @property
    def clips(self) -> list[Clip]:
        """All of them, split by split."""
        return [clip for clips in self.splits.values() for clip in clips]

    def fingerprint(
        self, source_dir: str | os.PathLike, stored_as: str, contents: Mapping[str, str] | None = None
    ) -> str:
        """Twelve hex digits that tell listings apart, and how they are stored (`stored_as`).

        They change with the clips' paths under `source_dir`, labels and splits, and with what the files hold:
        `contents` has a digest for each path (`contents.digests`). Without these it is their byte sizes, as
        sets were named before.
        """
        digest = hashlib.sha256(json.dumps([stored_as, self.label_names, self.multi_label]).encode())
        root = source_root(source_dir)
        for split, clips in self.splits.items():
            for clip in clips:
                held = num_bytes(clip.path) if contents is None else contents[clip.path]
                row: tuple = (split, clip.id, relative_to(clip.path, root), held, clip.labels)
                if self.events is not None:
                    row += (self.events.get(clip.id),)
                if self.known is not None:
                    row += ("known", self.known.get(clip.id))
                digest.update(f"{row}\n".encode())
        return digest.hexdigest()[:12]


def _spans(events: Sequence[Span] | None) -> tuple[Span, ...] | None:
    return None if events is None else tuple(events)


def _check(listing: Listing) -> None:
    if not listing.splits:
        raise InputError(f"{listing.name}: no clips found; check the source directory and its layout")
    if len(set(listing.label_names)) != len(listing.label_names):
        raise InputError(f"{listing.name}: a label name occurs twice among {', '.join(listing.label_names)}")
    if listing.events is not None and not listing.multi_label:
        raise InputError(
            f"{listing.name}: a single-label set with events: a piece may have none, or several: give "
            "multi_label=True"
        )
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
            known = None if listing.known is None else listing.known.get(clip.id)
            if any(not 0 <= label < len(listing.label_names) for label in (*clip.labels, *(known or ()))):
                raise InputError(
                    f"{listing.name}: {clip.id}: labels {clip.labels} of {len(listing.label_names)} classes"
                )
            if known is not None and (strange := set(clip.labels) - set(known)):
                raise InputError(
                    f"{listing.name}: {clip.id}: labels {sorted(strange)}, of which nothing is known"
                )
            if not listing.multi_label and (known or len(clip.labels) != (known is None)):
                raise InputError(
                    f"{listing.name}: {clip.id}: {len(clip.labels)} labels, one wanted in a single-label set"
                    + ("" if known is None else ", or none and nothing known")
                )


def source_root(source_dir: str | os.PathLike) -> str:
    """The directory that paths are told relative to: a table's own directory if the source is a table."""
    return (
        os.path.dirname(os.path.abspath(source_dir))
        if os.path.isfile(source_dir)
        else os.path.abspath(source_dir)
    )


def relative_to(path: str, root: str) -> str:
    """`path` relative to `root`, whole if it lies elsewhere.

    Not os.path.relpath, which takes ten times as long, for millions of clips.
    """
    path = os.path.abspath(path)
    return path[len(root) + 1 :] if path.startswith(root + os.sep) else path


def num_bytes(path: str) -> int:
    """Size of a regular file, -1 for anything else: the size of a directory differs between file systems."""
    if "://" in path:
        remote = epath.Path(path)
        return remote.stat().length if remote.exists() else -1
    try:
        status = os.stat(path)
    except OSError:  # no such file, or not for us to see: reading it will tell
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
