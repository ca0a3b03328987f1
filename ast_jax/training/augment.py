"""Augmentation of one example at a time, keyed by (seed, step, position in the stream), so that it does not
depend on how many devices there are or on whether a run was resumed.

B batch, T frames, F mel bins, S samples. `AUGMENTATIONS` is the list, in the reference's order; mixup comes
before all.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.settings import Augment
from ast_jax.tables import look_up

# Streams of random numbers: each example's key is folded with one, and no two uses share one.
MODEL_STREAM, PARTNER_STREAM = 5, 6
_OWN_STREAMS = 1000
# Where a row is applied: on features as they are, the rows past a clip's end meaning nothing yet; on padded
# ones; on normalised ones.
STAGES = ("sound", "padded", "normalised")


def example_keys(
    seed: int | Int[Array, ""], step: Int[Array, ""], index: Int[Array, " B"]
) -> Key[Array, " B"]:
    """One random key an example."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def spec_mask(
    key: Key[Array, ""], fbank: Float[Array, "T F"], *, freq_mask: int, time_mask: int
) -> Float[Array, "T F"]:
    """SpecAugment as the reference has it: one frequency and one time mask, filled with 0 before
    normalisation.

    Each: v = U[0, 1) x widest, start = floor(U[0, 1) x (size - v)), width = floor(v).
    """
    keep = jnp.ones((), bool)
    for axis, widest, axis_key in zip((1, 0), (freq_mask, time_mask), jax.random.split(key), strict=True):
        size = fbank.shape[axis]
        u, w = jax.random.uniform(axis_key, (2,))
        value = u * min(widest, size)
        start = jnp.floor(w * (size - value))
        cell = jnp.arange(size)
        inside = (cell >= start) & (cell < start + jnp.floor(value))
        keep = keep & ~jnp.expand_dims(inside, 1 - axis)
    return jnp.where(keep, fbank, 0.0)


def stripes(
    key: Key[Array, ""],
    x: Float[Array, "T F"],
    *,
    time: tuple[int, int],
    freq: tuple[int, int],
) -> Float[Array, "T F"]:
    """SpecAugment as PANNs has it (torchlibrosa's): (count, most) along each axis, widths uniform from 0 to
    below `most`, places uniform, filled with 0 after normalisation.
    """
    keep = jnp.ones((), bool)
    for axis, (count, most) in enumerate((time, freq)):
        size = x.shape[axis]
        for number in range(count):
            width_key, place_key = jax.random.split(jax.random.fold_in(key, 2 * number + axis))
            width = jax.random.randint(width_key, (), 0, min(most, size))
            start = jax.random.randint(place_key, (), 0, size - width)
            cell = jnp.arange(size)
            keep = keep & ~jnp.expand_dims((cell >= start) & (cell < start + width), 1 - axis)
    return jnp.where(keep, x, 0.0)


def mix_power(
    fbank: Float[Array, "T F"],
    length: Int[Array, ""],
    partner: Float[Array, "T F"],
    partner_length: Int[Array, ""],
    share: Float[Array, ""],
    *,
    front_end: FrontEnd,
) -> Float[Array, "T F"]:
    """Mixup of log-mels, log(l^2 e^a + (1-l)^2 e^b): the expectation of mixing the waveforms, whose cross
    term has mean zero.

    Rows of the partner past its own end add no power; the front end's floor holds again afterwards; rows past
    `length` mean nothing here and are padded by the caller. `share` 1 returns the clip as it is.
    """
    nats = front_end.nats
    power = lambda x: jnp.exp(nats * x)
    rows = jnp.arange(fbank.shape[0])[:, None]
    other = jnp.where(rows < partner_length, power(partner), 0.0)
    floor = math.exp(nats * front_end.silence)
    mixed = jnp.log(jnp.maximum(share**2 * power(fbank) + (1 - share) ** 2 * other, floor)) / nats
    return jnp.where(share < 1, mixed, fbank)


def mix_waveforms(
    waveform: Float[Array, " S"],
    num_samples: Int[Array, ""],
    partner: Float[Array, " S"],
    partner_samples: Int[Array, ""],
    share: Float[Array, ""],
) -> Float[Array, " S"]:
    """Mixup as the reference does it: both without their mean, the partner padded or cut to the clip's own
    length.
    """

    def centred(sound, count):
        own = jnp.arange(sound.shape[0]) < count
        return jnp.where(own, sound - jnp.where(own, sound, 0.0).sum() / jnp.maximum(count, 1), 0.0)

    mixed = share * centred(waveform, num_samples) + (1 - share) * centred(partner, partner_samples)
    mixed = jnp.where(jnp.arange(waveform.shape[0]) < num_samples, mixed, 0.0)
    return jnp.where(share < 1, mixed, waveform)


def gain(
    key: Key[Array, ""], fbank: Float[Array, "T F"], *, most_db: float, front_end: FrontEnd
) -> Float[Array, "T F"]:
    """Louder or softer by U(-most, most) dB: a constant added to the log power, the floor kept."""
    db = jax.random.uniform(key, minval=-most_db, maxval=most_db)
    return jnp.maximum(fbank + db * (math.log(10) / 10) / front_end.nats, front_end.silence)


def noise(key: Key[Array, ""], x: Float[Array, "T F"]) -> Float[Array, "T F"]:
    """The reference's noise on normalised features: U[0, 1) a cell times one U[0, 1) an example, over 10."""
    cells, strength = jax.random.split(key)
    return x + jax.random.uniform(cells, x.shape) * jax.random.uniform(strength) / 10


