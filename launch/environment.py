"""Makes `.venv` with the Python that runs this file and installs requirement files into it; does nothing
where that is done.

    python launch/environment.py [--venv=.venv] [--exactly] requirements.txt [...]

Needs the standard library only. Safe to repeat and safe to stop: a marker lies in the folder while pip works,
and whoever finds it later (after Ctrl-C or a power cut) starts again from an empty folder; pip's cache makes
that quick. A file whose name ends in `no-deps.txt` is installed without the packages it asks for. pip's words
go to `.venv/install.log`.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, MARKER, STAMP, LOG = "ast_jax.lock", "ast_jax.installing", "ast_jax.json", "install.log"
LOG_LINES_SHOWN = 25

# Runs inside the environment and fails with a word on what is damaged. Arguments: the distributions that must
# be whole.
CHECK = """
import csv, importlib.metadata as metadata, sys
def plain(name): return name.lower().replace("_", "-")
whole = {plain(name) for name in sys.argv[1:]}
for distribution in metadata.distributions():
    record = distribution.read_text("RECORD")
    if record is None:  # the list of files is what pip writes last
        sys.exit(f"{distribution.name} is half installed")
    for path, *_ in csv.reader(record.splitlines()) if plain(distribution.name) in whole else ():
        if path.endswith((".py", ".so")) and not distribution.locate_file(path).exists():
            sys.exit(f"{distribution.name} has lost {path}")
for name in sys.argv[1:]:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is missing")
"""


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 done, 1 pip failed, 2 a folder that is not ours, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument(
        "--exactly", action="store_true", help="make an environment anew that another Python made"
    )
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(argv)
    venv = options.venv.absolute()
    if is_foreign(venv):
        print(
            f"error: VENV={venv} holds other things: name a new folder, or delete this one", file=sys.stderr
        )
        return 2
    try:
        with locked(venv):
            return prepare(venv, options.files, exactly=options.exactly)
    except KeyboardInterrupt:
        print("\nstopped: the same command starts the installation again", file=sys.stderr)
        return 130


def prepare(venv: Path, files: list[Path], *, exactly: bool = False) -> int:
    """Brings the environment up to date with these requirement files; returns the exit status."""
    wanted = {file.name: {"sha256": digest(file), "distributions": distributions(file)} for file in files}
    stamp = read_stamp(venv)
    fault = find_fault(venv, stamp, exactly=exactly)
    if fault:
        stamp = {"python": os.path.realpath(sys.executable), "files": {}}
        print(
            f"{shown(venv)}: {fault}; making it with Python {sys.version.split()[0]} ({sys.executable})",
            flush=True,
        )
        clear(venv)
        subprocess.run([sys.executable, "-I", "-m", "venv", venv], check=True)
    due = [file for file in files if stamp["files"].get(file.name) != wanted[file.name]]
    if not due:
        return 0
    (venv / MARKER).touch()
    status = install(venv, due)
    if status == 0:
        stamp["files"] |= wanted
        (venv / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
    if status == 0 or find_damage(venv, stamp) is None:  # pip puts things back after most failures
        (venv / MARKER).unlink()
    return status


def install(venv: Path, files: list[Path]) -> int:
    """Runs pip, which writes to the log only; shows the log's end where it fails and returns pip's status."""
    names = ", ".join(file.name for file in files)
    print(
        f"{shown(venv)}: installing {names} (1 to 5 minutes the first time; pip writes to "
        f"{shown(venv / LOG)})",
        flush=True,
    )
    started = time.monotonic()
    with (venv / LOG).open("w") as log:
        for no_deps in (False, True):
            chosen = [
                f"--requirement={file}" for file in files if file.name.endswith("no-deps.txt") == no_deps
            ]
            if not chosen:
                continue
            pip = [venv / "bin" / "python", "-I", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
            pip += ["--disable-pip-version-check", *(["--no-deps"] if no_deps else []), *chosen]
            # The lock's descriptor stays open in pip: if this process is killed, nobody else starts before
            # pip ends.
            status = subprocess.run(pip, stdout=log, stderr=subprocess.STDOUT, close_fds=False).returncode
            if status:
                print("\n".join((venv / LOG).read_text().splitlines()[-LOG_LINES_SHOWN:]), file=sys.stderr)
                print(
                    f"error: pip failed: its last lines stand above, all of them in {venv / LOG}",
                    file=sys.stderr,
                )
                return status
    print(f"{shown(venv)}: installed in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def find_fault(venv: Path, stamp: dict, *, exactly: bool) -> str | None:
    """Why the environment has to be made anew, or None where it can be used or added to."""
    if (venv / MARKER).exists():
        return "the last installation was not finished"
    if not stamp["files"]:
        return (
            "not there yet" if not (venv / "bin").exists() else "not made by this program, or not to the end"
        )
    if exactly and stamp["python"] != os.path.realpath(sys.executable):
        return f"made with another Python ({stamp['python']})"
    return find_damage(venv, stamp)


def find_damage(venv: Path, stamp: dict) -> str | None:
    """What is broken in what was installed, or None."""
    names = {"pip"}.union(*(entry["distributions"] for entry in stamp["files"].values()))
    try:
        check = subprocess.run(
            [venv / "bin" / "python", "-I", "-c", CHECK, *names], capture_output=True, text=True
        )
    except OSError as error:
        return f"its Python does not start ({error.strerror})"
    said = check.stderr.strip() or "its Python ends at once"
    return f"damaged: {said.splitlines()[-1]}" if check.returncode else None


def read_stamp(venv: Path) -> dict:
    """What was installed, by which Python; no files where nothing readable is known."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
        return {"python": stamp["python"], "files": dict(stamp["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"python": None, "files": {}}


def requirement_lines(file: Path) -> Iterator[str]:
    """The lines that say something, with those of the files they include."""
    for line in file.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from requirement_lines(file.parent / line[3:].strip())
        elif line:
            yield line


def digest(file: Path) -> str:
    return hashlib.sha256("\n".join(requirement_lines(file)).encode()).hexdigest()


def distributions(file: Path) -> list[str]:
    return [re.match(r"[\w.-]+", line).group() for line in requirement_lines(file)]


def is_foreign(venv: Path) -> bool:
    """Whether the folder may hold what someone needs: only our own, an empty one and the checkout's `.venv*`
    get emptied.
    """
    if not venv.is_dir():
        return venv.exists()
    ours = (venv / LOCK).exists() or (venv.resolve().parent == ROOT and venv.name.startswith(".venv"))
    return not ours and any(venv.iterdir())


def clear(venv: Path) -> None:
    """Empties the folder, all but the lock."""
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """One installation at a time in one folder; the lock ends with the process, however that ends."""
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / LOCK).open("a") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{shown(venv)}: another installation is at work in it; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
