r"""One GPU: AST training and inference in bfloat16, beside PyTorch on the same GPU in the same process.

  python -m benchmarks.gpu [--out=gpu.json] [--seconds=390] [--smoke]

Needs jax >= 0.10 with its GPU plugin, flax, optax and numpy; torch, transformers and timm for the peers, which are reported absent
where they are. No data files. Ends within 8 minutes: what `--seconds` leaves no time for is listed as skipped. The JSON is written
anew after each part, so a run that is cut off keeps what it measured. `--smoke`: a toy model, to see that every part runs.
"""

import argparse
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch lives beside it
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.55")

try:
    import jaxtyping  # noqa: F401
except ModuleNotFoundError:  # shapes in annotations are for readers and tests: here they may be anything
    _stand_in = types.ModuleType("jaxtyping")
    _anything = type("Anything", (), {"__class_getitem__": classmethod(lambda cls, _: Any)})
    _stand_in.__getattr__ = lambda name: _anything  # type: ignore[method-assign]
    sys.modules["jaxtyping"] = _stand_in

import jax

from ast_jax.models import ASTConfig
from ast_jax.models.attention import attend
from ast_jax.models.cost import forward_flops, matrix_peak
from ast_jax.training.step import Recipe
from benchmarks import ours, peers, timing

BASE = ASTConfig(dtype="bfloat16")
TOY = ASTConfig(dtype="bfloat16", num_frames=64, width=32, depth=2, num_heads=2, num_classes=5)
PATCHOUT = (4, 42, 0)  # rows, columns: 12 x 101 patches to 8 x 59 and two tokens, 474


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument(
        "--seconds", type=float, default=390, help="parts begin only while this is not used up"
    )
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if jax.default_backend() == "cpu" and not args.smoke:
        sys.exit(
            "no GPU: jax sees CPUs alone. Run this where there is one, or see every part at a toy size with --smoke"
        )
    bench = Bench(TOY if args.smoke else BASE, smoke=args.smoke)
    began, failed = time.monotonic(), {}
    for name, part in bench.parts().items():
        if time.monotonic() - began > args.seconds:
            bench.found.setdefault("skipped", []).append(name)
            continue
        print(f"[{time.monotonic() - began:.0f} s] {name}", flush=True)
        try:
            bench.found[name] = part()
        except ImportError as error:
            bench.found[name] = {"absent": str(error)}
        except Exception as error:  # one part must not cost the others; it is reported, and the status tells
            failed[name] = f"{type(error).__name__}: {error}"[:2000]
            bench.found["failed"] = failed
        bench.found["seconds"] = round(time.monotonic() - began, 1)
        timing.write(args.out, bench.found)
        print(bench.found.get(name, failed.get(name)), flush=True)
    timing.write(args.out, bench.found)
    summary(bench.found)
    print(f"\n{args.out}: {bench.found['seconds']} s, skipped {bench.found.get('skipped', 'nothing')}")
    sys.exit(1 if failed else 0)


