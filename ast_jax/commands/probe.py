"""`probe`: a classifier of the user's classes on a model's embeddings."""

import sys
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Layer, Stated, load_with_grid
from ast_jax.errors import InputError


def probe(
    sounds: Annotated[Path, Flag("a data set: a directory or a table", metavar="SOUNDS")],
    *,
    model: Annotated[str, Flag("a run or checkpoint, an image model too")],
    stated: Stated = AS_IT_IS,
    layer: Layer = None,
    C: Annotated[float, Flag("inverse strength of the regularisation", above=0)] = 1.0,
    save: Annotated[
        Path | None, Flag("keep the classifier as a model in this new directory; it chooses C by itself")
    ] = None,
    layers: Annotated[
        Literal["last", "all"], Flag("with --save: which blocks it reads, or --layer")
    ] = "last",
    pools: Annotated[
        tuple[str, ...], Flag("with --save: what it reads of each, of token, mean, max, min, by commas")
    ] = ("token", "mean"),
    group: Annotated[
        str | None,
        Flag("what of a file's path says to whom it belongs, a regular expression", metavar="PATTERN"),
    ] = None,
    json: Annotated[bool, Flag("one JSON object instead of lines")] = False,
) -> None:
    """How much a model knows of your classes without any training: logistic regression on its embeddings.

      python -m ast_jax probe --model=RUN SOUNDS [--layer=N]
      python -m ast_jax probe --model=RUN SOUNDS --save=runs/probe [--layers=all]

    SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five
    stratified folds; what belongs together by a column group, or by --group, in one of them). A split called
    test that the set itself has, or else valid, is judged instead, and nothing is fitted to it. One line for
    each kind of embedding. Files that cannot be heard are reported and left out. With --save one classifier
    is fitted to all clips but those, and kept as a model that predict, serve, evaluate, embed and convert
    take; its strength, its temperature and its thresholds are chosen on clips held out, and so is the
    accuracy that is told. scikit-learn comes with the extra [probe].
    """
    if find_spec("sklearn") is None:
        raise InputError("probe needs scikit-learn: `pip install 'scikit-learn<2'`")
    if save is not None and save.exists():
        raise InputError(f"--save={save} exists already: name a new directory, or remove it")

    import jax.numpy as jnp

    from ast_jax.inference.embed import embed_files, embedder
    from ast_jax.inference.files import Failures
    from ast_jax.inference.probe import cross_validate, labelled, read_of

    own = labelled(sounds, group)
    for line in own.told:
        print(f"{sounds}: {line}", file=sys.stderr)
    loaded, grid = load_with_grid(model, stated)
    failures = Failures(len(own.clips), "embedded")
    files = [Path(clip.path) for clip in own.clips]
    pair = lambda kinds: jnp.stack([kinds["token"], kinds["mean"]], axis=1)
    if save is None:
        forward = embedder(loaded, pair, layer)
    else:
        probed = read_of(loaded, layers if layer is None else (layer,), pools, own.names)
        # padding counts, as it does where the model is used
        forward = lambda fbank, lengths: probed.embeddings(fbank)
    heard = list(embed_files(files, grid, forward, failures))
    places = {clip.path: i for i, clip in enumerate(own.clips)}
    rows = np.array([places[str(one.file)] for one in heard])
    # [N, ..., D]: the mean over windows
    vectors = np.stack([np.mean(one.answers, axis=0) for one in heard])
    labels, folds = own.labels[rows], own.folds[rows]
    if save is None:
        kinds = {"token": vectors[:, 0], "mean": vectors[:, 1], "both": vectors.reshape(len(vectors), -1)}
        found = {name: cross_validate(x, labels, folds, C=C, judged=own.judged) for name, x in kinds.items()}
        tell(found, judged_on(folds, own.judged), len(rows), json=json)
    else:
        keep(probed, vectors, labels, folds, own.judged, save, source=f"{model}, probed", json=json)
    failures.exit_if_any()


def judged_on(folds: np.ndarray, judged: str | None) -> str:
    """Which clips an accuracy is of. Raises InputError where none of them could be heard, or none else."""
    if judged is None:
        return f"on {len(folds)} clips, each fold held out in turn"
    test = int((folds == judged).sum())
    if test in (0, len(folds)):
        raise InputError(f"{test} of the {len(folds)} clips heard are of {judged}: wanted some of both sides")
    return f"fitted to {len(folds) - test} clips, judged on the {test} of {judged}"


def tell(found: dict[str, Any], judged: str, clips: int, *, json: bool) -> None:
    """Each kind of embedding's accuracy."""
    if json:
        print(dumps({"clips": clips, "judged": judged, "kinds": found}))
        return
    print(f"logistic regression {judged}")
    for name, result in found.items():
        print(
            f"  {name:<5}  {result['accuracy']:.1%} +- {result['spread']:.1%}   ({_shares(result['folds'])})"
        )


def keep(
    probed: Any,
    vectors: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    judged: str | None,
    where: Path,
    *,
    source: str,
    json: bool,
) -> None:
    """Fits the classifier, writes it and says what it is worth."""
    from ast_jax.inference.probe import fit_probe, with_probe
    from ast_jax.weights.convert import save

    said = judged_on(folds, judged)
    found = fit_probe(vectors, labels, folds, len(probed.label_names), judged=judged)
    lines = save(with_probe(probed, found), where, facts={"source": source})
    if json:
        kept = {"clips": len(labels), "judged": said, "accuracy": found.accuracy, "folds": found.folds}
        print(dumps({**kept, "C": found.C, "temperature": found.temperature, "saved": str(where)}))
        return
    print(f"{said}: {found.accuracy:.1%}   ({_shares(found.folds)})")
    every = "" if judged else ", to all clips: evaluate it on others"
    print(f"fitted with C {found.C:g}, temperature {found.temperature:.2f}{every}: {lines[0]}")


def _shares(folds: dict[str, float]) -> str:
    return "  ".join(f"{fold} {share:.1%}" for fold, share in folds.items())
