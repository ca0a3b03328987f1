"""How a program ends: one line and a status for whatever ends it, and nothing but the answer on stdout."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ast_jax
from ast_jax import main
from ast_jax.commands import COMMANDS
from ast_jax.errors import Diverged, InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def handler():
    """What Ctrl-C does in the tests themselves stays as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def ended(error: BaseException, capsys, argv: tuple[str, ...] = ()) -> tuple[int, str]:
    """Status and line of a program that `error` ends."""

    def command(_):
        raise error

    with pytest.raises(SystemExit) as status:
        main.run(command, argv)
    out, err = capsys.readouterr()
    assert out == ""
    return status.value.code, err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("got, wanted, do"), 2, "error: got, wanted, do"),
        (InputError("a name\nof two lines, \udcff"), 2, r"error: a name of two lines, \udcff"),
        (Diverged("at step 3"), 3, "error: at step 3"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/x.npz"),
            2,
            "'out/x.npz': Permission denied",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", Path("there")), 2, "'there': No such file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "runs"), 2, "'runs': Is a directory"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "'a/b': Not a directory"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), 2, "'a': File exists"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 39521353728 bytes."),
            2,
            "(39.5 GB at once): training takes less with --config.accumulate=4",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, status, line, capsys):
    found, told = ended(error, capsys)
    assert found == status
    assert line in told
    assert told.count("\n") == 1


def test_ctrl_c_waits_for_nothing_that_libraries_do_at_exit():
    code = (
        "import atexit\nfrom ast_jax import main\natexit.register(lambda: 1 / 0)\n"
        "def stopped(argv):\n    print('half an answer')\n    raise KeyboardInterrupt\n"
        "main.run(stopped, [])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert found.returncode == 130
    assert found.stdout == "half an answer\n"
    assert found.stderr.startswith("interrupted")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        KeyError("head/kernel"),
        RuntimeError("many\nlines"),
        RuntimeError("a name that is not UTF-8: \udcff"),
        ZeroDivisionError(),
        FileNotFoundError(errno.ENOENT, "No such file", str(ROOT / "ast_jax" / "gone.csv")),
        FileNotFoundError(errno.ENOENT, "No such file", os.path.join(os.path.dirname(pytest.__file__), "x")),
        OSError(errno.EIO, "Input/output error", "disk"),
    ],
)
def test_a_fault_of_the_program_is_one_line_and_a_log(error, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, told = ended(error, capsys, ("--flag=a\udcff",))
    assert status == 70
    assert told.count("\n") == 1
    (log,) = (tmp_path / "ast_jax" / "errors").iterdir()
    assert str(log) in told
    assert type(error).__name__ in told
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "--flag=a" in text


def test_without_a_place_for_the_log_the_line_is_told_all_the_same(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    status, told = ended(KeyError("x"), capsys)
    assert status == 70
    assert "AST_JAX_TRACEBACK=1" in told


def test_tracebacks_are_shown_to_who_asks(capsys, monkeypatch):
    monkeypatch.setenv("AST_JAX_TRACEBACK", "1")
    status, told = ended(InputError("no"), capsys)
    assert status == 2
    assert told.startswith("Traceback")
    assert told.endswith("error: no\n")


def program(*arguments: str, module: str = "ast_jax") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_the_command_list():
    shown = program()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(name in shown.stdout for name in COMMANDS)
    wrong = program("predikt")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: there is no command 'predikt': did you mean predict?\n"
    assert program("--version").stdout == f"ast_jax {ast_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("predict", "--model=no/such/run", "x.wav"), "no/such/run"),
        (("train", "--config=README.md"), "README.md is no recipe"),
        (("train", "--config=quickstart:long"), "this recipe has no suffix 'long': it knows short"),
        (("evaluate", "docs"), "docs is not a run of ours"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, line):
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("statement", ["import deaf", "exec(open('deaf.py').read())"])
def test_ctrl_c_ends_a_program_whose_import_swallows_it(tmp_path, statement):
    """Outside of an import what catches the exception has its way: the command itself may wish to go on."""
    (tmp_path / "deaf.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    command = f"def command(_):\n    {statement}\n    print('went on')"
    code = f"from ast_jax.main import run\n{command}\nrun(command, [])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    if statement.startswith("import"):
        assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{main.INTERRUPTED}\n")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_ctrl_c_while_garbage_is_collected_comes_when_that_is_over():
    """Python swallows what is raised in there: a command would go on as if nobody had asked it to stop."""
    code = (
        "import gc, os, signal, time\n"
        "from ast_jax.main import run\n"
        "def _xla_gc_callback(*_):\n"
        "    gc.callbacks.clear()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    sum(range(10))\n"
        "def command(_):\n"
        "    gc.callbacks.append(_xla_gc_callback)\n"
        "    gc.collect()\n"
        "    time.sleep(5)\n"
        "    print('went on')\n"
        "run(command, [])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{main.INTERRUPTED}\n")


def test_training_has_two_names_with_the_same_flags():
    other, one = program("--help", module="ast_jax.main"), program("train", "--help")
    names = lambda text: {word.strip("[],") for word in text.split() if word.startswith(("--", "[--"))}
    assert names(other.stdout) == names(one.stdout) >= {"--workdir", "--seeds", "--process_id"}
