"""Key tables: how the arrays of a foreign layout are ours, read both ways. A family's own tables are in its
file (`vit_layout.py`, ...).

A table is a list of rows (our path, their keys, reading, writing). Reading with a table accounts for every
key: what is left over and what stays unfilled are errors, together in one message. Our own paths are those of
`models.variables`. D outputs, I inputs, p kernel size.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ast_jax.errors import InputError

Arrays = Mapping[str, Any]  # of a file: arrays, and whatever else it may hold


class Row(NamedTuple):
    ours: str
    theirs: tuple[str, ...]
    read: Callable[..., np.ndarray]  # their arrays -> ours
    write: Callable[[np.ndarray], Iterable[np.ndarray]]  # the exact inverse


# ---- Rows


def same(ours: str, theirs: str = "") -> Row:
    """An array as it is, under another name or under its own."""
    return Row(ours, (theirs or ours,), lambda x: x, lambda x: (x,))


def transposed(ours: str, theirs: str) -> Row:
    """A matrix that theirs holds [out, in], as PyTorch does, and ours [in, out]."""
    return Row(ours, (theirs,), lambda x: x.T, lambda x: (x.T,))


def norm(ours: str, theirs: str, scale: str = ".weight", bias: str = ".bias") -> list[Row]:
    """A layer norm, under PyTorch's names if no others are given."""
    return [same(f"{ours}/scale", theirs + scale), same(f"{ours}/bias", theirs + bias)]


def torch_linear(ours: str, theirs: str) -> list[Row]:
    """PyTorch's linear layer, with a bias."""
    return [transposed(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def torch_convolution(ours: str, theirs: str) -> list[Row]:
    """PyTorch's [D, I, p, p] to [p, p, I, D], with a bias."""
    return [convolution_kernel(ours, f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def convolution_kernel(ours: str, theirs: str) -> Row:
    """PyTorch's [D, I, p, p] to [p, p, I, D], without a bias."""
    read, write = lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),)
    return Row(f"{ours}/kernel", (theirs,), read, write)


def time_kernel(ours: str, theirs: str) -> Row:
    """PyTorch's [D, I, k] to [k, I, D], without a bias."""
    return Row(f"{ours}/kernel", (theirs,), lambda x: x.transpose(2, 1, 0), lambda x: (x.transpose(2, 1, 0),))


def torch_pointwise(ours: str, theirs: str, *, spatial: int) -> list[Row]:
    """PyTorch's [D, I, 1, ...], a convolution over single cells of `spatial` axes, to a matrix [I, D]."""
    ones = (1,) * spatial
    read, write = lambda x: x.reshape(x.shape[:2]).T, lambda x: (x.T.reshape(*x.T.shape, *ones),)
    return [
        Row(f"{ours}/kernel", (f"{theirs}.weight",), read, write),
        same(f"{ours}/bias", f"{theirs}.bias"),
    ]


def batch_norm(ours: str, theirs: str) -> list[Row]:
    """PyTorch's, parameters and running statistics."""
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return [same(f"{ours}/{own}", f"{theirs}.{other}") for own, other in names.items()]


def without_counts(source: Arrays) -> dict[str, Any]:
    """Without PyTorch's counts of the batches that its norms have seen, which nothing reads."""
    return {key: value for key, value in source.items() if not key.endswith(".num_batches_tracked")}


def along(ours: str, theirs: str, axis: int) -> Row:
    """Vectors at the places of one axis: PyTorch's [1, D, ..., n, ...], n on `axis` of four, to [n, D]."""
    rest = [1, 1, 1, 1]

    def write(x: np.ndarray) -> tuple[np.ndarray]:
        shape = rest.copy()
        shape[1], shape[axis] = x.shape[1], x.shape[0]
        return (x.T.reshape(shape),)

    return Row(ours, (theirs,), lambda x: x.reshape(x.shape[1], -1).T, write)


def torch_qkv(ours: str, theirs: Iterable[str]) -> list[Row]:
    """Three PyTorch layers [D, D] side by side: [D, 3D], query first."""
    names = tuple(theirs)
    return [
        Row(
            f"{ours}/kernel",
            tuple(f"{name}.weight" for name in names),
            lambda *parts: np.concatenate([x.T for x in parts], axis=1),
            lambda x: [part.T for part in np.split(x, 3, axis=1)],
        ),
        Row(
            f"{ours}/bias",
            tuple(f"{name}.bias" for name in names),
            lambda *parts: np.concatenate(parts),
            lambda x: np.split(x, 3),
        ),
    ]


# ---- Reading and writing with a table


def read(
    rows: list[Row],
    source: Arrays,
    *,
    where: str,
    unused: tuple[str, ...] = (),
    check: Callable[[Arrays], list[str]],
) -> dict[str, np.ndarray]:
    """Our float32 parameters from `source`, every key accounted for.

    Args:
        rows: the table.
        source: the file's arrays.
        where: the file's name, for messages.
        unused: beginnings of keys that may be left over (heads that the model has no use for).
        check: what is wrong with the shapes of the parameters read, a line each.

    Raises:
        InputError: keys unknown, parameters unfilled, types or shapes wrong: everything in one line.
    """
    wanted = {key for row in rows for key in row.theirs}
    unknown = [key for key in source if key not in wanted and not key.startswith(unused)]
    missing = [f"{row.ours} (from {key})" for row in rows for key in row.theirs if key not in source]
    wrong = [problem for key in source if key in wanted and (problem := _problem(key, source[key]))]
    _raise_all(where, unknown=unknown, missing=missing, wrong=wrong)
    params = {}
    for row in rows:
        try:
            params[row.ours] = np.ascontiguousarray(
                row.read(*(source[key] for key in row.theirs)), np.float32
            )
        # IndexError: fewer axes than a row takes
        except (ValueError, IndexError) as error:
            shapes = ", ".join(f"{key} {np.shape(source[key])}" for key in row.theirs)
            wrong.append(f"{row.ours} cannot be made of {shapes} ({error})")
    _raise_all(where, wrong=wrong or check(params))
    return params


def write(rows: list[Row], params: Arrays) -> dict[str, np.ndarray]:
    """Their arrays from our parameters: the inverse of `read`, bit for bit."""
    out: dict[str, np.ndarray] = {}
    for row in rows:
        parts = row.write(np.asarray(params[row.ours]))
        out |= {key: np.ascontiguousarray(part) for key, part in zip(row.theirs, parts, strict=True)}
    return out


def _problem(key: str, array: Any) -> str | None:
    if not isinstance(array, np.ndarray):
        return f"{key} is a {type(array).__name__}, wanted an array"
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        return f"{key} has type {array.dtype}, wanted a floating one"
    if not np.isfinite(array.astype(np.float32)).all():
        return f"{key} holds values that are not finite"
    return None


def _raise_all(where: str, **problems: list[str]) -> None:
    words = {"unknown": "unknown keys", "missing": "unfilled parameters", "wrong": "wrong"}
    said = [f"{len(found)} {words[kind]}: {_some(found)}" for kind, found in problems.items() if found]
    if said:
        raise InputError(f"{where} does not fit: {'; '.join(said)}")


def _some(found: list[str], most: int = 12) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
