"""The other implementations, with random weights and our model's shape. Each import is inside: what is absent is left out.

B batch, T frames, F mel bins, C classes.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from ast_jax.models import ASTConfig
from benchmarks.timm_alone import import_timm

PEERS = ("eager", "sdpa", "compiled", "timm")


def torch_ast(config: ASTConfig, name: str):
    """One of PEERS: transformers' AST with 'eager' or 'sdpa' attention, the latter 'compiled', or the published one by 'timm'.

    Raises ImportError where a library that it needs is absent.
    """
    if name == "timm":
        return timm_ast(config)
    if name == "compiled":
        return compiled(transformers_ast(config, "sdpa"))
    return transformers_ast(config, name)


def transformers_ast(config: ASTConfig, attention: str):
    """Hugging Face's `ASTForAudioClassification` at our model's shape. `attention`: 'eager' or 'sdpa'."""
    import transformers

    use_all_cores()
    shape = transformers.ASTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_width,
        patch_size=config.patch_shape[0],
        frequency_stride=config.strides[0],
        time_stride=config.strides[1],
        max_length=config.num_frames,
        num_mel_bins=config.num_mel_bins,
        num_labels=config.num_classes,
        attn_implementation=attention,
    )
    return transformers.ASTForAudioClassification(shape)


def timm_ast(config: ASTConfig):
    """The published implementation's model on today's timm: its distilled ViT with another patch projection and another grid of positions."""
    import torch

    use_all_cores()
    deit = import_timm().models.deit.VisionTransformerDistilled(
        img_size=(config.num_mel_bins, config.num_frames),
        patch_size=config.patch_shape,
        in_chans=1,
        num_classes=config.num_classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
    )
    deit.patch_embed.proj = torch.nn.Conv2d(1, config.width, config.patch_shape, config.strides)
    deit.pos_embed = torch.nn.Parameter(torch.zeros(1, config.num_tokens, config.width))

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.deit = deit

        def forward(self, x):
            return SimpleNamespace(logits=self.deit(x.transpose(1, 2)[:, None]))

    return Reference()


def compiled(model):
    """The model through torch.compile, for the one shape it will see: else a second batch size gets kernels for any."""
    import torch

    return torch.compile(model, dynamic=False)


def torch_inference(model, fbank: np.ndarray, *, steps: int = 1) -> Callable[[], object]:
    """A call that computes the logits of [B, T, F] `steps` times: float32 on CPU, bfloat16 autocast where there is CUDA."""
    import torch

    device = _device()
    x, model = torch.from_numpy(fbank).to(device), model.to(device).eval()

    def call():
        with torch.inference_mode(), _autocast():
            for _ in range(steps):
                logits = model(x).logits
        return float(logits.float().sum())

    return call


def torch_train_step(model, fbank: np.ndarray, labels: np.ndarray, *, steps: int = 1) -> Callable[[], object]:
    """A call that makes `steps` steps: forward, binary cross-entropy, backward, PyTorch's fused Adam."""
    import torch

    device = _device()
    x, y, model = (
        torch.from_numpy(fbank).to(device),
        torch.from_numpy(labels).to(device),
        model.to(device).train(),
    )
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-5, betas=(0.95, 0.999), weight_decay=5e-7, fused=True
    )

    def call():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _autocast():
                logits = model(x).logits
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return call


def use_all_cores() -> None:
    """PyTorch on as many threads as this process has cores; nothing where there is CUDA."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _autocast():
    import torch

    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.cuda.is_available())
