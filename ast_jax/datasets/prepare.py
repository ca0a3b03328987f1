"""`prepare`: sound files to a finished directory of shards, or none at all.

`find`: the finished one that fits. Everything is written in a temporary directory beside the final one and
renamed at the end, so that what has the final name is whole. A lock on the set's name makes a second process
wait for the first and then use its work; the kernel drops the lock of a process that dies.
"""

import errno
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.datasets import earlier
from ast_jax.datasets.contents import digests
from ast_jax.datasets.extract import VERSION, Extraction, set_name
from ast_jax.datasets.listing import source_root
from ast_jax.datasets.locking import alone, locked
from ast_jax.datasets.prepared import METADATA, SKIPPED, PreparedSet, path_or_bucket
from ast_jax.datasets.registry import clip_lister, directory_name, ensure_sounds, sounds_dir
from ast_jax.errors import InputError
from ast_jax.features import REFERENCE, FrontEnd
from ast_jax.terminal import Bar

Options = Mapping[str, Any]


@dataclass(frozen=True)
class BeamRun:
    """Where Apache Beam writes the shards: a runner, Beam's own flags, what directories are called there."""

    runner: str
    flags: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)


def open_prepared(
    name: str,
    *,
    source_dir: str | os.PathLike | None,
    data_dir: str | os.PathLike,
    kind: str = "log_mel",
    channels: str = "mean",
    options: Options | None = None,
    max_skipped: float = 0.02,
    front_end: FrontEnd = REFERENCE,
    alone: bool = True,
    beam: BeamRun | None = None,
) -> PreparedSet:
    """The finished set that fits, preparing it first (on `beam`) where its sounds are at hand.

    `alone`: no other process does the same at the same time. Raises InputError if there are neither shards
    nor sounds, and if there are no shards yet where several processes would make them at once.
    """
    if not name:
        raise InputError("the recipe names no data set: set config.dataset.name")
    how, own = _split_options(name, kind, channels, options, front_end)
    sounds = sounds_dir(name, source_dir, data_dir)
    ensure_sounds(name, sounds, own)
    where: dict[str, Any] = {
        "source_dir": sounds,
        "data_dir": data_dir,
        "kind": kind,
        "channels": channels,
        "options": options,
        "front_end": front_end,
    }
    found = find(name, **where)
    if found is not None:
        return found
    missing = f"no prepared {how.kind} shards of {name!r} in {os.fspath(data_dir)!r}"
    if not alone:
        raise InputError(
            f"{missing}: before several processes train, run `python -m ast_jax prepare` once with the same "
            "--config flags"
        )
    if sounds is None:
        raise InputError(
            f"{missing} and no sounds to make them from: "
            "set --config.dataset.source_dir to the directory of sounds"
        )
    return prepare(name, max_skipped=max_skipped, beam=beam, **where)


