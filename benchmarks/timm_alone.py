"""timm without torchvision, which it imports for the image data sets that nobody here uses: its CPU builds
are not on the plain index.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from unittest import mock


def import_timm():
    """timm, with torchvision's place taken while it is imported if that is not installed.

    Raises ImportError where timm or torch is not.
    """
    if "timm" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        stand_in = _NoTorchvision()
        sys.meta_path.append(stand_in)
        try:
            import timm
        finally:  # gone again: transformers asks whether torchvision is there
            sys.meta_path.remove(stand_in)
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    import timm

    return timm


class _NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers any `import torchvision...` with a module of mocks."""

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