class Bench:
    """The parts, in the order of what matters most; each returns what goes into the JSON under its name."""

    def __init__(self, config: ASTConfig, *, smoke: bool):
        self.config, self.smoke = config, smoke
        self.train_batches, self.infer_batches = (
            ((2, 4), (2, 4)) if smoke else ((32, 64, 128), (64, 128, 256))
        )
        self.patchout = (1, 1, 0) if smoke else PATCHOUT
        device = jax.devices()[0]
        self.found: dict[str, Any] = {"device": f"{device.platform} {device.device_kind}", "smoke": smoke}

    def parts(self) -> dict[str, Callable[[], Any]]:
        return {
            "limits": self.limits,
            "training": self.training,
            "training_against_torch": self.training_against_torch,
            "training_compiled_torch": self.training_against_compiled_torch,
            "inference": self.inference,
            "inference_against_torch": self.inference_against_torch,
            "inference_compiled_torch": self.inference_against_compiled_torch,
            "patchout": self.structured_patchout,
            "features": self.features,
            "dispatch": self.dispatch,
            "against_timm": self.against_timm,
            "plain_attention": lambda: self.train_variant(attend=attend),
            "remat_dots": lambda: self.train_variant(remat="dots"),
            "remat_blocks": lambda: self.train_variant(remat="blocks"),
        }

    def limits(self) -> dict[str, float]:
        return {
            "matrix_peak_tflops": matrix_peak("bfloat16") / 1e12,
            "copy_gb_s": ours.copy_rate(smoke=self.smoke) / 1e9,
        }

    def training(self) -> dict[str, Any]:
        """Ours at each batch, until memory ends; the best is what the parts below use."""
        rows = self._each_batch(
            self.train_batches, lambda batch: ours.TrainStep(self.config, batch).measure(), passes=3
        )
        self.best = max(rows, key=lambda row: row["clips_per_s"])
        return {"rows": rows, "best": self.best}

    def inference(self) -> dict[str, Any]:
        rows = self._each_batch(
            self.infer_batches, lambda batch: ours.Forward(self.config, batch).measure(), passes=1
        )
        self.best_inference = max(rows, key=lambda row: row["clips_per_s"])
        return {"rows": rows, "best": self.best_inference}

    def _each_batch(self, batches, measure, *, passes: int) -> list[dict[str, Any]]:
        rows = []
        peak = self.found["limits"]["matrix_peak_tflops"] * 1e12
        for batch in batches:
            try:
                row = measure(batch)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or not rows:
                    raise
                rows.append({"batch": batch, "clips_per_s": 0.0, "out_of_memory": True})
                break
            row["share_of_peak"] = row["clips_per_s"] * passes * forward_flops(self.config) / peak
            rows.append(row)
        return rows

    def training_against_torch(self) -> dict[str, Any]:
        """A B A B at our best batch; a peer that runs out of memory there gets smaller ones."""
        models = {f"torch {name}": peers.torch_ast(self.config, name) for name in ("eager", "sdpa")}
        return self._against(models, training=True)

    def training_against_compiled_torch(self) -> dict[str, Any]:
        return self._against({"torch sdpa compiled": peers.torch_ast(self.config, "compiled")}, training=True)

    def against_timm(self) -> dict[str, Any]:
        """The published implementation's model on today's timm, trained and run."""
        return {
            "training": self._against({"timm": peers.torch_ast(self.config, "timm")}, training=True),
            "inference": self._against({"timm": peers.torch_ast(self.config, "timm")}, training=False),
        }

    def inference_against_torch(self) -> dict[str, Any]:
        models = {f"torch {name}": peers.torch_ast(self.config, name) for name in ("eager", "sdpa")}
        return self._against(models, training=False)

    def inference_against_compiled_torch(self) -> dict[str, Any]:
        return self._against(
            {"torch sdpa compiled": peers.torch_ast(self.config, "compiled")}, training=False
        )

    def _against(self, models: dict[str, Any], *, training: bool) -> dict[str, Any]:
        best, smallest = (self.best, 2) if training else (self.best_inference, 2)
        make = ours.TrainStep if training else ours.Forward
        step, found = make(self.config, best["batch"]), {}
        for name, model in models.items():
            batch = best["batch"]
            while batch >= smallest:
                try:
                    found[name] = ours.beside(step, model, batch, training=training)
                    break
                except MemoryError:
                    batch //= 2
            else:
                found[name] = "out of memory at every batch"
        return found

    def structured_patchout(self) -> dict[str, Any]:
        """Against the full training at its best batch, in turn; twice the batch, since tokens are fewer."""
        recipe = Recipe(mean=-4.2677393, std=4.5689974, patchout=self.patchout)
        full = ours.TrainStep(self.config, self.best["batch"])
        cut = ours.TrainStep(self.config, 2 * self.best["batch"], recipe=recipe)
        seconds = timing.in_turn({"full": full.run, "patchout": cut.run}, repeats=3)
        speed = {"full": full.clips / seconds["full"], "patchout": cut.clips / seconds["patchout"]}
        rows, columns = (self.config.grid[0] - self.patchout[0], self.config.grid[1] - self.patchout[1])
        tokens = 2 + rows * columns
        return {"tokens": tokens, "clips_per_s": speed, "ratio": speed["patchout"] / speed["full"]}

    def dispatch(self) -> dict[str, float]:
        """Milliseconds until the call of a step returns, the device idle before it."""
        return {"ms": 1e3 * ours.TrainStep(self.config, self.train_batches[0]).dispatch_s()}

    def features(self) -> dict[str, Any]:
        """The same step from 16-bit waveforms, log_mel inside, and from stored log-mels, in turn."""
        batch = self.best["batch"]
        stored = ours.TrainStep(self.config, batch)
        waveforms = ours.TrainStep(self.config, batch, waveforms=True)
        seconds = timing.in_turn({"stored": stored.run, "waveforms": waveforms.run}, repeats=3)
        return {**seconds, "share_of_step": 1 - seconds["stored"] / seconds["waveforms"]}

    def train_variant(self, **options) -> dict[str, Any]:
        """Ours at the best batch but for one thing, in turn with ours as it is."""
        plain = ours.TrainStep(self.config, self.best["batch"])
        other = ours.TrainStep(self.config, self.best["batch"], **options)
        seconds = timing.in_turn({"ours": plain.run, "other": other.run}, repeats=3)
        return {
            "time_ratio": seconds["other"] / seconds["ours"],
            "temporaries_gb": {"ours": plain.temporaries_gb, "other": other.temporaries_gb},
        }


def summary(found: dict[str, Any]) -> None:
    """The aims beside what was measured."""
    get = lambda *path: _dig(found, path)
    rows = [
        ("training, clips/s", ">= 450, aim 600", get("training", "best", "clips_per_s")),
        ("training, share of peak", "0.60", get("training", "best", "share_of_peak")),
        ("training x torch eager", ">= 1.5", get("training_against_torch", "torch eager", "ratio")),
        (
            "training x torch sdpa compiled",
            ">= 1.1",
            get("training_compiled_torch", "torch sdpa compiled", "ratio"),
        ),
        ("inference, clips/s", ">= 1500, aim 1800", get("inference", "best", "clips_per_s")),
        ("patchout x full training", ">= 2.3", get("patchout", "ratio")),
        ("log_mel, share of the step", "< 0.03", get("features", "share_of_step")),
        ("dispatch, ms", "< 2", get("dispatch", "ms")),
    ]
    timing.table(
        found["device"], [{"what": what, "aim": aim, "measured": value} for what, aim, value in rows]
    )


def _dig(found: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return "not measured"
        found = found[key]
    return found


if __name__ == "__main__":
    main()
