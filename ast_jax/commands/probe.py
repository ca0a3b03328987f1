"""`probe`: a classifier of the user's classes on a model's embeddings."""

from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Annotated

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
    json: Annotated[bool, Flag("one JSON object instead of lines")] = False,
) -> None:
    """How much a model knows of your classes without any training: logistic regression on its embeddings.

      python -m ast_jax probe --model=RUN SOUNDS [--layer=N]

    SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five
    stratified folds). One line for each kind of embedding. Files that cannot be heard are reported and left
    out. scikit-learn comes with the extra [probe].
    """
    if find_spec("sklearn") is None:
        raise InputError("probe needs scikit-learn: `pip install 'scikit-learn<2'`")

    import jax.numpy as jnp

    from ast_jax.inference.embed import embed_files, embedder
    from ast_jax.inference.files import Failures
    from ast_jax.inference.probe import cross_validate, labelled

    clips, labels, folds = labelled(sounds)
    loaded, grid = load_with_grid(model, stated)
    failures = Failures(len(clips), "embedded")
    pair = lambda kinds: jnp.stack([kinds["token"], kinds["mean"]], axis=1)
    files = [Path(clip.path) for clip in clips]
    heard = list(embed_files(files, grid, embedder(loaded, pair, layer), failures))
    places = {clip.path: i for i, clip in enumerate(clips)}
    rows = np.array([places[str(one.file)] for one in heard])
    # [N, 2, D]: the mean over windows
    vectors = np.stack([np.mean(one.answers, axis=0) for one in heard])
    kinds = {"token": vectors[:, 0], "mean": vectors[:, 1], "both": vectors.reshape(len(vectors), -1)}
    found = {name: cross_validate(x, labels[rows], folds[rows], C=C) for name, x in kinds.items()}
    if json:
        print(dumps({"clips": len(rows), "kinds": found}))
    else:
        print(f"logistic regression on {len(rows)} clips, each fold held out in turn")
        for name, result in found.items():
            shares = "  ".join(f"{fold} {share:.1%}" for fold, share in result["folds"].items())
            print(f"  {name:<5}  {result['accuracy']:.1%} +- {result['spread']:.1%}   ({shares})")
    failures.exit_if_any()
