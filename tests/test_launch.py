"""The set-up scripts in launch/: which Python they choose, when they make an environment anew. No network."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
REAL = os.path.realpath(sys.executable)


def load_environment():
    spec = importlib.util.spec_from_file_location("environment", LAUNCH / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


environment = load_environment()


def find_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCH / "find_python.sh", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        check=False,
    )


def executable(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def test_the_chosen_python_runs_and_is_of_a_tested_version():
    found = find_python()
    assert found.returncode == 0, found.stderr
    version = subprocess.run(
        [found.stdout.strip(), "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
    )
    assert version.stdout.split() in (["3", "11"], ["3", "12"], ["3", "13"], ["3", "14"])


def test_a_stub_is_passed_over_for_a_python_in_the_versions_folder(tmp_path):
    """The newest name on the PATH fails; the one that runs lies where pyenv keeps it."""
    executable(tmp_path / "shims" / "python3.14", "echo 'command not found' >&2", "exit 127")
    fake = f"{tmp_path}/the real one"
    executable(tmp_path / "versions" / "3.14.9" / "bin" / "python3.14", f"echo '3.14||{fake}'")
    found = find_python(PATH=f"{tmp_path}/shims:/usr/bin:/bin", PYENV_ROOT=str(tmp_path))
    assert found.returncode == 0, found.stderr
    # Where the system's own Python is a 3.14, that one lies nearer.
    assert found.stdout == f"{fake}\n" or found.stdout.startswith("/usr/bin/")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("echo '3.10|is too old|/x'", "is Python 3.10, which is too old"),
        (
            "echo '3.12|runs but has no venv: apt-get install python3.12-venv|/x'",
            "apt-get install python3.12-venv",
        ),
        ("exit 127", "does not run"),
    ],
)
def test_an_unsuitable_choice_is_refused_with_its_reason(tmp_path, said, message):
    found = find_python(str(executable(tmp_path / "python", said)))
    assert (found.returncode, found.stdout) == (1, "")
    assert message in found.stderr


def test_a_newer_python_goes_on_with_a_warning_when_named(tmp_path):
    found = find_python(
        str(executable(tmp_path / "python", "echo '3.15|is newer than 3.14, the newest one tested|/opt/p'"))
    )
    assert (found.returncode, found.stdout) == (0, "/opt/p\n")
    assert "newer than 3.14" in found.stderr


@pytest.fixture
def venv(tmp_path) -> Path:
    """A folder that looks finished: its Python is this one, and what it claims to hold is here."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    executable(tmp_path / "venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    stamp = {
        "python": REAL,
        "files": {"requirements.txt": {"sha256": "0", "distributions": ["numpy", "pytest"]}},
    }
    (tmp_path / "venv" / environment.STAMP).write_text(json.dumps(stamp))
    return tmp_path / "venv"


def fault(venv: Path, *, exactly: bool = False) -> str | None:
    return environment.find_fault(venv, environment.read_stamp(venv), exactly=exactly)


def claim(venv: Path, **changes) -> None:
    stamp = environment.read_stamp(venv) | changes
    (venv / environment.STAMP).write_text(json.dumps(stamp))


def test_a_whole_environment_is_kept(venv):
    assert fault(venv) is None
    assert fault(venv, exactly=True) is None


def test_an_unfinished_installation_is_made_anew(venv):
    (venv / environment.MARKER).touch()
    assert "not finished" in fault(venv)


def test_a_missing_distribution_is_damage(venv):
    claim(venv, files={"requirements.txt": {"sha256": "0", "distributions": ["no-such-distribution"]}})
    assert "no-such-distribution is missing" in fault(venv)


@pytest.mark.parametrize("line", ["exit 1", "kill -9 $$"])
def test_a_python_that_fails_is_damage(venv, line):
    executable(venv / "bin" / "python", line)
    assert fault(venv).startswith("damaged")


def test_a_dangling_python_is_damage(venv):
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(venv / "gone")
    assert "does not start" in fault(venv)


def test_another_python_matters_only_when_asked_for(venv):
    claim(venv, python="/opt/other/python3.12")
    assert fault(venv) is None
    assert "/opt/other/python3.12" in fault(venv, exactly=True)


@pytest.mark.parametrize("text", ["", '{"pyth', "[]", '{"python": 1}'])
def test_an_unreadable_stamp_means_unknown_content(venv, text):
    (venv / environment.STAMP).write_text(text)
    assert "not made by this program" in fault(venv)


def test_a_folder_of_someone_elses_is_never_emptied(tmp_path):
    (tmp_path / "precious").mkdir()
    assert not environment.is_foreign(tmp_path / "precious"), "an empty folder may be used"
    (tmp_path / "precious" / "letter.txt").touch()
    assert environment.is_foreign(tmp_path / "precious")
    assert environment.is_foreign(tmp_path / "precious" / "letter.txt")
    assert not environment.is_foreign(LAUNCH.parent / ".venv-that-is-not-there")
    assert environment.main([f"--venv={tmp_path / 'precious'}", str(LAUNCH.parent / "requirements.txt")]) == 2
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["letter.txt"]


def test_a_changed_requirement_changes_the_digest_and_a_comment_does_not(tmp_path):
    inner, outer = tmp_path / "inner.txt", tmp_path / "outer.txt"
    inner.write_text("numpy>=2\n")
    outer.write_text("-r inner.txt\npytest  # the runner\n")
    first = environment.digest(outer)
    assert environment.distributions(outer) == ["numpy", "pytest"]
    inner.write_text("# why\nnumpy>=2\n")
    assert environment.digest(outer) == first
    inner.write_text("numpy>=2.1\n")
    assert environment.digest(outer) != first


def test_clearing_leaves_the_lock_and_follows_no_link(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "letter.txt").touch()
    venv = tmp_path / "venv"
    (venv / "lib" / "deep").mkdir(parents=True)
    (venv / environment.LOCK).touch()
    (venv / "lib64").symlink_to(tmp_path / "outside")
    environment.clear(venv)
    assert [path.name for path in venv.iterdir()] == [environment.LOCK]
    assert (tmp_path / "outside" / "letter.txt").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"step": 0}, "nothing was trained"),
        ({"metrics": {"accuracy": 0.2, "mAP": 0.5, "auc": 0.5, "d_prime": 0.0}}, "wanted at least"),
        (
            {"metrics": {"accuracy": 0.9, "mAP": None, "auc": float("nan"), "d_prime": 0.0}},
            "wanted a finite number",
        ),
        ({"metrics": {}}, "wanted a finite number"),
    ],
)
def test_the_check_of_the_short_run_sees_what_is_wrong(tmp_path, changes, complaint):
    good = dict.fromkeys(("epoch", "best", "last", "per_class", "seconds", "num_examples", "versions"), 1)
    good |= {"step": 7, "metrics": {"accuracy": 0.9, "mAP": 0.9, "auc": 0.9, "d_prime": 2.0}}
    (tmp_path / "results.json").write_text(json.dumps(good | changes))
    check = [sys.executable, LAUNCH.parent / ".ci" / "check_results.py", tmp_path / "results.json"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == (complaint is not None)
    assert (complaint or "'accuracy': 0.9") in done.stdout
