"""Models as the HEAR benchmark asks for them (Turian et al. 2022, "HEAR: Holistic evaluation of audio
representations"; hearbenchmark.com/hear-api).

  python -m heareval.embeddings.runner ast_jax.inference.hear_api --model runs/mine

N sounds of S samples each, D width, t steps of time. Arrays come back as what went in was, PyTorch's or
NumPy's.
"""

from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features.front_end import require_sound
from ast_jax.inference.predict import Tagger


class Embedder:
    """Embeddings of sounds of one length; `sample_rate` and the sizes are called as the API has it."""

    def __init__(self, source: str, **options: Any):
        """Whatever `ast_jax.load_model` takes. Raises InputError."""
        self.tagger = Tagger(source, **options)
        require_sound(self.tagger.models[0].front_end, "HEAR")
        self.sample_rate = self.tagger.models[0].front_end.sample_rate_hz
        silence = np.zeros(self.sample_rate, np.float32)
        width = lambda kind: self.rows(silence, kind).vectors.shape[1]
        self.scene_embedding_size = width(self.scene_kind)
        self.timestamp_embedding_size = width("frames")

    def scenes(self, audio: Any) -> np.ndarray:
        """[N, D]: the mean over a sound's windows, side by side, of what each one's patches say of it."""
        return np.stack([self.rows(sound, self.scene_kind).vectors.mean(axis=0) for sound in _host(audio)])

    def steps(self, audio: Any) -> tuple[np.ndarray, np.ndarray]:
        """[N, t, D], and the middle of each step in milliseconds [N, t]: as long as the model's steps are."""
        found = [self.rows(sound, "frames") for sound in _host(audio)]
        times = [500 * (rows.starts_s + rows.ends_s) for rows in found]
        return np.stack([rows.vectors for rows in found]), np.stack(times)

    def rows(self, sound: np.ndarray, kind: Any) -> Any:
        return self.tagger.embed((sound, self.sample_rate), kind=kind)

    @property
    def scene_kind(self) -> str:
        """`token` where a model has no steps of time."""
        return "mean" if hasattr(self.tagger.models[0].model, "time_steps") else "token"


def load_model(model_file_path: str = "") -> Any:
    """A torch.nn.Module, which the API wants, around an `Embedder` that computes in JAX.

    Raises InputError for what cannot be read, and without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("HEAR's models are PyTorch modules: `pip install torch`") from error
    module: Any = torch.nn.Module()
    module.embedder = own = Embedder(model_file_path)
    module.sample_rate, module.scene_embedding_size = own.sample_rate, own.scene_embedding_size
    module.timestamp_embedding_size = own.timestamp_embedding_size
    return module


def get_scene_embeddings(audio: Any, model: Any) -> Any:
    """Of sounds [N, S] within -1 to 1 at `model.sample_rate`: [N, D]."""
    return _as(audio, model.embedder.scenes(audio))


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
    """Of the same: [N, t, D], and [N, t] in milliseconds."""
    vectors, times = model.embedder.steps(audio)
    return _as(audio, vectors), _as(audio, times)


def _host(audio: Any) -> np.ndarray:
    return np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio, np.float32)


def _as(audio: Any, found: np.ndarray) -> Any:
    """On the device of what was given, where that is a tensor."""
    if not hasattr(audio, "detach"):
        return found
    import torch

    return torch.from_numpy(np.ascontiguousarray(found, np.float32)).to(audio.device)
