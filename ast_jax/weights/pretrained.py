"""Any checkpoint as a model ready for use, and any checkpoint as the start of another.

D width, B batch, T frames, F mel bins, C classes.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ast_jax import objectives
from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import (
    abstract,
    best_dtype,
    build,
    family,
    family_name,
    host_variables,
    kernels_on,
    merge,
    num_parameters,
    set_variables,
    split,
    using,
)
from ast_jax.models.base import judges_steps, variables
from ast_jax.weights.families import STARTED_BY, runtime, starter
from ast_jax.weights.model_card import model_card
from ast_jax.weights.recognise import read_source
from ast_jax.weights.source import Source


@dataclasses.dataclass(repr=False)
class LoadedModel:
    """A model with what it takes to use it: its classes, what it hears, what its logits mean."""

    model: Any
    label_names: list[str]
    # with the mean and deviation that features are normalised by
    front_end: FrontEnd
    # of objectives.ACTIVATIONS
    activation: str
    # as `load_audio` takes it
    channels: str = "mean"
    # from which score on each class is found in a clip, and in a step of time; None where nobody has chosen
    thresholds: list[float | None] | None = None
    frame_thresholds: list[float | None] | None = None
    # what was taken, adapted, left new, and `assumed`
    notes: list[str] = dataclasses.field(default_factory=list)
    # what the checkpoint does not say, concluded or taken for granted
    assumed: list[str] = dataclasses.field(default_factory=list)
    # its scores are random
    new_head: bool = False

    def __repr__(self) -> str:
        names, front_end = self.label_names, self.front_end
        labels = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return (
            f"<{type(self.model).__name__} of {num_parameters(self.model):,} parameters; {len(names)} "
            "classes: "
            f"{labels} ({self.activation}); hears {front_end.seconds(self.model.config.num_frames):g} s at "
            f"{front_end.sample_rate_hz} Hz>"
        )

    def logits(self, fbank: Float[np.ndarray, "B T F"]) -> Float[np.ndarray, "B C"]:
        """Logits of features as the front end gives them, not normalised.

        Clips are cut to the model's `num_frames`, or padded before normalisation as in training.
        """
        return np.asarray(self._logits(fbank))

    def scores(self, fbank: Float[np.ndarray, "B T F"]) -> Float[jax.Array, "B C"]:
        """What the logits say of each class, 0 to 1; not waited for: the caller may prepare the next batch
        meanwhile.
        """
        return self._to_scores(self._logits(fbank))

    def frame_scores(self, fbank: Float[np.ndarray, "B T F"]) -> Float[jax.Array, "B t C"]:
        """The same of each step of time, of a model that judges them (`models.base.judges_steps`)."""
        return self._to_scores(self._called(self._frames, fbank))

    def embeddings(self, fbank: Float[np.ndarray, "B T F"]) -> Float[jax.Array, "B D"]:
        """What the head reads."""
        return self._called(self._embedding, fbank)

    @cached_property
    def judges_steps(self) -> bool:
        """Whether it has scores of steps."""
        return judges_steps(self.model)

    @property
    def parts(self) -> tuple[Any, dict[str, Any]]:
        """The model's structure and its arrays, of which `models.merge` makes it again. Raises InputError for
        one that is run and not read.
        """
        graphdef, params, statistics = split(self.model)
        return graphdef, params | statistics

    def digest(self) -> str:
        """Which model it is, so that another one never goes on with this one's work: of its arrays, and of
        what else its answers follow from (family, config, front end with mean and std, classes, activation).
        Not of thresholds, nor of the arithmetic, which is each device's own.
        """
        said = {
            "family": family_name(self.model),
            "model": {key: value for key, value in _chosen(self.model.config).items() if key != "dtype"},
            "front_end": {"kind": self.front_end.kind, **_chosen(self.front_end)},
            "classes": self.label_names,
            "activation": self.activation,
            "channels": self.channels,
        }
        found = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8)
        for part in self._weights():
            found.update(part)
        return found.hexdigest()

    def _weights(self) -> Iterator[bytes]:
        for path, array in sorted(host_variables(self.model).items()):
            yield path.encode()
            yield array.tobytes()

    def card(self) -> dict[str, Any]:
        """What model_card.json says."""
        return model_card(
            self.model,
            label_names=self.label_names,
            front_end=self.front_end,
            activation=self.activation,
            channels=self.channels,
            thresholds=self.thresholds,
            frame_thresholds=self.frame_thresholds,
        )

    def _logits(self, fbank: Float[np.ndarray, "B T F"]) -> Float[jax.Array, "B C"]:
        """Of the model as it is now: it may have been trained, or wrapped, since the last call."""
        if np.ndim(fbank) != 3 or not all(np.shape(fbank)):
            raise InputError(
                f"features of shape {np.shape(fbank)}: wanted [batch, frames, mel bins], none 0 (a clip "
                "alone is features[None])"
            )
        return self._called(self._forward, fbank)

    def _called(self, forward: Callable, fbank: np.ndarray) -> jax.Array:
        padded = fit_frames(fbank, self.model.config.num_frames, self.front_end.padding)
        return forward(*self.parts, padded)

    @cached_property
    def _forward(self):
        return self._compiled(lambda logits, out: logits)

    @cached_property
    def _to_scores(self):
        # one program: not one for each operation in it, to be made or fetched at the first call
        return jax.jit(objectives.activation(self.activation))

    @cached_property
    def _frames(self):
        return self._compiled(lambda logits, out: out["frames"])

    @cached_property
    def _embedding(self):
        return self._compiled(lambda logits, out: out["embedding"])

    def _compiled(self, take: Callable) -> Callable:
        forms = kernels_on(jax.devices()[0])

        def forward(graphdef, arrays, fbank):
            with using(forms):
                return take(*merge(graphdef, arrays)(self.front_end.normalise(fbank)))

        return jax.jit(forward, static_argnums=0)


def _chosen(values: Any) -> dict[str, Any]:
    """Fields of a dataclass that are not as by default: one that a newer version adds changes nothing."""
    stated = {
        field.name: (getattr(values, field.name), field.default) for field in dataclasses.fields(values)
    }
    return {name: value for name, (value, default) in stated.items() if value != default}


def with_config(loaded: LoadedModel, **changes: Any) -> LoadedModel:
    """The same arrays under other arithmetic: fields of the model's Config that change no shape, such as
    dtype='float32'. A field that its family does not have is left out.
    """
    config, name = loaded.model.config, family_name(loaded.model)
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{key: value for key, value in changes.items() if key in known})
    return dataclasses.replace(loaded, model=filled(name, config, host_variables(loaded.model)))


def filled(name: str, config: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A model of a family with these arrays: no number is drawn for what is replaced."""
    model = merge(*split(abstract(name, config)))
    set_variables(model, arrays)
    return model


