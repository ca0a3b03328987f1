"""`enhance`: PSLA's enhanced labels of a training set, from a model's scores of it and an ontology."""

import csv
import sys
from pathlib import Path
from typing import Annotated, Literal

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError


def enhance(
    scores: Annotated[Path, Flag("scores of the training clips (see below)")],
    *,
    ontology: Annotated[Path, Flag("AudioSet's ontology.json")],
    classes: Annotated[
        Path | None,
        Flag("class_labels_indices.csv: identifiers in the scores' order (default: AudioSet's 527)"),
    ] = None,
    statistic: Annotated[
        Literal["mean", "median", "p25", "p10", "p5"],
        Flag("of a class's scores over its own clips: from where on it is added"),
    ] = "mean",
    out: Annotated[Path, Flag("a .csv table, or .json as the reference has it", output=True)],
) -> None:
    """Labels that an ontology lets expect and a model hears, added to a training set's.

      python -m ast_jax evaluate RUN --splits=balanced --out=scores.npz
      python -m ast_jax enhance scores.npz --ontology=ontology.json --out=enhanced.csv
      python -m ast_jax.main --config=audioset:balanced --config.dataset.labels=enhanced.csv

    By PSLA's rule: children and ancestors of a clip's labels whose score is above the mean of the scores of
    the clips that have them. RUN is trained on the original labels.
    """
    if out.suffix not in (".csv", ".json"):
        raise InputError(f"--out={out}: wanted a name that ends in .csv or .json")
    import json

    from ast_jax.datasets.enhance import enhanced, read_ontology
    from ast_jax.datasets.scanning import read_class_labels
    from ast_jax.evaluation.predictions import Predictions
    from ast_jax.weights import published

    found = Predictions.read(scores)
    mids = published.identifiers() if classes is None else list(read_class_labels(classes)[1])
    if len(mids) != found.scores.shape[1]:
        whose = "AudioSet (--classes names others)" if classes is None else classes
        raise InputError(f"{scores} has {found.scores.shape[1]} classes, and {whose} {len(mids)}")
    children, strangers = read_ontology(ontology, mids)
    if strangers:
        told = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        print(
            f"{len(strangers)} classes are not in {ontology}: {told}; they are left as they are",
            file=sys.stderr,
        )
    labels = enhanced(found.scores, found.targets, children, statistic=statistic)
    rows = [(name, [mids[i] for i in row.nonzero()[0]]) for name, row in zip(found.ids, labels, strict=True)]
    if out.suffix == ".json":
        data = [{"wav": name, "labels": ",".join(own)} for name, own in rows]
        out.write_text(json.dumps({"data": data}, indent=1) + "\n")
    else:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("id", "labels"), *((name, ";".join(own)) for name, own in rows)])
    added, before = int(labels.sum()), int((found.targets > 0).sum())
    changed = int((labels != (found.targets > 0)).any(axis=1).sum())
    print(f"{len(rows)} clips, {before} labels, {added - before} more on {changed} clips: {out}")
