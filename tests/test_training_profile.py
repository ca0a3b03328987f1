"""What a run says of its speed: counted operations, the share of the peak, traces of a few steps, kept
programs."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ast_jax.main import keep_compiled_programs
from ast_jax.models import ASTConfig, abstract
from ast_jax.models.cost import forward_flops
from ast_jax.settings import Settings
from ast_jax.training import profile
from ast_jax.training.program import train_program

CONFIG = ASTConfig(num_classes=10, num_frames=256, strides=(16, 16), width=64, depth=3, num_heads=2)


def matrix_products(tokens: int, config: ASTConfig) -> int:
    """Operations of a forward pass's matrix products, two a multiply-add: of D^2 12 N a block, of D 2 N^2;
    the last block's query rows, projection and MLP are of the two tokens alone that the logits are read
    from."""
    whole, width, read = config.depth - 1, config.width, config.num_prefix_tokens
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    last = 6 * tokens * width**2 + 18 * read * width**2 + 4 * read * tokens * width
    patches = 2 * (tokens - read) * 256 * width
    return whole * block + last + patches


@pytest.mark.parametrize("training", [False, True])
def test_operations_are_those_of_the_matrix_products_and_a_little_more(training):
    """All patches in evaluation, those that patchout leaves in a training step (of 8 x 16)."""
    config = dataclasses.replace(CONFIG, width=256, mlp_width=1024, patchout=(2, 6, 10))
    products = matrix_products(2 + (6 * 10 - 10 if training else 8 * 16), config)
    counted = forward_flops(abstract("ast", config), training=training)
    # softmax, norms, GELU: at this width a few in a hundred; in training the patches that go are embedded all
    # the same
    assert products < counted < 1.15 * products


def test_base_on_ten_seconds_takes_245_gflop():
    """12 blocks of 24 N D^2 + 4 N^2 D would be 261; the last one's two tokens save 7 % of that."""
    assert pytest.approx(261e9, rel=0.01) == 12 * (24 * 1214 * 768**2 + 4 * 1214**2 * 768)
    counted = forward_flops(abstract("ast", ASTConfig()))
    assert counted == pytest.approx(245e9, rel=0.005)
    assert 1 < counted / matrix_products(1214, ASTConfig()) < 1.01


def test_the_share_of_the_peak_counts_the_tokens_that_stay(monkeypatch):
    monkeypatch.setattr(profile, "matrix_peak", lambda dtype: 1e12)
    tree = {"num_frames": 256, "model": {"width": 64, "depth": 3, "num_heads": 2, "strides": (16, 16)}}
    for patchout in ({}, {"freq": 2, "time": 6, "patches": 10}):
        program = train_program(Settings.of(tree | {"patchout": patchout}), 10, devices=jax.devices()[:1])
        flops = forward_flops(program.model, training=True)
        assert profile.PeakShare(program)(10.0) == pytest.approx(10 * 3 * flops / 1e12)


def test_the_profiler_traces_the_steps_it_was_asked_for(tmp_path):
    """Of seven calls one, three or none; a call may be several events of the trace, but the same number
    each."""

    @jax.jit
    def one_step_of_seven(x):
        return x + 1

    for steps in (0, 1, 3):
        profiler, x = profile.Profiler(tmp_path / str(steps), steps), jnp.zeros(4)
        for _ in range(7):
            x = one_step_of_seven(x)
            profiler.after_step(x)
        profiler.close()
    one, three = (calls_traced(tmp_path / steps, "one_step_of_seven") for steps in "13")
    assert three == 3 * one > 0
    assert not (tmp_path / "0").exists()


def calls_traced(directory: Path, name: str) -> int:
    """Events of the trace that are calls of a jitted function."""
    (trace,) = directory.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sum(event.get("name") == f"PjitFunction({name})" for event in events)


def test_programs_are_kept_in_the_users_cache_unless_they_say_where(monkeypatch):
    names = (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_COMPILATION_CACHE_MAX_SIZE",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    keep_compiled_programs()
    assert os.environ[names[0]] == "/somewhere/ast_jax/xla"
    assert int(os.environ[names[1]]) == 2 << 30
    monkeypatch.setenv(names[0], "/mine")
    monkeypatch.delenv(names[1])
    keep_compiled_programs()
    assert os.environ[names[0]] == "/mine"
    assert names[1] not in os.environ


ADD = """
import os, sys
from ast_jax.main import keep_compiled_programs
keep_compiled_programs()
import jax
print(jax.jit(lambda x: x * 2 + 1)(20.5))
"""


def test_a_kept_program_that_is_damaged_is_told_once_and_made_again(tmp_path):
    def start() -> str:
        own = {
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # `plan`, run here before, sets it for its own process
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", ADD], capture_output=True, text=True, check=True, env=os.environ | own
        )
        assert done.stdout == "42.0\n"
        return done.stderr

    start()
    kept = list(tmp_path.glob("jit__lambda*-cache"))
    kept[0].write_bytes(kept[0].read_bytes()[:40])
    assert "the kept program jit__lambda is damaged" in start()
    assert "damaged" not in start()