def roll(key: Key[Array, ""], x: Float[Array, "T F"], *, most: int) -> Float[Array, "T F"]:
    """A circular shift by -most .. most - 1 frames, padding included, as in the reference (most 10)."""
    return jnp.roll(x, _rolled_by(key, most), axis=0)


def _rolled_by(key: Key[Array, ""], most: int) -> Int[Array, ""]:
    return jax.random.randint(key, (), -most, most)


def time_shift(
    key: Key[Array, ""], x: Float[Array, "T F"], *, most: int, padding: float = 0.0
) -> Float[Array, "T F"]:
    """Earlier or later by up to `most` frames each way; what leaves is lost and padding, before
    normalisation, comes in.

    Unlike `roll`, which is the reference's and turns the padded clip in a circle.
    """
    shift = _shifted_by(key, most)
    source = jnp.arange(x.shape[0]) - shift
    inside = (source >= 0) & (source < x.shape[0])
    return jnp.where(inside[:, None], jnp.roll(x, shift, axis=0), padding)


def _shifted_by(key: Key[Array, ""], most: int) -> Int[Array, ""]:
    return jax.random.randint(key, (), -most, most + 1)


def moved_targets(
    shift: Int[Array, ""],
    targets: Float[Array, "t C"],
    known: Float[Array, " t"],
    *,
    first: float,
    stride: float,
    frames: int,
    circular: bool,
) -> tuple[Float[Array, "t C"], Float[Array, " t"]]:
    """What is heard in each step, and whether that is known, of a clip of `frames` frames that was moved
    `shift` frames later: of the nearest step, so at most half a step off. Steps' middles begin at frame
    `first`, `stride` frames apart; what comes in from outside the clip is not known.
    """
    source = first + stride * jnp.arange(len(known)) - shift
    source = source % frames if circular else source
    place = jnp.round((source - first) / stride).astype(int)
    inside = (place >= 0) & (place < len(known))
    place = jnp.clip(place, 0, len(known) - 1)
    return jnp.where(inside[:, None], targets[place], 0.0), jnp.where(inside, known[place], 0.0)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A row of the list: at which stage, on which random stream, whether a recipe asks for it, and what it
    does.

    `apply(key, features [T, F], settings, front_end)` gives features of the same shape.
    """

    name: str
    stage: str
    stream: int
    wanted: Callable[[Augment], bool]
    apply: Callable[[Key[Array, ""], Float[Array, "T F"], Augment, FrontEnd], Float[Array, "T F"]]
    # frames by which it moves a clip, where it does, and whether in a circle: targets of steps follow
    moves: Callable[[Key[Array, ""], Augment], Int[Array, ""]] | None = None
    circular: bool = False


AUGMENTATIONS: tuple[Augmentation, ...] = (
    Augmentation(
        "gain", "sound", 1, lambda s: s.gain_db > 0,
        lambda key, x, s, front_end: gain(key, x, most_db=s.gain_db, front_end=front_end),
    ),
    Augmentation(
        "time_shift", "padded", 4, lambda s: s.time_shift > 0,
        lambda key, x, s, front_end: time_shift(key, x, most=s.time_shift, padding=front_end.padding),
        moves=lambda key, s: _shifted_by(key, s.time_shift),
    ),
    Augmentation(
        "masks", "padded", 0, lambda s: s.freq_mask > 0 or s.time_mask > 0,
        lambda key, x, s, _: spec_mask(key, x, freq_mask=s.freq_mask, time_mask=s.time_mask),
    ),
    Augmentation(
        "stripes", "normalised", 7, lambda s: s.time_stripes[0] > 0 or s.freq_stripes[0] > 0,
        lambda key, x, s, _: stripes(key, x, time=s.time_stripes, freq=s.freq_stripes),
    ),
    Augmentation("noise", "normalised", 2, lambda s: s.noise, lambda key, x, s, _: noise(key, x)),
    Augmentation(
        "roll", "normalised", 3, lambda s: s.roll > 0,
        lambda key, x, s, _: roll(key, x, most=s.roll),
        moves=lambda key, s: _rolled_by(key, s.roll), circular=True,
    ),
)  # fmt: skip


def rows_of(settings: Augment) -> tuple[Augmentation, ...]:
    """The rows that a recipe asks for: of the list, then its own. Raises InputError for one that is none."""
    own: list[Augmentation] = []
    for number, name in enumerate(settings.augment):
        row: Any = look_up({}, name, "augmentation")
        if not isinstance(row, Augmentation) or row.stage not in STAGES:
            raise InputError(f"config.augment {name!r} is no Augmentation of a stage {' or '.join(STAGES)}")
        # its own stream, whatever number it chose
        own.append(dataclasses.replace(row, stream=_OWN_STREAMS + number, wanted=lambda _: True))
    return tuple(row for row in (*AUGMENTATIONS, *own) if row.wanted(settings))


def augmented(
    stage: str,
    x: Float[Array, "B T F"],
    keys: Key[Array, " B"],
    rows: tuple[Augmentation, ...],
    settings: Augment,
    front_end: FrontEnd,
) -> Float[Array, "B T F"]:
    """A batch after the rows of one stage, each example by its own key."""
    for row in rows:
        if row.stage == stage:
            apply = functools.partial(_applied, row=row, settings=settings, front_end=front_end)
            x = jax.vmap(apply)(stream(keys, row.stream), x)
    return x


def _applied(key, clip, *, row: Augmentation, settings: Augment, front_end: FrontEnd):
    return row.apply(key, clip, settings, front_end)


def stream(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    """Each example's key for one use."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
