"""What a recipe file is written with. `settings.py` has every key once.

Suffix grammar, the same for every recipe: after the colon, words and key=value pairs joined by commas, as in
`configs/esc50.py:fold=1,cpu`. Each recipe says in its docstring which words and keys it knows; another one is
an error that lists them.
"""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from ast_jax import settings
from ast_jax.errors import InputError


def base(**dataset_options) -> ConfigDict:
    """The defaults every recipe starts from: AST-base on 10 s clips, the reference's optimiser, nothing
    augmented.

    `dataset_options` become `config.dataset.options`, the arguments of that data set's `list_clips`.
    Keys are locked: a recipe or flag that names another one is an error.
    """
    tree = settings.defaults()
    for key, kind in settings.optional_keys().items():
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = config_dict.placeholder(kind)
    config = ConfigDict(tree)
    config.dataset.options = ConfigDict(dataset_options)
    return config.lock()


def of_run(stored: Mapping[str, Any]) -> ConfigDict:
    """The recipe in a run's config.json; settings that came after it have their defaults."""
    stored = dict(stored)
    if isinstance(stored.get("model", {}).get("remat"), bool):  # runs from before there were policies
        stored["model"] = stored["model"] | {"remat": "blocks" if stored["model"]["remat"] else "none"}
    config = base()
    with config.unlocked():
        config.update(ConfigDict(stored))
    return config


def suffix_options(
    suffix: str, *, words: Sequence[str] = (), keys: Mapping[str, object] | None = None
) -> dict:
    """Parses a recipe's suffix: `{word: bool for every word, key: value or its default for every key}`.

    A value takes the type of its default. Raises InputError for an unknown word or key, or another type.
    """
    keys = keys or {}
    options: dict = {**dict.fromkeys(words, False), **keys}
    for part in filter(None, suffix.split(",")):
        key, equals, text = part.partition("=")
        if not equals and key in words:
            options[key] = True
        elif equals and key in keys:
            try:
                options[key] = read(text, type(keys[key]))
            except ValueError:
                wanted = f"wanted a value like {keys[key]!r}"
                raise InputError(f"{key}={text} in the suffix: {wanted}") from None
        else:
            known = ", ".join([*words, *(f"{key}=..." for key in keys)]) or "none"
            raise InputError(f"this recipe has no suffix {part!r}: it knows {known}")
    return options


def hold_out(config: ConfigDict, fold: int, *, folds: int) -> None:
    """Evaluates on one of a set's folds and trains on the others. Raises InputError for one that is not
    there.
    """
    if not 1 <= fold <= folds:
        raise InputError(f"fold={fold}: choose one of 1 to {folds}")
    config.dataset.train = tuple(f"fold{number}" for number in range(1, folds + 1) if number != fold)
    config.dataset.eval = (f"fold{fold}",)


def panns(config: ConfigDict, family: str, *, seconds: float) -> None:
    """Makes a recipe one of PANNs': its model, optimiser and augmentation."""
    config.model.family = family
    config.num_frames = round(100 * seconds) + 1
    if family == "wavegram_logmel_cnn14":
        # its branches meet at an even number of rows, and 16 bits of a log-mel's kind are too few for samples
        config.num_frames, config.dataset.kind = 2 * round(50 * seconds), "waveform"
    config.batch_size, config.lr, config.adam_b1, config.amsgrad = 32, 1e-3, 0.9, True
    config.weight_decay = 0.0
    config.mixup, config.mixup_alpha, config.mixup_of = 1.0, 1.0, "features"
    config.freq_mask, config.time_mask = 0, 0
    config.time_stripes, config.freq_stripes = (2, 64), (2, 8)
    # the first layer normalises
    config.dataset.mean, config.dataset.std = 0.0, 1.0


