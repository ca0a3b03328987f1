r"""Hostile campaigns: damaged sounds, weights, tables and command lines, and Ctrl-C at random moments.

  python -m benchmarks.prove_hostile [--only=sounds,weights,tables,lines,ctrl_c] [--scale=1]

docs/proofs/hostile.json has, for each kind of input, how many were tried and how they ended: *used*,
*refused* (an InputError of one line), *foreign* (another exception), *crashed* (the process died), *hung* (no
answer in 20 s). The last three should be 0. Inputs are drawn by a fixed seed: a number names a case again.
"""

import argparse
import functools
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.prove import DOCS, ROOT, about

PATIENCE_S = 20.0
# Bytes that a process may take: a small file that wants more is a bomb.
MEMORY = 6 << 30

# The child: tries the paths it is told, one answer a line.
CHILD = """
import sys, resource
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from pathlib import Path
from ast_jax.errors import InputError
{prepare}
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    try:
        attempt(path)
        print("used", flush=True)
    except InputError as error:
        print("refused" if len(str(error).splitlines()) == 1 else "foreign: several lines", flush=True)
    except BaseException as error:
        print("foreign: " + type(error).__name__ + ": " + str(error).split(chr(10))[0][:120], flush=True)
"""
ATTEMPTS = {
    "sounds": """
import warnings
warnings.simplefilter("ignore")
from ast_jax.features import load_audio
import numpy as np
def attempt(path):
    heard = load_audio(path)
    assert len(heard) and np.isfinite(heard).all() and abs(heard).max() < 1e9, "a waveform that is no sound"
""",
    "weights": """
from ast_jax.weights import load_model
import numpy as np
def attempt(path):
    loaded = load_model(path)
    config = loaded.model.config
    shape = (1, config.num_frames, loaded.front_end.num_mel_bins)
    assert np.prod(shape) < 1e8, "features of an absurd shape"
""",
    "tables": """
from ast_jax.datasets import audioset, esc50, events, folder
from ast_jax.events import read_events
def attempt(path):
    kind = path.parent.name
    if kind == "events":
        read_events(path)
    elif kind == "folder":
        folder.list_clips(path)
    elif kind == "audioset":
        audioset.list_clips(path.parent)
    else:
        esc50.list_clips(path.parent.parent)
""",
}


