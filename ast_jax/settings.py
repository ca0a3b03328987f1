"""Every setting once, with its meaning, unit, type and range: what a recipe's ConfigDict becomes, once,
before any work.

A recipe is a ConfigDict (`config.base`) made from these defaults; `Settings.of` makes frozen sections of it
again and checks them. Below that line nobody reads a ConfigDict. Sections named in `NESTED` are a ConfigDict
of their own in a recipe (`config.dataset.name`); the keys of all others stand at its top (`config.lr`).
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from ast_jax.errors import InputError

NESTED = {"data": "dataset", "model": "model", "patchout": "patchout"}


def setting(
    default: Any, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> Any:
    """A field with a range: at least, at most, strictly above.

    Other choices are checked where they are looked up.
    """
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "above": above})


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how large, on what, and what is kept."""

    # decides weights, order of clips and augmentation; one seed, one result on CPU
    seed: int = setting(0, least=0)
    epochs: int = setting(25, least=1)
    # clips a step, over all devices together
    batch_size: int = setting(12, least=1)
    # the same where clips are evaluated; 0: as many as a training step takes
    eval_batch_size: int = setting(0, least=0)
    # the model's length, 10 ms a frame; clips are padded or cut to it
    num_frames: int = setting(1024, least=1)
    # decides the best epoch: a row of evaluation/metrics.py (accuracy, mAP, auc, d_prime, f1_macro ...)
    metric: str = "mAP"
    # the batch is computed in this many parts: less memory, the same step
    accumulate: int = setting(1, least=1)
    # steps an epoch; 0: as many as hold each clip once
    epoch_steps: int = setting(0, least=0)
    # an epoch of fewer steps takes clips more than once, so that it has this many
    least_steps: int = setting(0, least=0)
    # ends after so many epochs without a better one; 0: after config.epochs
    early_stop: int = setting(0, least=0)
    # shuffle; balanced: with replacement, classes with few clips more often; round_robin: class after class
    sampling: str = "shuffle"
    # probability that a clip is mixed with another one
    mixup: float = setting(0.0, least=0, most=1)
    # a clip's share is drawn from Beta(this, this): 10 as AST and PSLA, 1 as PANNs
    mixup_alpha: float = setting(10.0, above=0)
    # what is mixed: sounds, with a clip drawn uniformly; or features, after masks and normalisation, with one
    # drawn as `sampling` says, as PANNs
    mixup_of: str = "sounds"
    # how a step runs on several devices: jit (the compiler partitions it) or pmap
    parallel: str = "jit"
    # devices that share one copy of parameters and optimiser state (jit only); 1: each has its own
    fsdp: int = setting(1, least=1)
    # checkpoints kept beside the best one
    keep_last: int = setting(2, least=1)
    # steps between checkpoints; 0: after each epoch's evaluation only
    save_every: int = setting(0, least=0)
    # steps between log points
    log_every: int = setting(50, least=1)
    # steps traced by the profiler into WORKDIR/profile, soon after the start; 0: none
    profile_steps: int = setting(0, least=0)
    # reading shards
    num_threads: int = setting(4, least=1)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which sounds, how they are stored, which of them are for what."""

    # audioset, esc50, speech_commands, folder, events, synthetic, or module:list_clips of your own
    name: str = ""
    # where the sound files are; needed once, until the shards are prepared
    source_dir: str = ""
    # where prepared shards live
    data_dir: str = "data"
    # what shards hold: log_mel (float16) or waveform (int16)
    kind: str = "log_mel"
    # of several channels: their mean, the first as in the reference, or the loudest of a file
    channels: str = "mean"
    # share of bad files above which preparing fails
    max_skipped: float = setting(0.02, least=0, most=1)
    # splits trained on, joined in this order
    train: tuple[str, ...] = ("train",)
    # splits evaluated after each epoch
    eval: tuple[str, ...] = ("test",)
    # to choose settings by: one of so many parts of the training clips is held out in the place of `eval`,
    # and nothing else is evaluated; 0: none
    inside: int = setting(0, least=0)
    # splits evaluated once, at the end, with the best weights by `eval`
    test: tuple[str, ...] = ()
    # a table of other labels for the training clips, by id (datasets/relabel.py); empty: their own
    labels: str = ""
    # clips that `eval` should have: the share that is there is told beside figures; 0: unknown
    expected: int = setting(0, least=0)
    # of the features; None: measured on the clean training clips
    mean: float | None = None
    # of the features; the reference's model sees (x - mean) / (2 std)
    std: float | None = setting(None, above=0)
    # arguments of that data set's `list_clips`
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Model:
    """The model's shape. Keys from `variant` to `mask_even` are the AST's; another family has `options`."""

    # ast, or module:Class of your own
    family: str = "ast"
    # fields of another family's Config
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # tiny, small or base: width, depth and heads
    variant: str = "base"
    # None: the variant's
    width: int | None = setting(None, least=1)
    depth: int | None = setting(None, least=1)
    num_heads: int | None = setting(None, least=1)
    # mel bins, frames
    patch_shape: tuple[int, int] = (16, 16)
    strides: tuple[int, int] = (10, 10)
    # a distillation token beside the class token
    distilled: bool = True
    # how often the last block is left out for a training clip, those before it less (stochastic depth)
    drop_path: float = setting(0.0, least=0, most=1 - 1e-9)
    # patches whose cells are all the same (padding, digital silence, whole masks) are not attended to; the
    # reference hears them. On GPUs and TPUs without a fused kernel
    mask_even: bool = False
    # what is judged: clip, or frames (steps of time, which labels of clips teach too)
    head: str = "clip"
    # of frames to a clip: linear_softmax, attention, max, mean or noisy_or
    pooling: str = "linear_softmax"
    # of products: float32, bfloat16, or auto: bfloat16 on TPUs and on NVIDIA from Ampere on, else float32; a
    # run goes on with what it began with
    dtype: str = "auto"
    # the backward pass recomputes: none; dots (all but linear layers); blocks (all, a third more time)
    remat: str = "none"


@dataclasses.dataclass(frozen=True)
class Start:
    """Where weights come from, and what stays as it came."""

    # weights to start from: a file, a directory or a catalogue name; empty: from scratch
    init_from: str = ""
    # how an ImageNet kernel folds: sum (the published code) or mean (the paper's wording)
    init_rgb: str = "sum"
    # of ImageNet positions: bilinear, nearest or reinit (table 5 of the paper)
    init_positions: str = "bilinear"
    # what stays as it was loaded: backbone, or a number N (patches, positions and the first N blocks)
    freeze: str = ""


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: a row of objectives.py."""

    # bce (several labels a clip), ce (one label), focal, asymmetric, soft_bce, soft_ce, frames_bce (steps of
    # time, of sets with events), or module:name of your own
    loss: str = "bce"
    # share of a label that is spread out
    label_smoothing: float = setting(0.0, least=0, most=1)
    # each class's weight in a clip's loss: counts (rarer classes more, from the training clips), or a number
    # a class by commas
    class_weights: str = ""
    # the same for sigmoid losses: how much more a label that is there weighs than one that is not
    pos_weight: str = ""
    # of focal: how much less a class weighs that is judged well already
    focal_gamma: float = setting(2.0, least=0)
    # of asymmetric: exponents of absent and of present labels, and the score below which an absent one costs
    # nothing
    asymmetric: tuple[float, float, float] = (4.0, 1.0, 0.05)
    # models whose scores are learned beside the labels, by commas: runs, files or catalogue names
    teacher: str = ""
    # two views of each clip, augmented each in its own way, are learned, and how far what is said of them is
    # apart joins the loss so many times (R-Drop, Wu et al. 2021); a step then costs two. 0: one view
    consistency: float = setting(0.0, least=0)
    # how much of the loss is to the teacher's scores; 1: labels are left aside
    teacher_weight: float = setting(0.9, least=0, most=1)
    # so many epochs see each clip in other ways, and then the same ones come again: what teachers say of
    # them is kept, and asked once. 0: every epoch has ways of its own, and teachers are asked in every step
    teacher_views: int = setting(0, least=0)
    # the directory in which it is kept, which students of the same views may share; empty: in the work
    # directory
    teacher_scores: str = ""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam as the reference has it, and its rate."""

    lr: float = setting(5e-5, least=0)
    # the rate climbs from 0 at step 0 to `lr` at this step
    lr_warmup_steps: int = setting(0, least=0)
    # repo: stairs that write the rate, undoing decays taken before; linear: every step, undoing none
    lr_warmup: str = "repo"
    # steps a stair, for repo
    lr_warmup_stair: int = setting(50, least=1)
    # the rate is multiplied by this ...
    lr_decay: float = setting(1.0, least=0)
    # ... at the start of each of these epochs (the first epoch is 1) ...
    lr_decay_epochs: tuple[int, ...] = ()
    # ... before this one, from which on it is frozen; 0: never
    lr_decay_end: int = setting(0, least=0)
    adam_b1: float = setting(0.95, least=0, most=1 - 1e-9)
    adam_b2: float = setting(0.999, least=0, most=1 - 1e-9)
    adam_eps: float = setting(1e-8, above=0)
    # Adam's second moment never falls (AMSGrad, as PyTorch has it)
    amsgrad: bool = False
    # added to the gradient before the moments (Adam with L2, not AdamW)
    weight_decay: float = setting(5e-7, least=0)
    # gradients are scaled down to this global norm; 0: never
    clip_norm: float = setting(0.0, least=0)
    # the rate of each block is this times that of the block after it
    layer_decay: float = setting(1.0, above=0)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is done to training clips: rows of training/augment.py, in the order in which the reference does
    it.
    """

    # widest frequency mask, mel bins
    freq_mask: int = setting(0, least=0)
    # widest time mask, frames
    time_mask: int = setting(0, least=0)
    # masks on normalised features, as PANNs: how many along time, and one wider than the widest, in frames
    time_stripes: tuple[int, int] = (0, 0)
    # the same along frequency, in mel bins
    freq_stripes: tuple[int, int] = (0, 0)
    # uniform noise of random strength, up to 0.1 of the normalised features
    noise: bool = False
    # frames a clip is rolled by at most, circularly, padding included
    roll: int = setting(0, least=0)
    # frames a clip is moved earlier or later by at most, padding coming in
    time_shift: int = setting(0, least=0)
    # a clip is made louder or softer by at most this
    gain_db: float = setting(0.0, least=0)
    # your own, each module:name of an Augmentation, after ours of the same stage
    augment: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Patchout:
    """PaSST's: tokens left out of each training clip; evaluation sees all of them."""

    # whole rows of the patch grid
    freq: int = setting(0, least=0)
    # whole columns
    time: int = setting(0, least=0)
    # single patches of what is left
    patches: int = setting(0, least=0)


