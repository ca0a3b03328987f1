"""The PyTorch side of the tests of PANNs and PSLA: published classes where a package has them, and the rest
of those systems written from their facts around the packages' blocks.

Imported by the tests that need it; skips them where a package is absent. And models of ours with random
arrays.
"""

import importlib.util
import sys
import types

import numpy as np
import pytest

from ast_jax.models import abstract, family, variables
from ast_jax.weights.pretrained import filled


def _package(name: str):
    """A package without running its __init__, which for panns_inference fetches files."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"{name} is not installed")
    bare = types.ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = bare


def panns():
    """panns_inference.models: the published CNN14 and CNN14_DecisionLevelMax, and their blocks."""
    pytest.importorskip("torch")
    _package("panns_inference")
    pytest.importorskip("torchlibrosa")
    import panns_inference.models

    return panns_inference.models


# samples of a frame, samples between frames, highest frequency
RATES = {32_000: (1024, 320, 14_000), 16_000: (512, 160, 8_000)}


def panns_model(name: str, *, classes: int = 5, rate_hz: int = 32_000, channels=(4, 8, 8, 16, 16, 32)):
    """A PANN of these widths: as published, its convolutions narrowed."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    models = panns()
    length, shift, high = RATES[rate_hz]
    kind = models.Cnn14_DecisionLevelMax if "decision" in name else models.Cnn14
    model = kind(rate_hz, length, shift, 64, 50, high, classes)
    if name in ("cnn6", "cnn10"):
        channels = channels[:4]
        model.conv_block5 = model.conv_block6 = None
        model.forward = types.MethodType(_forward_of_four, model)
    for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), start=1):
        block = _Block5x5(inputs, outputs) if name == "cnn6" else models.ConvBlock(inputs, outputs)
        setattr(model, f"conv_block{i}", block)
    width = channels[-1]
    model.fc1 = nn.Linear(width, width)
    if name == "cnn14_decision_att":
        model.fc_audioset = None
        model.att_block = _Attention(width, classes)
        model.forward = types.MethodType(_forward_of_attention, model)
    else:
        model.fc_audioset = nn.Linear(width, classes)
    if name == "wavegram_logmel_cnn14":
        _add_wavegram(model, models.ConvBlock, channels)
    if hasattr(model, "spec_augmenter"):
        model.spec_augmenter = nn.Identity()
    return randomised(model, torch.randn(4, 80_000) * torch.tensor([[0.01], [0.1], [0.3], [1.0]]))