def prepare(
    name: str,
    *,
    source_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    kind: str = "log_mel",
    channels: str = "mean",
    max_skipped: float = 0.02,
    options: Options | None = None,
    front_end: FrontEnd = REFERENCE,
    workers: int | None = None,
    progress: bool = True,
    beam: BeamRun | None = None,
) -> PreparedSet:
    """Returns the finished set for these sounds, writing it if it is not there.

    Its place is `data_dir`/<name>/<kind>-<fingerprint>/1.0.0. `name` is a row of `registry.DATASETS`, or
    `module:function` of one's own. `options` are those of its `list_clips`, and `cut_s`: longer recordings
    are cut into pieces of that many seconds. `workers` processes do the work, by default one a core; with
    `beam` the shards are written by its runner's instead. `progress` shows a bar and a summary on stderr.
    Clips that cannot be read are listed in the directory's skipped.csv with their reasons. Raises InputError
    for a bad source directory or option, or if more than the share `max_skipped` cannot be read; then nothing
    but the list, `data_dir`/`name`/skipped.csv, is left.
    """
    if "://" in os.fspath(data_dir):
        raise InputError(
            f"config.dataset.data_dir is {data_dir}: shards are prepared under a path and renamed at the "
            "end, then copied to a bucket"
        )
    from ast_jax.datasets.builder import SetBuilder  # TFDS takes a second to import

    how, own = _split_options(name, kind, channels, options, front_end)
    standing = _standing(name, source_dir, data_dir, how, own)
    if standing.directory is not None:
        prepared = PreparedSet(standing.directory).with_front_end(front_end)
        prepared.told = standing.told
        _check_share(name, prepared, max_skipped)
        if progress:
            print(*summary(prepared, fresh=False), sep="\n", file=sys.stderr)
        return prepared
    if progress and standing.told:
        print(f"{directory_name(name)}: {standing.told}", file=sys.stderr)
    with _bar(name, progress) as watch:
        builder = SetBuilder(
            name,
            source_dir=source_dir,
            data_dir=data_dir,
            how=how,
            max_skipped=max_skipped,
            options=own,
            workers=workers,
            watch=watch,
            places=beam.places if beam else None,
        )
        directory = Path(builder.data_dir)
        home = directory.parents[1]
        home.mkdir(parents=True, exist_ok=True)
        waiting = f"{home.name}: another process is preparing this set; waiting for it" if progress else ""
        with alone(_lock_file(directory.parent), waiting):
            _sweep(home, directory)
            fresh = not directory.exists()
            _run(builder, beam)
    prepared = PreparedSet(directory).with_front_end(front_end)
    _check_share(name, prepared, max_skipped)
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
    options: Options | None = None,
    front_end: FrontEnd = REFERENCE,
) -> PreparedSet | None:
    """The finished set for exactly the sounds in `source_dir`.

    Without that, the newest one of these settings. Raises InputError if it is there and damaged.
    """
    how, own = _split_options(name, kind, channels, options, front_end)
    home = path_or_bucket(data_dir) / directory_name(name)
    if source_dir is not None:
        found, told = _standing(name, source_dir, data_dir, how, own)
    else:
        wanted = (own, name)
        fits = (
            directory
            for about, directory in earlier.finished(home, how)
            if (about["options"], about.get("dataset", name)) == wanted
            and not earlier.outdated(about, directory)
        )
        found, told = next(fits, None), ""
    if found is None:
        return None
    prepared = PreparedSet(found).with_front_end(front_end)
    prepared.told = told or f"{earlier.told(prepared)}, not compared with sounds: no source_dir is given"
    return prepared


class _Standing(NamedTuple):
    """The finished set of exactly these sounds, if there is one; and how the sounds have changed since."""

    directory: Any
    told: str


def _standing(name: str, source_dir: Any, data_dir: Any, how: Extraction, own: dict[str, Any]) -> _Standing:
    home = path_or_bucket(data_dir) / directory_name(name)
    listing = clip_lister(name)(source_dir, **own)
    paths = [clip.path for clip in listing.clips]
    contents = digests(paths, home if isinstance(home, Path) else None)
    directory = home / set_name(listing, source_dir, how, contents) / VERSION
    if (directory / METADATA).is_file():
        prepared = PreparedSet(directory)
        # Prepared elsewhere, from the same sounds.
        here = prepared.metadata["source"] == source_root(source_dir)
        since = "no file changed since" if here else f"the same files are in {source_root(source_dir)}"
        return _Standing(directory, f"{earlier.told(prepared)}, {since}")
    before = home / set_name(listing, source_dir, how) / VERSION
    if (before / METADATA).is_file():
        prepared = PreparedSet(before)
        return _Standing(
            before,
            f"{earlier.told(prepared)}, when files were known by name and size alone: whether they changed "
            f"since is not known (delete {before.parent} to prepare them again)",
        )
    for about, other in earlier.finished(home, how):
        if about.get("source") == source_root(source_dir) and about.get("dataset", name) == name:
            changes = earlier.changes(PreparedSet(other), contents)
            again = (
                "only these are prepared again" if any(changes) else "but labels, splits or options are other"
            )
            return _Standing(None, f"{earlier.told(PreparedSet(other))}, {changes.told()}: {again}")
    return _Standing(None, "")


def _check_share(name: str, prepared: PreparedSet, max_skipped: float) -> None:
    about, directory = prepared.metadata, prepared.directory
    if (share := about["num_skipped"] / about["num_clips"]) > max_skipped:
        raise InputError(
            f"{name}: {share:.1%} of the clips were skipped when {directory} was prepared, "
            f"max_skipped allows {max_skipped:.1%}: see {directory / SKIPPED}, mend the files, "
            "or raise config.dataset.max_skipped"
        )


