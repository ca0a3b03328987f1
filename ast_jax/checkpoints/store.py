"""Save, choose, verify and restore the training state of one work directory.

A checkpoint is `checkpoints/<step>/{params,opt,meta}`, and a folder for anything else the state holds (`ema`,
`average`): parameters alone can be read without the optimiser. `meta` is JSON and holds whatever the loop
wants back, and a digest of every leaf: storage does not notice all damage by itself.
"""

import contextlib
import copy
import dataclasses
import glob
import json
import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.errors import InputError

log = logging.getLogger(__name__)
# Of all stores of a process: orbax numbers what it does by one counter, and of two saves at once each would
# wait for what only the other one tells.
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Restored:
    """A verified checkpoint: the state, placed like the template it was restored into, and the loop's own
    record.
    """

    state: Any
    meta: dict[str, Any]


class Store:
    """The checkpoints of one work directory.

    Kept are the newest `keep_last` and the best one by the metric given at `save`; so the disk holds at most
    keep_last + 1 checkpoints, each three times the parameters' size (Adam's two moments), and one being
    written.
    """

    def __init__(self, workdir: Path, template: Mapping[str, Any], *, keep_last: int = 2):
        import orbax.checkpoint as ocp

        self._workdir = Path(workdir).absolute()
        path = self._workdir / "checkpoints"  # absolute: orbax refuses relative paths, at the first save
        self._retention = Retention(
            keep_last, {step: _rank(path / str(step)) for step in saved_steps(workdir)}
        )
        self._ocp, self._failed = ocp, False
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] = self._thread.submit(lambda: None)
        logging.getLogger("absl").addFilter(_is_not_repeated)
        self._items = tuple(key for key in template if key != "step")
        self._link = contextlib.ExitStack()
        self._manager = ocp.CheckpointManager(
            self._link.enter_context(_without_wildcards(path)),
            item_names=(*self._items, "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._retention,
                cleanup_tmp_directories=True,  # what a killed process was writing
            ),
        )

    def steps(self) -> list[int]:
        """Those saved, and the one being saved."""
        self._join()
        return sorted(self._manager.all_steps())

    def save(self, state: Mapping[str, Any], meta: Mapping[str, Any], *, metric: float | None = None) -> None:
        """Begins to save; returns once the arrays are copied off the device. `metric`: larger is better; None
        ranks last.

        All else is done by a thread: orbax alone takes some tenths of a second of Python before its own
        threads set out. Not where there are several hosts: they meet inside, and must do so in the order of
        their training steps.

        Raises InputError if the save before it could not be written.
        """
        self._join()
        step = int(state["step"])
        items = {item: _named(state[item]) for item in self._items}
        ranked = None if metric is None or math.isnan(metric) else metric
        record = {**copy.deepcopy(dict(meta)), "step": step, "metric": ranked}
        self._retention.ranks[step] = -math.inf if ranked is None else ranked
        if jax.process_count() > 1:
            with self._failures():
                self._write(step, items, record)
        else:
            self._saving = self._thread.submit(self._write, step, _on_host(items), record)

    def _write(self, step: int, items: Mapping[str, dict[str, Any]], record: dict[str, Any]) -> None:
        record["digest"] = _digest(items)
        # to read them without a model
        for of, item in (("", "params"), ("_of_statistics", "statistics")):
            record[f"shapes{of}"] = {name: leaf.shape for name, leaf in items.get(item, {}).items()}
        args = self._ocp.args
        arrays = {item: args.StandardSave(tree) for item, tree in items.items()}
        with _ONE_AT_A_TIME:
            if step in self._manager.all_steps():  # saved before its evaluation, which is done now
                self._manager.delete(step)
            self._manager.save(step, args=args.Composite(meta=args.JsonSave(record), **arrays), force=True)
            if jax.process_count() == 1:  # several hosts have one store, and do not wait here
                self._manager.wait_until_finished()

    def restore(self, template: Mapping[str, Any]) -> Restored | None:
        """The newest checkpoint that proves whole, in the template's structure and placement; None if there
        is none at all.

        A damaged or half-written one is passed over with a warning, and the one before it is tried; those
        passed over are deleted once a whole one is found. Raises InputError if every one is damaged.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                found = self._read(step, template)
            # whatever damage does to orbax, tensorstore or JSON: it is reported, and older ones remain
            except Exception as error:
                log.warning(
                    "checkpoint %d is damaged and is passed over: %s", step, f"{error}".splitlines()[0][:200]
                )
                damaged.append(step)
            else:
                for later in damaged:
                    self._manager.delete(later)
                return found
        if damaged:
            raise InputError(
                f"none of the {len(damaged)} checkpoints in {self._workdir / 'checkpoints'} proves whole: "
                "put one back from elsewhere, or delete that directory to begin again"
            )
        return None

    def _read(self, step: int, template: Mapping[str, Any]) -> Restored:
        args = self._ocp.args
        abstract = {item: jax.tree.map(_abstract, _named(template[item])) for item in self._items}
        asked = args.Composite(
            meta=args.JsonRestore(),
            **{item: args.StandardRestore(tree) for item, tree in abstract.items()},
        )
        with _ONE_AT_A_TIME:
            got = self._manager.restore(step, args=asked)
        arrays, meta = {item: got[item] for item in self._items}, dict(got.meta)
        _verify(arrays, meta["digest"])
        state = {item: _unnamed(arrays[item], template[item]) for item in arrays}
        return Restored({"step": jnp.int32(step), **state}, meta)

    def wait(self) -> None:
        """Returns when every save begun is on disk. Raises InputError if one could not be written."""
        self._join()
        with self._failures():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._thread.shutdown()
        if not self._failed:  # else it would raise the same once more
            self._join()
            with self._failures():
                self._manager.close()
        self._link.close()

    def _join(self) -> None:
        """Returns when the thread has nothing to do."""
        with self._failures():
            self._saving.result()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what the writing thread met, a full disk above all, into one line."""
        try:
            yield
        except Exception as error:
            self._failed = True
            full = "No space left on device" in f"{error}"
            reason = "no space left on the device" if full else f"{error}".splitlines()[0][:300]
            raise InputError(
                f"a checkpoint could not be written ({reason}); {self._last_whole()}: free some space in "
                f"{self._workdir}, and the same command goes on from there"
            ) from error

    def _last_whole(self) -> str:
        steps = saved_steps(self._workdir)
        return f"that of step {steps[-1]} is whole" if steps else "there is none before it"