def randomised(model, sample, seed: int = 0):
    """Norms away from 1 and 0, running statistics of a sample, so that layers matter; and loud heads."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3)):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        for name, parameter in model.named_parameters():
            if name.startswith(
                ("fc_audioset", "att_block.att", "att_block.cla", "attention.att", "attention.cla")
            ):
                parameter.mul_(4)
        # A mean over one batch of all that the norms see.
        momenta = {m: m.momentum for m in model.modules() if hasattr(m, "momentum")}
        for module in momenta:
            module.momentum = 1.0
        model.train()(sample)
        for module, momentum in momenta.items():
            module.momentum = momentum
    return model.eval()


def _log_mel(model, waveform):
    x = model.logmel_extractor(model.spectrogram_extractor(waveform))
    return model.bn0(x.transpose(1, 3)).transpose(1, 3)


def _forward_of_four(self, waveform):
    """CNN6 and CNN10: four blocks, all pooled."""
    import torch

    x = _log_mel(self, waveform)
    for block in (self.conv_block1, self.conv_block2, self.conv_block3, self.conv_block4):
        x = block(x, pool_size=(2, 2), pool_type="avg")
    x = x.mean(dim=3)
    embedding = torch.relu(self.fc1(x.max(dim=2).values + x.mean(dim=2)))
    return {"clipwise_output": torch.sigmoid(self.fc_audioset(embedding)), "embedding": embedding}


def _Block5x5(inputs: int, outputs: int):
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)

        def forward(self, x, pool_size, pool_type):
            return functional.avg_pool2d(functional.relu(self.bn1(self.conv1(x))), pool_size)

    return Block()


def _add_wavegram(model, ConvBlock, channels):
    """Wavegram-Logmel-CNN14's other branch, and its forward pass."""
    from torch import nn
    from torch.nn import functional

    class TimeBlock(nn.Module):
        def __init__(self, inputs: int, outputs: int):
            super().__init__()
            self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)
            self.conv2 = nn.Conv1d(outputs, outputs, 3, dilation=2, padding=2, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm1d(outputs), nn.BatchNorm1d(outputs)

        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            return functional.max_pool1d(functional.relu(self.bn2(self.conv2(x))), 4)

    def forward(self, waveform):
        wave = functional.relu(self.pre_bn0(self.pre_conv0(waveform[:, None])))
        wave = self.pre_block3(self.pre_block2(self.pre_block1(wave)))
        wave = wave.unflatten(1, (4, 32)).transpose(2, 3)
        wave = self.pre_block4(wave, pool_size=(2, 1), pool_type="avg")
        x = self.conv_block1(_log_mel(self, waveform), pool_size=(2, 2), pool_type="avg")
        x = torch.cat([x, wave], dim=1)
        for i in range(2, 7):
            x = getattr(self, f"conv_block{i}")(x, pool_size=(2, 2) if i < 6 else (1, 1), pool_type="avg")
        x = x.mean(dim=3)
        embedding = torch.relu(self.fc1(x.max(dim=2).values + x.mean(dim=2)))
        return {"clipwise_output": torch.sigmoid(self.fc_audioset(embedding)), "embedding": embedding}

    import torch

    model.pre_conv0, model.pre_bn0 = nn.Conv1d(1, 64, 11, 5, 5, bias=False), nn.BatchNorm1d(64)
    for i, (inputs, outputs) in enumerate([(64, 64), (64, 128), (128, 128)], start=1):
        setattr(model, f"pre_block{i}", TimeBlock(inputs, outputs))
    model.pre_block4 = ConvBlock(4, channels[0])
    model.conv_block2 = ConvBlock(2 * channels[0], channels[1])
    model.forward = types.MethodType(forward, model)


def _Attention(width: int, classes: int):
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.att, self.cla = nn.Conv1d(width, classes, 1), nn.Conv1d(width, classes, 1)
            self.bn_att = nn.BatchNorm1d(classes)

    return Attention()


def _forward_of_attention(self, waveform):
    """CNN14_DecisionLevelAtt."""
    import torch
    from torch.nn import functional

    x = _log_mel(self, waveform)
    for i in range(1, 7):
        x = getattr(self, f"conv_block{i}")(x, pool_size=(2, 2) if i < 6 else (1, 1), pool_type="avg")
    x = x.mean(dim=3)
    x = functional.max_pool1d(x, 3, 1, 1) + functional.avg_pool1d(x, 3, 1, 1)
    x = torch.relu(self.fc1(x.transpose(1, 2))).transpose(1, 2)
    weights = torch.softmax(self.att_block.att(x).clamp(-10, 10), dim=-1)
    scores = torch.sigmoid(self.att_block.cla(x))
    by_frame = torch.repeat_interleave(scores.transpose(1, 2), 32, dim=1)
    return {"clipwise_output": (weights * scores).sum(dim=2), "framewise_output": by_frame}


def efficientnet(scale, *, colours: int = 1):
    """efficientnet_pytorch's net of that width, depth and image size."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("efficientnet_pytorch") is None:
        pytest.skip("efficientnet_pytorch is not installed")
    from efficientnet_pytorch import EfficientNet
    from efficientnet_pytorch.utils import efficientnet as parameters

    blocks, shared = parameters(
        width_coefficient=scale.width, depth_coefficient=scale.depth, image_size=scale.image
    )
    net = EfficientNet(blocks, shared)
    net._change_in_channels(colours)
    return net


def psla_model(scale, *, classes: int = 5):
    """PSLA: the net without its own head, four heads of attention over the mean of the frequencies."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            pointwise = lambda: nn.ModuleList([nn.Conv2d(width, classes, 1) for _ in range(4)])
            self.att, self.cla = pointwise(), pointwise()
            self.head_weight = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.35]))

        def forward(self, x):
            total = 0
            for attend, classify, weight in zip(self.att, self.cla, self.head_weight, strict=True):
                shares = torch.sigmoid(attend(x)).clamp(1e-7, 1 - 1e-7)[..., 0]
                shares = shares / shares.sum(dim=2, keepdim=True)
                total = total + weight * (shares * torch.sigmoid(classify(x))[..., 0]).sum(dim=2)
            return total

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.effnet = efficientnet(scale)
            self.attention = Heads(self.effnet._conv_head.out_channels)

        def forward(self, fbank):
            x = self.effnet.extract_features(fbank[:, None].transpose(2, 3))
            return self.attention(x.mean(dim=2)[..., None])

    return randomised(Model(), torch.randn(4, 96, 128))


