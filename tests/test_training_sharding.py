"""One step on one device and on eight: the same losses under jit, pmap and fsdp, laid out as promised; and
who reads which rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ast_jax.datasets.pipeline import Draws, EvalStream, HostRows, TrainStream
from ast_jax.errors import InputError
from ast_jax.sharding import fsdp_spec, make_layout

# the latter two compile faster
EIGHT = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false"
)


@pytest.fixture(scope="module")
def both() -> dict[str, dict]:
    """Twenty steps with every augmentation on, by family (ast, own; of cnn6 four steps) and layout:
    single (one device of the eight), jit, pmap, fsdp."""
    script = Path(__file__).with_name("eight_devices.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"XLA_FLAGS": EIGHT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(both) -> dict[str, dict]:
    return both["ast"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit", "pmap", "fsdp"])
def test_losses_and_scores_are_those_of_one_device(runs, layout):
    """Batches of 12 on 8 devices: the last two devices get filler alone. 1e-5: sums in another order, through
    20 Adam steps."""
    assert len(runs["single"]["losses"]) == 20
    assert runs["single"]["losses"][-1] < runs["single"]["losses"][0]
    np.testing.assert_allclose(runs[layout]["losses"], runs["single"]["losses"], rtol=1e-5)
    np.testing.assert_allclose(runs[layout]["scores"], runs["single"]["scores"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit", "pmap", "fsdp"])
def test_statistics_of_a_batch_are_of_all_devices_real_rows(both, layout):
    """Of a family with BatchNorm: losses need the batch's own moments on each device, scores the running
    ones. A device of fillers alone (two of eight are) must not draw either towards itself."""
    ours, alone = both["own"][layout], both["own"]["single"]
    assert np.ptp(alone["losses"]) > 0.05
    np.testing.assert_allclose(ours["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(ours["scores"], alone["scores"], rtol=1e-4)
    for kind in ("statistics", "average"):
        assert ours[kind].keys() == alone[kind].keys() == {"norm/mean", "norm/var"}
        for path in alone[kind]:
            np.testing.assert_allclose(ours[kind][path], alone[kind][path], rtol=1e-4, atol=1e-5)
    assert alone["average"] != alone["statistics"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cnn6"])
@pytest.mark.parametrize("layout", ["jit", "pmap", "fsdp"])
def test_published_families_with_statistics_are_those_of_one_device(both, family, layout):
    """Clips mixed with partners, so that of CNN6 twice as many rows are normalised; two devices have fillers
    alone. 1e-4 of the way that parameters and statistics went: float32 through up to 30 norms.
    """
    ours, alone = both[family][layout], both[family]["single"]
    assert np.ptp(alone["losses"]) > 0.005
    np.testing.assert_allclose(ours["losses"], alone["losses"], rtol=1e-5)
    assert ours["apart"].keys() == {"params", "statistics"}
    assert max(ours["apart"].values()) < 1e-4, ours["apart"]


@pytest.mark.slow
def test_arrays_lie_as_promised(runs):
    assert runs["single"]["rows"] == [[12, 32, 128], [12, 32, 128]]
    assert runs["jit"]["rows"] == runs["fsdp"]["rows"] == [[16, 32, 128], [2, 32, 128]]
    assert runs["pmap"]["rows"] == [[8, 2, 32, 128], [1, 2, 32, 128]]
    for name in ("jit", "pmap"):
        assert runs[name]["kernel"] == [[64, 256], [256, 64]]
        assert runs[name]["share_of_bytes"] == 1
    assert runs["fsdp"]["kernel"] == [[64, 32], [32, 64]]
    assert runs["fsdp"]["moment"] == [64, 32]
    assert runs["fsdp"]["bias"] == [64]
    assert runs["fsdp"]["share_of_bytes"] <= 0.2


@pytest.mark.slow
def test_the_compiled_programs_talk_to_each_other(runs):
    collectives = {name: run["collectives"] for name, run in runs.items()}
    assert collectives == {
        "single": [],
        "jit": ["all-reduce"],
        "pmap": ["all-reduce"],
        "fsdp": ["all-reduce", "all-gather"],
    }


@pytest.mark.parametrize(
    ("shape", "size", "spec"),
    [
        ((768, 2304), 8, PartitionSpec(None, "fsdp")),
        ((3072, 768), 8, PartitionSpec("fsdp")),
        ((1, 1214, 768), 8, PartitionSpec(None, None, "fsdp")),  # 8 does not divide 1214
        ((527, 1023), 8, PartitionSpec()),
        ((768,), 8, PartitionSpec()),  # small
        ((), 8, PartitionSpec()),
        ((768, 2304), 1, PartitionSpec()),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, size, spec):
    assert fsdp_spec(shape, size) == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": "xmap"}, "choose jit or pmap"),
        ({"fsdp": 2}, "there are 1 devices: choose one of 1"),
        ({"fsdp": 0}, "choose one of 1"),
    ],
)
def test_layouts_that_are_not_there(options, message):
    with pytest.raises(InputError, match=message):
        make_layout(**options, devices=jax.devices()[:1])


# ---- Hosts


def clips(count: int) -> list[dict]:
    return [{"id": str(i), "labels": np.array([0])} for i in range(count)]


def read_by_all(stream, *, batch_size: int, rows: int, hosts: int) -> list[list[dict]]:
    """What the hosts read together, batch by batch."""
    shares = [HostRows(stream, batch_size=batch_size, rows=rows, host=h, hosts=hosts) for h in range(hosts)]
    assert len({len(share) for share in shares}) == 1  # else one host would wait for ever
    own = rows // hosts
    steps = range(len(shares[0]) // own)
    return [[share[step * own + row] for share in shares for row in range(own)] for step in steps]


@pytest.mark.parametrize(("batch_size", "rows", "hosts"), [(8, 8, 2), (12, 16, 4), (5, 6, 3), (7, 7, 1)])
def test_hosts_read_disjoint_clips_whose_union_is_the_epoch(batch_size, rows, hosts):
    stream = TrainStream(clips(29), Draws(29, seed=3), batch_size=batch_size, epochs=2)
    read = read_by_all(stream, batch_size=batch_size, rows=rows, hosts=hosts)
    real = [[(e["id"], e["index"]) for e in batch if "id" in e] for batch in read]
    alone = [stream[p] for p in range(len(stream))]
    for step, batch in enumerate(real):
        whole = alone[step * batch_size : (step + 1) * batch_size]
        assert batch == [(e["id"], e["index"]) for e in whole if "id" in e]
    half = len(real) // 2
    for epoch in (real[:half], real[half:]):
        assert sorted(int(name) for batch in epoch for name, _ in batch) == list(range(29))


def test_hosts_score_each_clip_once_and_in_order():
    stream = EvalStream(clips(10), batch_size=4)
    read = read_by_all(stream, batch_size=4, rows=4, hosts=2)
    assert [e.get("id") for batch in read for e in batch] == [*map(str, range(10)), None, None]
