"""Any checkpoint of a ViT or an AST, recognised by what is in it: our parameters and the facts that come with them.

`read_source` is the door; one function a layout below it. Positions [1, P + f t, D] have P class and distillation tokens first.
"""

import dataclasses
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig
from ast_jax.weights import catalogue, layouts, published, torch_file

CARD = "model_card.json"  # beside our parameters, or inside their file
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}  # of the ViT family; a state dict does not say
_REFERENCE_GRIDS = {  # patches -> strides, frames: the published models, all of 128 mel bins and 16 x 16 patches
    1212: ((10, 10), 1024),
    850: ((12, 12), 1024),
    657: ((14, 14), 1024),
    512: ((16, 16), 1024),
    600: ((10, 10), 512),
    144: ((10, 10), 128),
}


@dataclasses.dataclass
class Source:
    """A checkpoint as read. `model` holds the ASTConfig fields under which `params` fit as they are.

    An image model is described as the AST it would be: its grid over image-sized "spectrograms", patches side by side,
    a kernel [p, p, 3, D] still in colour, no head.
    """

    where: str  # as the user named it
    layout: str
    image: bool  # an ImageNet ViT; else an AST
    params: dict[str, np.ndarray]
    model: dict[str, Any]
    label_names: list[str] | None = None
    mean: float | None = None
    std: float | None = None
    multi_label: bool | None = None
    channels: str = "mean"
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def config(self) -> ASTConfig:
        return ASTConfig(**self.model)

    @property
    def has_head(self) -> bool:
        return "head/kernel" in self.params

    def structure(self) -> dict[str, Any]:
        """What a model must share with this source to start from it, for building one that follows."""
        names = ("width", "depth", "num_heads", "mlp_ratio", "distilled", "norm_eps")
        return {name: self.model[name] for name in names if name in self.model}


def read_source(
    src: str | os.PathLike, *, which: str = "best", facts: Mapping[str, Any] | None = None
) -> Source:
    """Reads any checkpoint.

    Args:
        src: a file, a directory, or a name of the catalogue (fetched and cached).
        which: for a run of ours, its 'best', 'last' or 'average' weights.
        facts: what the file itself does not say and nobody can infer: `num_heads` of an unusual ViT;
            `strides`, `num_frames`, `num_mel_bins` of an unusual reference `.pth`. A file's own word comes first.

    Raises:
        InputError: nothing there, or what is there is damaged, unknown, incomplete or has too much; one line.
    """
    path, facts = Path(src), dict(facts or {})
    if not path.exists():
        entry = catalogue.find(str(src))
        source = read_source(catalogue.fetch(entry.name), facts=entry.facts | facts)
        source.where = entry.name
        for name in ("mean", "std", "multi_label", "channels"):
            if getattr(entry, name) is not None:
                setattr(source, name, getattr(entry, name))
        source.label_names = entry.label_names() or source.label_names
        return source
    if path.is_dir():
        return _read_directory(path, which, facts)
    arrays, card = read_arrays(path)
    return (
        _ours(str(path), arrays, card)
        if card and "patch_embed/kernel" in arrays
        else _state_dict(path, arrays, card, facts)
    )


# ---- Files


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The arrays of a `.npz`, safetensors or PyTorch file, whatever its name, and the model card inside, if any.

    Raises:
        InputError: it is none of these, or damaged.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:4] == b"PK\x03\x04" and _is_npz(path):
        return _read_npz(path)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        card = torch_file.read_extra(path, CARD) if start[:2] == b"PK" else None
        return _unwrap(torch_file.read(path), str(path)), json.loads(card) if card else None
    raise InputError(
        f"{path} is no checkpoint: it starts with {start[:4]!r}, wanted a PyTorch (.pth, .bin), safetensors or .npz file"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            card = (file.metadata() or {}).get(CARD)
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(card) if card else None  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file ({error}): fetch it again") from error


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again") from error


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:  # ValueError: an array of Python objects
        raise InputError(f"{path} cannot be read as a .npz file of plain arrays ({error})") from error
    card = arrays.pop(CARD, None)
    return arrays, json.loads(str(card)) if card is not None else None


def _unwrap(tree: Any, where: str) -> dict[str, Any]:
    """The state dict in what training scripts save around it (`{"model": ..., "epoch": ...}`)."""
    for _ in range(3):
        if isinstance(tree, dict) and any(isinstance(value, np.ndarray) for value in tree.values()):
            return {str(key): value for key, value in tree.items()}
        inner = [
            key
            for key in ("model", "state_dict", "model_state_dict")
            if isinstance(tree, dict) and key in tree
        ]
        if not inner:
            break
        tree = tree[inner[0]]
    held = (
        f"a dictionary of {', '.join(map(str, list(tree)[:5]))}"
        if isinstance(tree, dict)
        else type(tree).__name__
    )
    raise InputError(f"{where} holds {held}: wanted a state dict, alone or under 'model' or 'state_dict'")


# ---- State dicts: timm, Google, the reference


def _state_dict(path: Path, arrays: dict, card: dict | None, facts: dict) -> Source:
    where, arrays = str(path), layouts.without_wrappers(arrays)
    if "v.pos_embed" in arrays:
        return _reference(where, arrays, card, facts)
    if "patch_embed.proj.weight" in arrays:
        return _timm(where, arrays, facts)
    if any(key.endswith("embedding/kernel") for key in arrays):
        return _google(where, arrays)
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
        f"{where} is no ViT or AST that is known: its keys are {some}, ... ({len(arrays)} in all)"
    )


