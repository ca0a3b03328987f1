"""What benchmarks.gpu makes of a GPU's trace, and what it expects by counting: nothing here needs a GPU."""

import argparse
import json

import pytest

from ast_jax.models import ASTConfig, abstract
from ast_jax.models.cost import forward_flops
from benchmarks import gpu, kernels, roofline

PROGRAM = """
  %loop_add_fusion.3 = bf16[4,8]{1,0} fusion(%x), kind=kLoop, metadata={op_name="jit(train_step)/add"}
  ROOT %cublas-gemm.2.0 = (bf16[4,16]{1,0}, s8[9]{0}) custom-call(%x), \
metadata={op_name="jit(train_step)/dot_general"}
"""


def event(name, ts, dur, tid=7, **args):
    return {"ph": "X", "pid": 1, "tid": tid, "name": name, "ts": ts, "dur": dur, "args": args}


def test_kernels_of_streams_are_summed_by_what_they_compute():
    events = [
        {"name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
        {"name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
        {"name": "thread_name", "pid": 1, "tid": 7, "args": {"name": "Stream #13(Compute)"}},
        {"name": "thread_name", "pid": 1, "tid": 8, "args": {"name": "XLA Ops"}},
        event("loop_add_fusion_3", 0, 1000),
        event("nvjet_tst_128x64", 1500, 3000, hlo_op="cublas-gemm.2.0"),
        event("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", 4500, 500),
        event("loop_add_fusion.3", 0, 9000, tid=8),  # the same again, on a line that is derived
    ]
    found = kernels.summary(kernels.on_device(events), kernels.namer(PROGRAM), steps=1, top=2)
    assert found["kinds, ms"] == {"products": 3.0, "other": 1.0, "attention, fused": 0.5}
    assert (found["span, ms"], found["idle, ms"]) == (5.0, 0.5)
    assert found["longest"][0] == {
        "ms": 3.0,
        "calls": 1.0,
        "kind": "products",
        "what": "cublas-gemm bf16[4,16] jit(train_step)/dot_general, nvjet_tst_128x64",
    }


def test_counted_operations_leave_out_what_the_last_block_does_not_compute():
    config = ASTConfig(dtype="bfloat16")
    counted = forward_flops(abstract("ast", config))
    # XLA counts what lies between the products too.
    assert sum(roofline.flops(config).values()) == pytest.approx(counted, rel=0.03)


def test_a_residual_stream_in_float32_is_expected_to_cost_time():
    rates = roofline.peaks("NVIDIA H200", (1.0, 1.0))
    both = [
        roofline.predict(ASTConfig(), 48, rates, training=True, residual=size)["expected_clips_per_s"]
        for size in (2, 4)
    ]
    assert both[0] > both[1] > 0.9 * both[0]


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path):
    def fails():
        raise ValueError("no such kernel")

    def lacks():
        raise ImportError("no torch")

    found = {"failed": {}, "skipped": [], "seconds": 0.0}
    args = argparse.Namespace(out=tmp_path / "gpu.json", budget_s=60.0)
    gpu.run({"first": fails, "second": lacks, "third": lambda: {"ms": 1.0}}, found, args)
    written = json.loads(args.out.read_text())
    assert written["failed"] == {"first": "ValueError: no such kernel"}
    assert (written["second"], written["third"]) == ({"absent": "no torch"}, {"ms": 1.0})


def test_what_the_budget_leaves_no_time_for_is_listed_as_skipped(tmp_path):
    found = {"failed": {}, "skipped": [], "seconds": 0.0}
    args = argparse.Namespace(out=tmp_path / "gpu.json", budget_s=-1.0)
    gpu.run({"late": lambda: {"ms": 1.0}}, found, args)
    assert json.loads(args.out.read_text())["skipped"] == ["late"]
