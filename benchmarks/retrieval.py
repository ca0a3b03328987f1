r"""How well `search` finds sounds of one kind: mean average precision, each clip asking for the others.

  python -m ast_jax index sets/esc10_32/test --model=RUN --out=index
  python -m benchmarks.retrieval --index=index --out=docs/proofs/retrieval.json

A clip's kind is its directory; several runs add to one JSON. Beside it the same by the distance between mean
log-mels (each of its 128 bins over the clip), as they are and brought to variance 1, and by chance.
"""

import argparse
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
    flags.add_argument("--out", type=Path)
    asked = flags.parse_args()
    store = Store.open(asked.index)
    # the mean of a clip's windows
    vectors = {Path(file): rows.mean(axis=0) for file, rows in store.vectors().items()}
    clips = sorted(vectors)
    labels = np.array([path.parent.name for path in clips])
    same = labels[:, None] == labels[None]
    embedded = np.stack([vectors[path] for path in clips])
    standard = (embedded - embedded.mean(axis=0)) / embedded.std(axis=0)
    cosine = lambda x: (x @ x.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    mels = np.stack([log_mel(load_audio(path)).mean(axis=0) for path in clips])
    away = lambda x: -np.linalg.norm(x[:, None] - x[None], axis=-1)
    found = {
        "clips": len(clips),
        "model": Path(store.about["model"]).name,
        "kind": store.about["kind"],
        "mAP": {
            "search: cosine of embeddings, each number standardised": average_precision(
                cosine(standard), same
            ),
            "cosine of embeddings as they are": average_precision(cosine(embedded), same),
            "distance of mean log-mels": average_precision(away(mels), same),
            "the same, each bin at variance 1": average_precision(away(mels / mels.std(axis=0)), same),
            "chance": average_precision(np.random.default_rng(0).random(same.shape), same),
        },
    }
    print(json.dumps(found, indent=1))
    if asked.out:
        earlier = json.loads(asked.out.read_text())["indexes"] if asked.out.exists() else {}
        indexes = earlier | {asked.index.name: found}
        asked.out.write_text(json.dumps({"indexes": indexes, **about()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
