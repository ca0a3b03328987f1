"""`index` and `search`: the sounds that are most like one."""

import html
import os
import sys
from collections import Counter
from json import dumps
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated, WindowS, load_with_grid
from ast_jax.errors import InputError, printable
from ast_jax.inference.store import Found, Store


def index(
    sounds: Annotated[list[Path], Flag("sound files, or directories of them", metavar="FILE")],
    *,
    model: Annotated[str, Flag("a run or checkpoint, an image model too")],
    out: Annotated[Path, Flag("the index, a directory; one that is there grows")],
    window_s: WindowS = None,
    hop_s: Annotated[float | None, Flag("seconds between windows (default: the window)", above=0)] = None,
    kind: Annotated[
        Literal["token", "mean"], Flag("what stands for a window: token (what the head reads), mean (steps)")
    ] = "mean",
) -> None:
    """An index of sounds by what a model makes of them, to search in.

      python -m ast_jax index RECORDINGS --model=RUN --out=index
      python -m ast_jax search QUERY.wav --index=index

    The same command again adds what is new or has changed and goes on where it was stopped. Files that
    cannot be heard are reported, the others are in the index all the same; then the status is 1.
    """
    from ast_jax.inference.embed import kept
    from ast_jax.inference.files import Failures, each_once, sound_files

    loaded, grid = load_with_grid(model, AS_IT_IS, window_s=window_s, hop_s=hop_s)
    files = each_once(sound_files(sounds, loaded.front_end))
    failures = Failures(len(files), "indexed")
    store = kept(out, files, loaded, grid, {"model": model, "kind": kind}, failures)
    print(f"{len(store)} windows of {store.num_files} files in {out}")
    _tell_stale(store, "will be left out of answers")
    failures.exit_if_any()


def search(
    query: Annotated[Path, Flag("a sound file")],
    *,
    index: Annotated[Path, Flag("what `index` has made")],
    from_s: Annotated[float | None, Flag("the part of the query that begins there", least=0)] = None,
    to_s: Annotated[float | None, Flag("and ends there (default: a window later)", above=0)] = None,
    top: Annotated[int, Flag("windows shown", least=1)] = 10,
    once: Annotated[bool, Flag("each file's best window alone")] = False,
    json: Annotated[bool, Flag("a list of objects")] = False,
    form: Annotated[
        Literal["csv", "tsv", "audacity", "raven"] | None, Flag("a table for other programs, with --out")
    ] = None,
    out: Annotated[Path | None, Flag("the table; of audacity and raven a directory, a table a file")] = None,
    page: Annotated[Path | None, Flag("an HTML page with players", output=True)] = None,
) -> None:
    """The windows of an index that sound most like a file, or like a part of it.

      python -m ast_jax search QUERY.wav --index=index [--from_s=2 --to_s=5] [--page=found.html]

    By the cosine of standardised embeddings, exactly: every window is looked at. The query itself is left out
    where it is in the index: the file, or its windows that overlap the part. So are files that are gone or
    have changed since they were indexed, which is told.
    """
    if to_s is not None and (from_s is None or to_s <= from_s):
        raise InputError("--to_s is the end of a part: give --from_s before it")
    if (form is None) != (out is None):
        raise InputError("--form and --out go together")
    store = Store.open(index)
    vector = _of_query(store, query, from_s, to_s)
    part_s = (-np.inf, np.inf)
    if from_s is not None:
        part_s = (from_s, from_s + store.about["window_s"] if to_s is None else to_s)
    found = store.search(vector, top, once=once, without=os.path.abspath(query), part_s=part_s)
    _tell_stale(store, "are left out")
    if page is not None:
        page.write_text(_page(query, found), encoding="utf-8")
    if out is not None:
        _write_table(found, f"like {printable(query.name)}", form or "csv", out)
    if json:
        print(dumps([vars(one) for one in found]))
        return
    for one in found:
        print(f"{one.score:.3f}  {one.start_s:8.2f} to {one.end_s:8.2f} s  {printable(one.file)}")


