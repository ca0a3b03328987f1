"""`python -m ast_jax.main`: training's other name; and what every program of this package runs in.

Exit status: 0 done; 1 some files could not be heard; 2 bad input, or a path that cannot be used; 3 the loss
diverged; 70 a fault of the program; 130 Ctrl-C; 141 nobody reads the output; 143 SIGTERM, after saving.
AST_JAX_TRACEBACK=1 shows the traceback of each.
"""

import contextlib
import errno
import functools
import glob
import io
import os
import re
import signal
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ast_jax.cache import cache_directory
from ast_jax.errors import Diverged, InputError

DAMAGED = re.compile("Error reading persistent compilation cache entry for '([^']+)'")
# Functions that run while garbage is collected: jax's own, and what objects do at their end.
COLLECTING = ("_xla_gc_callback", "__del__")
INTERRUPTED = "interrupted (training: the same command goes on from the last checkpoint)"


def main(argv: Sequence[str]) -> None:
    """Training."""
    from ast_jax.commands.cli import call
    from ast_jax.commands.train import train

    call(train, argv, prog="python -m ast_jax.main")


def keep_compiled_programs() -> None:
    """Lets jax find compiled programs again in the next process.

    They lie in the user's own cache directory, at most 2 GiB, the least used go. To be called before jax is
    imported, which reads these variables then. A directory the user has set stands as it is.
    """
    warnings.showwarning = functools.partial(heal, warnings.showwarning)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory() / "xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 << 30))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def heal(show: Callable[..., None], message: Warning | str, *where: Any, **more: Any) -> None:
    """Shows a warning; where it is jax's of a kept program that is damaged, which jax would compile again at
    every start, the program's file goes first, so that it is written again.
    """
    damaged = DAMAGED.match(str(message))
    if damaged is None:
        show(message, *where, **more)
        return
    for path in Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob(f"{glob.escape(damaged[1])}-*"):
        with contextlib.suppress(OSError):
            path.unlink()
    print(f"the kept program {damaged[1]} is damaged: it is compiled and kept again", file=sys.stderr)


def keep_stdout_for_answers() -> None:
    """Leaves stdout to `print` alone: what libraries write to descriptor 1 themselves goes to stderr.

    A damaged file makes libsndfile talk there, in the middle of an answer. Processes that are started write
    to stderr too, unless they are given `sys.stdout`.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed by the caller: the next file opened would get its number, and what is said there.
            os.open(os.devnull, os.O_RDWR)
    # `print(file=None)` prints to stdout.
    sys.stderr = sys.stderr or os.fdopen(os.dup(2), "w")
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper):
        return
    before.flush()
    answers = os.dup(before.fileno())
    at_once = before.write_through  # as `python -u` asks
    sys.stdout = io.TextIOWrapper(
        os.fdopen(answers, "wb", 0 if at_once else -1),
        before.encoding,
        before.errors,
        line_buffering=before.line_buffering,
        write_through=at_once,
    )
    os.dup2(2, 1)


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Runs a command as a program: whatever ends it becomes one line and an exit status, not a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        command(argv)
        # Here, where a full disk or a reader that has gone is still told as what it is.
        print(end="", flush=True)
        # From now on Ctrl-C just ends the program: what libraries clear up at exit would show tracebacks.
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except BrokenPipeError:
        # Whoever read the output has enough: `| head`.
        drop_what_stdout_holds()
        sys.exit(141)  # as a shell counts SIGPIPE
    except KeyboardInterrupt:
        # What libraries do at exit is not waited for: threads stopped halfway print tracebacks, or crash.
        leave(130, INTERRUPTED, at_once=True)
    except Diverged as error:
        leave(3, f"error: {error}")
    except InputError as error:
        leave(2, f"error: {error}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            drop_what_stdout_holds()
        if line := users_fault(error):
            leave(2, f"error: {line}")
        leave(70, f"error: {log(error, argv)}")


def drop_what_stdout_holds() -> None:
    """Without this the interpreter's last flush fails again, with words and a status of its own."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C. In the midst of an import it ends the program at once, else it raises KeyboardInterrupt.

    A library that is being loaded may swallow the exception, make another one of it, or crash. Python itself
    swallows what is raised while garbage is collected: there the signal comes once more when that is over.
    """
    while frame is not None:
        if frame.f_code.co_name in COLLECTING:
            threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
            return
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{INTERRUPTED}\n".encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def leave(status: int, line: str, *, at_once: bool = False) -> NoReturn:
    """Ends the program with one line on stderr, whatever bytes a name in it is made of."""
    if os.environ.get("AST_JAX_TRACEBACK") == "1":
        traceback.print_exc()
    line = " ".join(line.splitlines()).encode("utf-8", "backslashreplace").decode()
    print(line, file=sys.stderr, flush=True)
    hosts = sys.modules.get("ast_jax.training.hosts")
    # One of a group would wait in JAX for the others at its end, and they for it.
    if at_once or (hosts is not None and hosts.joined()):
        drop_what_stdout_holds()
        os._exit(status)
    sys.exit(status)


def users_fault(error: Exception) -> str | None:
    """What to tell where memory or a disk is too small, or a path of the user's cannot be used; None for
    other errors.
    """
    # XLA's, by its text: importing jax to name its class would cost every command its start
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        wanted = re.search(r"allocat\w* (\d+) bytes|allocate ([\d.]+ ?[KMGT]i?B)", str(error))
        size = wanted and (wanted[2] or f"{int(wanted[1]) / 1e9:.1f} GB")
        return (
            f"the device has not the memory that one step takes{f' ({size} at once)' if size else ''}: "
            "training takes less with --config.accumulate=4 (the same batch in parts) or "
            "--config.model.remat=blocks, and with a smaller --config.model.variant or "
            "--config.batch_size; python -m ast_jax plan counts it beforehand"
        )
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENOSPC:
        return f"{error}: free some space, and the same command goes on from the last checkpoint"
    if error.errno in (errno.ENAMETOOLONG, errno.EROFS, errno.EDQUOT, errno.ELOOP, errno.ETXTBSY):
        return f"{error.strerror}: {os.fspath(error.filename)[:200]!r}" if error.filename else str(error)
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
    path = error.filename
    if not isinstance(error, kinds) or not isinstance(path, str | os.PathLike):
        return None
    # The program's own files are no path of the user's.
    ours = (Path(__file__).parent, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    if os.path.abspath(path).startswith(tuple(f"{folder}{os.sep}" for folder in ours)):
        return None
    return f"{os.fspath(path)!r}: {error.strerror}: name another path, or mend this one"


def log(error: Exception, argv: Sequence[str]) -> str:
    """Writes down what happened, and returns a line that says where."""
    what = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    versions = f"ast_jax {sys.modules['ast_jax'].__version__}, Python {sys.version}, {sys.platform}"
    text = f"{versions}\n{argv}\n\n{traceback.format_exc()}"
    path = cache_directory() / "errors" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return f"{what} (a fault of the program; AST_JAX_TRACEBACK=1 shows where)"
    return f"{what} (a fault of the program: {path} has the details, please report it with them)"


if __name__ == "__main__":
    keep_compiled_programs()
    keep_stdout_for_answers()
    run(main, sys.argv[1:])
