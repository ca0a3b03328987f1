"""`embed`: embeddings of sound files in a table."""

from operator import itemgetter
from pathlib import Path
from typing import Annotated

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Layer, Stated, WindowS, load_with_grid
from ast_jax.inference.rows import KINDS, Kind, Rows, check_path


def embed(
    files: Annotated[list[Path], Flag("sound files, or directories of them", metavar="FILE")],
    *,
    model: Annotated[str, Flag("a run or checkpoint, an image model too")],
    stated: Stated = AS_IT_IS,
    layer: Layer = None,
    window_s: WindowS = None,
    hop_s: Annotated[float | None, Flag("seconds between windows (default: the window)", above=0)] = None,
    kind: Annotated[Kind, Flag("; ".join(f"{name}: {what}" for name, what in KINDS.items()))] = "token",
    out: Annotated[Path, Flag("an .npz or .parquet file", output=True)],
) -> None:
    """Embeddings of sound files, for classifiers, search and pictures of your own.

      python -m ast_jax embed --model=RUN FILE_OR_DIRECTORY ... --out=emb.npz [--kind=frames] [--layer=N]

    A long file gives a row for each window, or for each step of time. Files that cannot be heard are
    reported, the others are in the output all the same; then the status is 1.
    """
    check_path(out)

    from ast_jax.inference.embed import embed_files, embedder, rows_of
    from ast_jax.inference.files import Failures, sound_files

    loaded, grid = load_with_grid(model, stated, window_s=window_s, hop_s=hop_s)
    forward = embedder(loaded, itemgetter(kind), layer)
    sounds = sound_files(files, loaded.front_end)
    failures = Failures(len(sounds), "embedded")
    heard = embed_files(sounds, grid, forward, failures)
    if found := [rows_of(one, loaded, kind) for one in heard]:
        rows = Rows.join(found)
        rows.save(out, {"model": model, "kind": kind, "layer": "last" if layer is None else str(layer)})
        print(f"{rows.vectors.shape[0]} rows of {rows.vectors.shape[1]} in {out}")
    failures.exit_if_any()
