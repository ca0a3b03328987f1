"""The table of deliberate faults fits its files, and the tool that tries them tells what it finds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("file", FAULTS)
def test_every_fault_still_applies(file):
    text, (tests, rows) = (ROOT / file).read_text(), FAULTS[file]
    assert [fault for fault, old, _ in rows if text.count(old) != 1] == []
    assert len({new for _, _, new in rows}) > len(rows) - 3
    for fault, old, new in rows:
        changed = text.replace(old, new)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), fault
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in tests.split())


def test_there_are_faults_enough():
    assert sum(len(rows) for _, rows in FAULTS.values()) >= 100


def test_a_fault_is_killed_survives_or_does_not_apply(tmp_path):
    tree = tmp_path / "tree"
    (tree / "tests").mkdir(parents=True)
    (tree / "tests" / "test_sum.py").write_text(
        "from sums import add\n\n\ndef test_it():\n    assert add(1, 2) == 3\n"
    )
    whole = "def add(a, b):\n    return a + b\n"
    (tree / "sums.py").write_text(whole)
    faults = [("a + b", "a - b"), ("a + b", "b + a"), ("a * b", "b + a"), ("return a + b", "while 1: pass")]
    # in a process of its own: this one may have threads, and is not to be forked
    code = f"""
from pathlib import Path
from benchmarks import mutants
for old, new in {faults}:
    print(mutants.tried(Path({str(tree)!r}), "sums.py", old, new, ["sum"], limit=8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    found = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert [row["outcome"] for row in found] == ["killed", "survived", "did not apply", "killed by a hang"]
    assert found[0]["by"] == "tests/test_sum.py::test_it"
    assert (tree / "sums.py").read_text() == whole
