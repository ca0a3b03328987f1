"""The PyTorch side of the weight tests: timm's models, the reference built from timm's blocks, random weights at std 0.2.

Imported by the tests that need it; torch and timm are imported inside, so that the others run without them.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from unittest import mock

import pytest


class _NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers any `import torchvision...` with a module of mocks: timm imports it for image datasets, which we leave alone."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: mock.MagicMock(name=name) if name[:2] != "__" else _missing(name)
        return module

    def exec_module(self, module):
        import torch

        module.FrozenBatchNorm2d = torch.nn.BatchNorm2d  # timm subclasses it


def _missing(name):
    raise AttributeError(name)


def timm():
    """timm, with torchvision's place taken where it is not installed; skips the test without timm or torch."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    if "timm" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        stand_in = _NoTorchvision()
        sys.meta_path.append(stand_in)
        import timm

        sys.meta_path.remove(stand_in)  # and gone again: transformers asks whether torchvision is there
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    import timm

    return timm
