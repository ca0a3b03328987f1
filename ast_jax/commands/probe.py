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
    kind: Annotated[
        Literal["linear", "knn", "prototypes"],
        Flag("logistic regression, votes of the nearest clips by cosine, or the nearest class's mean"),
    ] = "linear",
    add: Annotated[
        bool, Flag("with --save: MODEL is a kept probe of kind knn or prototypes, SOUNDS are more classes")
    ] = False,
    json: Annotated[bool, Flag("one JSON object instead of lines")] = False,
) -> None:
    """How much a model knows of your classes without any training: a classifier on its embeddings.

      python -m ast_jax probe --model=RUN SOUNDS [--layer=N] [--kind=knn]
      python -m ast_jax probe --model=RUN SOUNDS --save=runs/probe [--layers=all]
      python -m ast_jax probe --model=runs/probe MORE_SOUNDS --add --save=runs/larger

    SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five
    stratified folds; what belongs together by a column group, or by --group, in one of them). A split called
    test that the set itself has, or else valid, is judged instead, and nothing is fitted to it. One line for
    each kind of embedding. Files that cannot be heard are reported and left out. With --save one classifier
    is fitted to all clips but those, and kept as a model that predict, serve, evaluate, embed and convert
    take; its strength or its number of neighbours, its temperature and its thresholds are chosen on clips
    held out, and so is the accuracy that is told. --add gives a probe of examples more classes by theirs, and
    fits nothing. scikit-learn comes with the extra [probe].
    """
    if find_spec("sklearn") is None:
        raise InputError("probe needs scikit-learn: `pip install 'scikit-learn<2'`")
    if save is not None and save.exists():
        raise InputError(f"--save={save} exists already: name a new directory, or remove it")
    if add and save is None:
        raise InputError("--add: name a new directory with --save for the larger probe")

    import jax.numpy as jnp

    from ast_jax.inference.embed import embedder
    from ast_jax.inference.files import Failures
    from ast_jax.inference.probe import cross_validate, fit_probe, labelled, more, over_folds, read_of

    own = more(sounds) if add else labelled(sounds, group)
    for line in own.told:
        print(f"{sounds}: {line}", file=sys.stderr)
    loaded, grid = load_with_grid(model, stated)
    failures = Failures(len(own.clips), "embedded")
    if save is None:
        pair = lambda kinds: jnp.stack([kinds["token"], kinds["mean"]], axis=1)
        rows, vectors = embedded(own.clips, grid, embedder(loaded, pair, layer), failures)
        folds, kinds = own.folds[rows], {"token": vectors[:, 0], "mean": vectors[:, 1]}
        given = (own.labels[rows], folds)
        found = {
            name: cross_validate(x, *given, C=C, judged=own.judged)
            if kind == "linear"
            else over_folds(fit_probe(x, *given, len(own.names), kind=kind, judged=own.judged).folds)
            for name, x in (kinds | {"both": vectors.reshape(len(vectors), -1)}).items()
        }
        tell(found, kind, judged_on(folds, own.judged), len(rows), json=json)
    else:
        probed = loaded if add else read_of(loaded, layers if layer is None else (layer,), pools, own.names)
        # padding counts, as it does where the model is used
        forward = lambda fbank, lengths: probed.embeddings(fbank)
        rows, vectors = embedded(own.clips, grid, forward, failures)
        if add:
            enlarge(probed, vectors, own.labels[rows], own.names, save, source=model, json=json)
        else:
            fitted = (vectors, own.labels[rows], own.folds[rows], own.judged)
            keep(probed, *fitted, save, kind=kind, source=f"{model}, probed", json=json)
    failures.exit_if_any()


def embedded(clips: Any, grid: Any, forward: Any, failures: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which clips were heard, and the mean over windows of what `forward` says of each."""
    from ast_jax.inference.embed import embed_files

    heard = list(embed_files([Path(clip.path) for clip in clips], grid, forward, failures))
    places = {clip.path: i for i, clip in enumerate(clips)}
    rows = np.array([places[str(one.file)] for one in heard])
    return rows, np.stack([np.mean(one.answers, axis=0) for one in heard])


def enlarge(
    probed: Any,
    vectors: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    where: Path,
    *,
    source: str,
    json: bool,
) -> None:
    """Writes the probe with more classes, and says which."""
    from ast_jax.inference.nearest import with_classes
    from ast_jax.weights.convert import save

    larger = with_classes(probed, vectors, labels, names)
    lines = save(larger, where, facts={"source": f"{source}, {len(names)} classes added"})
    if json:
        print(dumps({"clips": len(labels), "added": names, "saved": str(where)}))
        return
    print(
        f"{', '.join(names)} added by {len(labels)} clips, {len(larger.label_names)} classes; from which "
        f"score on a class is found has to be said again (--threshold): {lines[0]}"
    )


def judged_on(folds: np.ndarray, judged: str | None) -> str:
    """Which clips an accuracy is of. Raises InputError where none of them could be heard, or none else."""
    if judged is None:
        return f"on {len(folds)} clips, each fold held out in turn"
    test = int((folds == judged).sum())
    if test in (0, len(folds)):
        raise InputError(f"{test} of the {len(folds)} clips heard are of {judged}: wanted some of both sides")
    return f"fitted to {len(folds) - test} clips, judged on the {test} of {judged}"


def tell(found: dict[str, Any], kind: str, judged: str, clips: int, *, json: bool) -> None:
    """Each kind of embedding's accuracy."""
    if json:
        print(dumps({"clips": clips, "judged": judged, "kinds": found}))
        return
    print(f"{'logistic regression' if kind == 'linear' else kind} {judged}")
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
    kind: str,
    source: str,
    json: bool,
) -> None:
    """Fits the classifier, writes it and says what it is worth."""
    from ast_jax.inference.probe import fit_probe, with_probe
    from ast_jax.weights.convert import save

    said = judged_on(folds, judged)
    found = fit_probe(vectors, labels, folds, len(probed.label_names), kind=kind, judged=judged)
    lines = save(with_probe(probed, found), where, facts={"source": source})
    if json:
        kept = {"clips": len(labels), "judged": said, "accuracy": found.accuracy, "folds": found.folds}
        # of prototypes nothing is chosen
        chosen = {"linear": {"C": found.chosen}, "knn": {"neighbours": found.chosen}}.get(kind, {})
        print(dumps({**kept, **chosen, "temperature": found.temperature, "saved": str(where)}))
        return
    print(f"{said}: {found.accuracy:.1%}   ({_shares(found.folds)})")
    every = "" if judged else ", to all clips: evaluate it on others"
    words = {"linear": f"C {found.chosen:g}", "knn": f"{found.chosen:g} neighbours"}.get(kind, "class means")
    print(f"fitted with {words}, temperature {found.temperature:.2f}{every}: {lines[0]}")


def _shares(folds: dict[str, float]) -> str:
    return "  ".join(f"{fold} {share:.1%}" for fold, share in folds.items())