@contextlib.contextmanager
def _without_wildcards(path: Path) -> Iterator[Path]:
    """A path to the same directory that no pattern is seen in: orbax looks for the parts of what it writes by
    a pattern, and after `lr[0.1]/` finds none.
    """
    if glob.escape(str(path)) == str(path):
        yield path
        return
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ast_jax-") as directory:
        link = Path(directory, "checkpoints")
        link.symlink_to(path)
        yield link


def saved_steps(workdir: Path | str) -> list[int]:
    """The steps of a run's finished checkpoints, by the names of their folders; those being written have
    other names.
    """
    found = Path(workdir, "checkpoints").glob("*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def load_variables(workdir: Path | str, which: str = "best") -> dict[str, np.ndarray]:
    """A run's parameters and statistics by '/'-joined path: those evaluated at its `best` or `last`
    checkpoint, or the `average` of epochs.

    Where the run keeps an exponential average, that is what was evaluated.

    Raises InputError if the run has none that proves whole.
    """
    import orbax.checkpoint as ocp

    directory = Path(workdir).absolute() / "checkpoints"
    if which not in ("best", "last", "average"):
        raise InputError(f"there are no {which!r} weights in a run: choose best, last or average")
    metas = {path: _meta(path) for path in (directory / str(step) for step in saved_steps(workdir))}
    if not metas:
        raise InputError(f"{workdir} holds no checkpoint: train it first, or name another run")
    rank = _by_metric if which == "best" else _by_step
    chosen = max(metas, key=lambda path: rank(metas[path]))
    item = "average" if which == "average" else "ema" if (chosen / "ema").exists() else "params"
    if not (chosen / item).exists():
        raise InputError(
            f"{workdir} keeps no average of epochs: set config.average_epochs, or choose best or last"
        )
    if which == "average" and not metas[chosen].get("averaged"):
        raise InputError(
            f"{workdir} has not reached the first epoch of config.average_epochs: choose best or last"
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    known = [metas[chosen].get(f"shapes{of}", {}) for of in ("", "_of_statistics")]
    # averages hold both together
    parts = {item: known[0] | known[1]} if item != "params" else {"params": known[0], "statistics": known[1]}
    found: dict[str, np.ndarray] = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for part, shapes in parts.items():
            if not shapes:
                continue
            wanted = {
                name: jax.ShapeDtypeStruct(tuple(shape), jnp.float32, sharding=device)
                for name, shape in shapes.items()
            }
            got = checkpointer.restore(chosen / part, wanted)
            arrays = {name: np.asarray(value) for name, value in got.items()}
            prints = {f"{part}:{name}": _fingerprint_on_host(a) for name, a in arrays.items()}
            _compare(prints, metas[chosen]["digest"])
            found |= arrays
    return {name.replace(".", "/"): array for name, array in found.items()}


@dataclasses.dataclass
class Retention:
    """Which checkpoints orbax may not delete: the newest `keep_last` and the best.

    Its own `BestN` forgets metrics at a restart.
    """

    keep_last: int
    ranks: dict[int, float]  # by step; larger is better

    def should_preserve(self, checkpoints: Sequence[Any], **_) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max(steps, key=lambda step: (self.ranks.get(step, -math.inf), step), default=None)
        kept = {*sorted(steps)[-self.keep_last :], best}
        return [step in kept for step in steps]


def _is_not_repeated(record: logging.LogRecord) -> bool:
    """False for the tracebacks orbax logs from its writing threads, several for one cause: `save` and `wait`
    raise it.
    """
    return not (record.levelno >= logging.ERROR and f"{os.sep}orbax{os.sep}" in record.pathname)


def _rank(checkpoint: Path) -> float:
    """What a checkpoint on disk counts for as the best one; a damaged one for nothing."""
    try:
        return _by_metric(_meta(checkpoint))[0]
    except (OSError, ValueError, KeyError):
        return -math.inf


def _by_step(meta: Mapping[str, Any]) -> int:
    return meta["step"]


def _by_metric(meta: Mapping[str, Any]) -> tuple[float, int]:
    return (-math.inf if meta["metric"] is None else meta["metric"], meta["step"])


def _meta(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "meta" / "metadata").read_text())


def _abstract(leaf):
    """Shape, type and placement: orbax needs the placement to restore on another set of devices."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _named(tree: Any) -> dict[str, Any]:
    """Any pytree as one flat dictionary, its names free of '/', which orbax would take for folders."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").replace("/", "."): leaf
        for path, leaf in leaves
    }