def _timm(where: str, arrays: dict, facts: dict, eps: float = 1e-6) -> Source:
    scaled = any(key.endswith("ls1.gamma") for key in arrays)
    arrays = layouts.fold_layer_scale(arrays, where=where)
    distilled = "dist_token" in arrays
    side = 0
    if "pos_embed" in arrays:
        arrays["pos_embed"], side = layouts.embed_all_tokens(arrays["pos_embed"], 1 + distilled, where=where)
    rows = layouts.timm(_depth(arrays, r"blocks\.(\d+)\."), distilled=distilled)
    unused = ("head.", "head_dist.", "pre_logits.", "mask_token")
    params = layouts.read(rows, arrays, where=where, unused=unused)
    notes = ["LayerScale folded into the projections before it"] if scaled else []
    return _image(where, "timm ViT", params, side, facts, eps, notes)


def _google(where: str, arrays: dict) -> Source:
    arrays = layouts.google_dialect(arrays)
    positions, query = "Transformer/posembed_input/pos_embedding", "MultiHeadDotProductAttention_1/query/bias"
    side, notes = 0, []
    if positions in arrays:
        if "cls" not in arrays:  # big_vision's mean-pooled models
            arrays["cls"] = np.zeros((1, 1, arrays[positions].shape[-1]), np.float32)
            notes.append("the source has no class token: it starts at zero")
        arrays[positions], side = layouts.embed_all_tokens(arrays[positions], 1, where=where)
    heads = {len(value) for key, value in arrays.items() if key.endswith(query)}
    if len(heads) != 1:
        raise InputError(
            f"{where}: {len(heads)} numbers of heads are named by its .../{query} arrays, wanted one"
        )
    rows = layouts.google(_depth(arrays, r"encoderblock_(\d+)/"), num_heads=min(heads))
    params = layouts.read(rows, arrays, where=where, unused=("head/", "pre_logits/", "MAPHead_0/"))
    return _image(where, "Google ViT", params, side, {"num_heads": min(heads)}, 1e-6, notes)


def _image(
    where: str, layout: str, params: dict, side: int, facts: dict, eps: float, notes: list[str]
) -> Source:
    """An ImageNet ViT of `side` x `side` patches as the AST it would be."""
    patch = params["patch_embed/kernel"].shape[:2]
    model = _shapes(where, params, facts) | {
        "patch_shape": patch,
        "strides": patch,
        "num_mel_bins": side * patch[0],
        "num_frames": side * patch[1],
        "norm_eps": eps,
    }
    return Source(where, layout, True, params, model, notes=notes)


