"""A head on what another model has computed: its embeddings after some of its blocks, put together.

B batch, T frames, F mel bins, D the base's width, V vector, M examples, C classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ast_jax.errors import InputError
from ast_jax.models.base import family

# Of one layer's outputs to [B, D]; all but the first are over steps of time, those that are heard.
POOLS = {
    "token": lambda layer: layer["embedding"],
    "mean": lambda layer: layer["sequence"].mean(axis=1, where=_heard(layer)),
    "max": lambda layer: layer["sequence"].max(axis=1, where=_heard(layer), initial=-jnp.inf),
    "min": lambda layer: layer["sequence"].min(axis=1, where=_heard(layer), initial=jnp.inf),
}
# What it has where its base has it.
_OF_BASE = ("time_steps", "attention_maps", "over_cells", "normalises")


def _heard(layer: dict[str, Array]) -> Bool[Array, "B t 1"] | None:
    """Which steps of time count; None for all, where the base leaves none out."""
    return layer["heard"][..., None] if "heard" in layer else None


# Cosines are divided by it before they vote, and a class that none votes for has this share.
SHARPNESS, LEAST = 0.07, 1e-6


def nearest(
    x: Float[Array, "B V"],
    *,
    centre: Float[Array, " V"],
    deviation: Float[Array, " V"],
    examples: Float[Array, "M V"],
    classes: Float[Array, "M C"],
    neighbours: int,
) -> Float[Array, "B C"]:
    """Logarithms of the classes' shares in the votes of the nearest examples, by the cosine of standardised
    vectors, the nearer the more (Wu et al. 2018). Examples are standardised, at length 1, `classes` 0 or 1.
    """
    x = (x - centre[None]) / deviation[None]
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosines = jnp.matmul(x, examples.T, precision=jax.lax.Precision.HIGHEST)
    closest, places = jax.lax.top_k(cosines, neighbours)
    votes = jnp.einsum("bk,bkc->bc", jax.nn.softmax(closest / SHARPNESS), classes[places])
    return jnp.log(votes + LEAST)


class Nearest(nnx.Module):
    """`nearest` as a head, its logits divided by a temperature."""

    def __init__(self, size: int, config: "ProbedConfig"):
        self.neighbours = config.neighbours
        self.centre, self.deviation = nnx.Param(jnp.zeros(size)), nnx.Param(jnp.ones(size))
        self.examples = nnx.Param(jnp.zeros((config.examples, size)))
        self.classes = nnx.Param(jnp.zeros((config.examples, config.num_classes)))
        self.temperature = nnx.Param(jnp.ones(1))

    def __call__(self, x: Float[Array, "B V"]) -> Float[Array, "B C"]:
        names = ("centre", "deviation", "examples", "classes")
        own = {name: getattr(self, name)[...] for name in names}
        return nearest(x, **own, neighbours=self.neighbours) / self.temperature[...][None]


# Of the vector's size, the config and random numbers.
HEADS = {
    "linear": lambda size, config, rngs: nnx.Linear(size, config.num_classes, rngs=rngs),
    # the nearest clips, or the classes' means
    "knn": lambda size, config, rngs: Nearest(size, config),
    "prototypes": lambda size, config, rngs: Nearest(size, config),
}


@dataclasses.dataclass(frozen=True)
class ProbedConfig:
    """The base, its own configuration as (field, value) pairs, and what of it the head reads."""

    num_classes: int
    num_frames: int
    base: str = "ast"
    fields: tuple[tuple[str, Any], ...] = ()
    # numbers of blocks, 0 is before the first; the last has the final norm behind it
    layers: tuple[int, ...] = (12,)
    pools: tuple[str, ...] = ("token", "mean")
    # of the base's embeddings
    width: int = 768
    # of HEADS; of those with examples how many there are, and how many vote
    head: str = "linear"
    examples: int = 0
    neighbours: int = 0

    def __post_init__(self):
        if not self.layers or not self.pools or set(self.pools) - set(POOLS):
            raise InputError(
                f"a head on layers {self.layers} and pools {self.pools}: wanted one or more of each, pools "
                f"of {', '.join(POOLS)}"
            )
        if self.head not in HEADS or (self.head != "linear" and not 0 < self.neighbours <= self.examples):
            raise InputError(
                f"a head {self.head} of {self.examples} examples, of which {self.neighbours} vote: wanted "
                f"{', '.join(HEADS)}, and of examples 1 to all"
            )
        if min(self.num_classes, self.width, *(n + 1 for n in self.layers)) < 1:
            raise InputError(f"num_classes, width and layers {self.layers}: wanted 1, 1 and 0 or more")

    @property
    def base_config(self) -> Any:
        """Raises InputError: fields that the base does not have."""
        kind = family(self.base).Config
        try:
            return kind(**dict(self.fields))
        except (TypeError, ValueError) as error:
            raise InputError(f"a base {self.base} with the fields {self.fields}: {error}") from error


class Probed(nnx.Module):
    """Features in, logits out, by a head on the base's pooled layers."""

    Config = ProbedConfig

    def __init__(self, config: ProbedConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.base = family(config.base)(config.base_config, rngs=rngs)
        size = len(config.layers) * len(config.pools) * config.width
        self.head = HEADS[config.head](size, config, rngs)

    def __call__(self, x: Float[Array, "B T F"], **given: Any) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """The base's outputs, with what this head reads as the embedding; the base's own logits are left."""
        _, out = self.base(x, **given)
        embedding = self.read(out)
        out = {key: value for key, value in out.items() if key != "frames"}
        return self.head(embedding), out | {"embedding": embedding}

    def read(self, out: dict[str, Any]) -> Float[Array, "B V"]:
        """What the head reads of the base's outputs: layer by layer, pool by pool."""
        layers = out.get("layers", [out])
        return jnp.concatenate(
            [POOLS[pool](layers[number]) for number in self.config.layers for pool in self.config.pools],
            axis=-1,
        )

    @property
    def front_end(self) -> Any:
        return self.base.front_end

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The base's, then the head."""
        own = [tuple(f"base/{name}" for name in level) for level in self.base.levels]
        return (*own, ("head",))

    def __getattr__(self, name: str) -> Any:
        if name in _OF_BASE:
            return getattr(self.base, name)
        raise AttributeError(name)
