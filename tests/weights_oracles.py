"""The PyTorch side of the weight tests: timm's models, the reference of timm's blocks, random weights at std
0.2.

Imported by the tests that need it; torch and timm are imported inside, so that the others run without them.
"""

import importlib.util

import numpy as np
import pytest

from benchmarks.timm_alone import import_timm


def timm():
    """timm; skips the test without timm or torch."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return import_timm()


def our_params(
    width=24, depth=2, *, distilled=True, grid=(3, 4), patch=(4, 4), channels=1, classes=5, seed=0
):
    """Random parameters under our paths; without a head where `classes` is 0."""
    rng = np.random.default_rng(seed)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + distilled + grid[0] * grid[1], width),
        "patch_embed/kernel": (*patch, channels, width),
        "patch_embed/bias": (width,),
    }
    if distilled:
        shapes["dist_token"] = (1, 1, width)
    for i in range(depth):
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks/{i}/{name}/scale": (width,), f"blocks/{i}/{name}/bias": (width,)}
        for name, inputs, outputs in [
            ("attention/qkv", width, 3 * width),
            ("attention/proj", width, width),
            ("mlp/fc1", width, 4 * width),
            ("mlp/fc2", 4 * width, width),
        ]:
            shapes |= {f"blocks/{i}/{name}/kernel": (inputs, outputs), f"blocks/{i}/{name}/bias": (outputs,)}
    shapes |= {"norm/scale": (width,), "norm/bias": (width,)}
    if classes:
        shapes |= {"head_norm/scale": (width,), "head_norm/bias": (width,)}
        shapes |= {"head/kernel": (width, classes), "head/bias": (classes,)}
    return {path: rng.normal(0, 0.2, shape).astype(np.float32) for path, shape in shapes.items()}


def randomise(module, std=0.2, seed=0):
    """Every parameter drawn anew: at timm's own .02 a wrong layer would hardly show.

    Norm scales lie around 1.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            norm = ("norm" in name and name.endswith("weight")) or name == "mlp_head.0.weight"
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + norm)
    return module.eval()


def reference_model(
    *, width=32, depth=2, heads=2, classes=5, mel_bins=48, frames=64, strides=(10, 10), patch=16, seed=0
):
    """The published model's structure from timm's own blocks, its unused heads included."""
    import torch
    from torch import nn

    blocks = timm().models.vision_transformer

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            grid = (mel_bins - patch) // strides[0] + 1, (frames - patch) // strides[1] + 1
            self.v = v = nn.Module()
            v.cls_token, v.dist_token = (
                nn.Parameter(torch.zeros(1, 1, width)),
                nn.Parameter(torch.zeros(1, 1, width)),
            )
            v.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + 2, width))
            v.patch_embed = nn.Module()
            v.patch_embed.proj = nn.Conv2d(1, width, patch, stride=strides)

            def norm(size, **kwargs):  # newer timm names the device and type
                return nn.LayerNorm(size, eps=1e-6, **kwargs)

            v.blocks = nn.ModuleList(
                [blocks.Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)]
            )
            v.norm, v.head, v.head_dist = norm(width), nn.Linear(width, 1000), nn.Linear(width, 1000)
            self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

        def forward(self, x):
            """Normalised features [B, T, F] to logits."""
            v = self.v
            x = v.patch_embed.proj(x.unsqueeze(1).transpose(2, 3)).flatten(2).transpose(1, 2)
            tokens = [token.expand(len(x), -1, -1) for token in (v.cls_token, v.dist_token)]
            x = torch.cat([*tokens, x], dim=1) + v.pos_embed
            for block in v.blocks:
                x = block(x)
            x = v.norm(x)
            return self.mlp_head((x[:, 0] + x[:, 1]) / 2)

    return randomise(Reference(), seed=seed)


def hugging_face_model(*, seed=0, **changes):
    """A tiny transformers AST with random weights."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "num_mel_bins": 48,
        "max_length": 64,
        "num_labels": 5,
    }
    config = transformers.ASTConfig(**small | changes)
    return randomise(transformers.ASTForAudioClassification(config), seed=seed)


def save_hugging_face(model, directory, *, mean=-4.0, std=3.0, **changes):
    """As save_pretrained leaves it, feature extractor included."""
    import transformers

    model.save_pretrained(directory)
    config = model.config
    transformers.ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins, max_length=config.max_length, mean=mean, std=std, **changes
    ).save_pretrained(directory)
    return directory
