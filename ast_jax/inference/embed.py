"""Embeddings of sound files, for classifiers, search and pictures of your own.

A long file gives a row for each window (or for each step of time). B windows a batch, T frames, F mel bins, N
tokens, f x t patch grid, D width, R rows.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.features.audio import name_of
from ast_jax.inference.files import (
    Failures,
    batch_size_for,
    durations_s,
)
from ast_jax.inference.rows import Kind, Rows
from ast_jax.inference.store import Store
from ast_jax.inference.windows import Forward, Grid, Heard, hear
from ast_jax.models import kernels_on, merge, using
from ast_jax.models.base import outputs, steps_with_sound
from ast_jax.terminal import Bar
from ast_jax.weights import LoadedModel


def pooled(
    model: Any, layer: dict[str, Array], lengths: Int[Array, " B"]
) -> dict[str, Float[Array, "B ... D"]]:
    """Every kind of embedding of one layer: {token [B, D], mean [B, D], frames [B, t, D]}.

    'token' is what the head reads there. 'frames' is the mean over frequency at each step of time; 'mean' is
    the mean of those steps that hold sound, so that padding a short clip changes it little. A family without
    steps has the first alone.
    """
    kinds = {"token": layer["embedding"]}
    if "sequence" not in layer:
        return kinds
    frames = layer["sequence"]
    steps = steps_with_sound(model, lengths)[:, None]
    heard = (jnp.arange(frames.shape[1])[None] < steps).astype(frames.dtype)
    return kinds | {"mean": jnp.einsum("btd,bt->bd", frames, heard) / steps, "frames": frames}


def embedder(
    loaded: LoadedModel, choose: Callable[[dict[str, Array]], Array], layer: int | None = None
) -> Forward:
    """A function for `hear`: features [B, T, F] and frames of sound [B] to what `choose` takes of all kinds
    (see `pooled`).

    Raises InputError: no such layer.
    """
    graphdef, arrays = loaded.parts
    front_end, forms = loaded.front_end, kernels_on(jax.devices()[0])

    @jax.jit
    def forward(arrays, fbank, lengths):
        model = merge(graphdef, arrays)
        with using(forms):
            _, out = model(front_end.normalise(fbank))
        layers = out.get("layers", [out])
        chosen = len(layers) - 1 if layer is None else layer
        if not 0 <= chosen < len(layers):
            raise InputError(
                f"layer is {layer}: this model has 0 (its patches) to {len(layers) - 1} (the last, the "
                "default)"
            )
        kinds = pooled(model, layers[chosen], lengths)
        try:
            return choose(kinds)
        except KeyError as error:
            raise InputError(
                f"this model has no embeddings of the kind {error}: choose {', '.join(kinds)}"
            ) from None

    # a wrong layer is told before files are opened
    jax.eval_shape(forward, arrays, *_one_window(loaded))
    # of the model as it is then: its arrays may have been changed
    return lambda fbank, lengths: forward(loaded.parts[1], fbank, lengths)


def _one_window(loaded: LoadedModel) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    shape = (1, loaded.model.config.num_frames, loaded.front_end.num_mel_bins)
    return jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)


def rows_of(heard: Heard, loaded: LoadedModel, kind: Kind) -> Rows:
    """The embeddings of one file with their times; steps of time that only pad a window are left out."""
    name, starts, ends = name_of(heard.file), np.array(heard.starts_s), np.array(heard.ends_s)
    if kind != "frames":
        return Rows([name] * len(starts), starts, ends, np.stack(heard.answers))
    front_end, (size, stride, _) = loaded.front_end, loaded.model.time_steps
    rate = front_end.sample_rate_hz
    step_s, size_s = front_end.seconds(stride), front_end.span(size) / rate
    frames = np.array([front_end.num_frames(round(length * rate)) for length in ends - starts])
    steps = steps_with_sound(loaded.model, frames)
    begins = np.concatenate([start + step_s * np.arange(n) for start, n in zip(starts, steps, strict=True)])
    vectors = np.concatenate([answer[:n] for answer, n in zip(heard.answers, steps, strict=True)])
    return Rows([name] * len(begins), begins, np.minimum(begins + size_s, ends[-1]), vectors)


def width(loaded: LoadedModel) -> int:
    """Numbers of an embedding."""
    return int(outputs(loaded.model)["embedding"].shape[-1])


def kept(
    where: Path,
    files: Sequence[Path],
    loaded: LoadedModel,
    grid: Grid,
    about: dict[str, Any],
    failures: Failures,
) -> Store:
    """The store in `where` of every window of these files, grown by those that are new or have changed.

    `about` is what it is of, its `kind` of embedding among that. Raises InputError where it is of something
    else, or of another model of the same name.
    """
    about = {
        **about,
        "window_s": grid.window_s,
        "hop_s": grid.hop / grid.front_end.sample_rate_hz,
        "width": width(loaded),
        "digest": loaded.digest(),
    }
    with Store.growing(where, about) as store:
        store.check_model(about["digest"])
        new = [file for file in files if not store.has(file)]
        if len(new) < len(files):
            print(
                f"{len(files) - len(new)} of {len(files)} files are in {where} as they are", file=sys.stderr
            )
        for one in embed_files(new, grid, embedder(loaded, itemgetter(about["kind"])), failures):
            store.add(Path(str(one.file)), one.starts_s, one.ends_s, np.stack(one.answers))
    return store


def embed_files(files: Sequence[Path], grid: Grid, forward: Forward, failures: Failures) -> Iterator[Heard]:
    """Every file that can be heard through the model, with a progress bar."""
    durations = durations_s(files, grid.front_end)
    with Bar(transient=True) as bar:
        advance, size = bar.task("embedding", sum(durations)).advance, batch_size_for(durations, grid)
        yield from failures.reported(hear(files, grid, forward, batch_size=size, advance=advance), bar)
