"""Several hosts in one run: joining the group, who writes, and stopping all at the same step when a machine
is taken away.
"""

import glob
import importlib.util
import os
import signal
import threading
from typing import Any, ClassVar

import jax
from jax.experimental import multihost_utils

from ast_jax.errors import InputError


class Preempted(Exception):
    """The machine is being taken away: save and leave."""


def join(
    *,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout_seconds: int,
) -> None:
    """Joins the group of hosts that is named or that the cluster names; does nothing for a single process.

    It comes before anything that asks JAX for its devices. A host silent for the heartbeat's timeout is taken
    for dead, and the group ends. Raises InputError where some of the three are missing.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(
            f"{' and '.join(missing)} must be given too: each host names the coordinator, the number of "
            "processes and its own"
        )
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id is {process_id}: it must be from 0 to {num_processes - 1}, --num_processes less "
            "one"
        )
    if not missing or cluster_found():
        jax.distributed.initialize(
            coordinator_address=coordinator_address,
            num_processes=num_processes,
            process_id=process_id,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            shutdown_timeout_seconds=max(heartbeat_timeout_seconds, 30),
        )


def joined() -> bool:
    """Whether this process is one of a group."""
    return jax.distributed.is_initialized()


def cluster_found() -> bool:
    """Whether this is one of several tasks of a SLURM step, or a host of a TPU slice."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        return True
    asked_for = os.environ.get("JAX_PLATFORMS", "tpu")
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return "tpu" in asked_for and bool(chips) and importlib.util.find_spec("libtpu") is not None


def writes() -> bool:
    """Whether this process writes what is written once: logs, results, plots."""
    return jax.process_index() == 0


class StopRequest:
    """Whether SIGTERM has come to any host: machines that are taken away send it first.

    With one process a handler of our own notes it, for all runs that it trains; in a thread beside the main
    one, where Python allows no handler, the signal does what it does for the program around. With several,
    JAX holds the signal and makes all of them agree on one point to stop at: `check` must then be called by
    every host equally often, at the same places.
    """

    # those that one handler tells, and what there was before it
    _told: ClassVar[list["StopRequest"]] = []
    _before: ClassVar[Any] = None

    def __init__(self):
        self._alone = jax.process_count() == 1
        self._requested, self._calls = False, 0
        self._handles = self._alone and threading.current_thread() is threading.main_thread()
        if self._handles:
            if not self._told:
                StopRequest._before = signal.signal(signal.SIGTERM, self._note)
            self._told.append(self)

    @classmethod
    def _note(cls, *_) -> None:
        for request in cls._told:
            request._requested = True

    def check(self) -> None:
        """Raises Preempted if it is time to go."""
        self._calls += 1
        if not self._alone:
            self._requested |= multihost_utils.reached_preemption_sync_point(self._calls)
        if self._requested:
            raise Preempted

    def close(self) -> None:
        if self._handles and self in self._told:
            self._told.remove(self)
            if not self._told:
                signal.signal(signal.SIGTERM, self._before)
