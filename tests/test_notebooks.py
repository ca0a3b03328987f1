"""The notebooks run from top to bottom, one after the other, and are stored without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Runs the cells as a notebook does: a cell's last expression is shown in its richest form.
KERNEL = """
import ast, json, pathlib, sys

def shown(value):
    for form in ("_repr_png_", "_repr_html_"):
        if hasattr(value, form):
            return getattr(value, form)()
    return repr(value)

def main():
    for path in sys.argv[1:]:
        names = {}
        for cell in json.loads(pathlib.Path(path).read_text())["cells"]:
            if cell["cell_type"] == "code":
                body = ast.parse("".join(cell["source"])).body
                last = body.pop() if isinstance(body[-1], ast.Expr) else None
                exec(compile(ast.Module(body, []), path, "exec"), names)
                if last is not None:
                    value = eval(compile(ast.Expression(last.value), path, "eval"), names)
                    print("shown:", shown(value), flush=True)

# Processes that read sounds import this file again.
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_every_cell_runs_and_shows_something(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "kernel.py", *NOTEBOOKS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout
    assert told.count("shown: b'\\x89PNG") == 4
    assert "<table><caption>" in told
    accuracy = float(told.partition("'accuracy': ")[2].partition(",")[0])
    assert accuracy > 0.4  # of ten classes
    same, other = (float(told.partition(word)[2][:5]) for word in ("one class", "different ones"))
    assert same > other + 0.1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_cleared(path):
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
