"""`plan`: what a recipe costs, before a machine is paid for."""

import dataclasses
import functools
import math
import os
import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe
from ast_jax.settings import Settings

GIB = 2**30
NUM_CLASSES = {"audioset": 527, "esc50": 50, "speech_commands": 35, "synthetic": 10}
# Set before jax is imported: else jax looks for chips for 15 s, and two such processes end each other on a
# lock file.
AHEAD_OF_TIME = {
    "JAX_PLATFORMS": "cpu",
    # no question to a cloud's metadata server
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # whatever is planned for: else libtpu prints that it does not know either of these
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
REMATS = ("none", "blocks")  # what `plan` compares: nothing recomputed in the backward pass, or every block


def plan(
    recipe: Recipe,
    *,
    topology: Annotated[
        str | None, Flag("a TPU slice, generation:chips along each axis: v5e:2x4, v4:2x2x4")
    ] = None,
    num_classes: Annotated[int | None, Flag("where the recipe's data set does not say", least=1)] = None,
    json: Annotated[bool, Flag("one JSON object on stdout")] = False,
    quick: Annotated[bool, Flag("no search for the largest batch: one compile")] = False,
    prove: Annotated[bool, Flag("search on until one clip more does not fit")] = False,
    first: Annotated[
        tuple[int, int] | None,
        Flag(
            "clips a device to try first without and with remat, from a plan nearby", metavar="N,N", least=1
        ),
    ] = None,
    cache: Annotated[Path | None, Flag("instead of ast_jax/plan.json in the user's cache")] = None,
) -> None:
    """What a recipe costs: tokens, parameters, operations, memory, the largest batch.

      python -m ast_jax plan --config=configs/audioset.py                      # this machine's devices
      python -m ast_jax plan --config=configs/audioset.py --topology=v5e:2x4   # a slice not there (libtpu)

    The step that training runs is compiled for those devices, so the figures are the compiler's. AST-base
    takes it one to four minutes a batch size; what came of it is kept in the user's cache.
    """
    config = recipe.config()
    num_classes = num_classes or classes_of(config)
    # Figures are kept, not programs that nobody runs.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if topology:
        os.environ.update(AHEAD_OF_TIME)

    from ast_jax.models import best_dtype
    from ast_jax.planning import memory, slices

    where = slices.tpu_slice(topology) if topology else slices.here()
    if config.model.dtype == "auto":
        config.model.dtype = best_dtype(config.model.family, where.devices[0])
    cache = cache or memory.default_cache()
    found = facts(config, recipe.spec, num_classes, where)
    searches = where.capacity is not None and not quick
    if searches:
        search = functools.partial(
            searched, config, num_classes=num_classes, where=where, cache=cache, prove=prove
        )
        starts = zip(REMATS, first or [None] * len(REMATS), strict=True)
        measured = {remat: search(remat=remat, first=start) for remat, start in starts}
    else:
        rows = -(-config.batch_size // len(where.devices))
        one = told(memory.measure, config, num_classes, where, rows, cache=cache)
        measured = {config.model.remat: [one]}
    found["memory"] = {remat: [as_json(m) for m in each] for remat, each in measured.items()}
    found["batch"] = batches(config, where, measured if searches else {})
    print(dumps(found, indent=2) if json else table(found))


def classes_of(config: ConfigDict) -> int:
    """Classes of the recipe's data set. Raises InputError for a set that may have any number."""
    if config.dataset.name not in NUM_CLASSES:
        raise InputError(
            f"how many classes {config.dataset.name!r} has only its sounds say: give --num_classes"
        )
    return NUM_CLASSES[config.dataset.name]


def facts(config: ConfigDict, spec: str, num_classes: int, where: Any) -> dict[str, Any]:
    """What is known without compiling: the model, one clip, the devices."""
    from ast_jax.models import kernels_on, num_parameters
    from ast_jax.models.cost import forward_flops
    from ast_jax.planning.costs import activation_bytes
    from ast_jax.planning.memory import with_remat

    settings, forms = Settings.of(config), kernels_on(where.devices[0])
    outlines = {remat: with_remat(settings, num_classes, remat) for remat in REMATS}
    kept = {remat: activation_bytes(model, forms) for remat, model in outlines.items()}
    model, flops = outlines["none"], forward_flops(outlines["none"])
    return {
        "recipe": spec,
        "parallel": config.parallel,
        "fsdp": config.fsdp,
        "family": settings.model.family,
        "dtype": settings.model.dtype,
        "attention": forms.attend.__name__,
        "tokens": getattr(model.config, "num_tokens", None),
        "parameters": num_parameters(model),
        "forward_flops": flops,
        "train_flops": 3 * flops,
        "activation_bytes": kept,
        "devices": {
            "name": where.name,
            "kind": where.kind,
            "devices": len(where.devices),
            "chips": where.num_chips,
            "hosts": where.num_hosts,
            "capacity_bytes": where.capacity,
        },
    }


def searched(
    config: ConfigDict,
    *,
    remat: str,
    num_classes: int,
    where: Any,
    cache: Path,
    first: int | None,
    prove: bool,
) -> list[Any]:
    """What was measured on the way to the most clips on a device that fit, in one part a step."""
    from ast_jax.planning import memory

    config = config.copy_and_resolve_references()
    config.model.remat, config.accumulate = remat, 1
    measure = lambda clips: told(memory.measure, config, num_classes, where, clips, cache=cache)
    close = first is not None
    first = first or memory.first_guess(config, num_classes, where)
    return memory.largest(measure, where.capacity, first, close=close, prove=prove)


def told(measure: Any, config: ConfigDict, num_classes: int, where: Any, clips: int, **options) -> Any:
    """Says on stderr what is being compiled, then what came of it."""
    what = f"{config.parallel}, remat {config.model.remat}, {clips} clips a device"
    print(f"compiling for {where.name}: {what} ...", end=" ", file=sys.stderr, flush=True)
    memory = measure(config, num_classes, where, clips, **options)
    outcome = f"{memory.total / GIB:.2f} GiB" + ("" if memory.fits else ", does not fit")
    print(f"{outcome} ({memory.seconds:.0f} s of compiling)", file=sys.stderr, flush=True)
    return memory


def as_json(memory: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(memory), "total": memory.total}


def batches(config: ConfigDict, where: Any, found: dict[str, list[Any]]) -> dict[str, Any]:
    """What the recipe's batch means on these devices, and what the largest one that fits would."""
    devices, batch = len(where.devices), config.batch_size
    rows = -(-batch // devices)
    plan: dict[str, Any] = {
        "recipe": batch,
        "rows_per_device": rows,
        "padding_rows": rows * devices - batch,
        "lr": config.lr,
        "without_padding": [size for size in (batch // devices * devices, rows * devices) if size],
        "largest": {},
    }
    for remat, measured in found.items():
        most = max((memory.clips for memory in measured if memory.fits), default=0)
        if not most:
            continue
        plan["largest"][remat] = {
            **scaled(config, most * devices),
            "clips_per_device": most,
            "accumulate_for_recipe": -(-rows // most),
            "recipe_total": estimate(measured, rows) if rows <= most else None,
        }
    return plan


def estimate(measured: list[Any], clips: int) -> int:
    """Bytes on a device for a number of clips, by the line through the two smallest that were measured."""
    points = [memory for memory in measured if memory.fits][:2]
    slope = (points[-1].total - points[0].total) / max(points[-1].clips - points[0].clips, 1)
    return round(points[0].total + slope * (clips - points[0].clips))


def scaled(config: ConfigDict, batch: int) -> dict[str, Any]:
    """The recipe's rate and warm-up at another batch size: as many clips of warm-up, the rate by two rules.

    By the square root, as is derived for Adam (Malladi et al. 2022), and in proportion, as for SGD (Goyal
    et al. 2017): the first is where to start, the second the most to try.
    """
    ratio = batch / config.batch_size
    return {
        "batch": batch,
        "lr_square_root": config.lr * math.sqrt(ratio),
        "lr_linear": config.lr * ratio,
        "warmup_steps": math.ceil(config.lr_warmup_steps / ratio),
    }


def table(plan: dict[str, Any]) -> str:
    """The plan for people."""
    devices, batch = plan["devices"], plan["batch"]
    per_device = "one device a chip" if devices["devices"] == devices["chips"] else "chips and devices differ"
    capacity = devices["capacity_bytes"]
    kept = ", ".join(
        f"{size / 2**20:,.0f} MiB with remat {remat}" for remat, size in plan["activation_bytes"].items()
    )
    tokens = f"{plan['tokens']:,} tokens, " if plan["tokens"] else ""
    lines = [
        f"{plan['recipe']}  ({plan['parallel']}, {plan['dtype']}, {plan['attention']})",
        f"  model    {tokens}{plan['parameters']:,} parameters",
        f"  a clip   {plan['forward_flops'] / 1e9:.1f} GFLOP forward, "
        f"{plan['train_flops'] / 1e9:.0f} GFLOP a training step",
        f"           activations kept for the backward pass: {kept}",
        f"  devices  {devices['name']}: {devices['chips']} chips, {devices['devices']} devices "
        f"({per_device}), {devices['hosts']} hosts, {devices['kind']}"
        + (f", {capacity / GIB:.2f} GiB a device" if capacity else ""),
        "",
        "  remat   clips a device   batch   state+batch   working     total   of a device",
    ]
    for remat, measured in plan["memory"].items():
        lines += [_row(remat, memory, devices["devices"], capacity) for memory in measured]
    lines += ["", *_advice(batch, devices["devices"])]
    return "\n".join(lines)


def _row(remat: str, memory: dict[str, Any], devices: int, capacity: int | None) -> str:
    gib = lambda size: f"{size / GIB:7.2f} GiB"
    parts = (
        (gib(memory["arguments"]), gib(memory["temporaries"] + memory["code"]))
        if memory["fits"]
        else ("", "")
    )
    share = (
        ""
        if capacity is None
        else f"{memory['total'] / capacity:6.1%}  {'fits' if memory['fits'] else 'does not fit'}"
    )
    head = f"  {remat:<7} {memory['clips']:>14} {memory['clips'] * devices:>7}"
    return f"{head} {parts[0]:>13} {parts[1]:>11} {gib(memory['total'])}   {share}".rstrip()


def _advice(batch: dict[str, Any], devices: int) -> list[str]:
    lines = [
        f"  the recipe's batch of {batch['recipe']} at rate {batch['lr']:g}: "
        f"{batch['rows_per_device']} rows on each of {devices} devices, "
        f"{batch['padding_rows']} of them padding"
        + (f" (none at {' or '.join(map(str, batch['without_padding']))})" if batch["padding_rows"] else "")
    ]
    for remat, most in batch["largest"].items():
        lines += [
            f"    remat {remat}: {_recipe_fits(most)}; the largest in one part is "
            f"{most['batch']} ({most['clips_per_device']} a device): rate {most['lr_square_root']:.2g} "
            f"(square root) to {most['lr_linear']:.2g} (linear), warm-up {most['warmup_steps']} steps"
        ]
    return lines


def _recipe_fits(most: dict[str, Any]) -> str:
    if most["recipe_total"] is None:
        return f"fits with accumulate={most['accumulate_for_recipe']}"
    return f"fits, at about {most['recipe_total'] / GIB:.1f} GiB"
