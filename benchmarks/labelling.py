r"""How much a labelled clip teaches, in the order of `label` and at random: ESC-10, an oracle answers.

  python -m benchmarks.labelling --source_dir=ESC-50-master --weights=vit_small.npz \
      --out=docs/proofs/labelling.json
  python -m benchmarks.labelling ... --keys       # all of it once by keys on the page, in Chromium

Folds 1 to 4 (320 clips) are labelled. After so many answers the classifier of all of them is judged on fold
5 (80 clips), which no sitting sees. Five draws of what is held out each, and of the random order.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ast_jax.commands.label import heard
from ast_jax.commands.models import Stated
from ast_jax.inference.labelling import Session, fitted
from benchmarks.few_clips import SHAPE
from benchmarks.prove import ROOT, about

COUNTS = (10, 20, 40, 80, 160, 320)
SEEDS = range(5)
# the page is pictured after so many answers
PICTURED = 60
# as the page offers it to keys
KEYS = 9


class Oracle:
    """The clips that are labelled, and those that judge."""

    def __init__(self, source_dir: Path, weights: str, work: Path):
        with open(source_dir / "meta" / "esc50.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["esc10"] == "True"]
        sounds = source_dir.absolute() / "audio"
        files = [sounds / row["filename"] for row in rows]
        known, vectors, self.front_end = heard(files, weights, Stated(**SHAPE), work / "index")
        assert known == files
        held = np.array([row["fold"] == "5" for row in rows])
        labels = [row["category"] for row in rows]
        self.files = [file for file, out in zip(files, held, strict=True) if not out]
        self.truth = [label for label, out in zip(labels, held, strict=True) if not out]
        self.vectors, self.judging = vectors[~held], vectors[held]
        self.wanted = [label for label, out in zip(labels, held, strict=True) if out]

    def accuracy(self, session: Session) -> float:
        """Of a classifier of all answers, on the fold that nobody has labelled."""
        model = fitted(self.vectors[list(session.labels)], list(session.labels.values()))
        if model is None:
            return 0.0
        found = model.shares(self.judging).argmax(axis=1)
        return float(
            np.mean([model.classes[i] == label for i, label in zip(found, self.wanted, strict=True)])
        )


def sitting(oracle: Oracle, table: Path, order: str, seed: int) -> dict[int, float]:
    """{answers: accuracy} of one sitting."""
    session, found = Session(table, oracle.files, oracle.vectors, order=order, seed=seed), {}
    while clip := session.next(by="oracle"):
        session.answer(clip.number, oracle.truth[clip.number], by="oracle")
        session.fit()
        if len(session.labels) in COUNTS:
            found[len(session.labels)] = oracle.accuracy(session)
    return found


def by_keys(oracle: Oracle, table: Path, picture: Path) -> dict[str, float]:
    """All clips on the page in Chromium, by keys alone: seconds, and what the page says in the end; and a
    picture of it on the way.
    """
    sys.path.append(str(ROOT / "tests"))
    from chromium import browser, served

    from ast_jax.inference.serve.label_app import make_label_app

    session = Session(table, oracle.files, oracle.vectors)
    truth = {file.name: label for file, label in zip(oracle.files, oracle.truth, strict=True)}
    with browser() as chromium, served(make_label_app(session, oracle.front_end)) as address:
        page = chromium.new_page(viewport={"width": 720, "height": 1180})
        page.goto(address)
        began = time.monotonic()
        for done in range(len(oracle.files)):
            page.get_by_text(f"{done} of {len(oracle.files)} clips labelled").wait_for()
            label = truth[page.locator("#name").inner_text()]
            if done == PICTURED:
                # drawn, after it has come
                page.wait_for_timeout(1000)
                page.screenshot(path=picture, full_page=True)
            offered = page.locator("#classes button span:nth-child(2)").all_text_contents()
            if label in offered[:KEYS]:
                page.keyboard.press(str(offered.index(label) + 1))
                continue
            page.keyboard.press("n")
            page.keyboard.type(label)
            page.keyboard.press("Enter")
        page.get_by_text("all are done").wait_for()
        spent = time.monotonic() - began
    right = all(session.labels[i] == label for i, label in enumerate(oracle.truth))
    last = session.standing()["curve"][-1]["accuracy"]
    return {"clips": len(oracle.files), "all_as_answered": right, "seconds": round(spent), "held_out": last}


def main() -> None:
    flags = argparse.ArgumentParser(
        "python -m benchmarks.labelling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--source_dir", type=Path, required=True)
    flags.add_argument("--weights", required=True)
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--work", type=Path, default=Path("runs/labelling"))
    flags.add_argument("--keys", action="store_true")
    flags.add_argument("--picture", type=Path, default=Path("docs/images/label.png"))
    asked = flags.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    oracle = Oracle(asked.source_dir, asked.weights, asked.work)
    with tempfile.TemporaryDirectory() as tables:
        if asked.keys:
            found["by_keys"] = by_keys(oracle, Path(tables) / "labels.csv", asked.picture)
        else:
            for order in ("active", "random"):
                runs = [sitting(oracle, Path(tables) / f"{order}{s}.csv", order, s) for s in SEEDS]
                found[order] = {str(count): [run[count] for run in runs] for count in COUNTS}
                for count, shares in found[order].items():
                    print(f"{order}, {count} answers: {np.mean(shares):.1%} ({np.std(shares, ddof=1):.1%})")
    asked.out.write_text(json.dumps({**found, **about()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
