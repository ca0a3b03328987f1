"""`group`: training as one or several processes, started again when one of them or its machine dies."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

from ast_jax.commands.cli import Flag

COMMAND = (sys.executable, "-m", "ast_jax.main")
FINAL = (0, 2, 3, 130, 143)
PAUSE_S = 5.0  # between the end of a process and its next start, while the other hosts notice


def group(
    *flags: str,
    num_processes: Annotated[
        int | None, Flag("on this machine (default: one process, flags as given)", least=1)
    ] = None,
    restarts: Annotated[int, Flag("at most", least=0)] = 20,
) -> None:
    """Runs `train`, and again when a process or a machine of its group dies. Other flags are `train`'s.

      python -m ast_jax group --num_processes=2 --config=...    # so many processes on this machine
      python -m ast_jax group --config=... [--coordinator_address=... --process_id=...]   # on each of several

    A group whose process dies cannot go on: the others wait for it, and end themselves after
    --heartbeat_timeout_seconds. What is started again goes on from the last checkpoint. A run that is done,
    refused (2), diverged (3) or asked to stop (130, 143) is not started again. Ends with the status of the
    processes.
    """
    rest = list(flags)
    several_hosts = any(flag.startswith("--coordinator_address") for flag in rest)
    if several_hosts and num_processes is not None:  # a flag of `train` then
        rest.append(f"--num_processes={num_processes}")
        num_processes = None
    for restart in range(restarts + 1):
        status, line = run_once(rest, num_processes)
        if status in FINAL or restart == restarts:
            break
        again = f"starts again from the last checkpoint ({restart + 1} of at most {restarts})"
        print(f"{line}: the group ends, and {again}", file=sys.stderr, flush=True)
        time.sleep(0 if num_processes else PAUSE_S)
    sys.exit(status)


def run_once(rest: Sequence[str], num_processes: int | None) -> tuple[int, str]:
    """Runs the group until all of it has ended; the first status that says why, and a line about it."""
    command = [*COMMAND, *rest]
    joined = f"--coordinator_address=127.0.0.1:{free_port()}", f"--num_processes={num_processes}"
    jobs = (
        [command]
        if num_processes is None
        else [[*command, *joined, f"--process_id={i}"] for i in range(num_processes)]
    )
    # Their answers are this command's.
    processes = [subprocess.Popen(job, stdout=sys.stdout) for job in jobs]
    with passed_on(processes):
        status, line = first_end(processes)
        for process in processes:
            if status not in FINAL:
                process.kill()  # it waits for the one that died
            process.wait()
    return status, line


def first_end(processes: Sequence[subprocess.Popen]) -> tuple[int, str]:
    """Waits until one process fails, or all are done: its exit status, as a shell gives it, and a line."""
    while True:
        for i, process in enumerate(processes):
            if process.poll():
                status = process.returncode if process.returncode > 0 else 128 - process.returncode
                return status, f"process {i} of {len(processes)} ended with status {status}"
        if all(process.poll() == 0 for process in processes):
            return 0, "done"
        time.sleep(0.1)


@contextlib.contextmanager
def passed_on(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """SIGTERM goes on to the processes, which save and end."""

    def forward(number: int, _) -> None:
        for process in processes:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
