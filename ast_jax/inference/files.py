"""The files a command is given: directories opened, headers read, progress shown, failures reported and the
rest done.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ast_jax.datasets.scanning import is_array, is_audio, scan
from ast_jax.errors import InputError
from ast_jax.features import REFERENCE, AudioError, FrontEnd
from ast_jax.features.audio import num_channels
from ast_jax.inference.windows import BATCH, Grid, Heard, OneChannel, Source, length_s
from ast_jax.terminal import Bar

# of files, where sound is wanted and where features are
_KINDS = {True: "sound files (wav, flac, ogg, mp3 ...)", False: "features (.npy, .npz)"}


def sound_files(paths: Iterable[Path], front_end: FrontEnd = REFERENCE) -> list[Path]:
    """Files as named, and every sound file below each directory, sorted; or files of features, where these
    are what the front end takes.

    Directories below that may not be read are among them: what they hold cannot be heard, and is told and
    counted like a file. Raises InputError for a directory without any.
    """
    found: list[Path] = []
    wanted = is_audio if front_end.of_sound else is_array
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside, _, unopened = scan(path, wanted=wanted)
        inside += [directory for directory, reason, _ in unopened if reason == "unreadable"]
        if not inside:
            raise InputError(
                f"{path} holds no {_KINDS[front_end.of_sound]}: name another directory, or files"
            )
        found += map(Path, inside)
    return found


def each_once(files: Iterable[Path]) -> list[Path]:
    """Absolute, without `..`, so that a file spelt in two ways is one."""
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in files))


def each_channel(files: Iterable[Path]) -> list[Path | OneChannel]:
    """Every channel of every file, file by file; a file that cannot be opened stands for itself, to be
    reported when its turn comes.
    """
    found: list[Path | OneChannel] = []
    for file in files:
        try:
            found += [OneChannel(file, number + 1) for number in range(num_channels(file))]
        except AudioError:
            found.append(file)
    return found


def durations_s(files: Iterable[Source], front_end: FrontEnd = REFERENCE) -> list[float]:
    """What the headers say, 0 where a file cannot be opened: its error is reported when its turn comes."""
    found = []
    for file in files:
        try:
            found.append(length_s(file, front_end))
        except AudioError:
            found.append(0.0)
    return found


def batch_size_for(durations: Sequence[float], grid: Grid) -> int:
    """`BATCH`, or fewer where there are fewer windows in all: one short clip is not computed eight times."""
    windows = 0
    for duration in durations:
        windows += grid.count(duration)
        if windows >= BATCH:
            return BATCH
    return max(1, windows)


class Failures:
    """Says on stderr what is wrong with each file that could not be heard, lets the others pass, and in the
    end counts.
    """

    def __init__(self, total: int, outcome: str, things: str = "files"):
        self._total, self._outcome, self._things, self._failed = total, outcome, things, 0

    def reported(self, found: Iterable[Heard], bar: Bar) -> Iterator[Heard]:
        """The files that were heard; the others are told above the bar."""
        for heard in found:
            for note in heard.notes:
                bar.say(f"note: {note}")
            if heard.error is None:
                yield heard
            else:
                self._failed += 1
                bar.say(f"error: {heard.error}")

    def exit_if_any(self) -> None:
        """Ends the program with status 1 if a file failed."""
        if self._failed:
            print(
                f"{self._failed} of {self._total} {self._things} could not be {self._outcome}",
                file=sys.stderr,
            )
            sys.exit(1)
