"""An ONNX export as a model for predict and serve: onnxruntime in the place of JAX.

B batch, T frames, F mel bins, C classes.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.models import abstract
from ast_jax.weights import program
from ast_jax.weights.files import read_json
from ast_jax.weights.model_card import CARD, stated_config, stated_front_end
from ast_jax.weights.onnx_file import MODEL
from ast_jax.weights.pretrained import LoadedModel, fit_frames


@dataclasses.dataclass(repr=False)
class OnnxModel(LoadedModel):
    """What the card says, its model an outline without arrays, and a session of onnxruntime.

    Clips are heard one by one: 8-bit products have one scale for all that they take at once.
    """

    session: Any = None
    # of its file
    file_digest: str = ""

    def _weights(self) -> Iterator[bytes]:
        yield self.file_digest.encode()

    def logits(self, fbank: Float[np.ndarray, "B T F"]) -> Float[np.ndarray, "B C"]:
        """As of a `LoadedModel`."""
        return self._run(fbank, "logits")

    def scores(self, fbank: Float[np.ndarray, "B T F"]) -> Any:
        """As of a `LoadedModel`, but waited for."""
        return self._run(fbank, "scores")

    @property
    def parts(self) -> tuple[Any, dict[str, Any]]:
        raise self._only_scores("arrays that are read")

    def frame_scores(self, fbank: Float[np.ndarray, "B T F"]) -> Any:
        raise self._only_scores("scores of steps of time")

    def embeddings(self, fbank: Float[np.ndarray, "B T F"]) -> Any:
        raise self._only_scores("embeddings")

    @property
    def judges_steps(self) -> bool:
        """Whatever its model did: what is exported judges clips."""
        return False

    def _run(self, fbank: np.ndarray, output: str) -> np.ndarray:
        rows = fit_frames(fbank, self.model.config.num_frames, self.front_end.padding)
        (name,) = program.INPUTS["log_mel"]
        return np.concatenate([self.session.run([output], {name: row[None]})[0] for row in rows])

    def _only_scores(self, what: str) -> InputError:
        return InputError(f"an ONNX export has no {what}: take the model that it was made of")


def load(directory: Path, options: dict[str, Any]) -> OnnxModel:
    """The directory that `convert --to=onnx` wrote; of one that takes waveforms the part behind its front
    end, for sounds are heard here.

    Raises:
        InputError: onnxruntime is missing, the file is damaged, or `options` ask for another model than is
            written.
    """
    if options:
        raise InputError(
            f"{directory} is an ONNX export and stays as it is written: {', '.join(options)} would change "
            "it; export the model anew"
        )
    if find_spec("onnxruntime") is None:
        raise InputError(f"{directory} is an ONNX export: it needs `pip install onnxruntime`")
    card = read_json(directory / CARD)
    where = str(directory)
    config = stated_config(card, where)
    return OnnxModel(
        abstract(str(card.get("family", "ast")), config),
        list(card["label_names"]),
        stated_front_end(card, config, where),
        str(card["activation"]),
        channels=str(card.get("channels", "mean")),
        thresholds=card.get("thresholds"),
        notes=["run by onnxruntime"],
        session=_session(directory / MODEL),
        file_digest=hashlib.blake2b((directory / MODEL).read_bytes(), digest_size=8).hexdigest(),
    )


def _session(path: Path) -> Any:
    import onnxruntime

    begin = lambda model: onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    try:
        whole = begin(path)
        (fbank,) = program.INPUTS["log_mel"]
        if [each.name for each in whole.get_inputs()] == [fbank]:
            return whole
        import onnx

        part = onnx.utils.Extractor(onnx.load(path)).extract_model([fbank], list(program.OUTPUTS))
        return begin(part.SerializeToString())
    # its errors are of a dozen kinds, and onnx's of others
    except Exception as error:
        first = str(error).splitlines()[0][:200]
        raise InputError(f"{path} cannot be run ({first}): export the model again") from error
