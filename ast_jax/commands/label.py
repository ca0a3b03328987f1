"""`label`: a page of this machine's own, on which clips are heard and named."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated, load_with_grid
from ast_jax.commands.serve import LOOPBACK
from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd, require_sound


def label(
    sounds: Annotated[list[Path], Flag("sound files, or directories of them", metavar="FILE")],
    *,
    model: Annotated[str, Flag("a run or checkpoint whose embeddings tell clips apart, an image model too")],
    stated: Stated = AS_IT_IS,
    out: Annotated[Path, Flag("the table of answers, a .csv; one that is there grows")],
    classes: Annotated[tuple[str, ...], Flag("names to choose from, by commas; others come as you go")] = (),
    order: Annotated[
        Literal["active", "random"], Flag("what teaches most first (in doubt, unlike the rest), or as drawn")
    ] = "active",
    index: Annotated[
        Path | None, Flag("where embeddings are kept, as `index` has them (default: beside the table)")
    ] = None,
    group: Annotated[
        str | None,
        Flag(
            "whose a clip is: a pattern of its path, as `folder` has it, or a table (file, group); then "
            "groups are held out whole"
        ),
    ] = None,
    port: Annotated[int, Flag("0: any free one", least=0, most=65535)] = 8000,
) -> None:
    """A page on which you name your clips, one key each; the clip that teaches most comes first.

      python -m ast_jax label CLIPS --model=ast_audioset_10_10_0.4593 --out=labels.csv [--classes=song,call]
      python -m ast_jax.main --config=folder --config.dataset.source_dir=labels.csv --workdir=runs/mine

    Every answer is in the table before the next clip is shown; the same command goes on where you stopped.
    A classifier on the model's embeddings is fitted as you go: it guesses, it chooses what comes next, and
    the page draws how well it does on one clip of five, drawn at random and held out (split `test` of the
    table). Where clips are pieces of recordings, --group says which belong together: else they stand on both
    sides, and the curve flatters. One class a clip. Two pages at once get clips of their own. Until Ctrl-C,
    for this machine alone. Needs fastapi, uvicorn (the extra `serve`) and scikit-learn (`probe`).
    """
    try:
        import sklearn  # noqa: F401

        from ast_jax.inference.serve.label_app import make_label_app
        from ast_jax.inference.serve.limits import Limits
        from ast_jax.inference.serve.server import listen, run
    except ModuleNotFoundError as error:
        wanted = "'scikit-learn<2'" if error.name == "sklearn" else "fastapi uvicorn"
        raise InputError(f"{error.name} is not installed: pip install {wanted}") from error
    if out.suffix.lower() != ".csv" or not out.absolute().parent.is_dir():
        raise InputError(f"--out={out}: wanted a .csv in a directory that is there")

    from ast_jax.datasets.locking import locked
    from ast_jax.inference.files import each_once, sound_files
    from ast_jax.inference.labelling import Session, checked, groups_by

    names = [checked(name, "--classes") for name in classes]
    clips = each_once(sound_files(sounds))
    listening = listen(LOOPBACK, port)
    with out.with_name(f".{out.name}.lock").open("w") as lock:
        if not locked(lock):
            raise InputError(
                f"{out} is being written by another `label`: stop that one, or name another --out"
            )
        files, vectors, front_end = heard(clips, model, stated, index or out.with_suffix(".index"))
        whose = groups_by(group, out.absolute().parent) if group else None
        session = Session(out, files, vectors, classes=names, order=order, group=whose)
        print(session.told_groups(), file=sys.stderr)
        run(make_label_app(session, front_end), Limits(), LOOPBACK, listening)
        answers = session.standing()["answers"]
        print(f"{answers} of {len(files)} clips are labelled in {out}", file=sys.stderr)


def heard(
    files: list[Path], model: str, stated: Stated, index: Path
) -> tuple[list[Path], np.ndarray, FrontEnd]:
    """The files that can be heard, the mean embedding of each, and what hears them; kept in a store, so that
    the next sitting begins at once. Raises InputError where none can be heard.
    """
    from ast_jax.inference.embed import kept
    from ast_jax.inference.files import Failures
    from ast_jax.models.base import outputs

    loaded, grid = load_with_grid(model, stated)
    require_sound(loaded.front_end, "label")
    kind = "mean" if "sequence" in outputs(loaded.model) else "token"
    said = {name: value for name, value in vars(stated).items() if value is not None}
    # as JSON has it
    about = {"model": model, "kind": kind, "stated": json.loads(json.dumps(said))}
    store = kept(index, files, loaded, grid, about, Failures(len(files), "heard"))
    held = store.vectors() if len(store) else {}
    # not one that has changed and cannot be heard any more
    known = [file for file in files if str(file) in held and str(file) not in store.stale]
    if not known:
        raise InputError("none of the files can be heard: name others")
    return known, np.stack([held[str(file)].mean(axis=0) for file in known]), grid.front_end
