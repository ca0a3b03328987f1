"""What `pip install .` brings: a command, every recipe and every data file, from any directory."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package, built from a copy of its sources, so that no earlier `build/` is in it, and installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("ast_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, f"--target={target}", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def program(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # However narrow the terminal, an answer is whole.
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "20"}
    command = [installed / "bin" / "ast_jax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found}


def test_every_module_recipe_and_data_file_is_inside(installed):
    assert files(installed / "ast_jax" / "configs") == files(ROOT / "configs")
    own = {name for name in files(installed / "ast_jax") if not name.startswith("configs/")}
    assert own == files(ROOT / "ast_jax")


def test_every_package_is_named():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ast_jax").rglob("*.py")}
    assert sorted(named) == sorted([*(".".join(folder.parts) for folder in folders), "ast_jax.configs"])


def test_the_command_works_in_an_empty_directory(installed, tmp_path):
    shown = program(installed, tmp_path, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "ast_jax COMMAND" in shown.stdout
    # The recipe is found and read before the flags of several hosts are.
    short = ("train", "--config=quickstart:short", "--config.epochs=1", "--process_id=0")
    trained = program(installed, tmp_path, *short)
    assert (trained.returncode, trained.stdout) == (2, "")
    assert "--coordinator_address and --num_processes must be given too" in trained.stderr
    wrong = program(installed, tmp_path, "train", "--config=configs/esc50.py")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert (
        "no recipe at 'configs/esc50.py': name a file, or an installed one by its name: esc50" in wrong.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_quickstart_works_in_an_empty_directory(installed, tmp_path):
    few = [f"--config.dataset.options.{split}_per_class=4" for split in ("train", "test")]
    done = program(installed, tmp_path, "quickstart", "--config=quickstart:short", "--config.epochs=1", *few)
    assert done.returncode == 0, done.stderr
    assert "tag your own: ast_jax predict --model=runs/quickstart FILE" in done.stdout
    assert "│ runs/quickstart/report.html │" in done.stdout
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
