"""What people see while they wait never gets into the answer: every command at terminals real enough for it.

One process a terminal runs all commands one after the other, in a directory of its own, so that paths are
told alike.
"""

import json
import os
import pty
import re
import subprocess
import sys
import tty
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, sys
from ast_jax.__main__ import command
from ast_jax.main import keep_stdout_for_answers

keep_stdout_for_answers()
for argv in json.loads(sys.argv[1]):
    print("$", *argv, flush=True)
    try:
        command(argv, prog="ast_jax")
    except SystemExit as end:
        print("status", end.code)
"""
TINY = {
    "num_frames": 48,
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.strides": "(16,16)",
    "epochs": 1,
    "batch_size": 4,
    "least_steps": 0,
}
RECIPE = ["--config=folder:pretrained", "--config.dataset.source_dir=../sounds"]
RECIPE += [f"--config.{key}={value}" for key, value in TINY.items()]
SOUNDS = ["../long.wav", "../text.wav", "../damaged.sds", "../sounds/test"]
MODEL = "--model=../plain/run"
COMMANDS = [
    ["train", *RECIPE, "--workdir=run"],
    ["prepare", *RECIPE, "--config.dataset.data_dir=again"],
    ["plan", *RECIPE, "--num_classes=2", "--quick"],
    ["predict", MODEL, *SOUNDS],
    ["predict", MODEL, *SOUNDS, "--json"],
    ["predict", MODEL, *SOUNDS, "--csv"],
    ["embed", MODEL, *SOUNDS, "--out=rows.npz"],
    ["evaluate", "../plain/run", "--again"],
    ["convert", "../plain/run", "weights.npz", "--to=npz"],
]
QUICK = COMMANDS[3:]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Twelve clips of two classes, a long file, a text, and damage over which libsndfile speaks on stdout."""
    root, rng = tmp_path_factory.mktemp("terminal"), np.random.default_rng(0)
    for i in range(12):
        wave = rng.normal(0, 0.1, 6000) if i % 2 else 0.3 * np.sin(np.arange(6000) * (0.1 + 0.01 * i))
        path = Path(root, "sounds", "train" if i < 9 else "test", "noise" if i % 2 else "tone", f"{i}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, 16_000)
    soundfile.write(root / "long.wav", rng.normal(0, 0.1, 16_000 * 3), 16_000)
    (root / "text.wav").write_text("no sound")
    soundfile.write(root / "damaged.sds", rng.normal(0, 0.1, 16_000), 16_000, format="SDS")
    damaged = bytearray((root / "damaged.sds").read_bytes())
    # where a block begins
    damaged[21 + 3 * 127] = 0x11
    (root / "damaged.sds").write_bytes(damaged)
    return root


@pytest.fixture(scope="module")
def plain(work) -> dict[str, str]:
    """What each command answers without a terminal; the run that the others ask is made here."""
    out, err = run(work / "plain", COMMANDS)
    assert "\x1b" not in out + err
    assert "\n\n" not in err  # a bar that was never shown leaves no line
    # What is left is not guessed from the step that is compiled.
    assert re.search(r"^step 1/3 .* clips/s$", err, re.M)
    assert re.search(r"^step 3/3 .* clips/s  0 s left$", err, re.M)
    return answers(out)


def answers(out: str) -> dict[str, str]:
    """{command: what it printed}."""
    parts = re.split(r"^\$ (.*)\n", out, flags=re.M)
    assert parts[0] == ""
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def run(cwd: Path, commands: list[list[str]], terminals: tuple[str, ...] = (), **environment: str):
    """What the commands write to stdout and to stderr, each of which is a terminal of its own or a pipe."""
    cwd.mkdir(exist_ok=True)
    own = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "XDG_CACHE_HOME": str(cwd.parent / "cache")}
    own["JAX_COMPILATION_CACHE_DIR"] = str(cwd.parent / "xla")
    own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    foreign = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    environment = {k: v for k, v in os.environ.items() if k not in foreign} | own | environment
    ends = {name: pty.openpty() if name in terminals else os.pipe() for name in ("stdout", "stderr")}
    for name in terminals:
        # Lines end as they were written.
        tty.setraw(ends[name][1])
    writing = {name: end for name, (_, end) in ends.items()}
    command = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, **writing)
    for end in writing.values():
        os.close(end)
    with ThreadPoolExecutor(2) as pool:
        out, err = pool.map(heard, (end for end, _ in ends.values()))
    assert process.wait() == 0, err[-2000:]
    return out, err


def heard(end: int) -> str:
    """All that comes until the program has gone."""
    with open(end, "rb", buffering=0) as file:
        return b"".join(iter(lambda: read(file.fileno()), b"")).decode()


