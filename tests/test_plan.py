"""The plan: what is counted, searched, and what a compiled step takes. TPU slices where libtpu is there."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ast_jax.commands import invoke, plan
from ast_jax.errors import InputError
from ast_jax.models import ASTConfig, abstract, num_parameters
from ast_jax.models.kernels import PLAIN
from ast_jax.planning import memory, slices
from ast_jax.planning.costs import activation_bytes
from ast_jax.planning.memory import Memory, largest
from ast_jax.recipes import parse
from ast_jax.settings import Settings
from ast_jax.training.program import train_program

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--config=configs/esc50.py:cpu",
    "--config.model.depth=2",
    "--config.num_frames=64",
    "--config.batch_size=4",
)


def compiler(base: int, slope: int, capacity: int, squeeze: int = 0):
    """A stand-in for compiling: so many bytes a clip, and up to `squeeze` bytes made to fit at the limit."""
    calls = []

    def measure(clips: int) -> Memory:
        calls.append(clips)
        need = base + slope * clips
        total = min(need, capacity) if need - squeeze <= capacity else need
        return Memory(clips, 0, total, 0, total <= capacity, 0.0)

    return measure, calls


@pytest.mark.parametrize(
    ("first", "close", "prove", "calls"),
    [
        (8, False, False, [8, 31, 39]),  # two compiles, a line, one to verify
        (8, False, True, [8, 31, 39, 40]),  # and one clip more is refused
        (80, False, False, [80, 41, 39, 40]),  # too many at first: what was refused helps
        (39, True, True, [39, 40]),  # from a plan nearby
    ],
)
def test_the_search_takes_few_compiles(first, close, prove, calls):
    measure, called = compiler(base=100, slope=37, capacity=1575)
    found = largest(measure, 1575, first, close=close, prove=prove)
    assert called == calls
    assert max(m.clips for m in found if m.fits) == 39


@pytest.mark.parametrize("first", [1, 3, 8, 39, 41, 70])
@pytest.mark.parametrize("squeeze", [0, 30, 80])
def test_proving_ends_between_one_that_fits_and_one_that_does_not(first, squeeze):
    measure, _ = compiler(base=100, slope=37, capacity=1575, squeeze=squeeze)
    fits = {m.clips: m.fits for m in largest(measure, 1575, first, prove=True)}
    most = (1575 + squeeze - 100) // 37
    assert fits[most]
    assert not fits[most + 1]


def test_nothing_fits():
    measure, _ = compiler(base=2000, slope=37, capacity=1575)
    assert not any(m.fits for m in largest(measure, 1575, 8))


def test_the_compilers_refusals_are_read():
    whole = (
        "Ran out of memory in memory space hbm. Used 17.07G of 15.75G hbm. Exceeded hbm capacity by 1.32G."
    )
    single = "the total memory required for HLO temporaries (400.00G) exceeds available HBM (15.75G)"
    assert memory._needed(whole) == int(17.07 * 2**30)
    assert memory._needed(single) == 400 * 2**30
    with pytest.raises(ValueError, match="does not say of how much"):
        memory._needed("out of cheese")


def test_remat_keeps_little_more_than_what_enters_a_block():
    config = ASTConfig.variant("tiny", num_frames=64, depth=3)
    into_blocks = config.depth * config.num_tokens * config.width * 4
    outline = lambda remat: abstract("ast", dataclasses.replace(config, remat=remat))
    kept = {remat: activation_bytes(outline(remat), PLAIN) for remat in plan.REMATS}
    assert into_blocks <= kept["blocks"] < 2 * into_blocks
    scores = (config.depth - 1) * config.num_heads * config.num_tokens**2 * 4
    assert kept["none"] > kept["blocks"] + scores


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory) -> tuple[dict, Path]:
    """The plan of a tiny recipe on this machine, through the command."""
    cache = tmp_path_factory.mktemp("plan") / "plan.json"
    command = [sys.executable, "-m", "ast_jax", "plan", *TINY, "--json", f"--cache={cache}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), cache


def test_a_compiled_step_is_given_its_state_and_its_batch(tiny_plan):
    told, _ = tiny_plan
    (measured,) = told["memory"]["none"]
    program = train_program(Settings.of(parse(TINY)[0]), 50)
    given = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((program.state, program.rows)))
    assert measured["arguments"] == pytest.approx(given, abs=64 * len(jax.tree.leaves(program.state)))
    assert measured["clips"] == 4
    assert measured["fits"]
    assert measured["total"] > measured["arguments"]
    assert told["parameters"] == num_parameters(program.model)
    assert told["tokens"] == program.model.config.num_tokens
    assert told["devices"]["name"] == "this machine"


def test_the_same_program_is_not_compiled_twice(tiny_plan, monkeypatch, capsys):
    told, cache = tiny_plan
    monkeypatch.setattr(memory, "_compiled", lambda *_: pytest.fail("compiled again"))
    invoke("plan", [*TINY, f"--cache={cache}"])
    shown = capsys.readouterr().out
    assert f"{told['parameters']:,} parameters" in shown
    assert "4 clips" not in shown
    monkeypatch.setattr(memory, "_compiled", lambda *_: Memory(5, 1, 2, 3, True, 0.0))
    invoke("plan", [*TINY, "--config.batch_size=5", f"--cache={cache}"])  # another program
    assert len(json.loads(cache.read_text())) == 2


def test_what_another_batch_means():
    config, _, _ = parse(["--config=configs/audioset.py"])
    assert plan.scaled(config, 12) == {
        "batch": 12,
        "lr_square_root": 1e-5,
        "lr_linear": 1e-5,
        "warmup_steps": 1000,
    }
    wide = plan.scaled(config, 192)
    assert wide["lr_square_root"] == pytest.approx(4e-5)
    assert wide["lr_linear"] == pytest.approx(1.6e-4)
    assert wide["warmup_steps"] == 63  # 12,000 clips


def test_the_recipes_batch_on_many_devices():
    config, _, _ = parse(["--config=configs/audioset.py"])
    where = slices.Devices("eight", tuple(range(8)), 4, 1, 10**9)
    told = plan.batches(
        config, where, {"none": [Memory(1, 0, 0, 0, True, 0.0), Memory(2, 0, 0, 0, False, 0.0)]}
    )
    assert (told["rows_per_device"], told["padding_rows"], told["without_padding"]) == (2, 4, [8, 16])
    assert told["largest"]["none"]["accumulate_for_recipe"] == 2
    assert told["largest"]["none"]["batch"] == 8


def test_the_recipes_own_batch_is_told_from_the_line():
    measured = [
        Memory(4, 0, 500, 0, True, 0.0),
        Memory(8, 0, 900, 0, True, 0.0),
        Memory(16, 0, 1500, 0, True, 0.0),
    ]
    assert plan.estimate(measured, 2) == 300
    assert plan.estimate(measured[:1], 2) == 500


def test_wrong_questions_are_told(monkeypatch):
    with pytest.raises(InputError, match="give --num_classes"):
        invoke("plan", ["--config=configs/folder.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--topology needs libtpu"):
        slices.tpu_slice("v5e:2x4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for name in ("v5e", "v9:2x4", "v5e:2xtwo", "v4:2"):
        with pytest.raises(InputError, match=f"--topology={name}: wanted generation and chips"):
            slices.tpu_slice(name)


SLICES = """
import os
from ast_jax.commands.plan import AHEAD_OF_TIME
os.environ.update(AHEAD_OF_TIME)
from ast_jax.planning.slices import tpu_slice
from ast_jax.errors import InputError
for name in ("v5e:2x4", "v4:2x2x4", "v6e:4x4", "v5p:2x2x2", "v3:2x2"):
    where = tpu_slice(name)
    print(name, len(where.devices), where.num_chips, where.num_hosts, round(where.capacity / 2**30, 2))
try:
    tpu_slice("v5e:3x5")
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (it slows every start of jax where no TPU is): pip install libtpu",
)
class TestSlices:
    def test_chips_devices_and_hosts(self):
        done = subprocess.run([sys.executable, "-c", SLICES], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *rows, wrong = done.stdout.splitlines()
        assert rows == [
            "v5e:2x4 8 8 1 15.75",
            "v4:2x2x4 16 16 4 30.75",
            "v6e:4x4 16 16 4 31.24",
            "v5p:2x2x2 8 8 2 95.73",
            "v3:2x2 8 4 1 15.48",
        ]
        assert "v5e:3x5" in wrong

    @pytest.mark.slow
    def test_a_step_is_compiled_for_a_slice_that_is_not_there(self, tmp_path):
        command = [sys.executable, "-m", "ast_jax", "plan", *TINY, "--config.model.depth=1", "--json"]
        command += ["--topology=v5e:2x2", "--quick", f"--cache={tmp_path / 'plan.json'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["attention"] == "splash_attention"
        assert told["devices"]["chips"] == told["devices"]["devices"] == 4
        assert told["memory"]["none"][0]["fits"]