def psla(config: ConfigDict, scale: str, *, frames: int) -> None:
    """Makes a recipe PSLA's: its model, optimiser and augmentation."""
    config.model.family, config.model.options = "psla", ConfigDict({"scale": scale})
    config.num_frames, config.lr = frames, 1e-3
    config.mixup, config.freq_mask, config.time_mask = 0.5, 48, min(192, frames // 5)


def transformer(config: ConfigDict, family: str, variant: str, *, seconds: float) -> None:
    """Makes a recipe one that fine-tunes PaSST, CED (`variant`: tiny to base), BEATs or EAT, whose
    checkpoints are the reason to take them: the rest is as for a pretrained AST.
    """
    config.model.family = family
    frames, mean, std = {
        "passt": (round(100 * seconds), -4.5, 5.0),
        # the first layer normalises
        "ced": (round(100 * seconds) + 1, 0.0, 1.0),
        # 15.41663 in Kaldi's nats of 16-bit samples
        "beats": (round(100 * seconds) - 2, 15.41663 - 30 * math.log(2), 6.55582),
        # whole patches, at least the length; as AudioSet is normalised
        "eat": (round(100 * seconds / 16 + 0.5) * 16, -4.2677393, 4.5689974),
    }[family]
    config.num_frames, config.dataset.mean, config.dataset.std = frames, mean, std
    if family in ("ced", "eat"):
        config.model.variant, config.model.strides = variant or "base", (16, 16)
    config.lr_warmup, config.lr_warmup_steps = "linear", 50
    config.layer_decay, config.clip_norm = 0.75, 1.0


def baseline(config: ConfigDict, *, seconds: float) -> None:
    """Makes a recipe that of a perceptron on VGGish's embeddings: model, optimiser, no augmentation."""
    config.model.family = "vggish_mlp"
    # whole patches of .96 s
    config.num_frames = 96 * max(1, int(seconds / 0.96))
    config.batch_size, config.lr, config.weight_decay = 500, 1e-3, 0.0
    config.adam_b1, config.adam_b2, config.adam_eps = 0.9, 0.999, 1e-7
    config.mixup, config.freq_mask, config.time_mask = 0.0, 0, 0
    # VGGish takes features as they come
    config.dataset.mean, config.dataset.std = 0.0, 1.0


# What there is to say of features that exist already; `given` reads them.
GIVEN = {"mel": 0, "rate": 0, "hop": 0, "axes": "tf", "log": "none", "pad": ""}


def given(config: ConfigDict, options: Mapping[str, Any]) -> float:
    """Makes a recipe one for features that exist already, as the keys of GIVEN say, where there is a `mel`.

    Returns frames a second. Raises InputError for keys that are missing, or say nothing by themselves.
    """
    asked = [key for key, usual in GIVEN.items() if options[key] != usual]
    if not asked:
        return 100.0
    if min(options["mel"], options["rate"], options["hop"]) < 1:
        raise InputError(
            f"{', '.join(f'{key}={options[key]}' for key in asked)}: features that exist already need mel= "
            "(bins), rate= (Hz) and hop= (samples from one frame to the next), as they were made with"
        )
    fields: dict[str, Any] = {
        "num_mel_bins": options["mel"],
        "sample_rate_hz": options["rate"],
        "frame_shift": options["hop"],
        "axes": options["axes"],
        "log": options["log"],
    }
    if options["pad"]:
        try:
            fields["pad"] = read(options["pad"], float)
        except ValueError:
            raise InputError(f"pad={options['pad']} in the suffix: wanted a number") from None
    config.model.family, config.model.options = "ast_given", ConfigDict(fields)
    with config.unlocked():
        config.dataset.options.arrays = True
    return options["rate"] / options["hop"]


FINE_TUNING = ("S", "scratch", "cpu", "waveform")


def fine_tuning(config: ConfigDict, options: Mapping[str, object], *, seconds: float) -> None:
    """A recipe for a set of one label a clip that the AST paper does not have, as its ESC-50: from AudioSet's
    checkpoint; by the words of FINE_TUNING from ImageNet (`S`), from scratch, small for two cores (and from
    scratch), on shards of waveforms.
    """
    config.loss, config.metric = "ce", "accuracy"
    config.num_frames = round(100 * seconds / 16 + 0.5) * 16
    config.freq_mask, config.time_mask = 24, config.num_frames // 5
    config.epochs, config.batch_size, config.lr = 25, 48, 1e-5
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.init_from = "ast_audioset_10_10_0.4593"
    if options["S"]:
        config.init_from, config.lr = "deit_base_distilled_patch16_384", 1e-4
    if options["scratch"] or options["cpu"]:
        config.init_from, config.lr = "", 1e-4
    if options["cpu"]:
        config.model.variant, config.model.depth, config.model.strides = "tiny", 6, (16, 16)
        config.batch_size, config.lr = 16, 5e-4
    if options["waveform"]:
        config.dataset.kind = "waveform"


def tagger(config: ConfigDict, name: str, *, seconds: float) -> None:
    """Makes the model of a recipe for small sets another one: `ast` leaves it, then there are PANNs, `psla`,
    `psla_SCALE`, `passt`, `ced`, `ced_VARIANT`, `beats`, `eat` and `baseline`. Raises InputError for another
    name.
    """
    family, _, scale = name.partition("_")
    if family == "psla":
        psla(config, scale or "b2", frames=round(100 * seconds / 32 + 0.5) * 32)
        # few steps: statistics have to follow
        with config.unlocked():
            config.model.options.momentum = 0.1
    elif name.startswith("cnn") or name == "wavegram_logmel_cnn14":
        panns(config, name, seconds=seconds)
    elif family == "ced" or name in ("passt", "beats", "eat"):
        transformer(config, family, scale, seconds=seconds)
    elif name == "baseline":
        baseline(config, seconds=seconds)
    elif name != "ast":
        raise InputError(
            f"model={name}: choose ast, cnn6, cnn10, cnn14, wavegram_logmel_cnn14, psla_b0, psla, passt, "
            "ced_tiny, ced_mini, ced_small, ced, beats, eat or baseline"
        )


POD = 16  # times the recipe's batch, where the suffix says `pod` and not how much


def enlarge(config: ConfigDict, pod: int | bool) -> None:
    """Gives a recipe the batch of its suffix: `pod=TIMES`, or `pod` for 16 times, by one rule for all.

    The rate grows with the square root of the batch, as the noise of Adam's steps shrinks; the warm-up
    keeps its number of *steps* and climbs linearly, so that it undoes no decay. docs/recipes.md has the
    evidence. Raises InputError for less than once.
    """
    times = POD if pod is True else int(pod)
    if times < 1:
        raise InputError(f"pod={pod}: a batch is enlarged by a whole number of times, at least 1")
    if times > 1:
        config.batch_size *= times
        config.lr *= times**0.5
        config.lr_warmup = "linear"


# What a text can be read as, and how to ask for it.
WANTED: dict[Any, str] = {
    str: "text",
    Path: "a path",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "values by commas, such as (16, 16)",
    ConfigDict: "a dictionary, such as {'key': 1}",
}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read(text: str, kind: Any) -> Any:
    """A text as a value of one of the kinds in `WANTED`.

    Raises ValueError (or TypeError) where it is none; NaN and infinity are no numbers, nothing is no path.
    """
    if kind is tuple:
        return _read_tuple(text)
    if kind is ConfigDict:
        return ConfigDict(dict(_literal(text)))
    if (kind is bool and text.lower() not in _BOOLS) or (kind is Path and not text):
        raise ValueError(text)
    value = _BOOLS[text.lower()] if kind is bool else kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError(text)
    return value


def _read_tuple(text: str) -> tuple:
    """`(16, 16)`, `16,16`, `('fold1',)`; a word alone, `fold1`, is a tuple of one."""
    try:
        value = _literal(text)
    except ValueError:
        if "," in text or " " in text:
            raise
        value = text
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(text) from error


def flatten(config: ConfigDict) -> dict[str, object]:
    """`{"dataset.name": ..., ...}`, with lists for tuples, as JSON has them."""
    return settings.flat(json.loads(config.to_json_best_effort()))
