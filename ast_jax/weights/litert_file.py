"""A model as LiteRT (once TensorFlow Lite), for phones and small boards: normalisation, model and scores, and
if wanted the front end, in one file, weights inside, one clip at a time.

Google's litert-converter makes it of the StableHLO that jax exports, by neither TensorFlow nor PyTorch. It is
called as litert-torch does (github.com/google-ai-edge/litert-torch, _convert/litert_converter.py, 0.10).
"""

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from ast_jax.errors import InputError
from ast_jax.weights import program
from ast_jax.weights.pretrained import LoadedModel, with_config
from ast_jax.weights.program import Takes

MODEL = "model.tflite"


def require_converter() -> None:
    """Raises InputError where litert-converter is not installed."""
    if find_spec("litert_converter") is None:
        # it asks for an xdsl that is not used here, and that for an older typing-extensions than optax
        raise InputError("--to=litert needs `pip install --no-deps 'litert-converter==0.5.*' ai-edge-litert`")


def write(loaded: LoadedModel, path: Path, takes: Takes = "log_mel") -> None:
    """In float32; inputs and outputs have their names in the file's one signature.

    Raises InputError where litert-converter is not installed, or knows no way for an operation of a model.
    """
    require_converter()
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    run, arrays = program.function(with_config(loaded, dtype="float32"), takes)
    shapes = program.shapes(loaded, takes)
    inputs = [jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in shapes.values()]
    exported = jax.export.export(jax.jit(lambda *given: run(arrays, *given)), platforms=["cpu"])(*inputs)
    config = converter.ConvertToTFLConfig()
    config.model_origin_framework = "JAX"
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context, _one_line("litert-converter cannot write this model"):
        module = ir.Module.parse(exported.mlir_module_serialized)
        passmanager.PassManager.parse("builtin.module(vhlo-legalize-to-stablehlo)").run(module.operation)
        _without_reduced_precision(ir, module)
        converter.set_signature(module.operation, "serving_default", list(shapes), list(program.OUTPUTS))
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        converter.export_flatbuffer_to_file(module.operation, str(path))


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Of errors of many kinds and lines."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{what} ({' '.join(str(error).split())[:200]}): take --to=onnx") from error


def _without_reduced_precision(ir: Any, module: Any) -> None:
    """LiteRT has no such operation. Kaldi's front end takes a bit off a mean, so that XLA does not fuse what
    follows; LiteRT computes operation by operation and fuses nothing.
    """
    found = []

    def look(operation):
        if operation.name == "stablehlo.reduce_precision":
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(look)
    for operation in found:
        operation.results[0].replace_all_uses_with(operation.operands[0])
        operation.erase()


def litert_runner(path: Path, takes: Takes = "log_mel") -> Callable[..., list[np.ndarray]] | None:
    """The file as LiteRT runs it, to [logits, scores] of its inputs in order, one clip after the other; None
    where ai-edge-litert is not installed. Raises InputError where it has no such operation.
    """
    if find_spec("ai_edge_litert") is None:
        return None
    from ai_edge_litert.interpreter import Interpreter

    with _one_line("LiteRT cannot run this model"):
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    heard = interpreter.get_signature_runner()

    def run(*inputs):
        clips = zip(*(np.split(array, len(array)) for array in inputs), strict=True)
        rows = [heard(**dict(zip(program.INPUTS[takes], clip, strict=True))) for clip in clips]
        return [np.concatenate([row[name] for row in rows]) for name in program.OUTPUTS]

    return run


def refuse(directory: Path, options: dict[str, Any]) -> NoReturn:
    """Raises InputError for the directory that `convert --to=litert` wrote, as a model of this package."""
    raise InputError(
        f"{directory}: a LiteRT export is for other machines, take the model that it was made of"
    )