def _tell_stale(store: Store, outcome: str) -> None:
    """What is not as it was indexed, in a line, if anything."""
    if store.stale:
        counts = Counter(store.stale.values())
        told = [f"{counts[what]} {verb}" for what, verb in (("gone", "gone"), ("changed", "changed since"))]
        print(
            f"of {store.num_files} files in {store.root} {', '.join(told)}: they {outcome} "
            "(`index` takes up those that changed)",
            file=sys.stderr,
        )


def _write_table(found: list[Found], label: str, form: str, out: Path) -> None:
    from ast_jax.events import FORMS, Event, told_apart, write_events

    events = [Event(one.file, one.start_s, one.end_s, label, one.score) for one in found]
    if form in ("csv", "tsv"):
        out.write_text(write_events(events, form), encoding="utf-8")
        return
    out.mkdir(parents=True, exist_ok=True)
    files = sorted({event.file for event in events})
    for file, name in zip(files, told_apart([[Path(file).name for file in files]]), strict=True):
        own = sorted((event for event in events if event.file == file), key=lambda event: event.onset_s)
        (out / f"{name}{FORMS[form]}").write_text(write_events(own, form), encoding="utf-8")


def _of_query(store: Store, query: Path, from_s: float | None, to_s: float | None) -> np.ndarray:
    """Its embedding as the index has them: of a part, or the mean over its windows."""
    from ast_jax.inference.embed import embed_files, embedder, width
    from ast_jax.inference.explain import window_at
    from ast_jax.inference.files import Failures
    from ast_jax.weights.pretrained import fit_frames

    about = store.about
    # as `label` was told
    stated = Stated(**about.get("stated", {}))
    loaded, grid = load_with_grid(about["model"], stated, window_s=about["window_s"], hop_s=about["hop_s"])
    store.check_model(loaded.digest())
    if width(loaded) != about["width"]:
        raise InputError(f"{about['model']} is another model than that of the index: make the index again")
    forward = embedder(loaded, itemgetter(about["kind"]))
    if from_s is None:
        failures = Failures(1, "heard")
        heard = list(embed_files([query], grid, forward, failures))
        failures.exit_if_any()
        return np.mean(heard[0].answers, axis=0)
    fbank = window_at(query, from_s, grid, flag="--from_s")
    if to_s is not None:
        if to_s - from_s > grid.window_s:
            print(f"of the part its first {grid.window_s:g} s are heard, a window", file=sys.stderr)
        fbank = fbank[: max(1, round((to_s - from_s) / grid.front_end.seconds(1)))]
    length = loaded.model.config.num_frames
    padded = fit_frames(fbank[None], length, grid.front_end.padding)
    return np.asarray(forward(padded, np.array([min(len(fbank), length)], np.int32)))[0]


def _page(query: Path, found: list[Found]) -> str:
    name = html.escape(printable(query.name))
    rows = "\n".join(
        f"<tr><td>{one.score:.3f}<td>{one.start_s:.2f} to {one.end_s:.2f} s"
        f'<td><audio controls preload="none" src="{_address(one.file, one.start_s, one.end_s)}"></audio>'
        f"<td>{html.escape(printable(one.file))}"
        for one in found
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Like {name}</title>
<style>body {{ font: 1rem sans-serif; margin: 2rem }} td {{ padding: .2rem .8rem }}</style>
<h1>Like {name}</h1>
<p><audio controls src="{_address(os.path.abspath(query))}"></audio></p>
<table><tr><th>cosine<th>when<th>sound<th>file
{rows}
</table></html>
"""


def _address(file: str, start_s: float | None = None, end_s: float | None = None) -> str:
    part = "" if start_s is None else f"#t={start_s:.2f},{end_s:.2f}"
    return f"file://{quote(os.fsencode(file))}{part}"
