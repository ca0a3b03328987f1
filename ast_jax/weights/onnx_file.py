"""A model as ONNX: normalisation, model and scores in one file, weights inside, batch of any size; float32.

B batch, T frames, F mel bins, C classes. Written by jax2onnx straight from the JAX function, so every shape
of model can be.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.models import base
from ast_jax.weights.pretrained import LoadedModel, with_config
from ast_jax.weights.stablehlo import pure_function

MODEL = "model.onnx"
INPUT, OUTPUTS = "fbank", ("logits", "scores")
OPSET = 21


def require_converter() -> None:
    """Raises InputError where jax2onnx is not installed."""
    if find_spec("jax2onnx") is None:
        raise InputError("--to=onnx needs jax2onnx: `pip install 'jax2onnx>=0.12.5,<0.13' onnxruntime`")


def write_onnx(loaded: LoadedModel, path: Path) -> None:
    """Writes `model.onnx`: fbank [B, T, F], as `log_mel` gives it, to logits and scores [B, C].

    Raises InputError where jax2onnx is not installed.
    """
    require_converter()
    import jax2onnx
    import onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a line for every constant
    loaded = with_config(loaded, dtype="float32")
    config = loaded.model.config
    run, params = pure_function(loaded)
    model: Any = jax2onnx.to_onnx(
        lambda fbank: run(params, fbank),
        inputs=[("B", config.num_frames, loaded.front_end.num_mel_bins)],
        model_name=base.family_name(loaded.model).replace(":", "."),
        opset=OPSET,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
    )
    onnx.save(model, path)


def onnx_runner(path: Path) -> Callable[[Float[np.ndarray, "B T F"]], list[np.ndarray]] | None:
    """The file as onnxruntime runs it, to [logits, scores]; None where onnxruntime is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda fbank: session.run(list(OUTPUTS), {INPUT: fbank})
