"""Kernels are believed when they have been checked: wrong ones are found, told and left aside."""

import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, attention, checks, cpu, gpu, kernels
from ast_jax.models.kernels import PLAIN, Kernels, kernels_on, offered
from ast_jax.weights import LoadedModel
from ast_jax.weights.program import judge

CPU = jax.devices("cpu")[0]


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels_on.cache_clear()
    yield tmp_path / "ast_jax" / "kernels.json"
    kernels_on.cache_clear()


@jax.custom_vjp
def wrong_gradient(x):
    return PLAIN.gelu(x)


wrong_gradient.defvjp(lambda x: (PLAIN.gelu(x), x), lambda x, g: (1.2 * g,))


def fails(layer, x):
    raise RuntimeError("no such instruction\nand more")


def tenth_more(q, k, v):
    return 1.1 * attention.attend(q, k, v)


def test_forms_of_cpus_and_of_gpus_where_they_run_here_are_right():
    portable = Kernels(gelu=gpu.gelu, norm=gpu.norm, patches=gpu.patches, qkv=gpu.qkv)
    found = checks.checks(offered(CPU), PLAIN, CPU) + checks.checks(portable, PLAIN, CPU)
    assert [check.problem for check in found if check.problem] == []
    names = ["attend", "linear", "residual", "depthwise", "gelu", "norm", "patches", "qkv"]
    assert [check.operation for check in found] == [name for name in names for _ in checks.MOST]


def test_wrong_forms_are_found_told_and_left_aside_once(an_empty_cache, monkeypatch, capsys):
    wrong = Kernels(tenth_more, gelu=wrong_gradient, norm=fails, residual=cpu.with_stored_gradient)
    used = checks.trusted(wrong, wrong, PLAIN, CPU)
    assert used == Kernels(residual=cpu.with_stored_gradient)
    told = capsys.readouterr().err
    assert "its own form of attend is left aside for the plain one (float32, forward: differs" in told
    assert "gelu is left aside for the plain one (float32, backward: differs" in told
    assert "norm is left aside for the plain one (float32: RuntimeError: no such instruction)" in told
    assert list(json.loads(an_empty_cache.read_text()).values()) != [{}]
    # what was found is remembered, and still told
    monkeypatch.setattr(checks, "checks", lambda *_: pytest.fail("checked twice"))
    assert checks.trusted(wrong, wrong, PLAIN, CPU) == used
    assert capsys.readouterr().err == told


def test_a_form_that_gives_no_number_is_wrong():
    none = checks.checks(Kernels(gelu=lambda x: jnp.full_like(x, jnp.nan)), PLAIN, CPU)
    assert "differs from the plain form by nan" in none[0].problem


def test_every_program_takes_what_was_checked(monkeypatch, capsys):
    """As layouts, loaded models and `plan` ask for it; in the middle of another program's making too."""
    monkeypatch.setattr(cpu, "attend", tenth_more)
    taken = []

    @jax.jit
    def program(x):
        taken.append(kernels_on(CPU))
        return x + 1

    program(1.0)
    assert taken == [dataclasses.replace(offered(CPU), attend=PLAIN.attend)]
    assert "left aside" in capsys.readouterr().err


def test_plain_forms_can_be_asked_for_and_absent_devices_are_believed(monkeypatch):
    tpu = mock.Mock(spec=jax.Device, platform="tpu", device_kind="TPU v5 lite")
    assert checks.trusted(offered(tpu), offered(tpu), PLAIN, tpu).attend is attention.splash_attention
    monkeypatch.setenv("AST_JAX_KERNELS", "plain")
    kernels_on.cache_clear()
    assert kernels_on(CPU, None, "data") == Kernels(batch_axis="data")


def test_a_model_that_is_called_takes_its_devices_forms_and_exports_the_plain_ones(monkeypatch):
    kernels._by_default.cache_clear()
    assert kernels.current() == offered(CPU)
    with kernels.using(PLAIN):
        assert kernels.current() == PLAIN
    config = ASTConfig(num_classes=2, num_frames=16, width=8, depth=2, num_heads=1, strides=(16, 16))
    model = AST(config, rngs=nnx.Rngs(0))
    program, arrays = judge(LoadedModel(model, ["a", "b"], model.front_end, "sigmoid"))
    x = jnp.zeros((1, 16, 128))
    assert "optimization_barrier" in str(jax.make_jaxpr(model)(x))
    assert "optimization_barrier" not in str(jax.make_jaxpr(program)(arrays, x))
    tpu = mock.Mock(spec=jax.Device, platform="tpu", device_kind="TPU v5 lite")
    for count, form in ((1, attention.splash_attention), (4, PLAIN.attend)):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: [tpu] * count)
        kernels._by_default.cache_clear()
        kernels_on.cache_clear()
        assert kernels.current().attend is form
    kernels._by_default.cache_clear()


def test_one_of_several_hosts_does_not_go_its_own_way(monkeypatch):
    wrong = Kernels(gelu=wrong_gradient)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"gelu: wrong on this host.*AST_JAX_KERNELS=plain"):
        checks.trusted(wrong, wrong, PLAIN, CPU)


def test_a_cache_that_is_damaged_costs_a_check(an_empty_cache):
    an_empty_cache.parent.mkdir(parents=True)
    for text in ("{", "[1]", "7"):
        an_empty_cache.write_text(text)
        assert checks.trusted(Kernels(gelu=gpu.gelu), Kernels(gelu=gpu.gelu), PLAIN, CPU).gelu is gpu.gelu


def test_doctor_tells_what_is_here(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "offered", lambda device: Kernels(gelu=wrong_gradient, qkv=gpu.qkv))
    with pytest.raises(SystemExit) as ended:
        invoke("doctor", ["--offline"])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert f"jax {jax.__version__}" in told
    for words in (
        "libsndfile",
        "network    not asked",
        "1 kernels are not used",
        "trains and hears in float32",
    ):
        assert words in told
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if "│" in line]
    assert [row[:2] for row in rows if row[0]] == [
        [name, dtype] for name in ("gelu", "qkv") for dtype in checks.MOST
    ]
    assert [row[-1] for row in rows if row[0] == "qkv"] == ["yes", "yes"]
