"""Embeddings of sound files, for classifiers, search and pictures of your own.

A long file gives a row for each window (or for each step of time). B windows a batch, T frames, F mel bins, N tokens,
f x t patch grid, D width, R rows.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.features import SAMPLE_RATE, num_frames
from ast_jax.features.spec import FRAME_SHIFT, span
from ast_jax.inference.files import (
    Failures,
    batch_size_for,
    durations_s,
    progress,
)
from ast_jax.inference.rows import Kind, Rows
from ast_jax.inference.windows import Forward, Grid, Heard, hear
from ast_jax.models import AST, ASTConfig, merge, normalise, split
from ast_jax.weights import LoadedModel


def tokens_at(model: AST, x: Float[Array, "B T F"], layer: int) -> Float[Array, "B N D"]:
    """All tokens after `layer` blocks, float32; 0 is what the first block sees, and the last has the final norm, as the head reads it."""
    if layer == model.config.depth:
        return model.tokens(x)
    x = model.embed(x)
    for block in list(model.blocks)[:layer]:
        x = block(x)
    return x.astype(jnp.float32)


def heard_steps(config: ASTConfig, lengths: Int[Any, " *B"]) -> Int[Any, " *B"]:
    """How many of a window's t steps of time have their middle inside the sound; at least one."""
    patch, stride = config.patch_shape[1], config.strides[1]
    return ((lengths - (patch + 1) // 2) // stride + 1).clip(1, config.grid[1])


def pooled(
    config: ASTConfig, tokens: Float[Array, "B N D"], lengths: Int[Array, " B"]
) -> dict[str, Float[Array, "B ... D"]]:
    """Every kind of embedding of the same tokens: {token [B, D], mean [B, D], frames [B, t, D]}.

    'token' is the mean of the class and distillation tokens. 'frames' is the mean over frequency at each step of time;
    'mean' is the mean of those steps that hold sound, so that padding a short clip changes it little.
    """
    prefix = config.num_prefix_tokens
    patches = tokens[:, prefix:].reshape(tokens.shape[0], *config.grid, tokens.shape[-1])
    frames = patches.mean(axis=1)
    steps = heard_steps(config, lengths)[:, None]
    heard = (jnp.arange(config.grid[1])[None] < steps).astype(frames.dtype)
    mean = jnp.einsum("btd,bt->bd", frames, heard) / steps
    return {"token": tokens[:, :prefix].mean(axis=1), "mean": mean, "frames": frames}


def embedder(
    loaded: LoadedModel, choose: Callable[[dict[str, Array]], Array], layer: int | None = None
) -> Forward:
    """A function for `hear`: features [B, T, F] and frames of sound [B] to what `choose` takes of all kinds (see `pooled`).

    Raises InputError: no such layer.
    """
    depth = loaded.model.config.depth
    chosen = depth if layer is None else layer
    if not 0 <= chosen <= depth:
        raise InputError(
            f"layer is {layer}: this model has 0 (its patches) to {depth} (the last, the default)"
        )
    graphdef, params = split(loaded.model)

    @jax.jit
    def forward(params, fbank, lengths):
        model = merge(graphdef, params)
        tokens = tokens_at(model, normalise(fbank, loaded.mean, loaded.std), chosen)
        return choose(pooled(model.config, tokens, lengths))

    return lambda fbank, lengths: forward(params, fbank, lengths)


def rows_of(heard: Heard, config: ASTConfig, kind: Kind) -> Rows:
    """The embeddings of one file with their times; steps of time that only pad a window are left out."""
    name, starts, ends = str(heard.file), np.array(heard.starts_s), np.array(heard.ends_s)
    if kind != "frames":
        return Rows([name] * len(starts), starts, ends, np.stack(heard.answers))
    shift_s = FRAME_SHIFT / SAMPLE_RATE
    step_s, patch_s = config.strides[1] * shift_s, span(config.patch_shape[1]) / SAMPLE_RATE
    frames = np.array([num_frames(round(length * SAMPLE_RATE)) for length in ends - starts])
    steps = heard_steps(config, frames)
    begins = np.concatenate([start + step_s * np.arange(n) for start, n in zip(starts, steps, strict=True)])
    vectors = np.concatenate([answer[:n] for answer, n in zip(heard.answers, steps, strict=True)])
    return Rows([name] * len(begins), begins, np.minimum(begins + patch_s, ends[-1]), vectors)


def embed_files(files: Sequence[Path], grid: Grid, forward: Forward, failures: Failures) -> Iterator[Heard]:
    """Every file that can be heard through the model, with a progress bar."""
    durations = durations_s(files)
    with progress(sum(durations), "embedding") as advance:
        size = batch_size_for(durations, grid)
        yield from failures.reported(hear(files, grid, forward, batch_size=size, advance=advance))
