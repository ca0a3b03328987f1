"""A model as ONNX: normalisation, model and scores, and if wanted the front end, in one file, weights inside,
batch of any size.

Written by jax2onnx straight from the JAX function, so every shape of model can be. Front end and model are
two graphs put together, so that only the model's weights are ever made smaller.
"""

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import base
from ast_jax.weights import program
from ast_jax.weights.pretrained import LoadedModel, with_config
from ast_jax.weights.program import Takes

MODEL = "model.onnx"
OPSET = 21
# of the products' weights; everything is computed in float32 but for int8's products
Weights = Literal["float32", "float16", "int8"]

# A weight with fewer numbers is left alone: norms, biases, positions of small models.
_LEAST = 4096


def require_converter() -> None:
    """Raises InputError where jax2onnx is not installed."""
    if find_spec("jax2onnx") is None:
        raise InputError("--to=onnx needs jax2onnx: `pip install 'jax2onnx>=0.12.5,<0.13' onnxruntime`")


class Graphs:
    """A model as two ONNX graphs in float32, from which files are written: features [B, T, F] as the front
    end gives them, or waveforms [B, S] and their lengths [B], to logits and scores [B, C].

    Raises InputError where jax2onnx is not installed.
    """

    def __init__(self, loaded: LoadedModel, takes: Takes = "log_mel"):
        require_converter()
        loaded = with_config(loaded, dtype="float32")
        run, arrays = program.judge(loaded)
        name = base.family_name(loaded.model).replace(":", ".")
        features = program.shapes(loaded, "log_mel")
        self.model = _graph(lambda fbank: run(arrays, fbank), name, features, program.OUTPUTS)
        self.front = None
        if takes == "waveform":
            heard = program.shapes(loaded, takes)
            self.front = _graph(program.hear(loaded), "front_end", heard, program.INPUTS["log_mel"])

    def write(self, path: Path, weights: Weights = "float32") -> None:
        """'float16' halves the file, and float32 is made of it again when it is loaded. 'int8' (per channel)
        is a quarter of it; what such a product takes is brought to 8 bits as it comes.

        Raises InputError where int8 is asked for and onnxruntime is not installed.
        """
        import onnx

        model = {"float32": lambda model: model, "float16": _halved, "int8": _in_8_bits}[weights](self.model)
        if self.front is not None:
            front = onnx.compose.add_prefix(
                self.front, "front_end/", rename_inputs=False, rename_outputs=False
            )
            # two graphs that are merged have to name the same
            front.ir_version = model.ir_version
            del front.opset_import[:]
            front.opset_import.extend(model.opset_import)
            (fbank,) = program.INPUTS["log_mel"]
            model = onnx.compose.merge_models(front, model, io_map=[(fbank, fbank)])
        onnx.save(model, path)


def _graph(run: Callable, name: str, shapes: dict, outputs: tuple[str, ...]) -> Any:
    import jax

    # a line for every constant; a stack for each of its parts that are not for our jax
    for talkative in ("onnx_ir", "jax2onnx"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    # and it prints what its authors look for
    with contextlib.redirect_stdout(io.StringIO()):
        import jax2onnx

        return jax2onnx.to_onnx(
            run,
            inputs=[jax.ShapeDtypeStruct(("B", *shape), dtype) for shape, dtype in shapes.values()],
            model_name=name,
            opset=OPSET,
            input_names=list(shapes),
            output_names=list(outputs),
        )


def _halved(model: Any) -> Any:
    """Weights in float16, and a cast of each; what float16 cannot hold stays, and what is small."""
    import onnx

    model, casts = copy.deepcopy(model), []
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < _LEAST or np.abs(array).max() > np.finfo(np.float16).max:
            continue
        name, stored = tensor.name, f"{tensor.name}/float16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _in_8_bits(model: Any) -> Any:
    """The products with weights, dynamically: onnxruntime's own tool."""
    if find_spec("onnxruntime") is None:
        raise InputError("--weights=int8 needs onnxruntime: `pip install onnxruntime`")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # that the model could be made smaller first, and of products without weights
    logging.getLogger().addFilter(_no_advice)
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / MODEL
            quantize_dynamic(
                copy.deepcopy(model),
                path,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                extra_options={"MatMulConstBOnly": True},
            )
            return onnx.load(path)
    finally:
        logging.getLogger().removeFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    return "quantization" not in record.getMessage().lower()


def onnx_runner(path: Path) -> Callable[..., list[np.ndarray]] | None:
    """The file as onnxruntime runs it, to [logits, scores] of its inputs in order; None where onnxruntime is
    not installed.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: session.run(list(program.OUTPUTS), dict(zip(names, inputs, strict=True)))
