"""What every model family is to the rest of the program, and how a model becomes arrays by name.

    logits, out = model(x, key=keys, mask=mask)

B batch, T frames, F mel bins, C classes, D width, t steps of time. A family is one class (an nnx.Module) with

- `Config`, a frozen dataclass with at least `num_classes` and `num_frames`, hashable;
- `config`, and `front_end`: what `x` is before it is normalised;
- `__call__(x, *, key=None, mask=None)`: `x` [B, T, F] normalised. `key` holds one random key a clip in
  training, None
  everywhere else; `mask` is 0 on rows that only fill a batch. `out` holds what was computed on the way:
  `embedding` [B, D] (what the head reads), `sequence` [B, t, D] where there is one, `layers` (the same two
  after each block), `frames`. Under jit, what nobody reads costs nothing;
- `time_steps`, where `out` has a `sequence`: frames a step sees, frames from one to the next, steps in
  `num_frames`;
- `attention_maps` and `over_cells`, where patches attend to each other (`ast.py` says how): `explain` draws
  them;
- `levels`: beginnings of parameter paths, from what reads the input to the head, for freezing and layer-wise
  decay;
- `normalises`, true where its first layer brings features to size itself: they come as they are, and the call
  takes `between`, what training does to them after that layer.

Parameters are `nnx.Param`, optimised and decayed; every other variable (`nnx.BatchStat`) is a *statistic*:
stored, averaged, verified, sharded and exported with them, and changed by training's forward pass alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models.kernels import multiplies_16_bits
from ast_jax.settings import Settings
from ast_jax.tables import look_up

Arrays = Mapping[str, Any]  # by '/'-joined path

# Where each family lives; another one is `module:Class`, in the recipe as in the card.
FAMILIES: dict[str, Any] = {
    "ast": "ast_jax.models.ast:AST",
    "cnn6": "ast_jax.models.panns:CNN6",
    "cnn10": "ast_jax.models.panns:CNN10",
    "cnn14": "ast_jax.models.panns:CNN14",
    "cnn14_decision_max": "ast_jax.models.panns:CNN14DecisionMax",
    "cnn14_decision_att": "ast_jax.models.panns:CNN14DecisionAtt",
    "wavegram_logmel_cnn14": "ast_jax.models.wavegram:WavegramLogmelCNN14",
    "psla": "ast_jax.models.psla:PSLA",
    "passt": "ast_jax.models.passt:PaSST",
    "ced": "ast_jax.models.ced:CED",
    "eat": "ast_jax.models.eat:EAT",
    "beats": "ast_jax.models.beats:BEATs",
    "ast_given": "ast_jax.models.given:GivenAST",
    "vggish_mlp": "ast_jax.models.vggish:VGGishMLP",
    "probed": "ast_jax.models.probed:Probed",
}


class Between(NamedTuple):
    """What training does to normalised features: `augment` [B, T, F] to the same, then `mix` [2 B, ...], each
    clip followed by its partner, to [B, ...]; nothing outside training.
    """

    augment: Callable[[Array], Array] = lambda x: x
    mix: Callable[[Array], Array] = lambda x: x


class Model(Protocol):
    """See above."""

    Config: ClassVar[type]
    config: Any
    front_end: FrontEnd
    levels: tuple[tuple[str, ...], ...]

    def __call__(self, x: Array, *, key: Any = None, mask: Any = None) -> tuple[Array, dict[str, Any]]:
        """Normalised features [B, T, F] to logits [B, C] and what was computed on the way."""
        ...


def check_shape(x: Any, num_frames: int, columns: int, *, called: str = "mel bins") -> None:
    """Raises InputError where a batch of features [B, T, F] is not what a model of this length takes."""
    if x.shape[1:] != (num_frames, columns):
        raise InputError(
            f"the model takes [batch, {num_frames} frames, {columns} {called}], got {list(x.shape)}: pad or "
            "cut the clip, or load the model with another num_frames"
        )


def check_dtype(dtype: str) -> None:
    """Raises InputError for a type that no model computes in."""
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype {dtype!r} is not offered: choose 'float32' or 'bfloat16'")


def family(name: str) -> Any:
    """The class of a family, by its name or as `module:Class`. Raises InputError."""
    return look_up(FAMILIES, name, "model family")


def family_name(model: Any) -> str:
    """The name under which `family` finds a model's class again."""
    address = f"{type(model).__module__}:{type(model).__qualname__}"
    return next((name for name, home in FAMILIES.items() if home == address), address)


def config_from(settings: Settings, num_classes: int) -> Any:
    """The configuration of the model that a recipe asks for.

    A family's Config may say itself how (`from_settings(settings, num_classes)`); another one takes
    `config.model.options` as its fields.

    Raises:
        InputError: unknown options, or settings of config.model that the family has no use for.
    """
    # no shape depends on it; a program is made of settings that are `settled`
    settings = settings.with_dtype("float32")
    model, kind = settings.model, family(settings.model.family).Config
    if hasattr(kind, "from_settings"):
        return kind.from_settings(settings, num_classes=num_classes)
    own = {field.name for field in dataclasses.fields(kind)}
    default = type(model)(dtype="float32")
    fields = [field.name for field in dataclasses.fields(model) if field.name not in ("family", "options")]
    said = {key: getattr(model, key) for key in fields if getattr(model, key) != getattr(default, key)}
    shared = {key: said.pop(key) for key in ("dtype",) if key in said and key in own}
    unused = [f"config.model.{key}" for key in said]
    unused += [f"config.model.options.{key}" for key in model.options if key not in own]
    if unused:
        raise InputError(
            f"the family {model.family} has no use for {', '.join(unused)}: its options are "
            f"{', '.join(sorted(own))}"
        )
    given = {**shared, **model.options}
    return kind(num_classes=num_classes, num_frames=settings.run.num_frames, **given)


