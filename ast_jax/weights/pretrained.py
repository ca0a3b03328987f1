"""Any checkpoint into this model: this length, these strides, these mel bins, with or without its head.

f x t patch grids, P class and distillation tokens, D width, B batch, T frames, F mel bins, C classes.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, flat_params, merge, normalise, set_params, split
from ast_jax.models.attention import attention_on
from ast_jax.models.patches import adapt_kernel, adapt_positions, positions_by_place
from ast_jax.weights.recognise import read_source
from ast_jax.weights.source import Source, model_card

_SHAPE = (
    "width",
    "depth",
    "num_heads",
    "mlp_ratio",
)  # must be the source's own: there is no rule to change them
_HEAD = ("head_norm/scale", "head_norm/bias", "head/kernel", "head/bias")


@dataclasses.dataclass
class LoadedModel:
    """A model with what it takes to use it: its classes, its normalisation and how its clips were mixed down."""

    model: AST
    label_names: list[str]
    mean: float
    std: float
    multi_label: bool
    sample_rate_hz: int = 16_000
    channels: str = "mean"  # 'mean' or 'first', as `load_audio` takes it
    notes: list[str] = dataclasses.field(default_factory=list)  # what was taken, adapted, left new or assumed

    def logits(self, fbank: Float[np.ndarray, "B T F"]) -> Float[np.ndarray, "B C"]:
        """Logits of log-mel features as `log_mel` gives them, not normalised.

        Clips are cut to the model's `num_frames`, or filled with zero rows before normalisation as in training.
        """
        return np.asarray(self._forward(fit_frames(fbank, self.model.config.num_frames)))

    def scores(self, fbank: Float[np.ndarray, "B T F"]) -> Float[jax.Array, "B C"]:
        """What the logits say of each class, 0 to 1; not waited for: the caller may prepare the next batch meanwhile."""
        return self.activation(self._forward(fit_frames(fbank, self.model.config.num_frames)))

    @property
    def activation(self) -> Callable[[jax.Array], jax.Array]:
        """From logits to scores: sigmoids where a clip may have several labels, else a softmax."""
        return jax.nn.sigmoid if self.multi_label else jax.nn.softmax

    def card(self) -> dict[str, Any]:
        """What model_card.json says."""
        names = ("label_names", "mean", "std", "multi_label", "sample_rate_hz", "channels")
        return model_card(self.model.config, **{name: getattr(self, name) for name in names})

    @cached_property
    def _forward(self):
        graphdef, params = split(self.model)
        attend = attention_on(jax.devices()[0])

        @jax.jit
        def forward(params, fbank):
            return merge(graphdef, params)(normalise(fbank, self.mean, self.std), attend=attend)

        return lambda fbank: forward(params, fbank)


def with_config(loaded: LoadedModel, **changes: Any) -> LoadedModel:
    """The same parameters under other arithmetic: ASTConfig fields that change no shape, such as dtype='float32'."""
    config = dataclasses.replace(loaded.model.config, **changes)
    model = nnx.eval_shape(lambda: AST(config, rngs=nnx.Rngs(0)))
    set_params(model, flat_params(loaded.model))
    return dataclasses.replace(loaded, model=model)


def fit_frames(fbank: Float[np.ndarray, "B T F"], num_frames: int) -> Float[np.ndarray, "B U F"]:
    """The first `num_frames` frames, zero rows appended where there are fewer (the reference's way)."""
    short = max(num_frames - fbank.shape[1], 0)
    return np.pad(fbank[:, :num_frames], ((0, 0), (0, short), (0, 0))).astype(np.float32)


def load_model(
    src: str | os.PathLike,
    *,
    which: str = "best",
    facts: Mapping[str, Any] | None = None,
    mean: float | None = None,
    std: float | None = None,
    label_names: list[str] | None = None,
    rgb: str = "sum",
    positions: str = "bilinear",
    seed: int = 0,
    **changes: Any,
) -> LoadedModel:
    """Any checkpoint as a model ready for use; see `read_source` for what `src`, `which` and `facts` may be.

    Args:
        mean, std: normalisation, instead of the checkpoint's own.
        label_names: names of the classes, instead of the checkpoint's own; also for a head of another size.
        rgb, positions: how an ImageNet kernel folds and how positions are resized, see `initialise`.
        seed: of what is left new.
        **changes: ASTConfig fields (`num_frames`, `strides`, `num_classes`, `dtype`, ...) that differ from the
            checkpoint's: positions and kernel are adapted, and a head of another size is new. An ImageNet model
            with no change of geometry takes "spectrograms" of its image size; with any, the paper's geometry
            (128 mel bins, 1024 frames, 16 x 16 patches, strides 10) with those changes.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit what is asked for.
    """
    source = read_source(
        src, which=which, facts=dict(facts or {}) | {k: changes[k] for k in ("num_heads",) if k in changes}
    )
    if label_names is not None:
        changes.setdefault("num_classes", len(label_names))
    _known(changes)
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    config = ASTConfig(**_base(source, changes) | changes)
    head = "keep" if source.has_head and config.num_classes == source.params["head/bias"].size else "new"
    params, account = _adapted(
        source, config, _fresh(config, seed, head, positions), rgb=rgb, positions=positions, head=head
    )
    model = nnx.eval_shape(lambda: AST(config, rngs=nnx.Rngs(0)))  # no numbers drawn for what is replaced
    set_params(model, params)
    mean, std, origin = _normalisation(source, mean, std)
    return LoadedModel(
        model,
        _names(source, label_names, config.num_classes, head),
        mean,
        std,
        bool(source.multi_label),
        channels=source.channels,
        notes=[account, f"features normalised by mean {mean:g}, std {std:g} ({origin})", *source.notes],
    )


def _normalisation(source: Source, mean: float | None, std: float | None) -> tuple[float, float, str]:
    """The mean and std to use, and whose they are."""
    if mean is None and std is None:
        if source.image:
            return 0.0, 0.5, "none: an image model says nothing of log-mel features"  # (x - 0) / (2 x 0.5)
        origin = "the checkpoint's"
    else:
        origin = "as given"
    mean, std = source.mean if mean is None else mean, source.std if std is None else std
    if mean is None or std is None:
        raise InputError(
            f"{source.where} does not say the mean and std of the features it was trained on: give both"
        )
    return float(mean), float(std), origin


def _names(source: Source, given: list[str] | None, classes: int, head: str) -> list[str]:
    """Class names: as given, else the checkpoint's if its head is kept, else numbers."""
    names = (
        given or (source.label_names if head == "keep" else None) or [f"class {i}" for i in range(classes)]
    )
    if len(names) != classes:
        raise InputError(f"{len(names)} label names for {classes} classes")
    return list(names)


def initialise(
    model: AST,
    src: str | os.PathLike | Source,
    *,
    which: str = "best",
    rgb: str = "sum",
    positions: str = "bilinear",
    head: str = "new",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Starts `model` from a checkpoint, as AST papers do: ImageNet ViT to AudioSet, AudioSet to any task.

    What has no counterpart keeps the model's own initial values. A class-only source gives a distilled model its class
    token and position twice; a class-only model leaves a source's distillation token aside.

    Args:
        model: changed in place; width, depth, heads and MLP ratio must be the source's.
        rgb: 'sum' (the published code) or 'mean' (the paper's wording) of the three colour kernels.
        positions: 'bilinear' or 'nearest' to a longer axis, or 'reinit': the model keeps its own new positions.
        head: 'new', or 'keep' for a source with the same classes.

    Returns:
        One line: what was taken, cut, resized, left new.

    Raises:
        InputError: the checkpoint cannot be read or is of another shape.
    """
    source = src if isinstance(src, Source) else read_source(src, which=which, facts=facts)
    params, account = _adapted(
        source, model.config, flat_params(model), rgb=rgb, positions=positions, head=head
    )
    set_params(model, params)
    return account


def _adapted(
    source: Source, config: ASTConfig, params: dict[str, np.ndarray], *, rgb: str, positions: str, head: str
) -> tuple[dict[str, np.ndarray], str]:
    """`params` with everything that the source has for such a model, and the account of it."""
    _same_shape(source, config)
    if head not in ("new", "keep"):
        raise InputError(f"head={head!r}: choose 'new' or 'keep'")
    account = [f"{config.depth} blocks of width {config.width} from {source.where}"]
    same = {
        p: x
        for p, x in source.params.items()
        if p.startswith(("blocks/", "norm/", "cls_token", "patch_embed/bias"))
    }
    params = params | same
    params["patch_embed/kernel"] = _kernel(source, config, rgb, account)
    if config.distilled:
        params["dist_token"] = source.params.get("dist_token", source.params["cls_token"])
    if config.distilled and not source.model["distilled"]:
        account.append("distillation token and its position copied from the class token's")
    if source.model["distilled"] and not config.distilled:
        account.append("distillation token left aside")
    if positions == "reinit":
        account.append("positions new")
    else:
        params["pos_embed"] = _positions(source, config, positions, account)
    _head(source, config.num_classes, params, head, account)
    if config.norm_eps != source.model["norm_eps"]:
        account.append(f"LayerNorm eps {config.norm_eps:g} where the source has {source.model['norm_eps']:g}")
    return params, ", ".join(account)


def _same_shape(source: Source, config: ASTConfig) -> None:
    differs = [
        f"{name} {source.model[name]} against {getattr(config, name)}"
        for name in _SHAPE
        if source.model[name] != getattr(config, name)
    ]
    if differs:
        raise InputError(
            f"{source.where} is another size than the model: {', '.join(differs)}; choose the same"
        )


def _kernel(source: Source, config: ASTConfig, rgb: str, account: list[str]) -> np.ndarray:
    kernel = source.params["patch_embed/kernel"]
    if kernel.shape[2] > 1:
        account.append(f"{kernel.shape[2]} colour kernels {'summed' if rgb == 'sum' else 'averaged'}")
    if kernel.shape[:2] != tuple(config.patch_shape):
        account.append(f"patch kernel PI-resized from {_by(kernel.shape[:2])} to {_by(config.patch_shape)}")
    elif kernel.shape[2] == 1:
        return kernel
    return adapt_kernel(kernel, config.patch_shape, rgb=rgb)


def _positions(source: Source, config: ASTConfig, mode: str, account: list[str]) -> np.ndarray:
    """Prefix positions copied; patch positions by place where an AST's strides or patches change, then by the reference's rule."""
    own = source.config
    table, width, grid = source.params["pos_embed"][0], config.width, own.grid
    prefix, patches = table[: own.num_prefix_tokens], table[own.num_prefix_tokens :].reshape(*grid, width)
    laid = [tuple(c.patch_shape) + tuple(c.strides) for c in (own, config)]
    if not source.image and laid[0] != laid[1]:
        patches = positions_by_place(
            patches,
            extent=(own.num_mel_bins, own.num_frames),
            patch_shape=own.patch_shape,
            strides=own.strides,
            new_patch_shape=config.patch_shape,
            new_strides=config.strides,
            mode=mode,
        )
        account.append(f"positions {_by(grid)} moved to the new patch centres {_by(patches.shape[:2])}")
    before = patches.shape[:2]
    patches = adapt_positions(patches, config.grid, mode=mode)
    ways = [
        _way(axis, old, new, mode)
        for axis, old, new in zip(("frequency", "time"), before, config.grid, strict=True)
    ]
    if any(ways):
        account.append(f"positions {_by(before)} to {_by(config.grid)} ({' and '.join(filter(None, ways))})")
    if config.distilled and not own.distilled:
        prefix = np.concatenate([prefix, prefix])
    return np.concatenate([prefix[: config.num_prefix_tokens], patches.reshape(-1, width)])[None]


def _way(axis: str, old: int, new: int, mode: str) -> str:
    if old == new:
        return ""
    return f"{axis} cut" if new < old else f"{axis} {mode}"


def _head(source: Source, classes: int, params: dict[str, np.ndarray], head: str, account: list[str]) -> None:
    if head == "new":
        account.append("head new")
        return
    if not source.has_head or source.params["head/bias"].size != classes:
        has = f"{source.params['head/bias'].size} classes" if source.has_head else "no AST head"
        raise InputError(
            f"{source.where} has {has}, the model {classes} classes: only a new head is possible"
        )
    for path in _HEAD:
        params[path] = source.params[path]


def _fresh(config: ASTConfig, seed: int, head: str, positions: str) -> dict[str, np.ndarray]:
    """Initial values of all that may stay new: a model of one block has it, compiled once."""
    if head == "keep" and positions != "reinit":
        return {}
    shallow = dataclasses.replace(config, depth=1)
    return jax.device_get(jax.jit(lambda: split(AST(shallow, rngs=nnx.Rngs(seed)))[1])())


def _base(source: Source, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that `changes` change."""
    geometry = ("num_frames", "num_mel_bins", "patch_shape", "strides")
    if not source.image or changes.keys().isdisjoint(geometry):
        return source.model
    return {name: value for name, value in source.model.items() if name not in geometry}


def _known(changes: Mapping[str, Any]) -> None:
    unknown = changes.keys() - {field.name for field in dataclasses.fields(ASTConfig)}
    if unknown:
        raise InputError(
            f"{', '.join(sorted(unknown))}: neither an argument of load_model nor a field of ASTConfig"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
