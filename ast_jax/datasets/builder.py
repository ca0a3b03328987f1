"""The TFDS builder: shards of {id, fbank | waveform, labels} in ArrayRecord files.

Import this module lazily: TFDS is slow to import. A builder can be used alone, `SetBuilder("esc50",
source_dir=..., data_dir=...).download_and_prepare()`; `prepare` adds the lock and the progress bar. With
`download_config=tfds.download.DownloadConfig(beam_runner=..., beam_options=...)` Beam writes the shards, on
many machines.

It writes shard by shard in the listing's order (`ShardBasedBuilder`). TFDS's generator builder with shuffling
off would sort by key through 1,000 buckets on disk, all small keys falling into the first, which it then
reads into memory at once. A shard being a function of its own clips is also what lets Beam write them
anywhere (beam.py).
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow_datasets as tfds

from ast_jax.datasets import shards
from ast_jax.datasets.contents import digests
from ast_jax.datasets.earlier import Earlier
from ast_jax.datasets.extract import VERSION, Extraction, set_name
from ast_jax.datasets.ledger import Ledger
from ast_jax.datasets.listing import Clip
from ast_jax.datasets.prepared import SKIPPED
from ast_jax.datasets.registry import clip_lister, directory_name
from ast_jax.datasets.workers import Outcome, outcomes


class SetBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Sound files of `source_dir` to shards under `data_dir`/<set>/<kind>-<fingerprint>/1.0.0.

    `dataset` is a row of `registry.DATASETS`, or `module:function`; `options` are those of its `list_clips`;
    `watch` wraps the stream of extracted clips, for a progress bar; `places` says how Beam's workers call
    directories that are mounted here, {"/mnt/sounds": "gs://bucket/sounds"}.
    Raises InputError from `download_and_prepare` if more than `max_skipped` of the clips cannot be read;
    nothing is left then.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        dataset: str,
        *,
        source_dir: str | os.PathLike,
        data_dir: str | os.PathLike,
        how: Extraction | None = None,
        max_skipped: float = 0.02,
        options: dict | None = None,
        workers: int | None = None,
        watch: Callable[[Iterator, int], Iterator] = lambda stream, total: stream,
        places: Mapping[str, str] | None = None,
    ):
        self.dataset, self.name = dataset, directory_name(dataset)
        self.how, self.max_skipped = how or Extraction(), max_skipped
        self.workers, self.watch, self.places = workers, watch, places
        self.options = options or {}
        listing = clip_lister(dataset)(source_dir, **self.options)
        self._home = Path(data_dir) / self.name
        contents = digests([clip.path for clip in listing.clips], self._home)
        self.ledger = Ledger(listing, source_dir, contents, self.how.front_end.sample_rate_hz)
        name = set_name(listing, source_dir, self.how, contents)
        config = tfds.core.BuilderConfig(name=name, version=VERSION)
        super().__init__(data_dir=data_dir, config=config)

    def _create_builder_config(self, config, version=None) -> tfds.core.BuilderConfig:
        return config  # TFDS would warn that it is not among a fixed list

    def _make_download_manager(self, download_dir, download_config) -> SimpleNamespace:
        return SimpleNamespace(downloaded_size=0)  # no directory for downloads, no search for their checksums

    def _example_writer(self) -> shards.PlainRecords:
        return shards.PlainRecords()

    def _log_download_bytes(self) -> None:
        """TFDS would announce a download on stdout."""

    def _log_download_done(self) -> None:
        """Likewise."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=clip_lister(self.dataset).__doc__ or self.dataset,
            features=shards.features(self.how),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return {
            split: [functools.partial(self._write, split, size) for size in shards.shard_sizes(len(clips))]
            for split, clips in self.ledger.listing.splits.items()
        }

    def _write(self, split: str, size: int) -> Iterator[tuple[str, dict]]:
        """The examples of the next `size` clips.

        TFDS asks for the shards in order, so that one stream of clips feeds them all.
        """
        for clip, outcome in itertools.islice(self._stream, size):
            for record in self.ledger.note(split, clip, outcome):
                example = shards.example(record, self.how)
                yield record.id, example
                # It is written; TFDS keeps every example of a shard until its end, to count them.
                example.clear()

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        self.ledger.start()
        if download_config is not None and download_config.beam_runner is not None:
            self._write_on_beam(download_config.beam_runner, download_config.beam_options)
        else:
            with self._outcomes() as stream:
                self._stream = self.watch(stream, self.ledger.num_clips)
                super()._download_and_prepare(dl_manager, download_config)
        self.ledger.check(self.max_skipped, Path(self.data_dir).parents[1] / SKIPPED)
        self.ledger.write(Path(self.data_dir), self.dataset, self.how, self.options)

    @contextmanager
    def _outcomes(self) -> Iterator[Iterator[tuple[Clip, Outcome]]]:
        """What comes of each clip: as it was prepared before, where its file is the same, else decoded."""
        clips, contents, earlier = (
            self.ledger.listing.clips,
            self.ledger.contents,
            Earlier(self._home, self.how),
        )
        decoded = [clip for clip in clips if not earlier.has(contents[clip.path])]
        self.ledger.num_kept = len(clips) - len(decoded)
        with closing(outcomes(decoded, self.how, self.workers)) as stream:
            yield (
                (clip, earlier.records(clip, contents[clip.path]))
                if earlier.has(contents[clip.path])
                else next(stream)
                for clip in clips
            )

    def _write_on_beam(self, runner: Any, options: Any) -> None:
        """TFDS's own way from shards to Beam keeps no order above ten shards.

        And it runs a split once more for each after it.
        """
        from ast_jax.datasets import beam

        templates = {split: self._get_filename_template(split) for split in self.ledger.listing.splits}
        jobs = [
            (split, beam.Shard(os.fspath(path), clips))
            for split, clips in self.ledger.listing.splits.items()
            for path, clips in shards.plan_shards(templates[split], clips)
        ]
        lengths: dict[str, list[int]] = {split: [] for split in templates}
        written = beam.write(
            [shard for _, shard in jobs],
            self.how,
            runner=runner,
            options=options,
            places=self.places,
            watch=self.watch,
        )
        for (split, _), results in zip(jobs, written, strict=True):
            lengths[split].append(sum(len(self.ledger.note(split, *result)) for result in results))
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths[split],
                num_bytes=sum(os.stat(shard.path).st_size for of, shard in jobs if of == split),
                filename_template=template,
            )
            for split, template in templates.items()
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(infos))