def settled(settings: Settings, device: jax.Device) -> Settings:
    """The same with what `config.model.dtype=auto` stands for on a device."""
    return settings.with_dtype(best_dtype(settings.model.family, device))


def best_dtype(name: str, device: jax.Device) -> str:
    """bfloat16 where the device is made for it and the family has a choice, else float32."""
    chooses = "dtype" in {field.name for field in dataclasses.fields(family(name).Config)}
    return "bfloat16" if chooses and multiplies_16_bits(device) else "float32"


def build(name: str, config: Any, *, seed: int = 0) -> Any:
    """A new model of a family, its parameters drawn from `seed`."""
    return family(name)(config, rngs=nnx.Rngs(seed))


@functools.lru_cache(maxsize=16)
def abstract(name: str, config: Any) -> Any:
    """The same with shapes in the place of arrays: no number is drawn. Not to be changed: it is shared."""
    return nnx.eval_shape(lambda: build(name, config))


def split(model: Any) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
    """The structure, the parameters and the statistics, `{"blocks/0/norm1/scale": array, ...}`; `merge` is
    the inverse.
    """
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, statistics = parts
    return graphdef, _flat(nnx.as_pure(params)), _flat(nnx.as_pure(statistics))


def merge(graphdef: nnx.GraphDef, *arrays: Arrays) -> Any:
    """The model from its structure and flat arrays; works on tracers, inside jit."""
    nested: dict = {}
    for path, value in {path: value for part in arrays for path, value in part.items()}.items():
        words = [int(word) if word.isdigit() else word for word in path.split("/")]
        node = nested
        for word in words[:-1]:
            node = node.setdefault(word, {})
        node[words[-1]] = value
    return nnx.merge(graphdef, nested)


def variables(model: Any) -> dict[str, Any]:
    """All arrays of a model, parameters and statistics, under '/'-joined paths."""
    _, params, statistics = split(model)
    return params | statistics


def host_variables(model: Any) -> dict[str, np.ndarray]:
    """The same as NumPy arrays."""
    return {path: np.asarray(value) for path, value in variables(model).items()}


def set_variables(model: Any, arrays: Arrays) -> None:
    """Replaces every array of `model`.

    Raises:
        InputError: a path is missing or unknown, or a shape differs; all of them in one message.
    """
    graphdef, params, statistics = split(model)
    old = params | statistics
    if wrong := misfits(old, arrays):
        raise InputError(f"{len(wrong)} arrays do not fit the model: {'; '.join(wrong)}")
    new = {path: jnp.asarray(arrays[path], value.dtype) for path, value in old.items()}
    nnx.update(model, nnx.state(merge(graphdef, new)))


def misfits(wanted: Arrays, arrays: Arrays) -> list[str]:
    """What is missing, unknown or of another shape among `arrays`, where `wanted` has what should be
    there.
    """
    wrong = [f"{path} is missing" for path in wanted if path not in arrays]
    wrong += [f"{path} is unknown" for path in arrays if path not in wanted]
    return wrong + [
        f"{path} has shape {tuple(arrays[path].shape)}, wanted {tuple(value.shape)}"
        for path, value in wanted.items()
        if path in arrays and tuple(arrays[path].shape) != tuple(value.shape)
    ]


def judges_steps(model: Any) -> bool:
    """Whether its call gives `frames`; found by shapes alone."""
    return "frames" in outputs(model)


def outputs(model: Any) -> dict[str, Any]:
    """Shapes of what its call of one clip gives beside logits."""
    graphdef, params, statistics = split(model)
    clip = jax.ShapeDtypeStruct((1, model.config.num_frames, model.front_end.num_mel_bins), jnp.float32)
    call = lambda arrays, clip: merge(graphdef, arrays)(clip)[1]
    return jax.eval_shape(call, params | statistics, clip)


def steps_with_sound(model: Any, lengths: Int[Any, " *B"]) -> Int[Any, " *B"]:
    """How many of a model's steps of time have their middle inside `lengths` frames of sound; at least
    one.
    """
    size, stride, most = model.time_steps
    return ((lengths - (size + 1) // 2) // stride + 1).clip(1, most)


def level_of(levels: tuple[tuple[str, ...], ...], path: str) -> int:
    """The level that a parameter belongs to: 0 reads the input, the last one is the head."""
    for level, beginnings in enumerate(levels):
        if any(path == name or path.startswith(f"{name}/") for name in beginnings):
            return level
    raise InputError(f"the parameter {path} is of no level of its model: name its beginning in `levels`")


def num_parameters(model: Any) -> int:
    """Numbers in all parameters; statistics do not count."""
    return sum(int(np.prod(value.shape)) for value in jax.tree.leaves(split(model)[1]))


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat
