"""The PyTorch side of the tests of PaSST, CED and BEATs: the published class where a package has it, and the
others written from their facts, with the published names.

Imported by the tests that need it; skips them where a package is absent.
"""

import contextlib
import io

import numpy as np
import pytest
from weights_oracles import timm


def passt(*, frames: int = 200, stride: int = 10, distilled: bool = True, classes: int = 5):
    """hear21passt's class, 32 wide and 2 deep, with loud positions and head."""
    torch = pytest.importorskip("torch")
    timm()
    module = pytest.importorskip("hear21passt.models.passt")
    module.first_RUN = False
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.PaSST(
            img_size=(128, frames),
            stride=stride,
            num_classes=classes,
            embed_dim=32,
            depth=2,
            num_heads=2,
            distilled=distilled,
        )
    return _louder(model.eval(), torch, ("pos_embed", "head.1.weight", "blocks."), times=4.0)


def _louder(model, torch, words: tuple[str, ...], times: float = 10.0):
    """With parameters of these names `times` as large, and norms away from 1 and 0: so that each matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in words):
                parameter.mul_(times)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.fill_(-30.0)
                module.running_var.copy_(
                    torch.rand(module.running_var.shape, generator=generator) * 300 + 100
                )
    return model


def ced(*, frames: int = 200, classes: int = 5):
    """CED, 32 wide and 2 deep, around timm's blocks: decibels [B, mel, T] in, logits out."""
    torch = pytest.importorskip("torch")
    blocks = timm().models.vision_transformer
    from torch import nn

    torch.manual_seed(0)

    class CED(nn.Module):
        def __init__(self):
            super().__init__()
            # as published, between two rearrangements
            self.init_bn = nn.Sequential(nn.Identity(), nn.BatchNorm2d(64, momentum=0.01), nn.Identity())
            self.patch_embed = nn.Module()
            self.patch_embed.proj = nn.Conv2d(1, 32, 16, 16)
            self.time_pos_embed = nn.Parameter(torch.randn(1, 32, 1, frames // 16) * 0.02)
            self.freq_pos_embed = nn.Parameter(torch.randn(1, 32, 4, 1) * 0.02)
            norm = lambda size, **options: nn.LayerNorm(size, eps=1e-6, **options)
            self.blocks = nn.Sequential(
                *[blocks.Block(32, 2, qkv_bias=True, norm_layer=norm) for _ in range(2)]
            )
            self.norm = norm(32)
            self.outputlayer = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, classes))

        def forward(self, decibels):
            x = decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - 120)
            x = self.init_bn(x[:, :, None]).transpose(1, 2)
            x = self.patch_embed.proj(x)
            x = x + self.time_pos_embed[..., : x.shape[-1]] + self.freq_pos_embed
            x = self.norm(self.blocks(x.flatten(2).transpose(1, 2)))
            return self.outputlayer(x.mean(1))

    return _louder(CED().eval(), torch, ("pos_embed", "outputlayer.1.weight"))


EAT_CONFIG = {
    "model_type": "eat",
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 16,
    "stride": 16,
    "mel_bins": 128,
    "in_chans": 1,
    "layer_norm_first": False,
    "norm_eps": 1e-6,
    "fixed_positions": True,
    "img_size": [208, 128],
}


def eat(*, classes: int = 5):
    """EAT of EAT_CONFIG: normalised features [B, T, mel] in, logits out (all tokens without classes)."""
    torch = pytest.importorskip("torch")
    blocks = timm().models.vision_transformer
    from torch import nn

    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(32, eps=1e-6), nn.LayerNorm(32, eps=1e-6)
            self.attn = blocks.Attention(32, 2, qkv_bias=True)
            self.mlp = blocks.Mlp(32, 128)

        def forward(self, x):
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.mlp(x))

    class EAT(nn.Module):
        def __init__(self):
            super().__init__()
            self.local_encoder = nn.Module()
            self.local_encoder.proj = nn.Conv2d(1, 32, 16, 16)
            self.extra_tokens = nn.Parameter(torch.randn(1, 1, 32) * 0.02)
            self.fixed_positional_encoder = nn.Module()
            # more steps of time than the clip has
            places = torch.from_numpy(_waves(20, 8, 32))[None]
            self.fixed_positional_encoder.positions = nn.Parameter(places, requires_grad=False)
            self.pre_norm = nn.LayerNorm(32, eps=1e-6)
            self.blocks = nn.ModuleList([Block() for _ in range(2)])
            if classes:
                self.fc_norm, self.head = nn.LayerNorm(32), nn.Linear(32, classes)

        def forward(self, x):
            x = self.local_encoder.proj(x[:, None]).flatten(2).transpose(1, 2)
            x = x + self.fixed_positional_encoder.positions[:, : x.shape[1]]
            x = self.pre_norm(torch.cat([self.extra_tokens.expand(len(x), -1, -1), x], dim=1))
            for block in self.blocks:
                x = block(x)
            return self.head(self.fc_norm(x[:, 0])) if classes else x

    return _louder(EAT().eval(), torch, ("head.weight", "blocks."), times=4.0)


def _waves(steps: int, rows: int, width: int) -> np.ndarray:
    """Fixed positions, time-major: frequency's sines and cosines, then time's."""
    rates = 10_000.0 ** -(np.arange(width // 4) / (width / 4))
    wave = lambda place: np.concatenate([np.sin(place * rates), np.cos(place * rates)])
    made = [np.concatenate([wave(row), wave(step)]) for step in range(steps) for row in range(rows)]
    return np.array(made, np.float32)


BEATS_CONFIG = {
    "input_patch_size": 16,
    "embed_dim": 24,
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "deep_norm": True,
    "layer_norm_first": False,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "relative_position_embedding": True,
    "num_buckets": 32,
    "max_distance": 60,
    "gru_rel_pos": True,
    "activation_fn": "gelu",
}


def beats(*, classes: int = 5):
    """BEATs of BEATS_CONFIG: normalised features [B, T, mel] in, logits out (embeddings [B, N, D] without
    classes).
    """
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    width, heads, depth = 32, 4, 3

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(self, name, nn.Linear(width, width))
            self.grep_linear = nn.Linear(width // heads, 8)
            self.grep_a = nn.Parameter(torch.rand(1, heads, 1, 1) + 0.5)

        def forward(self, x, bias):
            apart = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)
            q, k, v = (apart(getattr(self, f"{name}_proj")(x)) for name in "qkv")
            gates = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid()
            gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1) + 2
            weights = (q @ k.transpose(2, 3) * (width // heads) ** -0.5 + gate * bias).softmax(-1)
            return self.out_proj((weights @ v).transpose(1, 2).flatten(2))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = Attention()
            self.self_attn_layer_norm = nn.LayerNorm(width)
            self.fc1, self.fc2 = nn.Linear(width, 48), nn.Linear(48, width)
            self.final_layer_norm = nn.LayerNorm(width)

        def forward(self, x, bias):
            larger = (2 * depth) ** 0.25
            x = self.self_attn_layer_norm(larger * x + self.self_attn(x, bias))
            return self.final_layer_norm(larger * x + self.fc2(functional.gelu(self.fc1(x))))

    class BEATs(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embedding = nn.Conv2d(1, 24, 16, 16, bias=False)
            self.layer_norm = nn.LayerNorm(24)
            self.post_extract_proj = nn.Linear(24, width)
            place = nn.Conv1d(width, width, 16, padding=8, groups=4)
            self.encoder = nn.Module()
            self.encoder.pos_conv = nn.Sequential(nn.utils.parametrizations.weight_norm(place, dim=2))
            self.encoder.layer_norm = nn.LayerNorm(width)
            self.encoder.layers = nn.ModuleList([Layer() for _ in range(depth)])
            shared = nn.Embedding(32, heads)
            for layer in self.encoder.layers:
                layer.self_attn.relative_attention_bias = shared
            if classes:
                self.predictor = nn.Linear(width, classes)

        def forward(self, x):
            patches = self.patch_embedding(x[:, None]).flatten(2).transpose(1, 2)
            x = self.post_extract_proj(self.layer_norm(patches))
            x = x + functional.gelu(self.encoder.pos_conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
            x = self.encoder.layer_norm(x)
            places = torch.arange(x.shape[1])
            numbers = _buckets(torch, places[None] - places[:, None], 32, 60)
            bias = self.encoder.layers[0].self_attn.relative_attention_bias(numbers).permute(2, 0, 1)
            for layer in self.encoder.layers:
                x = layer(x, bias)
            return self.predictor(x).mean(1) if classes else x

    model = _louder(BEATs().eval(), torch, ("pos_conv", "predictor.weight", "grep_linear"), times=4.0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        direction = model.encoder.pos_conv[0].parametrizations.weight.original1
        # so that sizes and directions are not the same thing
        direction.mul_(torch.rand(direction.shape[2], generator=generator) + 0.5)
    return model


def _buckets(torch, distance, count: int, most: int):
    """T5's numbers of signed distances."""
    half, near, size = count // 2, count // 4, distance.abs()
    far = near + (torch.log(size / near) / np.log(most / near) * (half - near)).long()
    step = torch.where(size < near, size, far.clamp(max=half - 1))
    return step + half * (distance > 0).long()


def save_beats(model, path, *, old_names: bool = True, **around) -> None:
    """As published: weight normalisation under its old names, the configuration beside the arrays."""
    import torch

    state = model.state_dict()
    if old_names:
        for i, part in enumerate("gv"):
            name = f"encoder.pos_conv.0.parametrizations.weight.original{i}"
            state[f"encoder.pos_conv.0.weight_{part}"] = state.pop(name)
    torch.save({"cfg": BEATS_CONFIG, "model": state, **around}, path)
