"""`prepare`: sound files to a finished directory of shards, or none at all. `find`: the finished one that fits, if there is one.

Everything is written in a temporary directory beside the final one and renamed at the end, so what has the final name is whole. A lock on
the set's name makes a second process wait for the first and then use its work; the kernel drops the lock of a process that dies.
"""

import errno
import fcntl
import importlib
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ast_jax.datasets.extract import FEATURE_VERSION, VERSION, Extraction, set_name
from ast_jax.datasets.listing import Listing
from ast_jax.datasets.prepared import METADATA, SKIPPED, PreparedSet, path_or_bucket
from ast_jax.errors import InputError

# Each a module here with `list_clips`, and a class in builders.py.
NAMES = ("esc50", "speech_commands", "audioset", "folder", "synthetic")


@dataclass(frozen=True)
class BeamRun:
    """Where Apache Beam writes the shards: the name of a runner, Beam's own flags, and what directories here are called there."""

    runner: str
    flags: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)


def prepare(
    name: str,
    *,
    source_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    kind: str = "log_mel",
    channels: str = "mean",
    max_skipped: float = 0.02,
    options: dict[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
    beam: BeamRun | None = None,
) -> PreparedSet:
    """Returns the finished set for these sounds, writing it to `data_dir`/`name`/`kind`-<fingerprint>/1.0.0 if it is not there yet.

    `options` are those of the data set's `list_clips`, and `cut_s`: longer recordings are cut into pieces of that many seconds.
    `workers` defaults to the cores this process may use; with `beam` the shards are written by its runner's instead. `progress` shows a bar and a summary on stderr.
    Clips that cannot be read are listed in the directory's skipped.csv with their reasons.
    Raises InputError for a bad source directory or option, or if more than the share `max_skipped` cannot be read; then nothing
    but the list, `data_dir`/`name`/skipped.csv, is left.
    """
    if "://" in os.fspath(data_dir):
        raise InputError(
            f"config.dataset.data_dir is {data_dir}: shards are prepared under a path and renamed at the end, then copied to a bucket"
        )
    from ast_jax.datasets.builders import BUILDERS  # TFDS takes a second to import

    how, options = _split_options(name, kind, channels, options)
    with _bar(name, progress) as watch:
        builder = BUILDERS[name](
            source_dir=source_dir,
            data_dir=data_dir,
            how=how,
            max_skipped=max_skipped,
            options=options,
            workers=workers,
            watch=watch,
            places=beam.places if beam else None,
        )
        directory = Path(builder.data_dir)
        home = directory.parents[1]
        home.mkdir(parents=True, exist_ok=True)
        with _alone(_lock_file(directory.parent), progress):
            _sweep(home, directory)
            fresh = not directory.exists()
            _run(builder, beam)
    prepared = PreparedSet(directory)
    if (share := prepared.metadata["num_skipped"] / prepared.metadata["num_clips"]) > max_skipped:
        raise InputError(
            f"{name}: {share:.1%} of the clips were skipped when {directory} was prepared, max_skipped allows {max_skipped:.1%}: "
            f"see {directory / SKIPPED}, mend the files, or raise config.dataset.max_skipped"
        )
    if progress:
        print(*summary(prepared, fresh), sep="\n", file=sys.stderr)
    return prepared


def find(
    name: str,
    *,
    data_dir: str | os.PathLike,
    kind: str,
    source_dir: str | os.PathLike | None = None,
    channels: str = "mean",
    options: dict[str, Any] | None = None,
) -> PreparedSet | None:
    """The finished set for exactly the sounds in `source_dir`; without that, the newest one of this name, kind, channels and options.

    Raises InputError if it is there and damaged.
    """
    how, options = _split_options(name, kind, channels, options)
    if source_dir is not None:
        listing = list_clips(name)(source_dir, **options)
        directory = path_or_bucket(data_dir) / name / set_name(listing, source_dir, how) / VERSION
        return PreparedSet(directory) if (directory / METADATA).is_file() else None
    fits = []
    for path in (path_or_bucket(data_dir) / name).glob(f"{kind}-*/[0-9]*.[0-9]*.[0-9]*/{METADATA}"):
        metadata = json.loads(path.read_text())
        if (
            Extraction(metadata["kind"], metadata["channels"], metadata["cut_s"]) == how
            and metadata["options"] == options
            and metadata["feature_version"] == FEATURE_VERSION
        ):
            fits.append((metadata["created"], path.parent))
    return PreparedSet(max(fits)[1]) if fits else None


def summary(prepared: PreparedSet, fresh: bool = True) -> list[str]:
    """What preparing found, a line each: clips and their speed, skipped ones; coverage and oddities where there are any."""
    about = prepared.metadata
    count, skipped = sum(split["num_examples"] for split in about["splits"].values()), about["num_skipped"]
    speed = f"{about['num_clips'] / max(about['seconds'], 1e-3):.0f} clips/s" if fresh else "prepared before"
    lines = [
        f"{prepared.name}: {count} examples of {about['num_clips']} clips, {speed}, in {prepared.directory}"
    ]
    if skipped or about["num_left_out"]:
        others = f" and {about['num_left_out']} other files" if about["num_left_out"] else ""
        lines.append(
            f"{prepared.name}: {skipped} clips skipped{others}, with reasons in {prepared.directory / SKIPPED}"
        )
    if about["num_short"]:
        lines.append(
            f"{prepared.name}: {about['num_short']} clips are shorter than 25 ms; they are padded to one frame"
        )
    for split, part in about["notes"].get("coverage", {}).items():
        lines.append(
            f"{prepared.name}: {split}: {part['found']} of {part['listed']} listed clips found ({part['share']:.1%})"
        )
    if about["notes"].get("unlabeled"):
        lines.append(f"{prepared.name}: {about['notes']['unlabeled']} clips are in no table")
    return lines


def _split_options(
    name: str, kind: str, channels: str, options: dict[str, Any] | None
) -> tuple[Extraction, dict[str, Any]]:
    """How to store, and the options of `list_clips`."""
    if name not in NAMES:
        raise InputError(f"no data set {name!r}: choose among {', '.join(NAMES)}")
    options = _plain(options or {})
    cut_s = options.pop("cut_s", None)
    how = Extraction(kind, channels, None if cut_s is None else float(cut_s))  # 10 and 10.0 are one setting
    known = list(inspect.signature(list_clips(name)).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"{name} has no option {', '.join(unknown)}: choose among {', '.join([*known, 'cut_s'])}"
        )
    return how, options


def _plain(value: Any) -> Any:
    """What JSON gives back for it, so that options can be compared with those a set was prepared with."""
    if hasattr(value, "items"):  # a dict, or a ConfigDict within one
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def list_clips(name: str) -> Callable[..., Listing]:
    return importlib.import_module(f"ast_jax.datasets.{name}").list_clips


def _run(builder, beam: BeamRun | None) -> None:
    try:
        builder.download_and_prepare(file_format="array_record", download_config=_beam_config(beam))
    except (OSError, RuntimeError) as error:  # RuntimeError: what ArrayRecord's writer raises
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise InputError(
            f"the disk of {builder.data_dir} is full: make room, or give another data_dir"
        ) from error


def _beam_config(beam: BeamRun | None):
    if beam is None:
        return None
    import tensorflow_datasets as tfds

    from ast_jax.datasets.beam import pipeline_options

    return tfds.download.DownloadConfig(beam_runner=beam.runner, beam_options=pipeline_options(beam.flags))


def _lock_file(config_dir: Path) -> Path:
    return config_dir.with_name(f".{config_dir.name}.lock")


@contextmanager
def _alone(path: Path, progress: bool) -> Iterator[None]:
    """Waits until no other process holds the lock on `path`. The file stays: deleting it would let two processes lock two files."""
    with path.open("w") as file:
        if not _locked(file):
            if progress:
                print(
                    f"{path.parent.name}: another process is preparing this set; waiting for it",
                    file=sys.stderr,
                )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{file.name} cannot be locked ({error}): prepare on a local disk and copy the result"
        ) from None
    return True


def _sweep(home: Path, ours: Path) -> None:
    """Removes what processes that died have left of any set in `home`. The caller holds the lock of `ours`."""
    for config_dir in home.glob("*-*/"):
        with _lock_file(config_dir).open("w") as file:
            if config_dir == ours.parent or _locked(file):
                for path in config_dir.iterdir():
                    if not (path / METADATA).is_file() or "incomplete" in path.name:
                        shutil.rmtree(path)


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Callable[[Iterator, int], Iterator]]:
    """A function that shows how far a stream has come: a bar with clips/s and time left, or a line a minute where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    terminal = console.is_terminal  # asking takes as long as showing
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (progress and terminal)) as bar:

        def watch(stream: Iterator, total: int) -> Iterator:
            task = bar.add_task(name, total=total, speed="")
            started = told = time.monotonic()
            for done, item in enumerate(stream, start=1):
                speed = f"{done / (time.monotonic() - started):.0f} clips/s"
                bar.update(task, advance=1, speed=speed)
                if progress and not terminal and time.monotonic() - told > 60:
                    told = time.monotonic()
                    print(f"{name}: {done} of {total} clips, {speed}", file=sys.stderr, flush=True)
                yield item

        yield watch
