"""A run as an encoder of X-ARES (github.com/jimbozhang/xares):

AST_JAX_MODEL=runs/mine python -m xares.run --max-jobs 1 examples/xares_encoder.py src/tasks/*.py
"""

import os

import torch

from ast_jax.inference.hear_api import get_timestamp_embeddings, load_model


class AstJaxEncoder(torch.nn.Module):
    """Waveforms [B, S] at `sampling_rate` to embeddings [B, t, `output_dim`], `hop_size_in_ms` apart."""

    def __init__(self, source: str | None = None):
        super().__init__()
        self.heard = load_model(source or os.environ["AST_JAX_MODEL"])
        self.sampling_rate = self.heard.sample_rate
        self.output_dim = self.heard.timestamp_embedding_size
        model = self.heard.embedder.tagger.models[0]
        self.hop_size_in_ms = 1000 * model.front_end.seconds(model.model.time_steps[1])

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return get_timestamp_embeddings(audio.reshape(-1, audio.shape[-1]), self.heard)[0]