def saved(model, path, **around) -> None:
    """As a training script of PSLA (a bare state dict) or, with words, of PANNs saves it."""
    import torch

    torch.save({"model": model.state_dict(), **around} if around else model.state_dict(), path)


def logit(score) -> np.ndarray:
    """Of a score as torch has it, in float64."""
    score = np.asarray(score.detach(), np.float64)
    return np.log(score) - np.log1p(-score)


def vggish_model(channels=(4, 8, 8, 16), width: int = 32):
    """torchvggish's class of these widths, without an activation after its last layer, as TensorFlow's."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    first, second, third, fourth = channels
    layers, inputs = [], 1
    for outputs in (first, "M", second, "M", third, third, "M", fourth, fourth, "M"):
        if outputs == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        inputs = outputs

    class VGGish(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*layers)
            sizes = (nn.Linear(fourth * 24, width), nn.Linear(width, width), nn.Linear(width, 128))
            self.embeddings = nn.Sequential(sizes[0], nn.ReLU(), sizes[1], nn.ReLU(), sizes[2])

        def forward(self, patches):
            """[N, 96, 64] to [N, 128]; channels come last before they are laid flat."""
            x = self.features(patches[:, None]).permute(0, 2, 3, 1)
            return self.embeddings(x.reshape(len(x), -1))

    return VGGish()


def vggish_perceptron(classes: int, hidden: int):
    """The published classifier: what stands on the embeddings, [B, P, 128] to scores [B, classes]."""
    import torch
    from torch import nn

    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = (128, hidden, hidden, hidden)
            self.norm = nn.BatchNorm1d(128)
            self.layers = nn.ModuleList([nn.Linear(*sizes[i : i + 2], bias=False) for i in range(3)])
            self.norms = nn.ModuleList([nn.BatchNorm1d(hidden) for _ in range(3)])
            self.head = nn.Linear(hidden, classes)

        def forward(self, x):
            x = self.norm(x.transpose(1, 2))
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = torch.relu(norm(layer(x.transpose(1, 2)).transpose(1, 2)))
            return torch.sigmoid(self.head(x.transpose(1, 2))).mean(dim=1)

    return Perceptron()


def random_model(name: str, **fields):
    """Ours, with fields of its Config; drawn by NumPy, since jax compiles a program for each shape."""
    config, rng = family(name).Config(**fields), np.random.default_rng(0)
    arrays = {}
    for path, value in variables(abstract(name, config)).items():
        inputs = max(1, int(np.prod(value.shape[:-1])))
        drawn = rng.normal(0, (2 / inputs) ** 0.5 if path.endswith("kernel") else 0.1, value.shape)
        centre = {"scale": 1.0, "var": 1.0, "weights": 0.25}.get(path.rpartition("/")[2])
        arrays[path] = (drawn if centre is None else np.abs(centre + drawn)).astype(np.float32)
    return filled(name, config, arrays)
