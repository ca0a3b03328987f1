r"""Embeddings of sound files, for classifiers, search and pictures of your own.

  python -m ast_jax embed --model=RUN FILE_OR_DIRECTORY ... --out=emb.npz [--kind=token|mean|frames] [--layer=N]

A long file gives a row for each window (or for each step of time). B windows a batch, T frames, F mel bins, N tokens,
f x t patch grid, D width, R rows.
"""

import argparse
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
from ast_jax.inference.files import (
    Failures,
    add_window_flags,
    batch_size_for,
    durations_s,
    progress,
    sound_files,
)
from ast_jax.inference.rows import KINDS, Kind, Rows, check_path
from ast_jax.inference.windows import Forward, Grid, Heard, hear
from ast_jax.models import kernels_on, merge, split, using
from ast_jax.weights import LoadedModel, load_model


def steps_with_sound(model: Any, lengths: Int[Any, " *B"]) -> Int[Any, " *B"]:
    """How many of a window's steps of time have their middle inside `lengths` frames of sound; at least one."""
    size, stride, most = model.time_steps
    return ((lengths - (size + 1) // 2) // stride + 1).clip(1, most)


def pooled(
    model: Any, layer: dict[str, Array], lengths: Int[Array, " B"]
) -> dict[str, Float[Array, "B ... D"]]:
    """Every kind of embedding of one layer: {token [B, D], mean [B, D], frames [B, t, D]}.

    'token' is what the head reads there. 'frames' is the mean over frequency at each step of time; 'mean' is the mean of
    those steps that hold sound, so that padding a short clip changes it little. A family without steps has the first alone.
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
    """A function for `hear`: features [B, T, F] and frames of sound [B] to what `choose` takes of all kinds (see `pooled`).

    Raises InputError: no such layer.
    """
    graphdef, params, statistics = split(loaded.model)
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
                f"layer is {layer}: this model has 0 (its patches) to {len(layers) - 1} (the last, the default)"
            )
        kinds = pooled(model, layers[chosen], lengths)
        try:
            return choose(kinds)
        except KeyError as error:
            raise InputError(
                f"this model has no embeddings of the kind {error}: choose {', '.join(kinds)}"
            ) from None

    arrays = params | statistics
    jax.eval_shape(forward, arrays, *_one_window(loaded))  # a wrong layer is told before files are opened
    return lambda fbank, lengths: forward(arrays, fbank, lengths)


def _one_window(loaded: LoadedModel) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    shape = (1, loaded.model.config.num_frames, loaded.front_end.num_mel_bins)
    return jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)


def rows_of(heard: Heard, loaded: LoadedModel, kind: Kind) -> Rows:
    """The embeddings of one file with their times; steps of time that only pad a window are left out."""
    name, starts, ends = str(heard.file), np.array(heard.starts_s), np.array(heard.ends_s)
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


def embed_files(files: Sequence[Path], grid: Grid, forward: Forward, failures: Failures) -> Iterator[Heard]:
    """Every file that can be heard through the model, with a progress bar."""
    durations = durations_s(files)
    with progress(sum(durations), "embedding") as advance:
        size = batch_size_for(durations, grid)
        yield from failures.reported(hear(files, grid, forward, batch_size=size, advance=advance))


def main(argv: Sequence[str]) -> None:
    """The command. Files that cannot be heard are reported, the others are in the output all the same; then the status is 1."""
    parser = argparse.ArgumentParser("python -m ast_jax embed", description="Embeddings of sound files.")
    add_model_flags(parser)
    add_window_flags(parser, hop="the window")
    parser.add_argument(
        "--kind", choices=KINDS, default="token", help="; ".join(f"{k}: {v}" for k, v in KINDS.items())
    )
    parser.add_argument("--out", type=Path, required=True, help="an .npz or .parquet file")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="sound files, or directories of them"
    )
    args = parser.parse_args(argv)
    check_path(args.out)
    loaded, grid = load_from(args)
    forward = embedder(loaded, itemgetter(args.kind), args.layer)
    files = sound_files(args.files)
    failures = Failures(len(files), "embedded")
    found = [rows_of(heard, loaded, args.kind) for heard in embed_files(files, grid, forward, failures)]
    if found:
        rows = Rows.join(found)
        layer = "last" if args.layer is None else str(args.layer)
        rows.save(args.out, {"model": args.model, "kind": args.kind, "layer": layer})
        print(f"{rows.vectors.shape[0]} rows of {rows.vectors.shape[1]} in {args.out}")
    failures.exit_if_any()


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, which layer, and what a checkpoint may not say itself."""
    parser.add_argument("--model", required=True, help="a run or checkpoint, an image model too")
    parser.add_argument("--which", default="best", help="of a run: best, last or average weights")
    parser.add_argument("--layer", type=int, help="after how many blocks (default: all, and the final norm)")
    parser.add_argument("--num_frames", type=int, help="another length than the checkpoint's, 10 ms a frame")
    parser.add_argument("--strides", type=_pair, help="other strides than the checkpoint's: MEL_BINS,FRAMES")
    parser.add_argument("--mean", type=float, help="normalisation, where the checkpoint does not say")
    parser.add_argument("--std", type=float)


def load_from(args: argparse.Namespace) -> tuple[LoadedModel, Grid]:
    """The model that the flags name, and windows side by side unless they say otherwise."""
    options = {name: getattr(args, name) for name in ("num_frames", "strides", "mean", "std")}
    given = {name: value for name, value in options.items() if value is not None}
    loaded = load_model(args.model, which=args.which, **given)
    front_end, num_frames = loaded.front_end, loaded.model.config.num_frames
    print(f"{args.model}: mean {front_end.mean:.5g}, std {front_end.std:.5g}", file=sys.stderr)
    window_s = getattr(args, "window_s", None)
    longest = front_end.span(num_frames) / front_end.sample_rate_hz
    hop_s = getattr(args, "hop_s", None) or window_s or longest
    return loaded, Grid.of(front_end, num_frames, window_s=window_s, hop_s=hop_s, channels=loaded.channels)


def _pair(text: str) -> tuple[int, int]:
    first, second = text.split(",")  # argparse makes a message of the ValueError
    return int(first), int(second)
