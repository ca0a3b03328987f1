"""What is known of each family's files, a row each: others' layouts to read and to write, and how a model
starts from a checkpoint of another shape.

Rows name functions by address; one is imported when it is called.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ast_jax.tables import look_up
from ast_jax.weights.model_card import CARD

# A key that state dicts of one layout alone have (a pattern), and its reader:
# (where, arrays, card, facts) -> Source
STATE_DICTS: dict[str, Any] = {
    r"^v\.pos_embed$": "ast_jax.weights.vit_files:reference",
    r"^freq_new_pos_embed$": "ast_jax.weights.passt_layout:read",
    r"^freq_pos_embed$": "ast_jax.weights.ced_layout:read",
    r"^encoder\.pos_conv\.0\.": "ast_jax.weights.beats_layout:read",
    r"^patch_embed\.proj\.weight$": "ast_jax.weights.vit_files:timm",
    r"embedding/kernel$": "ast_jax.weights.vit_files:google",
    r"^conv_block1\.": "ast_jax.weights.panns_layout:read",
    r"^effnet\._conv_stem\.weight$": "ast_jax.weights.psla_layout:read",
    r"^_conv_stem\.weight$": "ast_jax.weights.psla_layout:read_image",
    r"^conv_stem\.weight$": "ast_jax.weights.psla_layout:read_timm",
    r"^embeddings\.4\.weight$": "ast_jax.weights.vggish_layout:read_torch",
    r"^vggish/fc2/weights$": "ast_jax.weights.vggish_layout:read_tensorflow",
}

# `model_type` in a Hugging Face directory's config.json: (path, config, arrays) -> Source
HUGGING_FACE: dict[str, Any] = {
    "audio-spectrogram-transformer": "ast_jax.weights.hugging_face:read_ast",
    "ced": "ast_jax.weights.ced_layout:read_directory",
    "eat": "ast_jax.weights.eat_layout:read_directory",
    "vit": "ast_jax.weights.hugging_face:read_vit",
    "deit": "ast_jax.weights.hugging_face:read_vit",
}

# A file in a directory that runs the model itself, and what loads it: (directory, options) -> LoadedModel
RUNTIMES: dict[str, Any] = {
    "model.onnx": "ast_jax.weights.onnx_model:load",
    "model.tflite": "ast_jax.weights.litert_file:refuse",
}

# `convert --to=...` of what only some families have: (loaded, path) -> lines about it
EXPORTS: dict[str, dict[str, Any]] = {
    "reference": {"ast": "ast_jax.weights.ast_export:reference"},
    "huggingface": {"ast": "ast_jax.weights.ast_export:hugging_face"},
    "panns": dict.fromkeys(
        (
            "cnn6",
            "cnn10",
            "cnn14",
            "cnn14_decision_max",
            "cnn14_decision_att",
            "wavegram_logmel_cnn14",
        ),
        "ast_jax.weights.panns_layout:write",
    ),
    "psla": {"psla": "ast_jax.weights.psla_layout:write"},
}

# (source, config, *, rgb, positions, head) -> the arrays that it gives such a model, and the account of them;
# a family that is not here takes what fits as it is.
STARTS: dict[str, Any] = {
    "ast": "ast_jax.weights.adapt:adapted",
    "ast_given": "ast_jax.weights.adapt:adapted",
    "psla": "ast_jax.weights.psla_layout:started",
    "passt": "ast_jax.weights.adapt:of_another_length",
    "ced": "ast_jax.weights.adapt:of_another_length",
}


# A family -> another one whose checkpoints start it too.
STARTED_BY = {"ast_given": "ast"}


def state_dict_reader(keys: Iterable[str]) -> Any:
    """The reader of the state dict with these keys; None where they are of no layout that is known."""
    names = list(keys)
    marks = (mark for mark in STATE_DICTS if any(re.search(mark, name) for name in names))
    mark = next(marks, None)
    return None if mark is None else look_up(STATE_DICTS, mark, "layout")


def runtime(path: Path) -> Any:
    """What loads a directory of ours that runs by itself; None for arrays, which come first, for files, and
    for what others call by the same names.
    """
    if not (path / CARD).is_file() or (path / "model.safetensors").is_file():
        return None
    name = next((name for name in RUNTIMES if (path / name).is_file()), None)
    return None if name is None else look_up(RUNTIMES, name, "runtime")


def starter(family: str) -> Any:
    """How a model of this family starts from a checkpoint."""
    return look_up(STARTS, family if family in STARTS else "ast_jax.weights.adapt:as_it_is", "start")
