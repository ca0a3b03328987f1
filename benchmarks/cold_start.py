r"""Seconds from the shell to the tags: `python -m ast_jax predict` on one 10 s file with a tiny model, and
what they go to.

  python -m benchmarks.cold_start [--repeats=3] [--json=FILE]

The first start compiles and fills a compilation cache of its own; the others find it warm. A pipeline of
transformers with a model of the same size does the same beside it where torch is installed.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing

TRANSFORMERS = """
import sys, soundfile
from transformers import pipeline
sound, rate = soundfile.read(sys.argv[2], dtype="float32")
print(pipeline("audio-classification", model=sys.argv[1])({"raw": sound, "sampling_rate": rate})[:5])
"""

WRITE = """
import contextlib, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np, optax, soundfile
from flax import nnx
from ml_collections import ConfigDict
from ast_jax.checkpoints import Store
from ast_jax.config import base
from ast_jax.models import AST, ASTConfig, split
from ast_jax.training.optim import adam
from ast_jax.training.step import init_state
from ast_jax.training.workdir import open_workdir
from ast_jax.weights.convert import convert
from ast_jax.weights.source import model_card

work, config = Path(sys.argv[1]), ASTConfig.variant("tiny")
names = [f"class {i}" for i in range(config.num_classes)]
card = model_card(config, label_names=names, mean=-4.27, std=4.57, multi_label=True, channels="mean")
open_workdir(work / "model", base(), card)
state = init_state(split(AST(config, rngs=nnx.Rngs(0)))[1], adam(lambda step: 1e-3))
with contextlib.closing(Store(work / "model", state)) as store:
    store.save(state, {}, metric=0.0)
    store.wait()
convert(work / "model", work / "hugging_face", to="huggingface")
noise = np.random.default_rng(0).uniform(-0.1, 0.1, 160_000)
soundfile.write(work / "a.wav", noise.astype(np.float32), 16_000)
"""


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_model(work)
        env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(work / "cache")}
        env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}  # as the command line sets it
        ours = [sys.executable, "-m", "ast_jax", "predict", f"--model={work / 'model'}", str(work / "a.wav")]
        cold = timed(ours, env)
        contestants = {"ours, cache warm": ours}
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
            there = [sys.executable, "-c", TRANSFORMERS, str(work / "hugging_face"), str(work / "a.wav")]
            contestants["transformers pipeline"] = there
            timed(there, env)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(args.repeats):
            for name, command in contestants.items():
                seconds[name].append(timed(command, env))
        imports = timed([sys.executable, "-c", "import ast_jax.inference.predict"], env)
    rows = [row("ours, cache cold", [cold]), row("of it: imports", [imports])]
    rows += [row(name, values) for name, values in seconds.items()]
    timing.table(f"start to tags, {timing.machine()}", rows)
    timing.write(args.json, {"rows": rows})


def row(what: str, values: list[tuple[float, float]]) -> timing.Row:
    clock, cpu = (statistics.median(column) for column in zip(*values, strict=True))
    return {"what": what, "s": clock, "CPU s": cpu}


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time: the latter hardly depends on what else the machine
    does.
    """
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, cwd=timing.ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def write_model(work: Path) -> None:
    """AST-tiny with random weights as a run of ours and as a Hugging Face directory, and a sound; in a
    process of its own.
    """
    subprocess.run(
        [sys.executable, "-c", WRITE, str(work)], cwd=timing.ROOT, check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
