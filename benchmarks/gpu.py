r"""One GPU: AST training and inference in bfloat16, beside PyTorch on the same GPU in the same process.

  python -m benchmarks.gpu [--out=gpu.json] [--budget_s=260] [--only='train 48;profile'] [--smoke]

Needs jax >= 0.10 with its GPU plugin, flax, optax and numpy; torch, transformers and timm for the peers,
which are reported absent where they are. No data files. Parts run in the order of what matters most, and
begin only while the budget lasts: what it leaves no time for is listed as skipped. The JSON is written anew
after each part, so a run that is cut off keeps what it measured; a part that fails is named in it and the
others go on. Beside it: the trace of a step and the compiled program. `--smoke`: a toy model, to see that
every part runs. Predictions are made by counting, before any step is run.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch lives beside it
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")

import jax

from ast_jax.models import ASTConfig, abstract, gpu, kernels_on
from ast_jax.models.cost import forward_flops, matrix_peak
from ast_jax.models.kernels import PLAIN, Kernels
from benchmarks import attention_check, forms, kernels, ours, peers, roofline, timing

BASE = ASTConfig(dtype="bfloat16")
TOY = ASTConfig(dtype="bfloat16", num_frames=64, width=32, depth=2, num_heads=2, num_classes=5)
# rows, columns: 12 x 101 patches to 8 x 59 and two tokens, 474
PATCHOUT = (4, 42, 0)
# a peer that takes longer, its compilation with it, is given up
PEER_S = 100


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget_s", type=float, default=260)
    parser.add_argument("--only", default="", help="these parts, by name, ';' between")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if jax.default_backend() == "cpu" and not args.smoke:
        sys.exit(
            "no GPU: jax sees CPUs alone. Run this where there is one, or see every part at a toy size "
            "with --smoke"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.out, smoke=args.smoke)
    parts = bench.parts()
    wanted = ["predicted", *args.only.split(";")] if args.only else list(parts)
    parts = {name: parts[name] for name in dict.fromkeys(wanted)}
    run(parts, bench.found, args)
    summary(bench.found)
    print(f"\n{args.out}: {bench.found['seconds']} s, skipped {bench.found['skipped'] or 'nothing'}")
    sys.exit(1 if bench.found["failed"] else 0)


def run(parts: dict[str, Callable[[], Any]], found: dict[str, Any], args: argparse.Namespace) -> None:
    """Each part into `found` under its name, written at once."""
    began = time.monotonic()
    for name, part in parts.items():
        if time.monotonic() - began > args.budget_s:
            found["skipped"].append(name)
            continue
        print(f"[{time.monotonic() - began:.0f} s] {name}", flush=True)
        try:
            found[name] = part()
        except ImportError as error:
            found[name] = {"absent": str(error)}
        except Exception as error:  # one part must not cost the others; it is reported, and the status tells
            traceback.print_exc(limit=-4)
            found["failed"][name] = f"{type(error).__name__}: {error}"[:2000]
        found["seconds"] = round(time.monotonic() - began, 1)
        timing.write(args.out, found)
        print(found.get(name) or found["failed"].get(name), flush=True)
    timing.write(args.out, found)


class Bench:
    """The parts, in the order of what matters most; each returns what goes into the JSON under its name."""

    def __init__(self, out: Path, *, smoke: bool):
        self.config, self.smoke, self.out = TOY if smoke else BASE, smoke, out
        self.patchout = (1, 1, 0) if smoke else PATCHOUT
        device = jax.devices()[0]
        self.forms = kernels_on(device)
        if smoke and device.platform == "cpu":
            self.forms = Kernels(gelu=gpu.gelu, norm=gpu.norm, patches=gpu.patches, qkv=gpu.qkv)
        self.found: dict[str, Any] = {"device": f"{device.platform} {device.device_kind}", "smoke": smoke}
        self.found |= {"failed": {}, "skipped": [], "seconds": 0.0}

    def parts(self) -> dict[str, Callable[[], Any]]:
        main, most, least, infer, infer_less = (4, 6, 2, 4, 2) if self.smoke else (48, 96, 12, 128, 64)
        self.main = main
        call = functools.partial
        return {
            "predicted": call(self.predicted, (main, most, least), (infer, infer_less)),
            "forms right": lambda: forms.check(self.config, self.forms),
            f"train {main}": call(self.train, main),
            "profile": lambda: kernels.profile(self.train_step(main), self.out),
            "dispatch": lambda: {"ms": 1e3 * self.train_step(main).dispatch_s()},
            "forms": lambda: forms.times(self.config, self.forms, main, 2 if self.smoke else 3),
            "torch attention": self.torch_attention,
            f"train {main}, torch compiled": call(self.beside, main, "compiled", training=True),
            f"infer {infer}": call(self.infer, infer),
            f"infer {infer}, torch compiled": call(self.beside, infer, "compiled", training=False),
            f"train {most}": call(self.train, most),
            "patchout": self.structured_patchout,
            f"train {main}, timm compiled": call(self.beside, main, "timm compiled", training=True),
            "attention right": self.attention_right,
            "attention times": self.attention_times,
            f"train {least}": call(self.train, least),
            "log_mel": self.log_mel,
            f"train {least}, torch compiled": call(self.beside, least, "compiled", training=True),
            f"train {most}, torch compiled": call(self.beside, most, "compiled", training=True),
            f"infer {infer}, timm compiled": call(self.beside, infer, "timm compiled", training=False),
            f"infer {infer_less}": call(self.infer, infer_less),
            f"train {main}, torch sdpa": call(self.beside, main, "sdpa", training=True),
            f"train {main}, torch eager": call(self.beside, main, "eager", training=True),
            "16-bit residual": call(
                self.variant, forms=dataclasses.replace(self.forms, residual=lambda x: x.astype("bfloat16"))
            ),
            "plain attention": call(self.variant, forms=dataclasses.replace(self.forms, attend=PLAIN.attend)),
            "remat dots": call(self.variant, remat="dots"),
            "remat blocks": call(self.variant, remat="blocks"),
        }

    def predicted(self, train: tuple[int, ...], infer: tuple[int, ...]) -> dict[str, Any]:
        """By counting, before any step is run; and the device's limits as they are today."""
        measured = (matrix_peak("bfloat16"), ours.copy_rate(smoke=self.smoke))
        self.peak = measured[0]
        self.flops = forward_flops(abstract("ast", self.config))
        rates = roofline.peaks(jax.devices()[0].device_kind, measured)
        predict = functools.partial(roofline.predict, self.config, rates=rates)
        return {
            "matrix_peak_tflops": measured[0] / 1e12,
            "copy_gb_s": measured[1] / 1e9,
            "rates": rates,
            **{f"train {batch}": predict(batch, training=True) for batch in train},
            f"train {train[0]}, 16-bit residual": predict(train[0], training=True, residual=2),
            **{f"infer {batch}": predict(batch, training=False) for batch in infer},
        }

    def attention_right(self) -> dict[str, Any]:
        """The device's form at even and odd numbers of tokens."""
        own = self.config.num_tokens
        return {
            str(tokens): attention_check.check(self.forms.attend, tokens) for tokens in (own, own - 1, 474)
        }

    def attention_times(self) -> list[dict[str, Any]]:
        sizes = ((18, 2), (17, 2)) if self.smoke else ((1214, 48), (1213, 48))
        return [attention_check.times(self.forms.attend, tokens, batch) for tokens, batch in sizes]

    @functools.cache  # noqa: B019  a gigabyte of state each, against a minute of compiling
    def train_step(self, batch: int) -> ours.TrainStep:
        return ours.TrainStep(self.config, batch, forms=self.forms)

    @functools.cache  # noqa: B019
    def forward(self, batch: int) -> ours.Forward:
        return ours.Forward(self.config, batch, forms=self.forms)

    def train(self, batch: int) -> dict[str, Any]:
        plain = ours.TrainStep(self.config, batch, forms=forms.without(self.forms))
        return self.against(self.train_step(batch), plain, passes=3)

    def infer(self, batch: int) -> dict[str, Any]:
        plain = ours.Forward(self.config, batch, forms=forms.without(self.forms))
        return self.against(self.forward(batch), plain, passes=1)

    def against(self, step: Any, plain: Any, *, passes: int) -> dict[str, Any]:
        """Ours, and with the plain forms of all but attention, A B A B."""
        seconds = timing.in_turn({"ours": step.run, "plain": plain.run}, repeats=3)
        speed = step.clips / seconds["ours"]
        return step.facts() | {
            "clips_per_s": speed,
            "step_ms": 1e3 * seconds["ours"] / step.steps,
            "share_of_peak": speed * passes * self.flops / self.peak,
            "plain forms": plain.facts() | {"clips_per_s": plain.clips / seconds["plain"]},
        }

    def torch_attention(self) -> dict[str, float]:
        shape = (self.main, self.config.num_heads, self.config.num_tokens)
        return peers.attention_times((*shape, self.config.width // self.config.num_heads))

    def beside(self, batch: int, name: str, *, training: bool) -> dict[str, Any]:
        """Ours and a peer, A B A B; the peer's attention by the fastest of its fused kernels."""
        step = self.train_step(batch) if training else self.forward(batch)
        backends = tuple(self.found.get("torch attention") or peers.FUSED)
        with at_most(PEER_S):
            return ours.beside(step, name, training=training, backends=backends)

    def log_mel(self) -> dict[str, Any]:
        """The same step from 16-bit waveforms, log_mel inside, and from stored log-mels, in turn."""
        stored = self.train_step(self.main)
        waveforms = ours.TrainStep(self.config, self.main, forms=self.forms, waveforms=True)
        seconds = timing.in_turn({"stored": stored.run, "waveforms": waveforms.run}, repeats=3)
        return {**seconds, "share_of_step": 1 - seconds["stored"] / seconds["waveforms"]}

    def structured_patchout(self) -> dict[str, Any]:
        """Against the full training, in turn; twice the batch, since tokens are fewer."""
        full = self.train_step(self.main)
        config = dataclasses.replace(self.config, patchout=self.patchout)
        cut = ours.TrainStep(config, 2 * self.main, forms=self.forms)
        seconds = timing.in_turn({"full": full.run, "patchout": cut.run}, repeats=3)
        speed = {"full": full.clips / seconds["full"], "patchout": cut.clips / seconds["patchout"]}
        rows, columns = (self.config.grid[0] - self.patchout[0], self.config.grid[1] - self.patchout[1])
        tokens = 2 + rows * columns
        return {"tokens": tokens, "clips_per_s": speed, "ratio": speed["patchout"] / speed["full"]}

    def variant(self, forms: Kernels | None = None, remat: str = "none") -> dict[str, Any]:
        """Ours but for one thing, in turn with ours as it is."""
        plain = self.train_step(self.main)
        config = dataclasses.replace(self.config, remat=remat)
        other = ours.TrainStep(config, self.main, forms=forms or self.forms)
        seconds = timing.in_turn({"ours": plain.run, "other": other.run}, repeats=3)
        return {
            "time_ratio": seconds["other"] / seconds["ours"],
            "temporaries_gb": {"ours": plain.temporaries_gb, "other": other.temporaries_gb},
        }


@contextlib.contextmanager
def at_most(seconds: int):
    """Raises TimeoutError in what takes longer, as soon as Python has a say."""

    def give_up(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def summary(found: dict[str, Any]) -> None:
    """Measured beside predicted, then the aims beside what was measured."""
    predicted = found.get("predicted", {})
    rows = [
        {
            "what": name,
            "expected, clips/s": predicted[name]["expected_clips_per_s"],
            "measured": found[name]["clips_per_s"],
            "x compiled torch": _dig(found, f"{name}, torch compiled", "ratio"),
        }
        for name in predicted
        if isinstance(found.get(name), dict)
    ]
    if rows:
        timing.table("by counting, and measured", rows)
    training = max(
        (row["measured"] for row in rows if row["what"].startswith("train")), default="not measured"
    )
    inference = max(
        (row["measured"] for row in rows if row["what"].startswith("infer")), default="not measured"
    )
    aims = [
        ("training, clips/s", ">= 450, aim 600", training),
        ("inference, clips/s", ">= 1500, aim 1800", inference),
        ("patchout x full training", ">= 2.3", _dig(found, "patchout", "ratio")),
        ("log_mel, share of the step", "< 0.03", _dig(found, "log_mel", "share_of_step")),
        ("dispatch, ms", "< 2", _dig(found, "dispatch", "ms")),
    ]
    timing.table(
        found["device"], [{"what": what, "aim": aim, "measured": value} for what, aim, value in aims]
    )


def _dig(found: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return "not measured"
        found = found[key]
    return found


if __name__ == "__main__":
    main()
