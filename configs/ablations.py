r"""The paper's ablations: what each choice is worth in mAP on AudioSet. One command runs a table's rows and
writes it.

  python -m ast_jax ablate --config=configs/ablations.py:strides --workdir=runs/ablations/strides
  launch/ablations.sh                                                                       # all five tables

Words: imagenet, vit, positions, strides or patches (the table); full (the full set where the
paper has figures for it; else the balanced one); builtin (two epochs of a tiny model on a few built-in
sounds: the command itself, proven in minutes) or esc10 (AST-small on the 5 folds of a set in ESC-50's
layout). Keys: row=NAME, one row of the table; weights=SRC, what builtin and esc10 use in the place of every
ImageNet ViT (default: none, from scratch).

Published figures are of weights averaged over epochs. A row costs what configs/audioset.py costs.
"""

import runpy
from pathlib import Path

from ast_jax.config import base, suffix_options
from ast_jax.errors import InputError

TABLES: dict[str, dict[str, dict[str, float]]] = {  # the paper's mAP, of the balanced and of the full set
    "imagenet": {"without": {"balanced": 0.148, "full": 0.366}, "with": {"balanced": 0.347, "full": 0.459}},
    "vit": {
        "vit_base": {"balanced": 0.320},
        "vit_large": {"balanced": 0.330},
        "deit": {"balanced": 0.330},
        "deit_distilled": {"balanced": 0.347},
    },
    "positions": {
        "reinit": {"balanced": 0.305},
        "nearest": {"balanced": 0.346},
        "bilinear": {"balanced": 0.347},
    },
    "strides": {
        "16": {"balanced": 0.336, "full": 0.451},
        "14": {"balanced": 0.342, "full": 0.456},
        "12": {"balanced": 0.344, "full": 0.455},
        "10": {"balanced": 0.347, "full": 0.459},
    },
    "patches": {  # mel bins x frames, without overlap, from scratch
        "128x2": {"balanced": 0.154},
        "16x16": {"balanced": 0.143},
        "32x32": {"balanced": 0.139},
    },
}
VITS = {
    "vit_base": "vit_base_patch16_384",
    "vit_large": "vit_large_patch16_384",
    "deit": "deit_base_patch16_384",
    "deit_distilled": "deit_base_distilled_patch16_384",
}


def get_config(suffix: str = ""):
    options = suffix_options(
        suffix, words=(*TABLES, "full", "builtin", "esc10"), keys={"row": "", "weights": ""}
    )
    chosen = [name for name in TABLES if options[name]] or ["imagenet"]
    table, row = chosen[0], options["row"] or list(TABLES[chosen[0]])[-1]
    if len(chosen) > 1 or row not in TABLES[table]:
        raise InputError(f"{suffix}: choose one table, and row= one of {', '.join(TABLES[table])}")
    audioset = runpy.run_path(str(Path(__file__).with_name("audioset.py")))["get_config"]
    config = audioset("" if options["full"] else "balanced")
    config.published = {}
    {"imagenet": _imagenet, "vit": _vit, "positions": _positions, "strides": _strides, "patches": _patches}[
        table
    ](config, row)
    if options["builtin"] or options["esc10"]:
        config = _shrunk(config, options["builtin"], options["weights"])
    return config


def _imagenet(config, row: str) -> None:
    config.init_from = config.init_from if row == "with" else ""


def _vit(config, row: str) -> None:
    config.init_from, config.model.distilled = VITS[row], row == "deit_distilled"
    if row == "vit_large":
        config.model.width, config.model.depth, config.model.num_heads = 1024, 24, 16


def _positions(config, row: str) -> None:
    config.init_positions = row


def _strides(config, row: str) -> None:
    config.model.strides = (int(row), int(row))


def _patches(config, row: str) -> None:
    shape = tuple(int(side) for side in row.split("x"))
    config.init_from, config.model.patch_shape, config.model.strides = "", shape, shape


def _shrunk(paper, builtin: bool, weights: str):
    """The row's model and start, on few clips."""
    config = base(**({"train_per_class": 12, "test_per_class": 8} if builtin else {}))
    for key in ("patch_shape", "strides", "distilled"):
        config.model[key] = paper.model[key]
    config.init_from = weights if paper.init_from else ""
    config.init_positions = paper.init_positions
    config.loss, config.metric, config.mixup = "bce", "mAP", 0.5
    config.num_frames, config.freq_mask, config.time_mask = 128, 24, 24
    config.epochs, config.average_epochs, config.batch_size = 2, (1, 2), 16
    config.model.variant = "small"
    if builtin:
        config.dataset.name, config.lr = "synthetic", 1e-3
        if not weights:
            config.model.width, config.model.depth, config.model.num_heads = 48, 2, 2
    else:
        config.dataset.name, config.lr = "esc50", 5e-5
        config.dataset.train, config.dataset.eval = ("fold2", "fold3", "fold4", "fold5"), ("fold1",)
    return config