@dataclasses.dataclass(frozen=True)
class Averages:
    """What is gathered over a run."""

    # (first, last) epoch whose weights are averaged; the average is evaluated at the end
    average_epochs: tuple[int, ...] = ()
    # the first of them counts twice, as in PSLA's code
    average_first_twice: bool = False
    # log the mean of the scores of all epochs so far: an ensemble of a run's checkpoints
    cumulative: bool = False
    # decay of an exponential average of the weights, which is then what is evaluated; 0: none
    ema: float = setting(0.0, least=0, most=1 - 1e-9)


@dataclasses.dataclass(frozen=True)
class Published:
    """What there is to compare with; empty: nothing."""

    # what to compare with: `metric`, `curve` {epoch: value}, `average` (of the averaged weights), `band`
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, repr=False)
class Settings:
    """All sections of a recipe, checked. Shown by what differs from the defaults."""

    run: Run = Run()
    data: Data = Data()
    model: Model = Model()
    start: Start = Start()
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    patchout: Patchout = Patchout()
    averages: Averages = Averages()
    published: Published = Published()

    def __repr__(self) -> str:
        usual = flat(defaults())
        changed = {key: value for key, value in flat(self.tree()).items() if value != usual.get(key)}
        return f"Settings({', '.join(f'{key}={value!r}' for key, value in changed.items())})"

    @classmethod
    def of(cls, config: Any) -> "Settings":
        """From a recipe's ConfigDict, or a plain dictionary of the same form; what it leaves out has its
        default.

        Raises:
            InputError: an unknown key, a value of another type or out of its range, settings that contradict
            each other.
        """
        plain = _plain(config)
        sections: dict[str, Any] = {}
        for name, kind in SECTIONS.items():
            prefix = NESTED.get(name, "")
            given = plain.pop(prefix, {}) if prefix else plain
            own = {f.name: given.pop(f.name) for f in dataclasses.fields(kind) if f.name in given}
            sections[name] = _section(kind, own, f"{prefix}." if prefix else "")
            if prefix and given:
                raise InputError(unknown_key(f"{prefix}.{next(iter(given))}"))
        if plain:
            raise InputError(unknown_key(next(iter(plain))))
        return cls(**sections)

    def with_dtype(self, dtype: str) -> "Settings":
        """The same with this arithmetic, where the recipe leaves it open."""
        if self.model.dtype != "auto":
            return self
        return dataclasses.replace(self, model=dataclasses.replace(self.model, dtype=dtype))

    def tree(self) -> dict[str, Any]:
        """A recipe's form again: what config.json holds."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            section = vars(getattr(self, field.name))
            found |= {NESTED[field.name]: dict(section)} if field.name in NESTED else section
        return found

    def __post_init__(self):
        optimizer, averages = self.optimizer, self.averages
        _one_of("dataset.kind", self.data.kind, ("log_mel", "waveform"))
        if self.data.channels == "each":
            raise InputError(
                "config.dataset.channels is 'each', which is for `predict` alone: a clip has one channel; "
                "choose mean or first or loudest"
            )
        _one_of("dataset.channels", self.data.channels, ("mean", "first", "loudest"))
        if self.data.inside == 1:
            raise InputError("config.dataset.inside is 1: wanted 0, or a number of parts from 2 on")
        _one_of("sampling", self.run.sampling, ("shuffle", "balanced", "round_robin"))
        _one_of("mixup_of", self.run.mixup_of, ("sounds", "features"))
        _one_of("parallel", self.run.parallel, ("jit", "pmap"))
        _one_of("model.dtype", self.model.dtype, ("auto", "float32", "bfloat16"))
        _one_of("lr_warmup", optimizer.lr_warmup, ("repo", "linear"))
        if averages.average_epochs:
            span = averages.average_epochs
            if len(span) != 2 or not 1 <= span[0] <= span[1]:
                raise InputError(
                    f"config.average_epochs is {span}: it is (first, last), counted from 1, or ()"
                )
        if averages.average_epochs and self.run.early_stop:
            raise InputError(
                "config.early_stop may end before the epochs of config.average_epochs: set one of the two"
            )
        if any(epoch < 2 for epoch in optimizer.lr_decay_epochs):
            raise InputError(
                f"config.lr_decay_epochs is {optimizer.lr_decay_epochs}: epoch 1 begins at config.lr, so "
                "the first decay is at epoch 2; for a smaller first rate lower config.lr"
            )


SECTIONS: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(Settings)}


def defaults() -> dict[str, Any]:
    """Every key with its default, in a recipe's form. None stands for a value to be found out."""
    return Settings().tree()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def unknown_key(key: str) -> str:
    """The line about a key that does not exist."""
    close = difflib.get_close_matches(key, flat(defaults()), n=1, cutoff=0.5)
    return f"there is no setting {key!r}: " + (
        f"did you mean {close[0]}?" if close else "ast_jax/settings.py lists every key"
    )