def fit_frames(
    fbank: Float[np.ndarray, "B T F"], num_frames: int, padding: float = 0.0
) -> Float[np.ndarray, "B U F"]:
    """The first `num_frames` frames, rows of `padding` appended where there are fewer."""
    short = max(num_frames - fbank.shape[1], 0)
    cut = fbank[:, :num_frames]
    return np.pad(cut, ((0, 0), (0, short), (0, 0)), constant_values=padding).astype(np.float32)


def load_model(
    src: str | os.PathLike,
    *,
    which: str = "best",
    facts: Mapping[str, Any] | None = None,
    mean: float | None = None,
    std: float | None = None,
    label_names: list[str] | None = None,
    activation: str | None = None,
    rgb: str = "sum",
    positions: str = "bilinear",
    seed: int = 0,
    **changes: Any,
) -> LoadedModel:
    """Any checkpoint as a model ready for use; see `read_source` for what `src`, `which` and `facts` may be.
    An ONNX export of ours is one too: onnxruntime runs it, and nothing about it can be changed.

    Args:
        mean, std: normalisation, instead of the checkpoint's own.
        label_names: names of the classes, instead of the checkpoint's own; also for a head of another size.
        activation: from logits to scores, 'sigmoid' or 'softmax', instead of the checkpoint's own.
        rgb, positions: how an ImageNet kernel folds and how positions are resized, see `initialise`.
        seed: of what is left new.
        **changes: fields of the family's Config (`num_frames`, `num_classes`, `strides`, `dtype`, ...) that
            differ from the checkpoint's: an AST's positions and kernel are adapted, and a head of another
            size is new; `dtype` is what this device does best where it is not among them. An ImageNet model
            with no change of geometry takes "spectrograms" of its image size; with any, the paper's geometry
            (128 mel bins, 1024 frames, 16 x 16 patches, strides 10) with those changes.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit what is asked for.
    """
    if activation is not None:
        objectives.activation(activation)
    if load := runtime(Path(src)):
        asked = {"mean": mean, "std": std, "label_names": label_names, "activation": activation, **changes}
        return load(Path(src), {name: value for name, value in asked.items() if value is not None})
    source = read_source(src, which=which, facts={**(facts or {}), "asked": changes})
    if label_names is not None:
        changes.setdefault("num_classes", len(label_names))
    kind = family(source.family).Config
    _known(changes, kind)
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    config = kind(**_base(source, changes) | changes)
    same_classes = config.num_classes == source.model.get("num_classes", config.num_classes)
    head = "keep" if source.has_head and same_classes else "new"
    taken, account = _started(source, config, rgb=rgb, positions=positions, head=head)
    dtype = best_dtype(source.family, jax.devices()[0])
    own = config
    if "dtype" not in changes and hasattr(config, "dtype"):
        own = dataclasses.replace(config, dtype=dtype)
    model = filled(source.family, own, _drawn(source.family, own, seed, without=taken) | taken)
    front_end = model.front_end
    if source.front_end is not None and config == source.config:
        front_end = source.front_end
    mean, std, origin = _normalisation(source, front_end, mean, std)
    notes, assumed = [account, f"features normalised by mean {mean:g}, std {std:g} ({origin})"], source.notes
    if own is not config and dtype != "float32":
        notes.append(f"products in {dtype}, as this device does best (dtype='float32' otherwise)")
    if activation is None and source.activation is None and not source.image:
        assumed = [
            *assumed,
            "the checkpoint does not say whether clips have one label or several: taken as one (softmax)",
        ]
    return LoadedModel(
        model,
        _names(source, label_names, config.num_classes, head),
        front_end.with_statistics(mean, std),
        activation or source.activation or "softmax",
        channels=source.channels,
        thresholds=source.thresholds if head == "keep" else None,
        frame_thresholds=source.frame_thresholds if head == "keep" else None,
        notes=[*notes, *assumed],
        assumed=assumed,
        new_head=head == "new",
    )


