"""The other implementations, with random weights and our model's shape.

B batch, T frames, F mel bins, C classes. Each import is inside: what is absent is left out.
"""

import contextlib
import os
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from ast_jax.models import ASTConfig
from benchmarks.timm_alone import import_timm

PEERS = ("eager", "sdpa", "compiled", "timm")
# PyTorch's fused attention. Its plain form, which writes every score to memory, is refused on CUDA.
FUSED = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")


def torch_ast(config: ASTConfig, name: str):
    """One of PEERS, or 'timm compiled': transformers' AST with 'eager' or 'sdpa' attention, the latter
    'compiled', or the published one by 'timm'.

    Raises ImportError where a library that it needs is absent.
    """
    model = timm_ast(config) if name.startswith("timm") else transformers_ast(config, name)
    return compiled(model) if name.endswith("compiled") else model


def transformers_ast(config: ASTConfig, attention: str):
    """Hugging Face's `ASTForAudioClassification` at our model's shape.

    `attention`: 'eager', 'sdpa' or 'compiled'. Under torch.compile transformers 5 gives its SDPA a mask of
    ones, with which PyTorch takes no flash kernel and writes the scores in float32. For 'compiled' it is left
    out.
    """
    import transformers

    use_all_cores()
    if attention == "compiled":
        attention = "unmasked"
        transformers.AttentionInterface.register(attention, _unmasked)
    shape = transformers.ASTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.hidden_width,
        patch_size=config.patch_shape[0],
        frequency_stride=config.strides[0],
        time_stride=config.strides[1],
        max_length=config.num_frames,
        num_mel_bins=config.num_mel_bins,
        num_labels=config.num_classes,
        attn_implementation=attention,
    )
    return transformers.ASTForAudioClassification(shape)


def _unmasked(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """What transformers' own 'sdpa' does where no mask is needed: [B, H, N, K] each to [B, N, H, K]."""
    import torch

    sdpa = torch.nn.functional.scaled_dot_product_attention
    return sdpa(query, key, value, dropout_p=dropout, scale=scaling).transpose(1, 2).contiguous(), None


def timm_ast(config: ASTConfig):
    """The published implementation's model on today's timm.

    Its distilled ViT with another patch projection and another grid of positions.
    """
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
    """The model through torch.compile, for one shape: else a second batch size gets kernels for any."""
    import torch

    return torch.compile(model, dynamic=False)


def torch_inference(
    model, fbank: np.ndarray, *, steps: int = 1, backends: tuple[str, ...] = FUSED
) -> Callable[[], object]:
    """A call that computes the logits of [B, T, F] `steps` times.

    float32 on CPU, bfloat16 autocast where there is CUDA, with the first of `backends` that can run.
    """
    import torch

    device = _device()
    x, model = torch.from_numpy(fbank).to(device), model.to(device).eval()

    def call():
        with torch.inference_mode(), _autocast(), _fused(backends):
            for _ in range(steps):
                logits = model(x).logits
        return float(logits.float().sum())

    return call


def torch_train_step(
    model, fbank: np.ndarray, labels: np.ndarray, *, steps: int = 1, backends: tuple[str, ...] = FUSED
) -> Callable[[], object]:
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
            with _autocast(), _fused(backends):
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


def _fused(backends: tuple[str, ...]):
    """Attention by the first of `backends` that can run, and by no plain form; nothing without CUDA."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not torch.cuda.is_available():
        return contextlib.nullcontext()
    return sdpa_kernel([getattr(SDPBackend, name) for name in backends], set_priority=True)


def attention_times(shape: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds of PyTorch's fused kernels, both ways, for bfloat16 [B, H, N, K], the fastest first.

    Empty where there is no CUDA; a kernel that cannot run is left out.
    """
    import torch
    from torch.utils.benchmark import Timer

    found = {}
    for name in FUSED if torch.cuda.is_available() else ():
        q, k, v = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
        )

        def both(q=q, k=k, v=v, name=name):
            with _fused((name,)):
                out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            torch.autograd.grad(out, (q, k, v), q)

        with contextlib.suppress(RuntimeError):
            both()
            found[name] = 1e3 * Timer("both()", globals={"both": both}).timeit(20).median
    return dict(sorted(found.items(), key=lambda item: item[1]))
