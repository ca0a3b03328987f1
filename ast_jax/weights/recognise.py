"""The door for checkpoints: a name, a file or a directory, recognised by what is in it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError
from ast_jax.tables import look_up
from ast_jax.weights import catalogue, families
from ast_jax.weights.files import read, read_arrays, read_json, read_weights
from ast_jax.weights.model_card import CARD
from ast_jax.weights.source import Source, our_source


def read_source(
    src: str | os.PathLike, *, which: str = "best", facts: Mapping[str, Any] | None = None
) -> Source:
    """Reads any checkpoint.

    Args:
        src: a file, a directory, or a name of the catalogue (fetched and cached).
        which: for a run of ours, its 'best', 'last' or 'average' weights.
        facts: what the file itself does not say and nobody can infer: `num_heads` of an unusual ViT;
            `strides`, `num_frames`, `num_mel_bins` of an unusual reference `.pth`; `inside`, which of several
            state dicts is meant, and `prefix`, what stands before its names. `asked` are fields that the
            model is to have: they are taken for the source's too where nothing else says. A file's own word
            comes first.

    Raises:
        InputError: nothing there, or what is there is damaged, unknown, incomplete or has too much; one line.
    """
    path, facts = Path(src), dict(facts or {})
    if not path.exists():
        return _from_catalogue(catalogue.find(str(src)), facts)
    if path.is_dir():
        return _read_directory(path, which, facts)
    arrays, card, notes, beside = read(path, inside=facts.get("inside"), prefix=facts.get("prefix"))
    if card and not any("." in key for key in arrays):
        return our_source(str(path), arrays, card)
    source = _read_state_dict(str(path), arrays, card, facts | {"beside": beside})
    source.notes[:0] = notes
    return source


def _from_catalogue(entry: catalogue.Entry, facts: dict) -> Source:
    """The entry's files, and of its facts those that files do not say."""
    source = read_source(catalogue.fetch(entry.name), facts=entry.facts | facts)
    source.where = entry.name
    if entry.multi_label is not None:
        if entry.mean is not None:
            source.mean, source.std = entry.mean, entry.std
        source.activation = "sigmoid" if entry.multi_label else "softmax"
        source.channels = entry.channels or source.channels
        source.label_names = source.label_names or entry.label_names()
        if entry.labels is not None:
            source.notes = []  # what was concluded from the file's shapes is known
    source.notes += entry.notes
    return source


def _read_directory(path: Path, which: str, facts: dict) -> Source:
    if families.runtime(path):
        raise InputError(f"{path} is an ONNX export, whose arrays are not read: take what it was made of")
    if (path / CARD).exists():
        card = read_json(path / CARD)
        if (path / "checkpoints").is_dir():
            from ast_jax.checkpoints import load_variables

            recipe = read_json(path / "config.json") if (path / "config.json").is_file() else {}
            return our_source(f"{path} ({which})", load_variables(path, which), card, loss=recipe.get("loss"))
        return our_source(str(path), read_arrays(path / "model.safetensors")[0], card)
    if not (path / "config.json").exists():
        raise InputError(
            f"{path} is no model directory: it has neither {CARD} (ours) nor config.json (Hugging Face)"
        )
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    arrays = read_weights(path)
    if kind in families.HUGGING_FACE:
        return look_up(families.HUGGING_FACE, kind, "layout")(path, config, arrays)
    # timm's directories
    if "architecture" in config and families.state_dict_reader(arrays):
        return _read_state_dict(str(path), arrays, None, facts)
    raise InputError(
        f"{path}: model_type {kind!r} is not read, wanted {', '.join(families.HUGGING_FACE)}, or a timm model"
    )


def _read_state_dict(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    reader = families.state_dict_reader(arrays)
    if reader is not None:
        return reader(where, arrays, card, facts)
    if any("embeddings.patch_embeddings." in key for key in arrays):
        raise InputError(
            f"{where} is a Hugging Face model's file: give its directory, for config.json is needed too"
        )
    if "patch_embed/kernel" in arrays:
        raise InputError(
            f"{where} has our parameters but no model card, so their shape is unknown: give the directory"
        )
    some = ", ".join(list(arrays)[:4])
    raise InputError(
        f"{where} is of no layout that is known: its keys are {some}, ... ({len(arrays)} in all)"
    )