def _normalisation(
    source: Source, front_end: FrontEnd, mean: float | None, std: float | None
) -> tuple[float, float, str]:
    """The mean and std to use, and whose they are."""
    if mean is None and std is None:
        if source.image:
            # as it is: (x - 0) / 1
            return 0.0, 1 / front_end.spread, "none: an image model says nothing of log-mel features"
        origin = "the checkpoint's"
    else:
        origin = "as given"
    mean, std = source.mean if mean is None else mean, source.std if std is None else std
    if mean is None or std is None:
        raise InputError(
            f"{source.where} does not say the mean and std of the features it was trained on: give both "
            "(--mean and --std)"
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
    model: Any,
    src: str | os.PathLike | Source,
    *,
    which: str = "best",
    rgb: str = "sum",
    positions: str = "bilinear",
    head: str = "new",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Starts `model` from a checkpoint, as AST papers do: ImageNet ViT to AudioSet, AudioSet to any task.

    What has no counterpart keeps the model's own initial values.

    Args:
        model: changed in place; of the checkpoint's family, width and depth.
        rgb: 'sum' (the published code) or 'mean' (the paper's wording) of the three colour kernels.
        positions: 'bilinear' or 'nearest' to a longer axis, or 'reinit': the model keeps its own new ones.
        head: 'new', or 'keep' for a source with the same classes.

    Returns:
        One line: what was taken, cut, resized, left new.

    Raises:
        InputError: the checkpoint cannot be read or is of another shape.
    """
    given = {**(facts or {}), "asked": dataclasses.asdict(model.config)}
    source = src if isinstance(src, Source) else read_source(src, which=which, facts=given)
    name = family_name(model)
    if source.family not in (name, STARTED_BY.get(name)):
        raise InputError(
            f"{source.where} is of the family {source.family}, the model of {name}: choose the same"
        )
    taken, account = _started(source, model.config, rgb=rgb, positions=positions, head=head)
    set_variables(model, host_variables(model) | taken)
    return account


def _started(
    source: Source, config: Any, *, rgb: str, positions: str, head: str
) -> tuple[dict[str, np.ndarray], str]:
    """The arrays that such a model gets from the source, by its family's rule, and the account of them."""
    if head not in ("new", "keep"):
        raise InputError(f"head={head!r}: choose 'new' or 'keep'")
    return starter(source.family)(source, config, rgb=rgb, positions=positions, head=head)


def _drawn(name: str, config: Any, seed: int, *, without: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Initial values of what is not there yet; under jit nothing else is drawn."""
    new = [path for path in variables(abstract(name, config)) if path not in without]
    if not new:
        return {}

    def draw():
        drawn = variables(build(name, config, seed=seed))
        return {path: drawn[path] for path in new}

    return jax.device_get(jax.jit(draw)())


def _base(source: Source, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that `changes` change."""
    geometry = ("num_frames", "num_mel_bins", "patch_shape", "strides")
    if not source.image or changes.keys().isdisjoint(geometry):
        return source.model
    return {name: value for name, value in source.model.items() if name not in geometry}


def _known(changes: Mapping[str, Any], kind: type) -> None:
    unknown = changes.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise InputError(
            f"{', '.join(sorted(unknown))}: neither an argument of load_model nor a field of {kind.__name__}"
        )
