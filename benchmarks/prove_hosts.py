r"""Two processes of four CPU devices each, joined on loopback, against one process with eight: the same
training.

  python -m benchmarks.prove_hosts [--parallel=jit] [--fsdp=1] [--work=DIR]

Four runs on the built-in sounds: (1) one process with eight devices; (2) the pair; (3) the pair under `python
-m ast_jax group`, sent SIGTERM, gone on with, and one of its processes killed; (4) a pair without `group`,
one of whose processes is killed, to see how long the other one lives. (2) must have (1)'s metrics to 1e-5 and
its evaluation counts exactly, (3) must end in (2)'s bits. With --fsdp parameters and optimiser state are
split over so many devices, and before (3) goes on, one host's piece of its newest checkpoint is damaged: it
must be passed over by both. Writes docs/proofs/hosts.json (hosts_fsdp2.json, ...).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ast_jax.commands.group import free_port
from benchmarks.prove import ROOT, machine
from benchmarks.prove_crashes import compare, newest, rows, until

SETTINGS = {
    "dataset.options.train_per_class": 12,
    "dataset.options.test_per_class": 5,
    "dataset.test": ("test",),
    "model.width": 64,
    "model.depth": 2,
    "epochs": 4,
    "average_epochs": (2, 3),
    "cumulative": True,
    "mixup": 0.5,
    "noise": True,
    "batch_size": 20,  # on eight devices filled up to 24
    "save_every": 4,
    "log_every": 1,
}  # 120 clips: 6 steps an epoch, 24 in all
GROUP = ["ast_jax", "group", "--num_processes=2"]
HEARTBEAT_S = 30


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_hosts", description=__doc__)
    parser.add_argument("--parallel", default="jit", help="jit or pmap")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps the runs there, so that a stopped proof goes on")
    args = parser.parse_args()
    work = (args.work or Path(tempfile.mkdtemp())).absolute()
    flags = ["--config=configs/quickstart.py:short", f"--config.parallel={args.parallel}"]
    flags += [f"--config.fsdp={args.fsdp}"]
    flags += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    flags += [f"--config.dataset.data_dir={work / 'data'}"]
    for name in ("killed", "orphan"):
        shutil.rmtree(work / name, ignore_errors=True)

    for name, devices, command in (("one", 8, ["ast_jax.main"]), ("pair", 4, GROUP)):
        if not (work / name / "results.json").is_file():  # of a proof that was stopped
            finish(start(devices, *command, *flags, f"--workdir={work / name}"))
    figures = {"parallel": args.parallel, "fsdp": args.fsdp, **against_one(work / "pair", work / "one")}
    figures["stopped_pair"] = stopped_under_group(flags, work / "killed")
    if args.fsdp > 1:
        figures["damaged"] = damaged(work / "killed")
    said = killed_under_group(flags, work / "killed")
    figures |= {"killed_pair": {**compare(work / "killed", work / "pair"), "said": said}}
    figures |= {"orphan": orphan(flags, work / "orphan")}
    figures["passed"] = (
        figures["largest_relative_difference"] <= 1e-5
        and figures["counts"] == [50] * 4
        and figures["stopped_pair"]["status"] == 143
        and figures["killed_pair"]["same_digests"]
        and figures["killed_pair"]["same_metrics"]
        and figures["orphan"]["seconds"]
        <= HEARTBEAT_S + 10  # the heartbeat's own interval and a loaded machine
    )
    name = "hosts" if args.parallel == "jit" else f"hosts_{args.parallel}"
    name += f"_fsdp{args.fsdp}" if args.fsdp > 1 else ""
    record = {
        "command": f"python -m benchmarks.prove_hosts --parallel={args.parallel} --fsdp={args.fsdp}",
        **figures,
        **machine(),
    }
    (ROOT / "docs" / "proofs" / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    sys.exit(0 if figures["passed"] else 1)


def start(devices: int, module: str, *flags: str, **options) -> subprocess.Popen:
    xla = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen) -> str:
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"status {process.returncode}:\n{said}")
    return said


def against_one(pair: Path, one: Path) -> dict[str, Any]:
    """How far the pair's figures are from those of one process, and how many clips each of its evaluations
    counted.
    """
    ours, theirs = rows(pair), rows(one)
    shown = ("loss", "grad_norm", "accuracy", "mAP", "auc", "ensemble_accuracy")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    gaps = [
        abs(mine[key] - other[key]) / abs(other[key])
        for mine, other in zip(ours, theirs, strict=True)
        for key in shown
        if mine.get(key)
    ]
    return {
        "figures_compared": len(gaps),
        "largest_relative_difference": max(gaps),
        "counts": [row["num_examples"] for row in ours if row["kind"] == "eval"],
    }


def stopped_under_group(flags: list[str], workdir: Path) -> dict[str, Any]:
    """A pair that is sent SIGTERM: the launcher's status, the seconds it took, and where it stopped."""
    process = start(4, *GROUP, *flags, f"--workdir={workdir}")
    until(process, lambda: newest(workdir) >= 4)
    process.terminate()
    began = time.monotonic()
    _, said = process.communicate()
    stopped = [line.partition(", saved")[0] for line in said.splitlines() if line.startswith("stopped at")]
    return {"status": process.returncode, "seconds": round(time.monotonic() - began, 1), "said": stopped}


def damaged(workdir: Path) -> str:
    """Flips a byte in the middle of the largest file that the second host wrote of the newest checkpoint."""
    checkpoint = workdir / "checkpoints" / str(newest(workdir))
    pieces = [path for path in checkpoint.rglob("*") if path.is_file() and "process_1" in str(path)]
    piece = max(pieces or checkpoint.rglob("d/*"), key=lambda path: path.stat().st_size)
    held = bytearray(piece.read_bytes())
    held[len(held) // 2] ^= 0x40
    piece.write_bytes(held)
    return str(piece.relative_to(workdir))


def killed_under_group(flags: list[str], workdir: Path) -> list[str]:
    """The pair goes on, and one of it is killed; what the launcher and the next life say."""
    process = start(4, *GROUP, *flags, f"--workdir={workdir}")
    began = newest(workdir)
    until(process, lambda: newest(workdir) > began)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    said = finish(process).replace(str(workdir), "RUN").splitlines()
    return [line for line in said if line.startswith(("process ", "resuming", "checkpoint"))]


def orphan(flags: list[str], workdir: Path) -> dict[str, Any]:
    """A pair on its own, one of which is killed: how long the other lives on, and its status."""
    joined = [f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2", f"--workdir={workdir}"]
    joined += [f"--heartbeat_timeout_seconds={HEARTBEAT_S}"]
    pair = [start(4, "ast_jax.main", *flags, *joined, f"--process_id={i}") for i in (0, 1)]
    until(pair[1], lambda: newest(workdir) >= 4)
    pair[1].kill()
    killed = time.monotonic()
    pair[1].communicate()
    pair[0].communicate()
    return {"seconds": round(time.monotonic() - killed, 1), "status": pair[0].returncode}


if __name__ == "__main__":
    main()