def optional_keys() -> dict[str, type]:
    """The keys whose default is None, with the type that a value of theirs has."""
    found = {}
    for section, kind in SECTIONS.items():
        prefix = NESTED.get(section, "")
        for name, hint in typing.get_type_hints(kind).items():
            if isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint):
                found[f"{prefix}.{name}" if prefix else name] = typing.get_args(hint)[0]
    return found


def _section(kind: type, given: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in given:
            continue
        name, value = f"config.{prefix}{field.name}", given[field.name]
        if not _fits(value, hints[field.name]):
            raise InputError(f"{name} is {value!r}: wanted {_words(hints[field.name])}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            _in_range(name, value, field.metadata)
    return kind(**given)


def _in_range(name: str, value: float, limits: Mapping[str, float]) -> None:
    least, most, above = (limits.get(key, default) for key, default in _OPEN.items())
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}: it must be a finite number")
    if value < least or value > most or value <= above:
        wanted = [f"above {above:g}"] * (above > -math.inf) + [f"at least {least:g}"] * (least > -math.inf)
        wanted = [f"from {least:g} to {most:g}"] if least > -math.inf and most == 1 else wanted
        wanted = [f"from {least:g} to below 1"] if 0 < 1 - most < 1e-6 else wanted
        raise InputError(f"{name} is {value}: it must be {' and '.join(wanted)}")


_OPEN = {"least": -math.inf, "most": math.inf, "above": -math.inf}


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"config.{key} is {value!r}: choose {' or '.join(known)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: an int may stand for a float, and a tuple has as many items as its type
    says.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    kind = origin or hint
    return isinstance(value, bool) == (kind is bool) and isinstance(value, kind)


def _words(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return text.replace("collections.abc.", "").replace("typing.", "").replace("NoneType", "None")


def _plain(value: Any) -> Any:
    """ConfigDicts as dictionaries, lists as tuples."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
