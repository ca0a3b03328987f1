"""A run as an audio encoder of MTEB 2, for the tasks of MAEB (github.com/embeddings-benchmark/mteb):

pip install "mteb[audio]>=2"
python examples/mteb_encoder.py runs/mine ESC50 ESC50Clustering
"""

import sys
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from ast_jax.inference.hear_api import Embedder


class AstJaxEncoder(AbsEncoder):
    """Batches of sounds of any length and rate to vectors [N, D], each the mean over a sound's windows."""

    def __init__(self, model_name: str, revision: str | None = None, device: str | None = None, **_: Any):
        self.embedder = Embedder(model_name)
        # results are filed under the name, and looked up there before anything is computed
        described = {
            "name": f"ast_jax/{Path(model_name).resolve().name}",
            "revision": revision or self.embedder.tagger.models[0].digest(),
            "modalities": ["audio"],
            "embed_dim": self.embedder.scene_embedding_size,
            "framework": ["JAX"],
        }
        self.mteb_model_meta = ModelMeta.create_empty(described)

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        return np.stack([self.scene(sound) for batch in inputs for sound in batch["audio"]])

    def scene(self, sound: Any) -> np.ndarray:
        samples = np.asarray(sound["array"], np.float32)
        rows = self.embedder.tagger.embed((samples, sound["sampling_rate"]), kind=self.embedder.scene_kind)
        return rows.vectors.mean(axis=0)


if __name__ == "__main__":
    for result in mteb.evaluate(AstJaxEncoder(sys.argv[1]), mteb.get_tasks(tasks=sys.argv[2:])):
        print(f"{result.task_name}: {result.get_score():.4f}")
