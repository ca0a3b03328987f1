"""What a run says of its speed: counted operations, the share of the peak, traces of a few steps, kept programs."""

import functools
import gzip
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ast_jax.main import keep_compiled_programs
from ast_jax.models import AST, ASTConfig, merge, split
from ast_jax.models.cost import forward_flops
from ast_jax.training import profile
from ast_jax.sharding import make_layout
from ast_jax.training.step import Recipe

CONFIG = ASTConfig(num_classes=10, num_frames=256, strides=(16, 16), width=64, depth=3, num_heads=2)


def test_operations_are_those_xla_counts():
    """Of all rows of all blocks. XLA counts what is not a matrix product too: at this small width, a tenth more."""
    graphdef, params = split(nnx.eval_shape(lambda: AST(CONFIG, rngs=nnx.Rngs(0))))
    whole = lambda params, x: merge(graphdef, params).classify(merge(graphdef, params).tokens(x))
    lowered = jax.jit(whole).lower(params, jax.ShapeDtypeStruct((1, 256, 128), jnp.float32))
    assert forward_flops(CONFIG) == pytest.approx(lowered.cost_analysis()["flops"], rel=0.15)
    assert forward_flops(CONFIG) < lowered.cost_analysis()["flops"]


def test_base_on_ten_seconds_takes_the_papers_operations():
    assert 3 * forward_flops(ASTConfig()) == pytest.approx(0.783e12, rel=0.01)


def test_the_share_of_the_peak_counts_the_tokens_that_stay(monkeypatch):
    monkeypatch.setattr(profile, "matrix_peak", lambda dtype: 1e12)
    share = functools.partial(profile.PeakShare, CONFIG, layout=make_layout(devices=jax.devices()[:1]))
    full = share(recipe=Recipe(mean=0.0, std=1.0))
    assert full(10.0) == pytest.approx(10 * 3 * forward_flops(CONFIG) / 1e12)
    cut = share(recipe=Recipe(mean=0.0, std=1.0, patchout=(2, 6, 10)))
    assert cut(10.0) == pytest.approx(10 * 3 * forward_flops(CONFIG, 2 + 6 * 10 - 10) / 1e12)


def test_the_profiler_traces_the_steps_it_was_asked_for(tmp_path):
    """Of seven calls one, three or none; a call may be several events of the trace, but the same number each."""

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
