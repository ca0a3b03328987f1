"""Hugging Face directories: AST, ViT and DeiT. Their config's word is taken, and held against the arrays."""

from pathlib import Path
from typing import Any

from ast_jax.errors import InputError
from ast_jax.features import spec
from ast_jax.models.ast import MOST_BLOCKS
from ast_jax.weights import published, vit_layout
from ast_jax.weights.files import read_json
from ast_jax.weights.model_card import get
from ast_jax.weights.source import Source, unlike
from ast_jax.weights.vit_files import check, image_source

# of a size that a config claims; what the arrays hold is compared later
_MOST = 1_000_000


def read_ast(path: Path, config: dict, arrays: dict) -> Source:
    """transformers' ASTForAudioClassification, or ASTModel, which has no head."""
    where = str(path)
    model = _shapes(where, config) | {
        "patch_shape": (get(config, "patch_size", where, most=_MOST),) * 2,
        "strides": (
            get(config, "frequency_stride", where, most=_MOST),
            get(config, "time_stride", where, most=_MOST),
        ),
        "num_frames": get(config, "max_length", where, most=_MOST),
        "num_mel_bins": get(config, "num_mel_bins", where, most=_MOST),
        "distilled": True,
        "head_norm_eps": get(config, "layer_norm_eps", where, float),
    }
    arrays = vit_layout.hugging_face_dialect(
        arrays, base=vit_layout.HUGGING_FACE_AST, qkv_bias=config.get("qkv_bias", True)
    )
    headless = config.get("architectures") == ["ASTModel"]
    table = (
        vit_layout.hugging_face(model["depth"], distilled=True)
        if headless
        else vit_layout.hugging_face_ast(model["depth"], prefix="")
    )
    params = vit_layout.read(table, arrays, where=where)
    names = None
    if not headless:
        model["num_classes"] = params["head/bias"].size
        names = label_names(where, config, model["num_classes"])
    check(where, model, params)
    mean, std, notes = _preprocessor(path, model)
    kinds = {
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
        None: "softmax",
    }
    problem = config.get("problem_type")
    if problem not in kinds:
        raise InputError(f"{where}: problem_type {problem!r} gives no scores of classes: taggers are read")
    activation = kinds[problem]
    if problem is None and model.get("num_classes") == 527:
        activation = "sigmoid"
        notes.append(
            "config.json names no problem_type: taken as multi-label, for AudioSet's 527 classes are"
        )
    return Source(
        where,
        "Hugging Face AST",
        False,
        params,
        model,
        names,
        mean,
        std,
        activation,
        notes=notes,
        has_head=not headless,
    )


def read_vit(path: Path, config: dict, arrays: dict) -> Source:
    """transformers' ViT and DeiT, whatever heads they carry."""
    where = str(path)
    model = _shapes(where, config)
    base = f"{config['model_type']}."
    arrays = vit_layout.hugging_face_dialect(arrays, base=base, qkv_bias=config.get("qkv_bias", True))
    distilled = "embeddings.distillation_token" in arrays
    side, positions = 0, "embeddings.position_embeddings"
    if positions in arrays:
        arrays[positions], side = vit_layout.embed_all_tokens(arrays[positions], 1 + distilled, where=where)
    unused = (
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
        "pooler.",
        "embeddings.mask_token",
        "decoder.",
    )
    rows = vit_layout.hugging_face(model["depth"], distilled=distilled)
    params = vit_layout.read(rows, arrays, where=where, unused=unused)
    name = "Hugging Face DeiT" if base == "deit." else "Hugging Face ViT"
    source = image_source(where, name, params, side, {"num_heads": model["num_heads"]}, model["norm_eps"], [])
    check(where, model | {"distilled": distilled}, params)
    return source


def _shapes(where: str, config: dict) -> dict[str, Any]:
    """What both kinds of config say alike."""
    width, hidden = (
        get(config, "hidden_size", where, most=_MOST),
        get(config, "intermediate_size", where, most=_MOST),
    )
    heads = get(config, "num_attention_heads", where, most=_MOST)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(
            f"{where}: hidden_act {config['hidden_act']!r} is another function than ours, the exact 'gelu'"
        )
    if config.get("head_dim", width // heads) != width // heads:
        raise InputError(f"{where}: head_dim {config['head_dim']} does not go with hidden_size {width}")
    return {
        "width": width,
        "depth": get(config, "num_hidden_layers", where, most=MOST_BLOCKS),
        "num_heads": heads,
        "mlp_width": hidden,
        "norm_eps": get(config, "layer_norm_eps", where, float),
    }


def _preprocessor(path: Path, model: dict[str, Any]) -> tuple[float | None, float | None, list[str]]:
    """mean and std of preprocessor_config.json; the feature extractor's own defaults, AudioSet's, where it is
    silent, and None where it says null.

    Raises InputError for features that are others than this front end's.
    """
    if not (path / "preprocessor_config.json").exists():
        return *published.AUDIOSET, [
            "no preprocessor_config.json: normalised by AudioSet's mean and std, transformers' default"
        ]
    config = read_json(path / "preprocessor_config.json")
    fixed = {
        "feature_extractor_type": ("ASTFeatureExtractor",),
        "sampling_rate": (spec.SAMPLE_RATE,),
        "feature_size": (1,),
        "num_mel_bins": (model["num_mel_bins"],),
        "max_length": (model["num_frames"],),
    }
    if other := unlike(config, fixed):
        raise InputError(
            f"{path}: its preprocessor_config.json has {', '.join(other)}: not what is heard here"
        )
    if not config.get("do_normalize", True):
        return 0.0, 0.5, []  # (x - 0) / (2 x 0.5): as it is
    stated = {
        key: config.get(key, value) for key, value in zip(("mean", "std"), published.AUDIOSET, strict=True)
    }
    for key, value in stated.items():
        if value is not None:
            stated[key] = float(get(stated, key, f"{path / 'preprocessor_config.json'}", float))
    return stated["mean"], stated["std"], []


def label_names(where: str, config: dict, num_classes: int) -> list[str] | None:
    """The classes that a directory's config names; None where it names none.

    Raises InputError where they are of another number than the head's.
    """
    names = config.get("id2label")
    if names is None:
        return None
    if set(names) != {str(i) for i in range(num_classes)}:
        raise InputError(f"{where}: id2label names {len(names)} classes, the head has {num_classes}")
    return [str(names[str(i)]) for i in range(num_classes)]