class Child:
    """A process that tries files; started again after a crash or a hang."""

    def __init__(self, kind: str):
        self._code = CHILD.format(memory=MEMORY, prepare=ATTEMPTS[kind])
        self._process: Any = None

    def tried(self, path: Path) -> str:
        """How it ended."""
        if self._process is None:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            signal.signal(signal.SIGALRM, _too_long)
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        # the first answer waits for imports too
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S + 20)
        try:
            answer = self._process.stdout.readline().strip()
        except TimeoutError:
            self.end()
            return "hung"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not answer:
            status = self._process.wait()
            self._process = None
            return f"crashed: status {status}"
        return answer

    def end(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _too_long(*_: object) -> None:
    raise TimeoutError


def mutated(rng: random.Random, held: bytes, text: bool = False) -> bytes:
    """One to four harms: flipped and replaced bytes, extreme numbers, cuts, repeats, pieces that swap."""
    data = bytearray(held)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        # headers are where lies are told
        end = len(data) if rng.random() < 0.4 else min(len(data), 256)
        at = rng.randrange(end)
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, rng.getrandbits(32)))
            data[at : at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
        elif kind == 2:
            del data[rng.randrange(len(data)) :]
        elif kind == 3:
            piece = data[at : at + rng.randrange(1, 200)]
            data[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at : at + rng.randrange(1, 64)] = b""
        elif kind == 5:
            words = (b"nan", b"-1", b"1e999", b"\xff\xfe", b'"', b"\0", b"null", b"[]", b"\n", b"99999999999")
            data[at:at] = rng.choice(words) if text or rng.random() < 0.2 else rng.randbytes(8)
        else:
            other = rng.randrange(len(data))
            data[at : at + 16], data[other : other + 16] = data[other : other + 16], data[at : at + 16]
    return bytes(data)


def sounds(rng: random.Random, scale: float, work: Path) -> Iterator[tuple[str, Path]]:
    """Files of every container that libsndfile writes, of noise and tones."""
    wave = 0.3 * np.sin(np.arange(4000) * 0.1) + 0.01 * np.random.default_rng(0).normal(size=4000)
    forms = [
        (form, next(iter(soundfile.available_subtypes(form))))
        # SD2 is written in two files, the second into the working directory
        for form in sorted(set(soundfile.available_formats()) - {"SD2"})
    ]
    forms += [("WAV", kind) for kind in ("PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")]
    forms += [("OGG", "OPUS"), ("CAF", "ALAC_16"), ("AIFF", "FLOAT"), ("W64", "PCM_16"), ("RF64", "PCM_16")]
    for form, kind in forms:
        base = io.BytesIO()
        try:
            soundfile.write(base, np.stack([wave, wave], 1), 16_000, format=form, subtype=kind)
        except (soundfile.SoundFileError, ValueError, RuntimeError):
            continue
        for _ in range(round(250 * scale)):
            path = work / "sound.bin"
            path.write_bytes(mutated(rng, base.getvalue()))
            yield form, path


def weights(rng: random.Random, scale: float, work: Path) -> Iterator[tuple[str, Path]]:
    """Each file of each layout of a tiny model."""
    from flax import nnx

    from ast_jax.models import AST, ASTConfig
    from ast_jax.weights import LoadedModel
    from ast_jax.weights.convert import convert

    config = ASTConfig(num_classes=2, num_frames=32, width=8, depth=1, num_heads=1, strides=(16, 16))
    net = AST(config, rngs=nnx.Rngs(0))
    loaded = LoadedModel(net, ["a", "b"], net.front_end.with_statistics(-4.0, 4.0), "softmax")
    from safetensors.numpy import save_file

    from ast_jax.models import host_variables
    from ast_jax.weights.model_card import CARD

    own = work / "own"
    own.mkdir()
    save_file(host_variables(net), own / "model.safetensors")
    (own / CARD).write_text(json.dumps(loaded.card()))
    for to, name in (
        ("flax", "flax"), ("huggingface", "hf"), ("npz", "a.npz"), ("safetensors", "a.safetensors"),
        ("reference", "a.pth"),
    ):  # fmt: skip
        base = work / name
        convert(own, base, to=to)
        files = [base] if base.is_file() else sorted(path for path in base.iterdir() if path.suffix != ".md")
        for file in files:
            held, text = file.read_bytes(), file.suffix == ".json"
            for _ in range(round(220 * scale)):
                file.write_bytes(mutated(rng, held, text))
                yield f"{to}/{file.name}", base
            file.write_bytes(held)


def tables(rng: random.Random, scale: float, work: Path) -> Iterator[tuple[str, Path]]:
    """CSV, JSON and tables of events."""
    bases = {
        "folder/t.csv": b'file,labels,split\na.wav,"dog;cat",train\nb.wav,cat,test\nc.wav,dog,train\n',
        "folder/t.json": b'{"data": [{"wav": "a.wav", "labels": "/m/a,/m/b"}]}',
        "events/t.tsv": b"file\tonset\toffset\tlabel\tscore\na.wav\t.5\t1.25\tdog\t0.5\nb\t0\t1\tcat\t\n",
        "events/t.txt": b"0.5\t1.0\tdog\n1.5\t2.0\tcat\n\\\t100\t200\n",
        "events/t.rttm": b"SPEAKER a 1 0.5 1.0 <NA> <NA> dog <NA> <NA>\n",
        "events/t.json": b'[{"file": "a", "onset_s": 0, "offset_s": 1.5, "label": "dog", "score": 0.5}]',
        "audioset/eval_segments.csv": b'# a comment\nabcdefghijk, 0.000, 10.000, "/m/a,/m/b"\n',
        "meta/esc50.csv": b"filename,fold,target,category,esc10\na.wav,1,0,dog,True\nb.wav,2,1,cat,False\n",
    }
    classes = b"index,mid,display_name\n0,/m/a,Dog\n1,/m/b,Cat\n"
    for name in ("folder", "audioset"):
        (work / name).mkdir()
        (work / name / "class_labels_indices.csv").write_bytes(classes)
    (work / "audioset/abcdefghijk.wav").write_bytes(b"x")
    for name, held in bases.items():
        path = work / name
        path.parent.mkdir(exist_ok=True)
        for _ in range(round(400 * scale)):
            path.write_bytes(mutated(rng, held, text=True))
            yield name, path


KINDS: dict[str, Callable[[random.Random, float, Path], Iterator[tuple[str, Path]]]] = {
    "sounds": sounds,
    "weights": weights,
    "tables": tables,
}


def campaign(kind: str, scale: float) -> dict[str, Any]:
    """Every input of a kind through a child."""
    ends: dict[str, Counter[str]] = {}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        child = Child(kind)
        for number, (what, path) in enumerate(KINDS[kind](random.Random(0), scale, Path(folder))):
            how = child.tried(path)
            ends.setdefault(what, Counter())[how.partition(":")[0]] += 1
            if how not in ("used", "refused"):
                cases.append(f"{kind} {number} ({what}): {how}")
                print(cases[-1], flush=True)
        child.end()
    total = sum(ends.values(), Counter())
    return {
        "tried": total.total(),
        "ends": dict(total),
        "by_input": {k: dict(v) for k, v in ends.items()},
        "cases": cases,
    }


def lines() -> dict[str, Any]:
    """Every flag of every command with values that are none, and settings likewise."""
    from ast_jax.commands import COMMANDS
    from ast_jax.settings import defaults, flat

    values = [
        "nan",
        "inf",
        "-1",
        "0",
        "1e999",
        "",
        "None",
        "abc",
        "[",
        "\udce9",
        "1.5",
        "99999999999999999999",
    ]
    calls = []
    for command, flags in FLAGS.items():
        assert command in COMMANDS
        calls += [
            [command, f"--{flag}={value}", *BESIDE[command]]
            for flag, value in itertools.product(flags, values)
        ]
    for key in flat(defaults()):
        calls += [
            ["plan", "--config=quickstart", f"--config.{key}={value}"] for value in ("nan", "-1", "abc", "[")
        ]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", LINES],
            input="".join(json.dumps(call) + "\n" for call in calls),
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    answers = [
        line for line in done.stdout.splitlines() if line.startswith(("used", "refused", "foreign", "status"))
    ]
    cases = [
        f"{call}: {how}"
        for call, how in zip(calls, answers, strict=False)
        if how.startswith(("foreign", "status"))
    ]
    if len(answers) < len(calls):
        cases.append(f"{calls[len(answers)]}: crashed")
    print(*cases, sep="\n")
    ends = Counter(answer.partition(":")[0] for answer in answers)
    return {"tried": len(calls), "ends": dict(ends), "cases": cases}


LINES = """
import sys, json
from ast_jax.commands import invoke
from ast_jax.errors import InputError
for line in sys.stdin:
    argv = json.loads(line)
    try:
        invoke(argv[0], argv[1:])
        print("used", flush=True)
    except InputError as error:
        print("refused" if len(str(error).splitlines()) == 1 else "foreign: several lines", flush=True)
    except SystemExit as end:
        print(f"status {end.code}" if end.code else "used", flush=True)
    except BaseException as error:
        print("foreign:", type(error).__name__, str(error)[:120].replace(chr(10), " "), flush=True)
"""
FLAGS = {
    "predict": (
        *("window_s", "hop_s", "top", "threshold", "rate", "samples", "low", "median_s", "min_gap_s", "form"),
        *("num_frames", "std", "strides"),
    ),
    "embed": ("window_s", "hop_s", "layer", "kind", "out"),
    "probe": ("C", "folds", "layer", "out"),
    "convert": ("to", "num_frames", "strides"),
    "evaluate": ("batch_size", "columns"),
    "serve": ("port", "upload_mb", "sound_s", "host"),
    "explain": ("top", "start_s", "out"),
    "score_events": ("collar_s", "share", "segment_s"),
    "count_events": ("hours",),
    "crossval": ("folds", "seeds"),
}  # fmt: skip
BESIDE = {
    "predict": ["--model=nothing", "a.wav"], "embed": ["--model=nothing", "a.wav", "--out=a.npz"],
    "probe": ["--model=nothing", "a"], "convert": ["nothing", "to"], "evaluate": ["nothing"],
    "serve": ["--model=nothing"], "explain": ["--model=nothing", "a.wav"], "score_events": ["a.tsv", "b.tsv"],
    "count_events": ["a.tsv"], "crossval": ["--config=esc50", "--workdir=w"],
}  # fmt: skip


def ctrl_c(scale: float) -> dict[str, Any]:
    """Long commands stopped at random moments: 130 within 3 s, no child left, what there was is whole."""
    rng, ends, cases = random.Random(0), Counter[str](), []
    # a shell's background job ignores it, and so would the children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        run = functools.partial(
            subprocess.run, env=environment, cwd=work, check=False, capture_output=True, text=True
        )
        tiny = ["--config.model.width=16", "--config.model.depth=1", "--config.model.num_heads=1"]
        recipe = ["--config=quickstart:short", "--config.dataset.data_dir=data", *tiny]
        made = run([sys.executable, "-m", "ast_jax", "train", *recipe, "--config.epochs=1", "--workdir=run"])
        assert made.returncode == 0, made.stderr
        sounds_dir = next((work / "data").rglob("sounds"))
        commands = {
            "train": ["train", *recipe, "--config.epochs=50", "--workdir=again"],
            "prepare": [
                *("prepare", "--config=folder", f"--config.dataset.source_dir={sounds_dir}"),
                "--config.dataset.data_dir=other",
            ],
            "predict": ["predict", "--model=run", str(sounds_dir)],
            "events": ["predict", "--model=run", "--events", "--out=e.tsv", str(sounds_dir)],
            "embed": ["embed", "--model=run", "--out=e.npz", str(sounds_dir)],
            "evaluate": ["evaluate", "run", "--again"],
            "plan": ["plan", *recipe],
        }  # fmt: skip
        for name, words in commands.items():
            for _ in range(round(20 * scale)):
                process = subprocess.Popen(
                    [sys.executable, "-m", "ast_jax", *words],
                    env=environment,
                    cwd=work,
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                time.sleep(rng.uniform(0.05, 2.5))
                early = process.poll()
                began = time.monotonic()
                if early is None:
                    os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(timeout=20)
                    how = "ended before" if early is not None else f"status {process.returncode}"
                except subprocess.TimeoutExpired:
                    how = "hung"
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                late = time.monotonic() - began > 3
                told = process.stderr.read() if process.stderr else ""
                how = "traceback" if "Traceback" in told else f"{how}, late" if late else how
                # it may have ended by itself at the same moment
                # ended by the signal itself, before Python was there to hear it: 130 to a shell
                how = "status 130" if how == "status -2" else how
                fine = how in ("status 130", "ended before", "status 0")
                # what it was just starting may take a moment to hear the signal
                left = children(process.pid) and (time.sleep(1) or children(process.pid))
                how = "child left" if left else how
                ends[how] += 1
                if not fine or left:
                    cases.append(f"{name}: {how}: {told.strip().splitlines()[-1:]}")
                    print(cases[-1], flush=True)
        check = run([sys.executable, "-m", "ast_jax", "predict", "--model=run", str(sounds_dir)])
        assert check.returncode == 0, check.stderr
    return {"tried": ends.total(), "ends": dict(ends), "cases": cases}


def children(group: int) -> str:
    """The processes of a group."""
    return subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True, check=False).stdout


def main() -> None:
    """See above."""
    flags = argparse.ArgumentParser("python -m benchmarks.prove_hostile", description=__doc__)
    flags.add_argument("--only", default="sounds,weights,tables,lines,ctrl_c")
    flags.add_argument("--scale", type=float, default=1.0, help="how many inputs, against what docs say")
    flags.add_argument("--out", type=Path, default=DOCS / "hostile.json")
    asked = flags.parse_args()
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for kind in asked.only.split(","):
        if kind in KINDS:
            known[kind] = campaign(kind, asked.scale)
        else:
            known[kind] = lines() if kind == "lines" else ctrl_c(asked.scale)
        print(kind, known[kind]["tried"], known[kind]["ends"], flush=True)
        asked.out.write_text(
            json.dumps({"command": "python -m benchmarks.prove_hostile", **known, **about()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
