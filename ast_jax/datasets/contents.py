"""What sound files hold, by digests: a file is read once, and again only where its size or time has changed.

Shards are known by the digests of the files they were made from, so that sounds replaced in place, or another
directory of the same names, never pass for those that were prepared.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ast_jax import system
from ast_jax.datasets.listing import num_bytes
from ast_jax.terminal import Bar, write_whole

# Beside the sets prepared of the same name.
STORE = "contents.npz"
# Bytes up to which a file is read whole; of a longer one, this many pieces of this size, evenly spread.
WHOLE, PIECES, PIECE = 1 << 20, 16, 1 << 16
# Bytes to read from which on there is something to wait for.
SHOWN_FROM = 1 << 28
# Files that wait for a thread.
AT_ONCE = 4096

# A file's size and time of change in ns: as long as both stay, its content is taken to stay.
Look = tuple[int, int]


def digests(paths: Sequence[str], home: Path | None) -> dict[str, str]:
    """Each file's digest: of all its bytes up to 1 MiB, of its size and 16 pieces of 64 KiB beyond.

    What was read before is remembered in `home`/contents.npz, where that can be written. Of what cannot be
    read, or is no regular file, the digest is "", and of what lies in a bucket its size.
    """
    known = _read(home / STORE) if home is not None else {}
    looks = {path: look(path) for path in paths}
    new = {path: look for path, look in looks.items() if look and known.get(path, (None,))[0] != look}
    own = {path: digest for path, (look, digest) in known.items() if looks.get(path) == look}
    read = dict(zip(new, _shown(_digested(list(new)), new), strict=True))
    if new and home is not None:
        # not ours to write to: read again then
        with contextlib.suppress(OSError):
            _write(home / STORE, known | {path: (look, read[path]) for path, look in new.items()})
    own |= read
    return {path: str(num_bytes(path)) if "://" in path else own.get(path, "") for path in paths}


def look(path: str) -> Look | None:
    """That of a regular file that is there."""
    if "://" in path:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _digested(paths: Sequence[str]) -> Iterator[str]:
    with ThreadPoolExecutor(system.cores()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            yield from pool.map(_digest, paths[start : start + AT_ONCE])


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.blake2b(str(size).encode(), digest_size=12)
            if size <= WHOLE:
                found.update(file.read())
            else:
                for piece in range(PIECES):
                    file.seek(piece * (size - PIECE) // (PIECES - 1))
                    found.update(file.read(PIECE))
    except OSError:
        return ""
    return found.hexdigest()


def _shown(found: Iterable[str], new: Mapping[str, Look]) -> Iterable[str]:
    if sum(min(size, WHOLE) for size, _ in new.values()) < SHOWN_FROM:
        return found
    with Bar(transient=True) as bar:
        if not bar.terminal:
            bar.say(f"reading {len(new)} sound files, to know them again")
        return list(bar.task("reading sound files", len(new)).watch(found))


def _read(store: Path) -> dict[str, tuple[Look, str]]:
    try:
        with store.open("rb") as file, np.load(file) as arrays:
            columns = [arrays[key].tolist() for key in ("paths", "sizes", "times", "digests")]
    # a store that is not there, or damaged, is made again
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}
    return {
        os.fsdecode(path): ((size, time), digest.decode())
        for path, size, time, digest in zip(*columns, strict=True)
    }


def _write(store: Path, known: dict[str, tuple[Look, str]]) -> None:
    buffer = BytesIO()
    np.savez(
        buffer,
        paths=np.array([os.fsencode(path) for path in known]),
        sizes=np.array([look[0] for look, _ in known.values()], np.int64),
        times=np.array([look[1] for look, _ in known.values()], np.int64),
        digests=np.array([digest.encode() for _, digest in known.values()], "S24"),
    )
    store.parent.mkdir(parents=True, exist_ok=True)
    write_whole(store, buffer.getvalue())
