"""Files of features that exist already: .npy, or .npz of one array.

T frames, F mel bins.
"""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.errors import InputError
from ast_jax.features.audio import AudioError, SoundSource, name_of
from ast_jax.features.given import LARGEST, SMALLEST, Given

# A file's features are held in memory whole.
LONGEST_S = 4 * 3600.0


def load_features(source: SoundSource, front_end: Given) -> Float32[np.ndarray, "T F"]:
    """The features in a .npy file, or in a .npz file of one array, given by path or as bytes.

    Nothing is unpickled, and nothing read before the header is known to be right. Raises AudioError, by one
    of these reasons: 'unreadable', 'not an array', 'several arrays', 'objects', 'not floats', 'wrong shape',
    'transposed', 'no frames', 'too long', 'truncated', 'not finite', 'out of range'.
    """
    name = name_of(source)
    with _opened(source, name, front_end) as (file, shape, by_column, dtype):
        data = file.read(math.prod(shape) * dtype.itemsize)
    if len(data) < math.prod(shape) * dtype.itemsize:
        raise _error(name, "truncated", f"{len(data)} bytes of {list(shape)} {dtype}", "the whole file")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    found = array.T if front_end.axes == "ft" else array
    if not np.isfinite(found).all():
        at = int(np.argmin(np.isfinite(found).all(axis=1)))
        raise _error(name, "not finite", f"NaN or infinity in frame {at}", "finite numbers")
    largest = float(np.abs(found).max())
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise _error(
            name,
            "out of range",
            f"numbers up to {largest:.2g}",
            f"ones that float16 holds ({SMALLEST:g} to {LARGEST:g}): take their logarithm, or scale them",
        )
    return np.ascontiguousarray(found, np.float32)


def duration_s(source: SoundSource, front_end: Given) -> float:
    """Seconds that a file's frames cover, by its header. Raises AudioError as `load_features` does."""
    with _opened(source, name_of(source), front_end) as (_, shape, _, _):
        return front_end.seconds(shape[1] if front_end.axes == "ft" else shape[0])


@contextmanager
def _opened(source: SoundSource, name: str, front_end: Given) -> Iterator[tuple[Any, Any, bool, Any]]:
    """The file behind its header, and the shape, order and type that this states."""
    wanted = f"a .npy file, or a .npz file of one array, of floats {_wanted(front_end)}"
    try:
        if not isinstance(source, bytes) and not os.path.isfile(source):
            raise _error(name, "unreadable", "no file, or none to read", wanted)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as whole:
            if whole.read(4) != b"PK\x03\x04":
                whole.seek(0)
                yield (whole, *_header(whole, name, front_end))
                return
            with zipfile.ZipFile(whole) as archive:
                if len(names := archive.namelist()) != 1:
                    told = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
                    raise _error(name, "several arrays", told or "none", wanted)
                with archive.open(names[0]) as member:
                    yield (member, *_header(member, name, front_end))
    except OSError as error:
        raise _error(name, "unreadable", (error.strerror or str(error)).lower(), wanted) from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise _error(name, "not an array", str(error).splitlines()[0] or "nothing", wanted) from error


def _header(file: Any, name: str, front_end: Given) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise _error(name, "not an array", f"columns with names (format {version[0]})", "one plain array")
    shape, by_column, dtype = read[version](file)
    if dtype.hasobject:
        raise _error(name, "objects", "Python objects, which are never unpickled", "an array of floats")
    if dtype.kind != "f":
        raise _error(name, "not floats", f"{dtype}", f"floats {_wanted(front_end)}")
    wanted, bins = _wanted(front_end), front_end.num_mel_bins
    frames, own = (shape if front_end.axes == "tf" else shape[::-1]) if len(shape) == 2 else (0, -1)
    if own != bins:
        turned = len(shape) == 2 and frames == bins
        hint = f" (axes={'ft' if front_end.axes == 'tf' else 'tf'} turns them)" if turned else ""
        raise _error(name, "transposed" if turned else "wrong shape", f"{list(shape)}", wanted + hint)
    if not frames:
        raise _error(name, "no frames", f"{list(shape)}", wanted)
    if front_end.seconds(frames) > LONGEST_S:
        got = f"{front_end.seconds(frames) / 3600:.1f} h of features"
        raise _error(name, "too long", got, f"at most {LONGEST_S / 3600:g} h at once: split the file")
    return shape, by_column, dtype


def _wanted(front_end: Given) -> str:
    bins = front_end.num_mel_bins
    return f"[frames, {bins}]" if front_end.axes == "tf" else f"[{bins}, frames]"


def _error(name: str, reason: str, got: str, wanted: str) -> AudioError:
    return AudioError(f"{name}: {reason}: {got.rstrip('. ')}; wanted {wanted}", reason)
