"""A store of embeddings on disk, which grows by files and is searched exactly: a row each window.

R rows, D width. A directory of

- `about.json`: the model, its digest and how sounds are cut, written once;
- `vectors.f32`: rows of D float32 numbers of unit length, appended;
- `files.jsonl`: a line a file (its path, size, time of change, and when its windows begin and end), written
  after its rows are: what a crash tore off is cut away when the store next grows.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ast_jax.datasets.contents import look
from ast_jax.datasets.locking import alone
from ast_jax.errors import InputError

# Rows looked at at once: 64 MiB of 1,024 numbers.
_BLOCK = 8_192
ABOUT, VECTORS, FILES = "about.json", "vectors.f32", "files.jsonl"


@dataclass(frozen=True)
class Found:
    """A window like the query; `score` is the cosine (see `Store.search`), 1 for the same."""

    file: str
    start_s: float
    end_s: float
    score: float


class Store:
    """Opened for searching, and for growing (`growing`)."""

    def __init__(self, root: Path, about: dict[str, Any]):
        self.root, self.about = root, about
        self._files: list[dict[str, Any]] = [json.loads(line) for line in self._whole_lines().splitlines()]
        # as `_spelt` has them, which older ones did not
        for entry in self._files:
            entry["file"] = os.path.normpath(entry["file"])
        size = self._size(VECTORS)
        if size < (needed := self._needed()):
            raise InputError(f"{root / VECTORS} has {size} bytes, wanted {needed}: make the index again")
        # the newest line of a file counts
        self._newest = {entry["file"]: place for place, entry in enumerate(self._files)}

    @classmethod
    def open(cls, root: Path, about: dict[str, Any] | None = None) -> "Store":
        """The store at `root`, made where there is none and `about` says what it is to be.

        Raises InputError: no store there and nothing to make one of, or one that is about something else.
        """
        path = root / ABOUT
        if not path.is_file():
            if about is None:
                raise InputError(f"{root} holds no index: `index SOUNDS --model=RUN --out={root}` makes one")
            if root.is_dir() and any(root.iterdir()):
                raise InputError(f"{root} is not empty and holds no index: name another directory")
            root.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about, indent=1) + "\n")
        try:
            stored = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): make the index again") from None
        # of which weights it is: `check_model`
        asked = {key: value for key, value in (about or {}).items() if key != "digest"}
        if wrong := [key for key in asked if stored.get(key) != asked[key]]:
            raise InputError(
                f"the index {root} has {', '.join(f'{key} {stored.get(key)}' for key in wrong)}, asked for "
                f"{', '.join(str(asked[key]) for key in wrong)}: name another directory"
            )
        return cls(root, stored)

    def check_model(self, digest: str) -> None:
        """That its rows are of this very model (`LoadedModel.digest`); an older store does not say, which is
        told. Raises InputError for another one.
        """
        known, model = self.about.get("digest"), self.about["model"]
        if known is None:
            print(
                f"{self.root} does not say which weights it was made with: taken to be {model} as it is now",
                file=sys.stderr,
            )
        elif known != digest:
            raise InputError(
                f"the index {self.root} was made with {model} as it was ({known}), which is another model now"
                f" ({digest}): make the index again, in another directory"
            )

    @classmethod
    @contextmanager
    def growing(cls, root: Path, about: dict[str, Any]) -> Iterator["Store"]:
        """The same to be added to, by one process at a time; what a crash tore off is cut away first."""
        cls.open(root, about)
        with alone(root / "lock", f"{root} is being added to by another process: waiting for it"):
            store = cls.open(root, about)
            for name, whole in ((FILES, len(store._whole_lines())), (VECTORS, store._needed())):
                if store._size(name) > whole:
                    os.truncate(root / name, whole)
            yield store

    def has(self, file: Path) -> bool:
        """Whether the file is in it as it is now."""
        return _spelt(file) in self._newest and not self._state(_spelt(file))

    def add(self, file: Path, starts_s: Any, ends_s: Any, vectors: Float[np.ndarray, "R D"]) -> None:
        """A file's windows, in the place of those that it had before."""
        vectors = unit(vectors)
        if vectors.shape[1] != self.about["width"]:
            raise InputError(f"rows of {vectors.shape[1]}, and the index has {self.about['width']}")
        with (self.root / VECTORS).open("ab") as out:
            out.write(vectors.astype("<f4").tobytes())
            out.flush()
            os.fsync(out.fileno())
        entry: dict[str, Any] = {"file": _spelt(file), "stamp": look(_spelt(file))}
        entry |= {"starts_s": [float(x) for x in starts_s], "ends_s": [float(x) for x in ends_s]}
        with (self.root / FILES).open("a") as out:
            out.write(json.dumps(entry) + "\n")
        self._newest[entry["file"]] = len(self._files)
        self._files.append(entry)
        self.__dict__.pop("stale", None)

    def __len__(self) -> int:
        """Windows of all files as they were heard last."""
        return sum(len(self._files[place]["starts_s"]) for place in self._newest.values())

    def vectors(self) -> dict[str, Float[np.ndarray, "r D"]]:
        """Each file's rows, as they were heard last."""
        owner, _ = self._rows()
        held = np.memmap(self.root / VECTORS, "<f4", "r", shape=(len(owner), self.about["width"]))
        first = np.searchsorted(owner, np.arange(len(self._files) + 1))
        return {file: held[first[place] : first[place + 1]] for file, place in self._newest.items()}

    @cached_property
    def stale(self) -> dict[str, str]:
        """Files that are not as they were heard: {file: "gone" or "changed"}, at the first look."""
        return {file: state for file in self._newest if (state := self._state(file))}

    @property
    def num_files(self) -> int:
        """Files in it."""
        return len(self._newest)

    def search(
        self,
        query: Float[np.ndarray, " D"],
        most: int,
        *,
        once: bool = False,
        without: str = "",
        part_s: tuple[float, float] = (-np.inf, np.inf),
    ) -> list[Found]:
        """The windows nearest to `query`, best first, of equals the earlier one.

        By the cosine between embeddings in which each number has mean 0 and deviation 1 over the index: those
        of one model all point much the same way. With `once`, each file's best window alone; `without` leaves
        out a file's windows that overlap `part_s`. Files that are `stale` are not found. Reads a block of
        rows at a time.
        """
        owner, place = self._rows()
        scores = np.full(len(owner), -np.inf, np.float32)
        old = np.array([self._newest[entry["file"]] != i for i, entry in enumerate(self._files)], bool)
        gone = np.array([entry["file"] in self.stale for entry in self._files], bool)
        hidden = (old | gone)[owner]
        if (queried := self._newest.get(without)) is not None:
            starts, ends = (np.array(self._files[queried][key]) for key in ("starts_s", "ends_s"))
            hidden[owner == queried] |= (starts < part_s[1]) & (ends > part_s[0])
        if len(owner):
            mean, deviation = self._statistics(~old[owner])
            wanted = unit((unit(query[None]) - mean) / deviation)[0]
            for first, rows in self._blocks():
                scores[first : first + len(rows)] = unit((rows - mean) / deviation) @ wanted
        scores[hidden] = -np.inf
        found: list[Found] = []
        seen: set[int] = set()
        for row in np.argsort(-scores, kind="stable"):
            if len(found) == most or scores[row] == -np.inf:
                break
            if once and int(owner[row]) in seen:
                continue
            seen.add(int(owner[row]))
            entry, i = self._files[owner[row]], place[row]
            found.append(
                Found(entry["file"], entry["starts_s"][i], entry["ends_s"][i], round(float(scores[row]), 6))
            )
        return found

    def _state(self, file: str) -> str:
        """What has become of a file that is in it: "gone", "changed" or nothing."""
        now = look(file)
        if now is None:
            return "gone"
        return "" if now == tuple(self._files[self._newest[file]]["stamp"] or ()) else "changed"

    def _blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "R D"]]]:
        """All rows, so many at a time, each with the number of its first one."""
        shape = (sum(len(entry["starts_s"]) for entry in self._files), self.about["width"])
        held = np.memmap(self.root / VECTORS, "<f4", "r", shape=shape)
        for first in range(0, len(held), _BLOCK):
            yield first, held[first : first + _BLOCK].astype(np.float64)

    def _statistics(
        self, counted: Bool[np.ndarray, " R"]
    ) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
        """Mean and deviation of each number over the rows that count; 1 for one that is always the same."""
        count = int(counted.sum())
        total, squares = np.zeros((2, self.about["width"]))
        for first, rows in self._blocks():
            chosen = rows[counted[first : first + len(rows)]]
            total, squares = total + chosen.sum(axis=0), squares + np.square(chosen).sum(axis=0)
        mean = total / count
        variance = np.maximum(squares / count - np.square(mean), 0)
        # float32's rounding of numbers up to 1
        return mean, np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 1e-12)), 1.0)

    def _rows(self) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        """Of each row: its line of `files.jsonl`, and which of that file's windows it is."""
        counts = np.array([len(entry["starts_s"]) for entry in self._files], np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)

    def _whole_lines(self) -> bytes:
        """Those of the files that were written to their end."""
        listed = self.root / FILES
        held = listed.read_bytes() if listed.exists() else b""
        return held[: held.rfind(b"\n") + 1]

    def _needed(self) -> int:
        """Bytes of the rows of these files."""
        return 4 * self.about["width"] * sum(len(entry["starts_s"]) for entry in self._files)

    def _size(self, name: str) -> int:
        path = self.root / name
        return path.stat().st_size if path.exists() else 0


def unit(vectors: Float[np.ndarray, "R D"]) -> Float[np.ndarray, "R D"]:
    """Each row at length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _spelt(file: Path) -> str:
    """Its path in the one form in which files are known: absolute, without `..`."""
    return os.path.abspath(file)
