r"""How well `search` finds sounds of one kind: mean average precision on ESC-10, clip by clip.

  python -m ast_jax index ESC-50-master/audio --model=RUN --out=index
  python -m benchmarks.retrieval --index=index [--meta=META] --out=docs/proofs/retrieval.json

Relevant are the 39 other clips of the class. Beside it the same by the distance between mean log-mels (each
of its 128 bins over the clip), as they are and brought to variance 1, and by chance.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from ast_jax.features import load_audio, log_mel
from ast_jax.inference.store import Store
from benchmarks.prove import about


def average_precision(scores: Float[np.ndarray, "N N"], same: Bool[np.ndarray, "N N"]) -> float:
    """The mean over queries, a row each, of clips in the order of their scores; the query itself left out."""
    found = []
    for query, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        hits = same[query][order[order != query]]
        found.append(np.mean(np.arange(1, hits.sum() + 1) / (np.flatnonzero(hits) + 1)))
    return float(np.mean(found))


def main() -> None:
    flags = argparse.ArgumentParser(
        "python -m benchmarks.retrieval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--index", type=Path, required=True)
    flags.add_argument("--meta", type=Path, help="default: meta/esc50.csv beside the sounds")
    flags.add_argument("--out", type=Path)
    asked = flags.parse_args()
    store = Store.open(asked.index)
    # the mean of a clip's windows
    vectors = {Path(file): rows.mean(axis=0) for file, rows in store.vectors().items()}
    meta = asked.meta or next(iter(vectors)).parent.parent / "meta" / "esc50.csv"
    with meta.open(newline="") as file:
        kinds = {row["filename"]: row["category"] for row in csv.DictReader(file) if row["esc10"] == "True"}
    clips = sorted(path for path in vectors if path.name in kinds)
    labels = np.array([kinds[path.name] for path in clips])
    same = labels[:, None] == labels[None]
    embedded = np.stack([vectors[path] for path in clips])
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    mels = np.stack([log_mel(load_audio(path)).mean(axis=0) for path in clips])
    away = lambda x: -np.linalg.norm(x[:, None] - x[None], axis=-1)
    found = {
        "clips": len(clips),
        "model": Path(store.about["model"]).name,
        "kind": store.about["kind"],
        "mAP": {
            "cosine of embeddings": average_precision(embedded @ embedded.T, same),
            "distance of mean log-mels": average_precision(away(mels), same),
            "the same, each bin at variance 1": average_precision(away(mels / mels.std(axis=0)), same),
            "chance": average_precision(np.random.default_rng(0).random(same.shape), same),
        },
    }
    print(json.dumps(found, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found | about(), indent=1) + "\n")


if __name__ == "__main__":
    main()
