"""Our side of the benchmarks: the training step and the forward pass, several a call, and a peer beside them.

B batch, T frames, F mel bins, S samples, C classes.
"""

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ast_jax.features.front_end import Kaldi
from ast_jax.features.spec import span
from ast_jax.models import AST, ASTConfig, kernels_on, merge, split, using
from ast_jax.models.kernels import Kernels
from ast_jax.objectives import objective
from ast_jax.settings import Objective
from ast_jax.training.optim import adam
from ast_jax.training.step import Step, init_state, train_step
from benchmarks import kernels, peers, timing

STEPS = 8  # a call: enough that the last one's wait for the device does not count


@functools.cache
def graph_and_params(config: ASTConfig) -> tuple[nnx.GraphDef, dict[str, np.ndarray]]:
    """The model's structure and its initial parameters, on the host."""
    graphdef, params, _ = split(AST(config, rngs=nnx.Rngs(0)))
    return graphdef, {path: np.asarray(value) for path, value in params.items()}


def clips(config: ASTConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised features [B, T, F] and labels [B, C]."""
    rng = np.random.default_rng(0)
    fbank = rng.standard_normal((batch, config.num_frames, config.num_mel_bins), np.float32) / 2
    return fbank, (rng.random((batch, config.num_classes)) < 0.005).astype(np.float32)


class TrainStep:
    """The step that training runs, compiled at one batch, on rows that stay where they are."""

    def __init__(
        self,
        config: ASTConfig,
        batch: int,
        *,
        waveforms: bool = False,
        forms: Kernels | None = None,
        options: dict[str, Any] | None = None,
        steps: int = STEPS,
    ):
        self.config = config
        graphdef, params = graph_and_params(config)
        optimizer = adam(lambda step: 1e-5)
        step = functools.partial(
            train_step,
            graphdef=graphdef,
            optimizer=optimizer,
            step=Step(Kaldi(mean=-4.2677393, std=4.5689974), objective(Objective())),
            forms=forms or kernels_on(jax.devices()[0]),
        )
        self.rows = jax.device_put(_rows(config, batch, waveforms=waveforms))
        self.state = init_state(jax.device_put(params), {}, optimizer)
        began = time.perf_counter()
        self.step = jax.jit(step, donate_argnums=0).lower(self.state, self.rows).compile(options)
        self.compile_s, self.batch, self.clips = time.perf_counter() - began, batch, batch * steps
        self.steps = steps
        self.temporaries_gb = counted(self.step)["temporaries_gb"]

    def run(self) -> float:
        for _ in range(self.steps):
            self.state, figures = self.step(self.state, self.rows)
        return float(figures["loss"])

    def dispatch_s(self) -> float:
        """Seconds until one call returns, the device idle before it: the median of 30."""
        seconds = []
        for _ in range(30):
            jax.block_until_ready(self.state)
            began = time.perf_counter()
            self.state, _ = self.step(self.state, self.rows)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def facts(self) -> dict[str, Any]:
        return {"batch": self.batch, "compile_s": self.compile_s, "counted": counted(self.step)}


class Forward:
    """The forward pass, compiled for this device at one batch."""

    def __init__(self, config: ASTConfig, batch: int, *, forms: Kernels | None = None, steps: int = STEPS):
        self.config, self.steps = config, steps
        graphdef, params = graph_and_params(config)

        def forward(params, x):
            with using(forms or kernels_on(jax.devices()[0])):
                return merge(graphdef, params)(x)[0]

        self.params, self.x = jax.device_put((params, clips(config, batch)[0]))
        began = time.perf_counter()
        self.forward = jax.jit(forward).lower(self.params, self.x).compile()
        self.compile_s, self.batch, self.clips = time.perf_counter() - began, batch, batch * steps

    def run(self) -> None:
        for _ in range(self.steps):
            logits = self.forward(self.params, self.x)
        logits.block_until_ready()

    def facts(self) -> dict[str, Any]:
        return {"batch": self.batch, "compile_s": self.compile_s, "counted": counted(self.forward)}


def counted(program: jax.stages.Compiled) -> dict[str, float]:
    """XLA's count of a compiled program: memory, bytes moved, operations of the kernels it writes itself."""
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return {
        "temporaries_gb": memory.temp_size_in_bytes / 1e9 if memory else float("nan"),
        "arguments_gb": memory.argument_size_in_bytes / 1e9 if memory else float("nan"),
        "gb_accessed": cost.get("bytes accessed", float("nan")) / 1e9,
        "gflop": cost.get("flops", float("nan")) / 1e9,
    }


def _rows(config: ASTConfig, batch: int, *, waveforms: bool) -> dict[str, np.ndarray]:
    fbank, labels = clips(config, batch)
    rows = {
        "length": np.full(batch, config.num_frames, np.int32),
        "labels": labels,
        "index": np.arange(batch, dtype=np.int32),
        "mask": np.ones(batch, np.float32),
    }
    if not waveforms:
        return rows | {"fbank": fbank.astype(np.float16)}
    samples = span(config.num_frames)
    sound = np.random.default_rng(1).integers(-9999, 9999, (batch, samples), np.int16)
    return rows | {"waveform": sound, "num_samples": np.full(batch, samples, np.int32)}


def beside(
    ours: TrainStep | Forward, name: str, *, training: bool, backends: tuple[str, ...] = peers.FUSED
) -> dict[str, Any]:
    """Ours and one of PyTorch's models in turn: clips/s of both, their ratio, the peer's memory and kernels.

    Where PyTorch has not enough memory it gets half the batch. Raises ImportError where a library is absent.
    """
    import torch

    make = peers.torch_train_step if training else peers.torch_inference
    cuda, batch = torch.cuda.is_available(), ours.batch
    torch.set_float32_matmul_precision("high")
    while True:
        arrays = clips(ours.config, batch)[: 1 + training]
        try:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            call = make(peers.torch_ast(ours.config, name), *arrays, steps=STEPS, backends=backends)
            call()
            warm_up_s = time.perf_counter() - began
            seconds = timing.in_turn({"ours": ours.run, "torch": call}, repeats=3)
            ran = kernels.torch_profile(call, STEPS)
            break
        except torch.cuda.OutOfMemoryError:
            batch //= 2
            if not batch:
                raise
        finally:
            peak_gb = torch.cuda.max_memory_allocated() / 1e9 if cuda else float("nan")
            call = None  # its model and optimiser go with it
            if cuda:
                torch.cuda.empty_cache()
    speed = {"ours": ours.clips / seconds["ours"], "torch": batch * STEPS / seconds["torch"]}
    return {
        "batch": batch,
        "clips_per_s": speed,
        "ratio": speed["ours"] / speed["torch"],
        "torch_peak_gb": peak_gb,
        "torch_warm_up_s": warm_up_s,
        "backends": backends,
        "torch_kernels": ran,
    }


def copy_rate(*, smoke: bool) -> float:
    """Bytes/s the device reads and writes, copying a large array."""
    x = jnp.ones(1 << (20 if smoke else 29), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    add(x).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        add(x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * x.nbytes / min(seconds)
