"""Sets of the same kind that were prepared before: how their sounds have changed since, and what of them
still holds.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ast_jax.datasets.extract import FEATURE_VERSION, Extraction, Record, identity, record
from ast_jax.datasets.listing import Clip, relative_to
from ast_jax.datasets.prepared import METADATA, PreparedSet
from ast_jax.errors import InputError


class Changes(NamedTuple):
    """Files that are other than when a set was prepared: how many hold something else, came or went."""

    changed: int
    new: int
    gone: int

    def told(self) -> str:
        """In words."""
        said = zip(self, ("changed since", "new", "gone"), strict=True)
        counts = [f"{count} {'file' if count == 1 else 'files'} {what}" for count, what in said if count]
        return ", ".join(counts) or "no file changed since"


def finished(home: Any, how: Extraction) -> Iterator[tuple[dict[str, Any], Any]]:
    """(metadata, directory) of each finished set in `home` that is stored as `how` says, the newest first."""
    found = []
    for path in home.glob(f"{how.kind}-*/[0-9]*.[0-9]*.[0-9]*/{METADATA}"):
        about = json.loads(path.read_text())
        stored = identity(about["kind"], about["channels"], about["cut_s"], about.get("front_end"))
        if (stored, about["feature_version"]) == (how.identity, FEATURE_VERSION):
            found.append((about, path.parent))
    yield from sorted(found, key=lambda each: each[0]["created"], reverse=True)


def outdated(about: Mapping[str, Any], directory: Any) -> bool:
    """Whether it is a set with events cut into pieces that have the labels of their whole files."""
    if about["cut_s"] is None or about.get("labels_of") == "pieces":
        return False
    prepared = PreparedSet(directory)
    return prepared.events(prepared.splits) is not None


def changes(prepared: PreparedSet, contents: Mapping[str, str]) -> Changes:
    """What became of the files of `prepared`, by the digests of those that are listed now."""
    root, old = prepared.metadata["source"], prepared.file_digests()
    now = {relative_to(path, root): digest for path, digest in contents.items()}
    both = old.keys() & now.keys()
    changed = sum(old[path] != now[path] for path in both)
    return Changes(changed, len(now.keys() - both), len(old.keys() - both))


def told(prepared: PreparedSet) -> str:
    """When it was prepared, and from where."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(prepared.metadata["created"]))
    return f"prepared on {when} from {prepared.metadata.get('source', 'sounds of a place it does not name')}"


class Earlier:
    """Records of files that are as they were, out of the sets prepared before."""

    def __init__(self, home: Any, how: Extraction):
        self._how = how
        self._sets = []
        for _, directory in finished(home, how):
            # A damaged one is left to the command that asks for it.
            with contextlib.suppress(InputError):
                prepared = PreparedSet(directory)
                if prepared.file_digests():
                    self._sets.append(_Stored(prepared))

    def has(self, digest: str) -> bool:
        """Whether a file of this digest need not be decoded again."""
        return any(digest in stored.places for stored in self._sets)

    def records(self, clip: Clip, digest: str) -> list[Record]:
        """The records of a clip whose file has this digest."""
        stored = next(stored for stored in self._sets if digest in stored.places)
        places, cut_s, rate = stored.places[digest], self._how.cut_s, self._how.front_end.sample_rate_hz
        whole = cut_s is None or (len(places) == 1 and not stored.id(places[0]).endswith("@0"))
        records = []
        for number, place in enumerate(places):
            # as `extract.pieces` marks them
            mark = "" if cut_s is None or whole else f"@{number * round(cut_s * rate) / rate:g}"
            records.append(record(clip, *stored.example(place), self._how, mark=mark, number=number))
        return records


class _Stored:
    """A prepared set by its files' digests."""

    def __init__(self, prepared: PreparedSet):
        self._prepared, self._data = prepared, "fbank" if prepared.kind == "log_mel" else "waveform"
        self._lengths = {split: prepared.num_samples(split) for split in prepared.splits}
        self._ids = {split: prepared.ids(split) for split in prepared.splits}

    @cached_property
    def _sources(self) -> dict[str, Any]:
        return {split: self._prepared.source(split) for split in self._prepared.splits}

    @cached_property
    def places(self) -> dict[str, list[tuple[str, int]]]:
        """{digest: where the examples of that file lie}; of several such files, the first one's."""
        digests = list(self._prepared.file_digests().values())
        found: dict[str, list[tuple[str, int]]] = {}
        of_file: dict[int, list[tuple[str, int]]] = {}
        for split in self._prepared.splits:
            for position, file in enumerate(self._prepared.files(split).tolist()):
                if file >= 0:
                    of_file.setdefault(file, []).append((split, position))
        for file, places in of_file.items():
            if digests[file]:
                found.setdefault(digests[file], places)
        return found

    def id(self, place: tuple[str, int]) -> str:
        return self._ids[place[0]][place[1]]

    def example(self, place: tuple[str, int]) -> tuple[np.ndarray, int]:
        """What is stored there, and its length in samples."""
        split, position = place
        example = self._sources[split][position]
        return example[self._data], int(self._lengths[split][position])