def _unnamed(named: Mapping[str, jax.Array], template: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(template), [named[name] for name in _named(template)])


def _on_host(items: Mapping[str, dict[str, jax.Array]]) -> dict[str, dict[str, np.ndarray]]:
    """Copies that the next step, which takes the state's memory, leaves alone.

    All transfers are under way before the first is waited for.
    """
    for leaf in jax.tree.leaves(items):
        leaf.copy_to_host_async()
    return {item: {name: np.array(leaf) for name, leaf in tree.items()} for item, tree in items.items()}


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> list[jax.Array]:
    """`_fingerprint_on_host` of arrays that no host holds whole: one program, since many small ones with
    collectives in flight can wait for one another for ever.
    """

    def one(leaf):
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
        return (words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


def _digest(arrays: Mapping[str, Mapping[str, jax.Array | np.ndarray]]) -> dict[str, int]:
    """By item:name."""
    leaves = {f"{item}:{name}": leaf for item, tree in arrays.items() for name, leaf in tree.items()}
    split = {name: leaf for name, leaf in leaves.items() if not _is_here(leaf)}
    prints = (
        dict(zip(split, jax.device_get(_fingerprints(list(split.values()))), strict=True)) if split else {}
    )
    prints |= {name: _fingerprint_on_host(_here(leaf)) for name, leaf in leaves.items() if name not in split}
    return {name: int(prints[name]) for name in leaves}


def _is_here(leaf: jax.Array | np.ndarray) -> bool:
    """Whether this host holds all of it."""
    return isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _here(leaf: jax.Array | np.ndarray) -> np.ndarray:
    if isinstance(leaf, np.ndarray) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    return np.asarray(leaf.addressable_data(0))


def _fingerprint_on_host(leaf: np.ndarray) -> int:
    """A sum of the leaf's 32-bit words, each times its own odd number, modulo 2^32: no single flipped bit
    leaves it as it was.
    """
    words = np.ascontiguousarray(leaf).view(np.uint32).reshape(-1)
    return int((words * (2 * np.arange(words.size, dtype=np.uint32) + 1)).sum(dtype=np.uint32))


def _verify(arrays: Mapping[str, Mapping[str, jax.Array]], digest: Mapping[str, int]) -> None:
    _compare(_digest(arrays), digest)


def _compare(found: Mapping[str, int], digest: Mapping[str, int]) -> None:
    wrong = [name for name, value in found.items() if digest.get(name) != value]
    if wrong:
        raise InputError(f"{len(wrong)} arrays differ from their recorded digest, the first is {wrong[0]}")
