"""A model for machines without this package: normalisation, model and scores as one StableHLO program for
CPU, GPU and TPU.

B batch (symbolic: any size), T frames, F mel bins, C classes. Written by `jax.export`, so it can be read for
years: jax keeps old programs running for at least six months, and as StableHLO bytes other runtimes take it
too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.models import merge, split
from ast_jax.models.kernels import PLAIN, using
from ast_jax.objectives import activation
from ast_jax.weights.files import read_arrays
from ast_jax.weights.pretrained import LoadedModel

PROGRAM = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def pure_function(
    loaded: LoadedModel,
) -> tuple[Callable[[Mapping[str, Array], Float[Array, "B T F"]], tuple[Array, Array]], dict[str, Array]]:
    """(arrays by path, features before normalisation) -> (logits, scores), and the arrays."""
    graphdef, params, statistics = split(loaded.model)

    def run(arrays, fbank):
        # it is to run anywhere
        with using(PLAIN):
            logits, _ = merge(graphdef, arrays)(loaded.front_end.normalise(fbank))
        return logits, activation(loaded.activation)(logits)

    return run, params | statistics


def write_program(loaded: LoadedModel, path: Path) -> None:
    """Writes the program, without the weights: a few dozen kB whatever the model's size.

    Raises InputError where flatbuffers, which the file format needs, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise InputError("--to=stablehlo needs flatbuffers: `pip install flatbuffers`") from error
    config = loaded.model.config
    run, params = pure_function(loaded)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in params.items()}
    fbank = jax.ShapeDtypeStruct((batch, config.num_frames, loaded.front_end.num_mel_bins), np.float32)
    path.write_bytes(jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, fbank).serialize())


def load_exported(
    directory: str | Path,
) -> Callable[[Float[Any, "B T F"]], tuple[Float[Array, "B C"], Float[Array, "B C"]]]:
    """The exported model as a function of features as `log_mel` gives them, zero rows past each clip's end:
    (logits, scores).

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
    return lambda fbank: call(params, fbank)