def summary(prepared: PreparedSet, fresh: bool = True) -> list[str]:
    """What preparing found, a line each: clips and their speed, skipped ones, coverage, oddities."""
    about, directory = prepared.metadata, prepared.directory
    count, skipped = sum(split["num_examples"] for split in about["splits"].values()), about["num_skipped"]
    speed = f"{about['num_clips'] / max(about['seconds'], 1e-3):.0f} clips/s" if fresh else "prepared before"
    lines = [f"{count} examples of {about['num_clips']} clips, {speed}, in {directory}"]
    lines += [prepared.told] * bool(prepared.told)
    if fresh and (kept := about.get("num_kept")):
        lines.append(f"{kept} clips were taken over from what was prepared before")
    if skipped or about["num_left_out"]:
        others = f" and {about['num_left_out']} other files" if about["num_left_out"] else ""
        lines.append(f"{skipped} clips skipped{others}, with reasons in {directory / SKIPPED}")
    if noted := about.get("num_noted"):
        lines.append(f"{noted} clips were heard though their files say otherwise: see {directory / SKIPPED}")
    lines += about["notes"].get("told", [])
    if not prepared.front_end.of_sound:
        lines.append(f"features as the files hold them, taken for {prepared.front_end.identity}")
    if about["num_short"]:
        frame_ms = 1000 * prepared.front_end.frame_length / prepared.front_end.sample_rate_hz
        lines.append(
            f"{about['num_short']} clips are shorter than {frame_ms:g} ms; they are padded to one frame"
        )
    for split, part in about["notes"].get("coverage", {}).items():
        lines.append(f"{split}: {part['found']} of {part['listed']} listed clips found ({part['share']:.1%})")
    if about["notes"].get("unlabeled"):
        lines.append(f"{about['notes']['unlabeled']} clips are in no table")
    return [f"{prepared.name}: {line}" for line in lines]


def _split_options(
    name: str, kind: str, channels: str, options: Options | None, front_end: FrontEnd
) -> tuple[Extraction, dict[str, Any]]:
    """How to store, and the options of `list_clips`."""
    parameters = list(inspect.signature(clip_lister(name)).parameters.values())[1:]
    own = _plain(options or {})
    cut_s = own.pop("cut_s", None)
    # 10 and 10.0 are one setting.
    how = Extraction(kind, channels, None if cut_s is None else float(cut_s), front_end)
    known = [parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.VAR_KEYWORD]
    takes_any = len(known) < len(parameters)
    if (unknown := sorted(set(own) - set(known))) and not takes_any:
        raise InputError(
            f"{name} has no option {', '.join(unknown)}: choose among {', '.join([*known, 'cut_s'])}"
        )
    return how, own


def _plain(value: Any) -> Any:
    """What JSON gives back for it, so that options can be compared with those a set was prepared with."""
    if hasattr(value, "items"):  # a dict, or a ConfigDict within one
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


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


def _sweep(home: Path, ours: Path) -> None:
    """Removes what processes that died have left of any set in `home`.

    The caller holds the lock of `ours`.
    """
    for config_dir in home.glob("*-*/"):
        with _lock_file(config_dir).open("w") as file:
            if config_dir == ours.parent or locked(file):
                for path in config_dir.iterdir():
                    if not (path / METADATA).is_file() or "incomplete" in path.name:
                        shutil.rmtree(path)


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Callable[[Iterator, int], Iterator]]:
    """A function that shows how far a stream has come: a bar, or a line a minute without a terminal."""
    if not progress:
        yield lambda stream, total: stream
        return
    with Bar() as bar:

        def watch(stream: Iterator, total: int) -> Iterator:
            task = bar.task(name, float(total))
            started = told = time.monotonic()
            for done, item in enumerate(stream, start=1):
                figures = f"{done} of {total} clips, {done / (time.monotonic() - started):.0f} clips/s"
                task.show(completed=done, figures=figures)
                if not bar.terminal and time.monotonic() - told > 60:
                    told = time.monotonic()
                    bar.say(f"{name}: {figures}")
                yield item

        yield watch
