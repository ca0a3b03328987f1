r"""What holds for whatever people have, tried with many times the inputs that the tests take.

  python -m benchmarks.prove_properties [--times=50]

docs/proofs/properties.json has, for each property test (tests/properties.py), how many inputs were tried.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.prove import ROOT, record


def main() -> None:
    flags = argparse.ArgumentParser("python -m benchmarks.prove_properties", description=__doc__)
    flags.add_argument("--times", type=int, default=50)
    asked = flags.parse_args()
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if "\n@tried(" in path.read_text()]
    command = f"python -m benchmarks.prove_properties --times={asked.times}"
    record("properties", command, lambda: counted(files, asked.times))


def counted(files: list[Path], times: int) -> dict[str, dict[str, int]]:
    """Inputs tried by each property. Raises AssertionError where one does not hold."""
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--hypothesis-show-statistics"]
    names = [
        name for path in files for name in re.findall(r"\n@tried\(.*\)\ndef (test_\w+)", path.read_text())
    ]
    done = subprocess.run(
        [*call, "-k", " or ".join(names), *map(str, files)],
        env=os.environ | {"AST_JAX_PROPERTIES": str(times)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    tried = re.findall(r"::(test_\w+):.*?generate phase.*?- (\d+) passing", done.stdout, flags=re.DOTALL)
    return {"properties": {name: int(count) for name, count in tried}}


if __name__ == "__main__":
    main()
