"""A group of processes that is started again when one of them dies; stand-ins take training's place."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ast_jax.commands import group, invoke

ROOT = Path(__file__).resolve().parents[1]

# Process 1 of the first life kills itself while process 0 waits for it for ever, as in a collective; the
# second life ends well.
STAND_IN = """
import os, pathlib, signal, sys, time
flags = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
index, mark = int(flags["process_id"]), pathlib.Path(flags["workdir"])
with open(mark / "lives.txt", "a") as lives:
    lives.write(f"{index} of {flags['num_processes']} at {flags['coordinator_address']}\\n")
if not (mark / "died").exists():
    if index == 1:
        (mark / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(group, "COMMAND", (sys.executable, "-c", STAND_IN))


def test_the_death_of_one_is_the_end_of_all_and_a_new_start(stand_in, tmp_path, capfd):
    began = time.monotonic()
    with pytest.raises(SystemExit) as status:
        invoke("group", ["--num_processes=2", f"--workdir={tmp_path}"])
    assert status.value.code == 0
    assert time.monotonic() - began < 30  # process 0 was not waited for
    lives = (tmp_path / "lives.txt").read_text().splitlines()
    assert sorted(line.partition(" at ")[0] for line in lives) in (
        ["0 of 2", "0 of 2", "1 of 2", "1 of 2"],
        ["0 of 2", "1 of 2", "1 of 2"],  # ended before it said so
    )
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "process 1 of 2 ended with status 137: the group ends, and starts again" in lines[0]


def test_it_gives_up_in_the_end(monkeypatch, capfd):
    monkeypatch.setattr(group, "COMMAND", (sys.executable, "-c", "raise SystemExit(134)"))
    with pytest.raises(SystemExit) as status:
        invoke("group", ["--num_processes=2", "--restarts=2"])
    assert status.value.code == 134
    assert capfd.readouterr().err.count("starts again") == 2


@pytest.mark.parametrize("final", [2, 3, 143])
def test_what_another_start_would_not_mend_is_not_started_again(monkeypatch, capfd, final):
    monkeypatch.setattr(group, "COMMAND", (sys.executable, "-c", f"raise SystemExit({final})"))
    with pytest.raises(SystemExit) as status:
        invoke("group", ["--num_processes=2"])
    assert status.value.code == final
    assert "starts again" not in capfd.readouterr().err


def test_on_each_of_several_hosts_the_flags_go_on_as_given(monkeypatch, capfd):
    monkeypatch.setattr(group, "COMMAND", (sys.executable, "-c", "import sys; print(sys.argv[1:])"))
    flags = ["--coordinator_address=a:1", "--process_id=3", "--config=x.py"]
    with pytest.raises(SystemExit):
        invoke("group", [*flags, "--num_processes=4"])
    assert capfd.readouterr().out.strip() == str([*flags, "--num_processes=4"])


def test_sigterm_goes_on_to_the_processes(tmp_path):
    """They save and end with 143, and so does the group."""
    child = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); "
        "print('up', end='', flush=True); time.sleep(60)"
    )
    code = (
        "from ast_jax.commands import group, invoke; "
        f"group.COMMAND = ({sys.executable!r}, '-c', {child!r}); invoke('group', ['--num_processes=2'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.read(4) == "upup"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
