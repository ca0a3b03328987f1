r"""How well `search` finds sounds of one kind: mean average precision, each clip asking for the others.

  python -m ast_jax index sets/esc10_32/test --model=RUN --out=index
  python -m benchmarks.retrieval --index=index --out=docs/proofs/retrieval.json
  python -m benchmarks.retrieval --windows=1000000     # seconds and memory of a search among so many

A clip's kind is its directory; several runs add to one JSON. Beside it the same by the distance between mean
log-mels (each of its 128 bins over the clip), as they are and brought to variance 1, and by chance.
"""

import argparse
import json
import resource
import tempfile
import time
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


def large(windows: int, width: int, root: Path) -> dict[str, float]:
    """A search in a store of random windows, a thousand a file, made in `root`: seconds, and by how many MiB
    the process grew, pages of the file among them, which the system may take back.
    """
    rng = np.random.default_rng(0)
    store = Store.open(root / "index", {"model": "none", "kind": "mean", "width": width})
    for number, first in enumerate(range(0, windows, 1000)):
        file, count = root / f"{number}.wav", min(1000, windows - first)
        file.touch()
        store.add(file, range(count), range(1, count + 1), rng.normal(size=(count, width)).astype(np.float32))
    store = Store.open(root / "index")
    before, began = peak_mib(), time.perf_counter()
    found = store.search(rng.normal(size=width).astype(np.float32), 10)
    assert len(found) == min(10, windows)
    spent = time.perf_counter() - began
    return {"windows": len(store), "width": width, "seconds": spent, "more_mib": peak_mib() - before}


def peak_mib() -> float:
    """The most memory that the process has had; of Linux, which counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    flags = argparse.ArgumentParser(
        "python -m benchmarks.retrieval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = flags.add_mutually_exclusive_group(required=True)
    which.add_argument("--index", type=Path)
    which.add_argument("--windows", type=int)
    flags.add_argument("--width", type=int, default=384)
    flags.add_argument("--out", type=Path)
    asked = flags.parse_args()
    if asked.windows:
        with tempfile.TemporaryDirectory() as root:
            print(json.dumps(large(asked.windows, asked.width, Path(root))))
        return
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
