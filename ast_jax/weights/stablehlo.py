"""A model for machines without this package: normalisation, model and scores, and if wanted the front end, as
one StableHLO program for CPU, GPU and TPU.

B batch (symbolic: any size), C classes. Written by `jax.export`, so it can be read for
years: jax keeps old programs running for at least six months, and as StableHLO bytes other runtimes take it
too.
"""

from collections.abc import Callable
from pathlib import Path

import jax
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.weights import program
from ast_jax.weights.files import read_arrays
from ast_jax.weights.pretrained import LoadedModel
from ast_jax.weights.program import Takes

PROGRAM = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_program(loaded: LoadedModel, path: Path, takes: Takes = "log_mel") -> None:
    """Writes the program, without the weights: a few dozen kB whatever the model's size, and with a front end
    its tables.

    Raises InputError where flatbuffers, which the file format needs, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise InputError("--to=stablehlo needs flatbuffers: `pip install flatbuffers`") from error
    run, arrays = program.function(loaded, takes)
    (batch,) = jax.export.symbolic_shape("batch")
    weights = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in arrays.items()}
    inputs = [
        jax.ShapeDtypeStruct((batch, *shape), dtype)
        for shape, dtype in program.shapes(loaded, takes).values()
    ]
    path.write_bytes(jax.export.export(jax.jit(run), platforms=PLATFORMS)(weights, *inputs).serialize())


def load_exported(
    directory: str | Path,
) -> Callable[..., tuple[Float[Array, "B C"], Float[Array, "B C"]]]:
    """The exported model as a function to (logits, scores), of what it was exported for: features as the
    front end gives them [B, T, F], its padding past each clip's end; or waveforms [B, S] and how many samples
    of each are sound [B].

    Runs the program as it was written, not this package's model. Raises InputError: not such a directory, or
    damaged.
    """
    path = Path(directory) / PROGRAM
    if not path.is_file():
        raise InputError(f"{directory} has no {PROGRAM}: make one with `convert RUN DST --to=stablehlo`")
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # flatbuffers and MLIR raise what they like
        raise InputError(f"{path} cannot be read ({error}): export the model again") from error
    params, _ = read_arrays(path.parent / "model.safetensors")
    call = jax.jit(exported.call)
    return lambda *inputs: call(params, *inputs)
