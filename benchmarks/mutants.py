r"""How good the tests are: deliberate faults, one at a time, and whether the tests beside them notice.

  python -m benchmarks.mutants [--only=metrics,optim] [--out=mutants.json] [--limit=300]

The faults are those of `faults.py`. A copy of the tree gets one, the tests named beside it run until the
first that fails, and the copy is put right again. A fault is *killed* by a failing test or by one that hangs,
and *survives* where all of them pass. The JSON is written after each row; what it holds as killed is not
tried again.
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults import FAULTS
from benchmarks.timing import machine

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache", "images")


# Imported once, before the faults: what the tests import besides the product takes longer than most of them.
PRELOADED = ("pytest", "jaxtyping", "beartype", "jax", "flax.nnx", "optax", "orbax.checkpoint", "grain")
PRELOADED += ("scipy.stats", "sklearn.metrics", "torch", "timm", "transformers")


# pytest would rewrite the assertions of plugins, which are imported already
IMPORTED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="parts of file names, by commas")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run hangs")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {(row["file"], row["fault"]): row for row in kept}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / ROOT.name
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        prepare(tree)
        for file, (tests, rows) in FAULTS.items():
            for fault, old, new in rows:
                known = done.get((file, fault), {}).get("outcome", "").startswith("killed")
                if known or not any(part in file for part in args.only.split(",")):
                    continue
                outcome = tried(tree, file, old, new, tests.split(), args.limit)
                done[file, fault] = {"file": file, "fault": fault, **outcome}
                print(f"{outcome['outcome']:16} {file}: {fault}", flush=True)
                found = {"of": sum(len(rows) for _, rows in FAULTS.values()), "rows": list(done.values())}
                args.out.write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n")
    print(table(list(done.values())))


def prepare(tree: Path) -> None:
    """This process, from which each run is forked: compiled programs are shared, and slow imports done."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tree.parent / "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ.setdefault("AST_JAX_SHARED", str(ROOT.parent / "shared"))
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def tried(tree: Path, file: str, old: str, new: str, tests: list[str], limit: float) -> dict:
    """What became of one fault: the outcome, the test that noticed it, and the seconds it took."""
    whole = (tree / file).read_text()
    if whole.count(old) != 1:
        return {"outcome": "did not apply"}
    began = time.monotonic()
    try:
        rewrite(tree / file, whole.replace(old, new))
        found = noticed(tree, [f"tests/test_{name}.py" for name in tests], limit)
    finally:
        rewrite(tree / file, whole)
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def rewrite(path: Path, text: str) -> None:
    """Writes a module and removes its byte code, which else stands for a text of equal length and second."""
    path.write_text(text)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def noticed(tree: Path, tests: list[str], limit: float) -> dict:
    """The outcome of some test files, in a process of their own."""
    log = tree.parent / "log.txt"
    pid = os.fork()
    if not pid:
        status = 5
        try:
            status = run(tree, tests, log)
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"outcome": "killed by a hang"}
        time.sleep(0.05)
    status = os.waitstatus_to_exitcode(ended[1])
    if status == 0:
        return {"outcome": "survived"}
    told = log.read_text(errors="replace")
    if status in (4, 5):
        raise RuntimeError(f"{tests} ran no test:\n{told}")
    failed = [line.split()[1] for line in told.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return {"outcome": "killed", "by": failed[0] if failed else f"exit status {status}"}


def run(tree: Path, tests: list[str], log: Path) -> int:
    """pytest in a copy of the tree, up to the first failure; its exit status."""
    import pytest

    os.setsid()
    os.chdir(tree)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [name for name in sys.modules if name.split(".")[0] in ("ast_jax", "benchmarks", "conftest")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", *IMPORTED]
    return int(pytest.main([*options, *tests], plugins=[QuickestFirst(tree.parent / "seconds.json", tests)]))


class QuickestFirst:
    """A pytest plugin: the quick tests of a file before its slow ones, as far as runs before have told."""

    def __init__(self, path: Path, tests: list[str]):
        self.path, self.tests = path, tests
        self.seconds = json.loads(path.read_text()) if path.exists() else {}

    def pytest_collection_modifyitems(self, items: list) -> None:
        place = lambda item: self.tests.index(item.nodeid.partition("::")[0])
        items.sort(key=lambda item: (place(item), self.seconds.get(item.nodeid, 0)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.seconds))


def table(rows: list[dict]) -> str:
    """A line a file, then the survivors."""
    outcomes = ("killed", "killed by a hang", "survived", "did not apply")
    lines = [f"{'file':40}" + "".join(f"{outcome:>18}" for outcome in outcomes)]
    for file in [*dict.fromkeys(row["file"] for row in rows), ""]:
        count = Counter(row["outcome"] for row in rows if row["file"] == file or not file)
        lines.append(f"{file or 'all':40}" + "".join(f"{count[outcome]:18}" for outcome in outcomes))
    left = [f"survived: {row['file']}: {row['fault']}" for row in rows if row["outcome"] == "survived"]
    return "\n".join(lines + left)


if __name__ == "__main__":
    main()
