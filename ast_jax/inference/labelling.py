"""A sitting of labelling: which clip to hear next, what was answered, what a classifier makes of it so far.

N clips, D width. The table is a CSV (file, labels, split, and group where there are groups) that `folder`
takes, written whole at every answer. Every fifth clip is drawn at random and held out (split `test`): how
well the classifier does on those is what it would do on the rest, which the others, chosen because they are
hard, do not say. What it would do on a new recording groups alone say: pieces of one are alike.
"""

import csv
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ast_jax.datasets.folds import group_called
from ast_jax.errors import InputError, printable
from ast_jax.inference.store import unit
from ast_jax.terminal import write_whole
from ast_jax.text_tables import composed, read_table

COLUMNS = ("file", "labels", "split")
# a fourth one, of whose each clip is
GROUP = "group"
# of what is not held out, and of what is
SPLITS = ("train", "test")
# of so many answers one is of a clip drawn at random, held out; of so many groups one is
HELD_OUT = 5
# of earlier sittings, so many points of the curve are found again
EARLIER_POINTS = 12
# of very many clips, so many are compared, with so many that they would speak for
MOST_LOOKED_AT, MOST_SPOKEN_FOR = 5_000, 2_000
# how long a clip that one page shows is kept from the others
SHOWN_S = 600.0
# inverse strength of the regularisation, on standardised embeddings
_C = 0.1


class Taken(Exception):
    """A clip that somebody else has labelled meanwhile; its text says as what."""


