"""Shards written on many machines through Apache Beam. Import lazily; needs `pip install 'ast_jax[beam]'`.

The collection's elements are whole shards: a worker extracts the clips of one, writes its file and, beside
it, notes on what the driver's ledger wants to know. So shards, their order and their figures are those of one
machine, whatever the runner, and a shard that a runner tries twice is the same file twice. Paths may be
gs://bucket/... where workers mount nothing.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ast_jax.datasets.extract import Extraction, Record
from ast_jax.datasets.listing import Clip
from ast_jax.datasets.shards import example, write_shard
from ast_jax.datasets.workers import Outcome, Unreadable, attempt
from ast_jax.errors import InputError

NOTES = ".notes.json"
WRITTEN = np.empty(0, np.int8)  # in place of a record's data once that is in its file


@dataclasses.dataclass(frozen=True)
class Shard:
    """One element of the collection: the file to write, and the clips that go into it."""

    path: str
    clips: tuple[Clip, ...]

    def seen_as(self, places: Mapping[str, str]) -> "Shard":
        """This shard under the names that workers know its directories by."""
        clips = (dataclasses.replace(clip, path=_moved(clip.path, places)) for clip in self.clips)
        return Shard(_moved(self.path, places), tuple(clips))


def write(
    shards: Sequence[Shard],
    how: Extraction,
    *,
    runner: Any,
    options: Any = None,
    places: Mapping[str, str] | None = None,
    watch: Callable[[Iterator, int], Iterator] = lambda stream, total: stream,
) -> Iterator[list[tuple[Clip, Outcome]]]:
    """Writes the shards on `runner`, then yields the outcomes of each one's clips, without data.

    `places` maps directories here to what they are called on the workers; `watch` sees one item for each
    finished clip.
    """
    beam = import_beam()
    jobs = [shard.seen_as(places or {}) for shard in shards]
    with _counted(shards, watch), beam.Pipeline(runner=runner, options=options) as pipeline:
        # Reshuffle: without it a runner may fuse the list and the work into one task on one worker.
        _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(write_one, how)
    for shard in shards:
        notes = epath.Path(shard.path + NOTES)
        yield _from_json(json.loads(notes.read_text()), shard.clips)
        notes.unlink()


def import_beam():
    """apache_beam. Raises InputError where it is not installed."""
    try:
        import apache_beam
    except ImportError:
        raise InputError("--beam_runner needs Apache Beam: pip install apache-beam") from None
    return apache_beam


def pipeline_options(flags: Sequence[str]):
    """Beam's options from flags such as --flink_master=...; raises InputError for what is not a flag."""
    import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    if wrong := [flag for flag in flags if not flag.startswith("--")]:
        raise InputError(f"{wrong[0]!r} is no option of prepare or of Beam: write Beam's as --KEY=VALUE")
    return PipelineOptions(list(flags))


def write_one(job: Shard, how: Extraction) -> None:
    """On a worker: one shard and its notes. Both appear whole, the notes last."""
    outcomes: list[tuple[Clip, Outcome]] = []

    def examples():
        for clip in job.clips:
            outcome = _attempt(clip, how)
            if isinstance(outcome, Unreadable):
                outcomes.append((clip, outcome))
                continue
            for record in outcome:
                yield record.id, example(record, how)
            outcomes.append((clip, [dataclasses.replace(record, data=WRITTEN) for record in outcome]))

    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(job.path))
        write_shard(local, examples(), how)
        _publish(local, job.path)
        epath.Path(local + NOTES).write_text(json.dumps(_to_json(outcomes)))
        _publish(local + NOTES, job.path + NOTES)


def _publish(local: str, path: str) -> None:
    """Copies, then renames: a worker that dies, or a second one at the same shard, leaves no half file."""
    partial = epath.Path(f"{path}.{uuid.uuid4().hex}.partial")
    epath.Path(local).copy(partial)
    partial.replace(path)


def _attempt(clip: Clip, how: Extraction) -> Outcome:
    if "://" not in clip.path:
        return attempt(clip, how)
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(clip.path)[1]) as file:
        try:
            file.write(epath.Path(clip.path).read_bytes())
        except OSError as error:
            return Unreadable("unreadable", str(error))
        file.flush()
        return attempt(dataclasses.replace(clip, path=file.name), how)


def _moved(path: str, places: Mapping[str, str]) -> str:
    for here, there in places.items():
        if path.startswith(here.rstrip("/") + "/"):
            return there.rstrip("/") + path[len(here.rstrip("/")) :]
    return path


def _to_json(outcomes: Sequence[tuple[Clip, Outcome]]) -> list:
    """Per clip: [reason, detail], or a list of its records' fields. Floats come back as they were."""
    fields = lambda record: {key: value for key, value in vars(record).items() if key != "data"}
    return [list(o) if isinstance(o, Unreadable) else [fields(record) for record in o] for _, o in outcomes]


def _from_json(rows: list, clips: Sequence[Clip]) -> list[tuple[Clip, Outcome]]:
    refused = lambda row: bool(row) and isinstance(row[0], str)
    record = lambda fields: Record(**{**fields, "data": WRITTEN, "labels": tuple(fields["labels"])})
    outcome = lambda row: Unreadable(*row) if refused(row) else [record(fields) for fields in row]
    return [(clip, outcome(row)) for clip, row in zip(clips, rows, strict=True)]


@contextlib.contextmanager
def _counted(shards: Sequence[Shard], watch: Callable[[Iterator, int], Iterator]) -> Iterator[None]:
    """Shows how many clips are in finished shards while the runner works, by looking for their notes."""
    done = threading.Event()

    def clips() -> Iterator[Clip]:
        left, ended = list(shards), False
        while not ended:
            ended = done.wait(5)
            for shard in [shard for shard in left if epath.Path(shard.path + NOTES).exists()]:
                left.remove(shard)
                yield from shard.clips

    def look() -> None:
        for _ in watch(clips(), sum(len(shard.clips) for shard in shards)):
            pass

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
