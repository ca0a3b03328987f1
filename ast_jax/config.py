"""Every setting once, with its meaning and unit, and what a recipe file is written with.

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

from ast_jax.errors import InputError


def base(**dataset_options) -> ConfigDict:
    """The defaults every recipe starts from: AST-base on 10 s clips, the reference's optimiser, nothing augmented.

    `dataset_options` become `config.dataset.options`, the arguments of that data set's `list_clips`.
    Keys are locked: a recipe or flag that names another one is an error.
    """
    c = ConfigDict()
    c.seed = 0  # decides weights, order of clips and augmentation; one seed, one result on CPU
    c.epochs = 25
    c.batch_size = 12  # clips a step, over all devices together
    c.num_frames = 1024  # the model's length, 10 ms a frame; clips are padded or cut to it

    c.dataset = ConfigDict()
    c.dataset.name = ""  # audioset, esc50, speech_commands, folder or synthetic
    c.dataset.source_dir = ""  # where the sound files are; needed once, until the shards are prepared
    c.dataset.data_dir = "data"  # where prepared shards live
    c.dataset.kind = "log_mel"  # what shards hold: log_mel (float16) or waveform (int16)
    c.dataset.channels = "mean"  # mix-down of several channels: mean, or first as in the reference
    c.dataset.max_skipped = 0.02  # share of bad files above which preparing fails
    c.dataset.train = ("train",)  # splits trained on, joined in this order
    c.dataset.eval = ("test",)  # splits evaluated after each epoch
    c.dataset.test = ()  # splits evaluated once, at the end, with the best weights by `eval`
    c.dataset.labels = (
        ""  # a table of other labels for the training clips, by id (datasets/relabel.py); empty: their own
    )
    c.dataset.expected = (
        0  # clips that `eval` should have: the share that is there is told beside figures; 0: unknown
    )
    c.dataset.mean = config_dict.placeholder(
        float
    )  # of the features; None: measured on the clean training clips
    c.dataset.std = config_dict.placeholder(float)  # of the features; the model sees (x - mean) / (2 std)
    c.dataset.options = ConfigDict(dataset_options)

    c.model = ConfigDict()
    c.model.variant = "base"  # tiny, small or base: width, depth and heads
    c.model.width = config_dict.placeholder(int)  # None: the variant's
    c.model.depth = config_dict.placeholder(int)  # None: the variant's
    c.model.num_heads = config_dict.placeholder(int)  # None: the variant's
    c.model.patch_shape = (16, 16)  # mel bins, frames
    c.model.strides = (10, 10)  # mel bins, frames
    c.model.distilled = True  # a distillation token beside the class token
    c.model.dtype = "float32"  # of the blocks' arithmetic: float32 or bfloat16
    c.model.remat = "none"  # the backward pass recomputes: none; dots (all but linear layers); blocks (all, a third more time)

    c.init_from = ""  # weights to start from: a file, a directory or a catalogue name; empty: from scratch
    c.init_rgb = "sum"  # how an ImageNet kernel folds: sum (the published code) or mean (the paper's wording)
    c.init_positions = "bilinear"  # of ImageNet positions: bilinear, nearest or reinit (table 5 of the paper)
    c.freeze = (
        ""  # what stays as it was loaded: backbone, or a number N (patches, positions and the first N blocks)
    )

    c.loss = "bce"  # bce (several labels a clip) or ce (one label)
    c.metric = "mAP"  # decides the best epoch: accuracy, mAP, auc or d_prime
    c.lr = 5e-5
    c.lr_warmup_steps = 0  # the rate climbs from 0 at step 0 to `lr` at this step
    c.lr_warmup = "repo"  # repo: stairs that write the rate, undoing decays taken before; linear: every step, undoing none
    c.lr_warmup_stair = 50  # steps a stair, for repo
    c.lr_decay = 1.0  # the rate is multiplied by this ...
    c.lr_decay_epochs = ()  # ... at the start of each of these epochs (the first epoch is 1) ...
    c.lr_decay_end = 0  # ... before this one, from which on it is frozen; 0: never
    c.adam_b1 = 0.95
    c.adam_b2 = 0.999
    c.adam_eps = 1e-8
    c.weight_decay = 5e-7  # added to the gradient before the moments (Adam with L2, not AdamW)
    c.clip_norm = 0.0  # gradients are scaled down to this global norm; 0: never
    c.layer_decay = 1.0  # the rate of each block is this times that of the block after it
    c.accumulate = 1  # the batch is computed in this many parts: less memory, the same step

    c.sampling = "shuffle"  # shuffle, or balanced: with replacement, classes with few clips more often
    c.mixup = 0.0  # probability that a clip is mixed with another one
    c.freq_mask = 0  # widest frequency mask, mel bins
    c.time_mask = 0  # widest time mask, frames
    c.noise = False  # uniform noise of random strength, up to 0.1 of the normalised features
    c.roll = 0  # frames a clip is rolled by at most, circularly, padding included
    c.time_shift = 0  # frames a clip is moved earlier or later by at most, padding coming in
    c.gain_db = 0.0  # a clip is made louder or softer by at most this
    c.patchout = ConfigDict()  # PaSST's: tokens left out of each training clip; evaluation sees all of them
    c.patchout.freq = 0  # whole rows of the patch grid
    c.patchout.time = 0  # whole columns
    c.patchout.patches = 0  # single patches of what is left
    c.label_smoothing = 0.0  # share of a label that is spread out

    c.average_epochs = ()  # (first, last) epoch whose weights are averaged; the average is evaluated at the end
    c.cumulative = (
        False  # log the mean of the scores of all epochs so far: an ensemble of a run's checkpoints
    )
    c.ema = 0.0  # decay of an exponential average of the weights, which is then what is evaluated; 0: none

    c.published = (
        ConfigDict()
    )  # the curve to compare with: `metric`, `curve` {epoch: value}, `band`; empty: none

    c.parallel = "jit"  # how a step runs on several devices: jit (the compiler partitions it) or pmap
    c.fsdp = (
        1  # devices that share one copy of parameters and optimiser state (jit only); 1: each has its own
    )

    c.keep_last = 2  # checkpoints kept beside the best one
    c.save_every = 0  # steps between checkpoints; 0: after each epoch's evaluation only
    c.log_every = 50  # steps between log points
    c.profile_steps = 0  # steps traced by the profiler into WORKDIR/profile, soon after the start; 0: none
    c.num_threads = 4  # reading shards
    return c.lock()


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
    plain = json.loads(config.to_json_best_effort())
    flat: dict[str, object] = {}

    def visit(node: Mapping, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                visit(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = value

    visit(plain, "")
    return flat
