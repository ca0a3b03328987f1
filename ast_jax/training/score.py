"""Scores of a whole prepared set, on all devices of all hosts: the one way there is, for training and for `evaluate`."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
from flax import nnx
from jaxtyping import Array

from ast_jax.datasets.pipeline import EvalStream, HostRows, batches
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation.evaluate import Predictions, eval_step, predict_all
from ast_jax.training.sharding import Layout


class Scorer:
    """A model's structure, compiled once to score batches; call it with parameters and the splits of a set.

    The batch is filled up to what the devices take. Every host calls it, and every host gets all scores.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        layout: Layout,
        *,
        mean: float,
        std: float,
        loss: str,
        num_frames: int,
        batch_size: int,
        num_threads: int = 4,
    ):
        self.layout, self.num_frames, self.num_threads = layout, num_frames, num_threads
        self.rows = layout.num_rows(batch_size)
        self._step = layout.score(
            functools.partial(
                eval_step, graphdef=graphdef, mean=mean, std=std, loss=loss, attend=layout.attend
            )
        )

    def __call__(
        self,
        params: Mapping[str, Array],
        prepared: PreparedSet,
        splits: Sequence[str],
        *,
        watch: Callable[[Iterable, int], Iterator] = lambda batches, total: iter(batches),
    ) -> Predictions:
        """Scores of every clip, in the set's order. `watch` is given the batches and their number, and passes them on."""
        stream, hosts = EvalStream(prepared.source(splits), batch_size=self.rows), jax.process_count()
        own = HostRows(stream, batch_size=self.rows, rows=self.rows, host=jax.process_index(), hosts=hosts)
        read = batches(
            own,
            kind=prepared.kind,
            batch_size=self.rows // hosts,
            num_frames=self.num_frames,
            num_classes=len(prepared.label_names),
            num_threads=self.num_threads,
        )
        params = self.layout.place(dict(params))
        with contextlib.closing(read):
            outputs = (
                self._step(params, self.layout.place_rows(batch))
                for batch in watch(read, len(stream) // self.rows)
            )
            return predict_all(outputs, prepared.ids(splits))