def _reference(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    rows = layouts.reference(_depth(arrays, r"v\.blocks\.(\d+)\."), distilled=True)
    params = layouts.read(rows, arrays, where=where, unused=("v.head.", "v.head_dist."))
    if card:
        return _ours(where, params, card, layout="reference AST")
    classes, patches = params["head/bias"].size, params["pos_embed"].shape[1] - 2
    model = _shapes(where, params, facts) | {"num_classes": classes, "norm_eps": 1e-6, "head_norm_eps": 1e-5}
    model["patch_shape"] = patch = params["patch_embed/kernel"].shape[:2]
    model |= _reference_grid(where, patches, patch, facts)
    known = {
        527: (*published.AUDIOSET, True, published.audioset_labels()),
        50: (*published.ESC50, False, None),
    }
    known[35] = (*published.SPEECH_COMMANDS, False, published.speech_commands_labels())
    mean, std, multi_label, names = known.get(classes, (None, None, None, None))
    notes = [
        f"strides {model['strides']} and {model['num_frames']} frames concluded from its {patches} positions"
    ]
    if mean is not None:
        notes.append(f"normalisation and labels are those the reference uses for {classes} classes")
    return Source(where, "reference AST", False, params, model, names, mean, std, multi_label, "first", notes)


def _reference_grid(where: str, patches: int, patch: tuple[int, int], facts: dict) -> dict[str, Any]:
    """strides, num_frames and num_mel_bins: as stated, or those of the published model with so many patches."""
    mel_bins = facts.get("num_mel_bins", 128)
    if "strides" in facts:
        strides = tuple(facts["strides"])
        frames = (patches // ((mel_bins - patch[0]) // strides[0] + 1) - 1) * strides[1] + patch[1]
    elif patches in _REFERENCE_GRIDS and patch == (16, 16) and mel_bins == 128:
        strides, frames = _REFERENCE_GRIDS[patches]
    else:
        raise InputError(
            f"{where} has {patches} positions, which no published AST has, and does not say its strides: give the "
            "strides (frequency, time) and the number of frames it was trained with"
        )
    return {"strides": strides, "num_frames": facts.get("num_frames", frames), "num_mel_bins": mel_bins}


def _shapes(where: str, params: Mapping[str, np.ndarray], facts: dict) -> dict[str, Any]:
    width, hidden = params["blocks/0/mlp/fc1/kernel"].shape
    if hidden % width:
        raise InputError(
            f"{where}: the MLP is {hidden} wide, no multiple of the model's {width}: such models are not offered"
        )
    heads = facts.get("num_heads", _HEADS.get(width))
    if heads is None:
        raise InputError(f"{where} is {width} wide and does not say its number of heads: give num_heads")
    return {
        "width": width,
        "depth": _depth(params, r"blocks/(\d+)/"),
        "num_heads": heads,
        "mlp_ratio": hidden // width,
        "distilled": "dist_token" in params,
    }


def _depth(arrays: Mapping[str, Any], pattern: str) -> int:
    """Blocks by the highest number; one that is missing below it shows as unfilled."""
    return max([int(found[1]) + 1 for key in arrays if (found := re.search(pattern, key))], default=1)


# ---- Directories: runs, our converted models, Hugging Face, timm's hub


def _read_directory(path: Path, which: str, facts: dict) -> Source:
    if (path / CARD).exists():
        card = read_json(path / CARD)
        if (path / "checkpoints").is_dir():
            from ast_jax.checkpoints import load_params

            return _ours(f"{path} ({which})", dict(load_params(path, which)), card)
        return _ours(str(path), read_arrays(path / "model.safetensors")[0], card)
    if not (path / "config.json").exists():
        raise InputError(
            f"{path} is no model directory: it has neither {CARD} (ours) nor config.json (Hugging Face)"
        )
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    arrays = _directory_arrays(path)
    if kind == "audio-spectrogram-transformer":
        return _hugging_face_ast(path, config, arrays)
    if kind in ("vit", "deit"):
        return _hugging_face_vit(path, config, arrays)
    if "architecture" in config and "patch_embed.proj.weight" in arrays:
        return _timm(str(path), arrays, facts)
    raise InputError(
        f"{path}: model_type {kind!r} is not read, wanted audio-spectrogram-transformer, vit or deit"
    )


def _directory_arrays(path: Path) -> dict[str, Any]:
    """The parameters of a Hugging Face directory: one file, or the shards that an index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists():
            return read_arrays(path / name)[0]
        if (path / f"{name}.index.json").exists():
            shards = sorted(set(read_json(path / f"{name}.index.json").get("weight_map", {}).values()))
            arrays: dict[str, Any] = {}
            for shard in shards:
                arrays |= read_arrays(path / Path(shard).name)[0]
            return arrays
    raise InputError(
        f"{path} has a config.json but no weights: wanted model.safetensors or pytorch_model.bin"
    )


def _hugging_face_ast(path: Path, config: dict, arrays: dict) -> Source:
    where = str(path)
    model = _hugging_face_shapes(where, config) | {
        "patch_shape": (_get(config, "patch_size", where),) * 2,
        "strides": (_get(config, "frequency_stride", where), _get(config, "time_stride", where)),
        "num_frames": _get(config, "max_length", where),
        "num_mel_bins": _get(config, "num_mel_bins", where),
        "distilled": True,
        "head_norm_eps": _get(config, "layer_norm_eps", where),
    }
    arrays = layouts.hugging_face_dialect(
        arrays, base=layouts.HUGGING_FACE_AST, qkv_bias=config.get("qkv_bias", True)
    )
    headless = config.get("architectures") == ["ASTModel"]
    table = (
        layouts.hugging_face(model["depth"], distilled=True)
        if headless
        else layouts.hugging_face_ast(model["depth"], prefix="")
    )
    params = layouts.read(table, arrays, where=where)
    names = None
    if not headless:
        model["num_classes"] = params["head/bias"].size
        names = _label_names(where, config, model["num_classes"])
    _check(where, model, params)
    mean, std, notes = _preprocessor(path)
    multi_label = config.get("problem_type") == "multi_label_classification"
    if config.get("problem_type") is None and model.get("num_classes") == 527:
        multi_label = True
        notes.append(
            "config.json names no problem_type: taken as multi-label, for AudioSet's 527 classes are"
        )
    return Source(
        where, "Hugging Face AST", False, params, model, names, mean, std, multi_label, "mean", notes
    )


def _hugging_face_vit(path: Path, config: dict, arrays: dict) -> Source:
    where = str(path)
    model = _hugging_face_shapes(where, config)
    base = f"{config['model_type']}."
    arrays = layouts.hugging_face_dialect(arrays, base=base, qkv_bias=config.get("qkv_bias", True))
    distilled = "embeddings.distillation_token" in arrays
    side, positions = 0, "embeddings.position_embeddings"
    if positions in arrays:
        arrays[positions], side = layouts.embed_all_tokens(arrays[positions], 1 + distilled, where=where)
    unused = (
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
        "pooler.",
        "embeddings.mask_token",
        "decoder.",
    )
    rows = layouts.hugging_face(model["depth"], distilled=distilled)
    params = layouts.read(rows, arrays, where=where, unused=unused)
    name = "Hugging Face DeiT" if base == "deit." else "Hugging Face ViT"
    source = _image(where, name, params, side, {"num_heads": model["num_heads"]}, model["norm_eps"], [])
    _check(where, model | {"distilled": distilled}, params)
    return source


def _hugging_face_shapes(where: str, config: dict) -> dict[str, Any]:
    width, hidden = _get(config, "hidden_size", where), _get(config, "intermediate_size", where)
    heads = _get(config, "num_attention_heads", where)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(
            f"{where}: hidden_act {config['hidden_act']!r} is another function than ours, the exact 'gelu'"
        )
    if hidden % width or config.get("head_dim", width // heads) != width // heads:
        raise InputError(
            f"{where}: intermediate_size {hidden} or head_dim does not go with hidden_size {width}"
        )
    return {
        "width": width,
        "depth": _get(config, "num_hidden_layers", where),
        "num_heads": heads,
        "mlp_ratio": hidden // width,
        "norm_eps": _get(config, "layer_norm_eps", where),
    }


def _preprocessor(path: Path) -> tuple[float, float, list[str]]:
    """mean and std of preprocessor_config.json; the feature extractor's own defaults, AudioSet's, where it is silent."""
    if not (path / "preprocessor_config.json").exists():
        return *published.AUDIOSET, [
            "no preprocessor_config.json: normalised by AudioSet's mean and std, transformers' default"
        ]
    config = read_json(path / "preprocessor_config.json")
    if not config.get("do_normalize", True):
        return 0.0, 0.5, []  # (x - 0) / (2 x 0.5): as it is
    return (
        float(config.get("mean", published.AUDIOSET[0])),
        float(config.get("std", published.AUDIOSET[1])),
        [],
    )


def _label_names(where: str, config: dict, num_classes: int) -> list[str] | None:
    names = config.get("id2label")
    if names is None:
        return None
    if sorted(names, key=int) != [str(i) for i in range(num_classes)]:
        raise InputError(f"{where}: id2label names {len(names)} classes, the head has {num_classes}")
    return [str(names[str(i)]) for i in range(num_classes)]


def _ours(where: str, params: Mapping[str, Any], card: dict, layout: str = "ast_jax") -> Source:
    """Our parameters under our paths, with their card."""
    model = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in _get(card, "model", where).items()
    }
    unknown = model.keys() - {field.name for field in dataclasses.fields(ASTConfig)}
    if unknown:
        raise InputError(
            f"{where}: its model card has unknown fields {', '.join(sorted(unknown))}: a newer version's?"
        )
    rows = layouts.ours(model["depth"], distilled=model["distilled"])
    params = layouts.read(rows, params, where=where)
    _check(where, model, params)
    facts = {name: card.get(name) for name in ("label_names", "mean", "std", "multi_label")}
    return Source(where, layout, False, params, model, channels=card.get("channels", "mean"), **facts)


def _check(where: str, model: dict, params: Mapping[str, np.ndarray]) -> None:
    """What the configuration says against what the arrays are."""
    found = {
        "width": params["norm/scale"].size,
        "mlp_ratio": params["blocks/0/mlp/fc1/bias"].size / params["norm/scale"].size,
    }
    if "num_frames" in model:
        found["num_tokens"] = params["pos_embed"].shape[1]
        found["patch_shape"] = params["patch_embed/kernel"].shape[:2]
        found["num_classes"] = params["head/bias"].size if "head/bias" in params else model.get("num_classes")
        model = model | {"num_tokens": ASTConfig(**model).num_tokens}
    wrong = [
        f"{key} {value} where its config says {model[key]}"
        for key, value in found.items()
        if key in model and model[key] != value
    ]
    if wrong:
        raise InputError(f"{where} does not fit its config: the arrays have {', '.join(wrong)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, wanted a JSON object")
    return value


def _get(config: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in config:
        raise InputError(f"{where}: its config lacks {key}")
    return config[key]