def read(end: int) -> bytes:
    """The next bytes; none where a terminal's program has gone, which Linux makes an error."""
    try:
        return os.read(end, 1 << 16)
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "commands", "terminals", "environment"),
    [
        ("words", COMMANDS, ("stderr",), {}),
        ("both", COMMANDS[1:], ("stdout", "stderr"), {}),
        ("answer", QUICK, ("stdout",), {"FORCE_COLOR": "1"}),
        ("dumb", QUICK, ("stdout", "stderr"), {"TERM": "dumb"}),
        ("narrow", QUICK, ("stdout", "stderr"), {"NO_COLOR": "1", "COLUMNS": "20"}),
    ],
)
def test_the_answer_is_the_same_whatever_is_a_terminal(work, plain, name, commands, terminals, environment):
    out, err = run(work / name, commands, terminals, **environment)
    assert answers(out) == {" ".join(command): plain[" ".join(command)] for command in commands}
    # Only where a bar was shown could it have gone astray.
    shown = [word for word in ("training", "tagging", "embedding") if f"{word} \x1b" in err]
    bars = {"words": ["training", "tagging", "embedding"], "both": ["tagging", "embedding"]}
    assert shown == bars.get(name, [])
    assert ("\x1b" in err) == (name in ("words", "both", "narrow"))
    assert "error: ../text.wav: not audio" in err


def test_every_command_answers(plain):
    assert all(answer.strip() for answer in plain.values())
    for line in plain[" ".join(COMMANDS[4])].splitlines()[:-1]:
        assert json.loads(line)["tags"]


def python(code: str, **ends) -> subprocess.CompletedProcess[str]:
    code = f"import os, sys\nfrom ast_jax.main import keep_stdout_for_answers, run\n{code}"
    command, environment = [sys.executable, "-c", code], dict(ends.pop("env", os.environ))
    # It would write each print at once.
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(command, cwd=ROOT, text=True, env=environment, **ends)


def test_at_one_terminal_the_answer_stands_whole_between_bar_and_words():
    """What is left on the screen, as a terminal draws it, is every line and nothing of the bar."""
    code = """
from ast_jax.terminal import Bar
with Bar(transient=True) as bar:
    task = bar.task("tagging", 3)
    for i in range(3):
        with bar.aside():
            print("answer", i)
        bar.say(f"word {i}")
        task.advance()
"""
    end, screen = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60", "NO_COLOR": "1"}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=screen, stderr=screen, env=environment)
    os.close(screen)
    written = heard(end).replace("\r\n", "\n")
    assert process.wait() == 0, written
    assert "tagging ━" in written
    assert drawn(written) == [line for i in range(3) for line in (f"answer {i}", f"word {i}")]


@pytest.mark.parametrize("aside", [True, False])
def test_what_is_printed_under_a_bar_goes_to_stdout(aside):
    end, screen = pty.openpty()
    code = f"""
import contextlib
from ast_jax.terminal import Bar
with Bar() as bar, bar.aside() if {aside} else contextlib.nullcontext():
    bar.task("tagging", 3)
    print("answer")
"""
    done = python(code, stdout=subprocess.PIPE, stderr=screen, env=os.environ | {"TERM": "xterm"})
    os.close(screen)
    assert "tagging" in heard(end)
    assert (done.returncode, done.stdout) == (0, "answer\n")


def drawn(written: str) -> list[str]:
    """The lines of a screen after line ends, carriage returns, cursor up and erase line."""
    lines, row, column = [""], 0, 0
    for up, erase, sequence, end, text in re.findall(
        r"\x1b\[(\d+)A|(\x1b\[2K)|(\x1b\[[?\d;]*[a-zA-Z])|([\r\n])|([^\x1b\r\n]+)", written
    ):
        assert not sequence or sequence[-1] in "mhl"  # colours, and the cursor shown or hidden
        if up:
            row -= int(up)
        elif erase:
            lines[row] = ""
        elif end:
            row, column = row + (end == "\n"), 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line for line in lines if line]


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_prints_wait_in_a_buffer_unless_python_is_told_otherwise(flags):
    code = (
        "import os; from ast_jax.main import keep_stdout_for_answers as keep; keep(); print('a'); os._exit(0)"
    )
    command = [sys.executable, *flags, "-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout == ("a\n" if flags else "")


def test_what_libraries_write_to_the_descriptor_goes_to_stderr():
    code = "keep_stdout_for_answers(); print('answer'); os.write(1, b'decoder\\n'); os.system('echo child')"
    done = python(code, capture_output=True)
    assert (done.stdout, done.stderr) == ("answer\n", "decoder\nchild\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_words_never_take_a_closed_descriptors_place(closed, tmp_path):
    """Neither does a file that is opened then."""
    # Without a descriptor Python starts without a stream.
    code = f"""
for end in {closed}:
    os.close(end)
if 1 in {closed}:
    sys.stdout = None
if 2 in {closed}:
    sys.stderr = None
keep_stdout_for_answers()
file = open({str(tmp_path / "file")!r}, "w")
print("word", file=sys.stderr, flush=True)
print("answer", flush=True)
os.write(1, b"decoder\\n")
file.write("whole")
file.close()
"""
    done = python(code, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if 1 in closed else "answer\n")
    assert done.stderr == ("" if 2 in closed else "word\n" if closed == (1,) else "word\ndecoder\n")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_answer_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        done = python("run(lambda argv: print('answer'), [])", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