@dataclass(frozen=True)
class Clip:
    """What is to be heard: its number, why it is this one, and the likeliest classes with their shares."""

    number: int
    file: str
    why: str
    guesses: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Fitted:
    """A classifier of the answers so far, on the clips."""

    classes: list[str]
    kernel: Float[np.ndarray, "D C"]
    bias: Float[np.ndarray, " C"]

    def shares(self, vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N C"]:
        """Probabilities of the classes."""
        return softmax(vectors @ self.kernel + self.bias, axis=1)


def fitted(vectors: Float[np.ndarray, "N D"], labels: Sequence[str]) -> Fitted | None:
    """Logistic regression on standardised embeddings; nothing of one class alone."""
    from ast_jax.inference.probe import regression

    if len(classes := sorted(set(labels))) < 2:
        return None
    numbers = np.array([classes.index(label) for label in labels])
    # of matrices this small several threads cost ten times what they bring, beside other work
    with threadpool_limits(1):
        return Fitted(classes, *regression(vectors, numbers, _C, len(classes)))


def checked(label: str, where: str = "the answer") -> str:
    """A class's name. Raises InputError for one that a table of one label a clip cannot hold."""
    label = composed(label.strip())
    if not label or ";" in label or not label.isprintable():
        raise InputError(f"{where}: {label!r} is no name of a class: wanted a line of text without ;")
    return label


def groups_by(said: str, beside: Path) -> Callable[[Path], str]:
    """What tells of a file whose it is: a pattern of its path from `beside`, as `folder` takes one,
    or a table (.csv) with the columns file and group.

    Raises InputError for a table that is none; what it gives, for a file of which nothing is said.
    """
    if not said.lower().endswith(".csv"):
        return lambda file: composed(group_called(os.path.relpath(file, beside), said).strip())
    table = Path(os.path.abspath(said))
    rows = read_table(table, ("file", GROUP))
    known = {os.path.normpath(table.parent / row["file"]): composed(row[GROUP]) for row in rows}

    def of_table(file: Path) -> str:
        if not (name := known.get(str(file))):
            raise InputError(f"{printable(file)} has no group in {table}: wanted one of every clip")
        return name

    return of_table


class Shown(NamedTuple):
    """A clip on a page: whose, since when, and whether it was drawn at random to be held out."""

    by: str
    since: float
    held_out: bool


class Done(NamedTuple):
    """An answer or a skip: of which clip, on which page, and whether it is held out."""

    number: int
    by: str
    held_out: bool


class Session:
    """The clips, the answers, and the order of what is asked; safe for several threads.

    `group` says of a file whose it is (a recording's, a site's): some groups are then held out as a whole,
    drawn before anything is asked. Raises InputError where `table` is no table of answers, names a clip
    twice, or has other groups; for fewer than two groups.
    """

    def __init__(
        self,
        table: Path,
        files: Sequence[Path],
        vectors: Float[np.ndarray, "N D"],
        *,
        classes: Sequence[str] = (),
        order: str = "active",
        seed: int = 0,
        group: Callable[[Path], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.table, self.files = table, [Path(os.path.abspath(file)) for file in files]
        self._vectors, self._order, self._clock = vectors, order, clock
        spread = vectors.std(axis=0)
        self._directions = unit((vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1))
        self._drawn = np.random.default_rng(seed).permutation(len(files))
        self._named = list(classes)
        self._lock, self._fitting = threading.RLock(), threading.Lock()
        self._shown: dict[int, Shown] = {}
        # what was done, by whom, the newest last: answers and skips
        self._done: list[Done] = []
        self._skipped: set[int] = set()
        # of each answered clip, in the order of the answers
        self.labels: dict[int, str] = {}
        self._splits: dict[int, str] = {}
        self._others: list[tuple[str, ...]] = []
        self._group = group
        self.groups = [group(file) for file in self.files] if group else []
        self._read()
        # of groups: those whose clips are for judging alone
        self.held_groups = self._drawn_groups(seed)
        away = {number for number, name in enumerate(self.groups) if name in self.held_groups}
        self._away = np.array([number in away for number in range(len(files))], bool)
        # the classifier, and of each clip one less the margin between the two likeliest classes
        self._model: Fitted | None = None
        self._doubts = np.ones(len(files))
        # answers, and the accuracy on what is held out after so many
        self._curve: dict[int, float] = {}
        counts = np.unique(np.linspace(0, len(self.labels), EARLIER_POINTS + 1).round().astype(int))
        for count in counts[1:].tolist():
            self._fit(count)

    # ---- The table

    def _read(self) -> None:
        """Takes up the answers of earlier sittings, and rows of files that are not among the clips."""
        if not self.table.exists():
            return
        numbers = {str(file): number for number, file in enumerate(self.files)}
        for row in read_table(self.table, COLUMNS):
            if not {*COLUMNS} <= {*row} <= {*COLUMNS, GROUP} or row["split"] not in SPLITS:
                raise InputError(
                    f"{row.where}: wanted a table of {', '.join(COLUMNS)} as `label` writes it, with the "
                    f"splits {' and '.join(SPLITS)}: name another --out"
                )
            if GROUP in row and not self._group:
                raise InputError(f"{row.where}: clips have a group here: give --group, as before")
            path = Path(os.path.normpath(self.table.absolute().parent / row["file"]))
            owner = [self._group(path)] if self._group else []
            if owner and row.get(GROUP, owner[0]) != owner[0]:
                raise InputError(
                    f"{row.where}: {row['file']} is of the group {row[GROUP]}, and by --group of {owner[0]}: "
                    "give the --group of before, or name another --out"
                )
            number = numbers.get(str(path))
            if number is None:
                self._others.append((row["file"], row["labels"], row["split"], *owner))
            elif number in self.labels:
                raise InputError(f"{row.where}: {row['file']} is listed twice: keep one row a file")
            else:
                self.labels[number], self._splits[number] = checked(row["labels"], row.where), row["split"]

    def _write(self) -> None:
        if not (self.labels or self._others):
            self.table.unlink()
            return
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow((*COLUMNS, GROUP) if self._group else COLUMNS)
        rows.writerows(self._others)
        beside = self.table.absolute().parent
        for number, label in self.labels.items():
            cells = (os.path.relpath(self.files[number], beside), label, self._splits[number])
            rows.writerow((*cells, *self.groups[number : number + 1]))
        write_whole(self.table, text.getvalue())

    def _drawn_groups(self, seed: int) -> set[str]:
        """The groups that are held out: those of earlier answers, and others at random up to their share."""
        if not self._group:
            return set()
        names = sorted(set(self.groups))
        if len(names) < 2:
            raise InputError(f"all clips are of one group ({names[0]}): some could not be held out")
        sides: dict[str, str] = {}
        told = [(self.groups[number], split) for number, split in self._splits.items()]
        for name, split in told + [(row[-1], row[2]) for row in self._others]:
            if sides.setdefault(name, split) != split:
                raise InputError(
                    f"{self.table} has clips of the group {name} in both splits: name another --out"
                )
        held = {name for name, split in sides.items() if split == SPLITS[True]} & {*names}
        order = np.random.default_rng(seed).permutation(len(names))
        free = [names[place] for place in order if names[place] not in sides]
        return held | {*free[: max(0, max(1, round(len(names) / HELD_OUT)) - len(held))]}

    def told_groups(self) -> str:
        """How far what is held out can be believed, a line."""
        if not self._group:
            return (
                "clips are held out one by one: where several are pieces of one recording they stand on both "
                "sides, and the curve flatters (--group=PATTERN keeps them on one)"
            )
        clips = f"{int(self._away.sum())} of {len(self.files)} clips"
        return f"{len(self.held_groups)} of {len(set(self.groups))} groups are held out, {clips}"

    # ---- Answers

    def answer(self, number: int, label: str, *, by: str) -> None:
        """A clip's class, in the table before this returns.

        Raises Taken where it has one already, InputError for a label that the table cannot hold.
        """
        label = checked(label)
        with self._lock:
            self._refuse_taken(number)
            held_out = self._hidden(number)
            self.labels[number], self._splits[number] = label, SPLITS[held_out]
            self._skipped.discard(number)
            self._done.append(Done(number, by, held_out))
            self._write()

    def skip(self, number: int, *, by: str) -> None:
        """The clip is not asked again in this sitting. Raises Taken where it has a class already."""
        with self._lock:
            self._refuse_taken(number)
            self._done.append(Done(number, by, self._hidden(number)))
            self._skipped.add(number)

    def undo(self, *, by: str) -> Clip | None:
        """Takes back this page's last answer or skip; the clip, or nothing where there is none."""
        with self._lock:
            place = next((i for i in reversed(range(len(self._done))) if self._done[i].by == by), None)
            if place is None:
                return None
            number, _, held_out = self._done.pop(place)
            self._skipped.discard(number)
            self._splits.pop(number, None)
            if self.labels.pop(number, None) is not None:
                self._write()
            return self._show(number, by, "taken back", held_out=held_out)

    def _hidden(self, number: int) -> bool:
        """Whether a clip that was shown is held out; it is shown no more."""
        shown = self._shown.pop(number, None)
        return bool(self._away[number]) if self._group else shown is not None and shown.held_out

    def _refuse_taken(self, number: int) -> None:
        if number in self.labels:
            raise Taken(f"{self.files[number].name} is labelled {self.labels[number]} already")

    # ---- What to ask

    def next(self, *, by: str, like: int | None = None) -> Clip | None:
        """The clip that teaches most, or the one most like `like`; nothing where all are done or shown."""
        with self._lock:
            open_ = np.array([number for number in self._drawn.tolist() if self._is_open(number, by)], int)
            if not len(open_):
                return None
            if like is not None:
                near = self._directions[open_] @ self._directions[like]
                return self._show(int(open_[near.argmax()]), by, "like the one before")
            held_out = len(self._held_out()) < (len(self.labels) + 1) // HELD_OUT
            if self._group:
                # while there are such
                side = open_[self._away[open_] == held_out]
                held_out, open_ = (held_out, side) if len(side) else (not held_out, open_)
            if held_out or self._order == "random":
                number = int(open_[0])
                why = "drawn at random" + ", held out" * held_out
                return self._show(number, by, why, held_out=held_out)
            number, why = self._teaches_most(open_)
            return self._show(number, by, why)

    def _teaches_most(self, open_: Int[np.ndarray, " n"]) -> tuple[int, str]:
        """The clip that would speak for most that nobody speaks for yet, in doubt among clips in doubt.

        Of clip x: d(x) times the sum over clips j of d(j) max(0, cos(x, j) - n(j)), where n(j) is the cosine
        to the nearest clip that was heard, at least 0, and d one less the margin between the two likeliest
        classes (1 while there is no classifier). The sum alone is facility location (Wei, Iyer and Bilmes
        2015).
        """
        open_, among = open_[:MOST_LOOKED_AT], self._drawn[~self._away[self._drawn]][:MOST_SPOKEN_FOR]
        near = np.zeros(len(among))
        if self.labels:
            heard = self._directions[list(self.labels)]
            near = np.maximum(near, (self._directions[among] @ heard.T).max(axis=1))
        gain = np.maximum(0, self._directions[open_] @ self._directions[among].T - near)
        if self._model is None:
            why = "unlike what was heard" if self.labels else "like most"
            return int(open_[gain.sum(axis=1).argmax()]), why
        doubt = self._doubts
        return int(open_[(doubt[open_] * (gain @ doubt[among])).argmax()]), "in doubt"

    def _is_open(self, number: int, by: str) -> bool:
        shown = self._shown.get(number)
        elsewhere = shown is not None and shown.by != by and self._clock() - shown.since < SHOWN_S
        return number not in self.labels and number not in self._skipped and not elsewhere

    def _show(self, number: int, by: str, why: str, *, held_out: bool = False) -> Clip:
        for other in [other for other, shown in self._shown.items() if shown.by == by]:
            del self._shown[other]
        self._shown[number] = Shown(by, self._clock(), held_out)
        guesses: tuple[tuple[str, float], ...] = ()
        if self._model is not None:
            shares = self._model.shares(self._vectors[[number]])[0]
            best = np.argsort(-shares, kind="stable")
            guesses = tuple((self._model.classes[i], float(shares[i])) for i in best)
        return Clip(number, self.files[number].name, why, guesses)

    # ---- What came of it

    def fit(self) -> None:
        """The classifier of the answers so far."""
        with self._fitting:
            self._fit(len(self.labels))

    def _fit(self, count: int) -> None:
        """Of the first `count` answers; judged on all clips that are held out."""
        with self._lock:
            first = list(self.labels)[:count]
            train = [number for number in first if self._splits[number] == SPLITS[False]]
            test = self._held_out()
            labels, wanted = ([self.labels[number] for number in side] for side in (train, test))
        model, share = fitted(self._vectors[train], labels), None
        doubts = np.ones(len(self.files))
        if model is not None:
            shares = model.shares(self._vectors)
            likeliest = np.sort(shares, axis=1)
            doubts = 1 - (likeliest[:, -1] - likeliest[:, -2])
            found = shares[test].argmax(axis=1)
            right = [model.classes[i] == label for i, label in zip(found, wanted, strict=True)]
            share = float(np.mean(right)) if right else None
        with self._lock:
            self._model, self._doubts = model, doubts
            if share is not None:
                self._curve[count] = share

    def _held_out(self) -> list[int]:
        return [number for number, split in self._splits.items() if split == SPLITS[True]]

    def standing(self) -> dict[str, Any]:
        """What a page shows beside the clip; classes are those named beforehand, then as they were met."""
        with self._lock:
            counts = dict.fromkeys([*self._named, *self.labels.values()], 0)
            for label in self.labels.values():
                counts[label] += 1
            answers = len(self.labels)
            curve = [(count, share) for count, share in sorted(self._curve.items()) if count <= answers]
            return {
                "clips": len(self.files),
                "answers": answers,
                "skipped": len(self._skipped),
                "held_out": len(self._held_out()),
                "groups": len(set(self.groups)),
                "classes": [{"label": label, "count": count} for label, count in counts.items()],
                "curve": [{"answers": count, "accuracy": share} for count, share in curve],
            }
