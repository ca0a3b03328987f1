"""A model's scores over a whole data set, complete and in order: the one way there is, for training and for
`evaluate`.

B batch, T frames, F mel bins, C classes, N examples.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float16

from ast_jax import objectives
from ast_jax.datasets.pipeline import EvalStream, HostRows, batches
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation.predictions import Predictions
from ast_jax.features.batches import features
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import kernels, merge
from ast_jax.sharding import Layout

# Batches that the devices have been given and the host has not read yet: they compute while it does.
IN_FLIGHT = 2

# (out with "logits" [B, C], batch with "labels" [B, C]) to each clip's loss [B]
Loss = Callable[[Mapping[str, Array], Mapping[str, Array]], Array]
# what is done with batches, of which there are so many, on their way
Watch = Callable[[Iterable, int], Iterator]


def eval_step(
    variables: Mapping[str, Array],
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    front_end: FrontEnd,
    activation: str,
    loss: Loss,
    columns: tuple[int, ...] | None = None,
    forms: kernels.Kernels = kernels.PLAIN,
) -> dict[str, Array]:
    """{scores [B, C], loss [B]} of a batch, float32.

    `columns` says where each class of the data stands among the model's, if not in the same order.

    With them its `labels`, NaN where they are not known, and `mask`: on several hosts each of them read only
    a part of the batch.
    """
    logits, out = _called(graphdef, variables, batch, front_end, forms)
    logits = logits if columns is None else logits[:, np.array(columns)]
    scores = objectives.activation(activation)(logits)
    scored = {"scores": scores, "loss": loss({**out, "logits": logits}, batch)}
    labels = batch["labels"]
    if "known" in batch:
        labels = jnp.where(batch["known"] > 0, labels, jnp.nan)
    return scored | {"labels": labels, "mask": batch["mask"]}


def eval_frames(
    variables: Mapping[str, Array],
    batch: Mapping[str, Array],
    *,
    graphdef: nnx.GraphDef,
    front_end: FrontEnd,
    activation: str,
    columns: tuple[int, ...] | None = None,
    forms: kernels.Kernels = kernels.PLAIN,
) -> dict[str, Array]:
    """{frames [B, t, C]} of a batch, the scores of a model's steps of time as float16, and its `mask`."""
    _, out = _called(graphdef, variables, batch, front_end, forms)
    frames = objectives.activation(activation)(out["frames"])
    frames = frames if columns is None else frames[..., np.array(columns)]
    return {"frames": frames.astype(jnp.float16), "mask": batch["mask"]}


def _called(graphdef: nnx.GraphDef, variables: Any, batch: Any, front_end: FrontEnd, forms: Any) -> Any:
    with kernels.using(forms):
        return merge(graphdef, variables)(front_end.normalise(features(batch, front_end)))


class Scorer:
    """A model's structure, compiled once to score batches; call it with variables and the splits of a set.

    The batch is filled up to what the devices take. Every host calls it, and every host gets all scores.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        layout: Layout,
        *,
        front_end: FrontEnd,
        activation: str,
        loss: Loss,
        num_frames: int,
        batch_size: int,
        columns: Sequence[int] | None = None,
        num_threads: int = 4,
    ):
        self.layout, self.front_end = layout, front_end
        self.num_frames, self.num_threads = num_frames, num_threads
        self.rows = layout.num_rows(batch_size)
        common: dict[str, Any] = {
            "graphdef": graphdef,
            "front_end": front_end,
            "activation": activation,
            "columns": None if columns is None else tuple(map(int, columns)),
            "forms": layout.kernels,
        }
        self._clips = layout.score(functools.partial(eval_step, loss=loss, **common))
        self._frames = layout.score(functools.partial(eval_frames, **common))

    def __call__(
        self,
        variables: Mapping[str, Any],
        prepared: PreparedSet,
        splits: Sequence[str],
        *,
        watch: Watch = lambda batches, total: iter(batches),
    ) -> Predictions:
        """Scores of every clip, in the set's order.

        `watch` is given the batches and their number, and passes them on.
        """
        return joined(self._outputs(self._clips, variables, prepared, splits, watch), prepared.ids(splits))

    def frame_scores(
        self,
        variables: Mapping[str, Any],
        prepared: PreparedSet,
        splits: Sequence[str],
        *,
        watch: Watch = lambda batches, total: iter(batches),
    ) -> Iterator[Float16[np.ndarray, "t C"]]:
        """The same of the steps of time of each clip, one clip after another, of a model that judges them."""
        for batch in behind(self._outputs(self._frames, variables, prepared, splits, watch)):
            out = jax.device_get(dict(batch))
            yield from out["frames"][out["mask"] > 0]

    def _outputs(
        self,
        step: Callable,
        variables: Mapping[str, Any],
        prepared: PreparedSet,
        splits: Sequence[str],
        watch: Watch,
    ) -> Iterator[dict[str, Array]]:
        stream, hosts = EvalStream(prepared.source(splits), batch_size=self.rows), jax.process_count()
        own = HostRows(stream, batch_size=self.rows, rows=self.rows, host=jax.process_index(), hosts=hosts)
        read = batches(
            own,
            kind=prepared.kind,
            batch_size=self.rows // hosts,
            num_frames=self.num_frames,
            num_classes=len(prepared.label_names),
            front_end=self.front_end,
            partly=prepared.known(splits) is not None,
            num_threads=self.num_threads,
        )
        variables = self.layout.place(dict(variables))
        with contextlib.closing(read):
            for batch in watch(read, len(stream) // self.rows):
                yield step(variables, self.layout.place_rows(batch))


def behind(outputs: Iterable[Any], count: int = IN_FLIGHT) -> Iterator[Any]:
    """Passes outputs on when `count` more have been begun."""
    begun: collections.deque = collections.deque()
    for output in outputs:
        begun.append(output)
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


def joined(outputs: Iterable[Mapping[str, Array]], ids: list[str]) -> Predictions:
    """What `eval_step` gave for each batch, without the rows that only fill one."""
    kept = []
    for batch in behind(outputs):
        out = jax.device_get(dict(batch))
        real = out.pop("mask") > 0
        kept.append({key: value[real] for key, value in out.items()})
    whole = {key: np.concatenate([out[key] for out in kept]) for key in ("scores", "labels", "loss")}
    # a clip of which nothing is known has no loss
    losses = whole["loss"][~np.isnan(whole["labels"]).all(axis=1)]
    loss = float(losses.mean()) if len(losses) else float("nan")
    return Predictions(ids, whole["scores"], whole["labels"], loss)
