"""Files from an address: downloads that resume, are kept, and are checked against a checksum ever after.

Pooch was tried: it starts a broken download from its beginning and takes whole digests, known before, so all
of this would stay, as the downloader that it is given.
"""

import hashlib
import http.client
import json
import os
import urllib.error
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

from ast_jax.errors import InputError
from ast_jax.terminal import Bar

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte


def file(url: str, cache: Path, *, sha256: str = "", md5: str = "") -> Path:
    """The file at `url`, under its own name in `cache`.

    A download that broke off leaves `NAME.part` and goes on from there. The file's SHA-256 must begin with
    `sha256`, or its MD5 be `md5`; where both are empty, the first download counts. Its SHA-256 is recorded,
    and later calls are held to that.

    Raises:
        InputError: the address cannot be reached or breaks off, or the file is not the one expected.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / Path(unquote(urlparse(url).path)).name
    if path.exists():
        _verify(path, path.name, url, sha256, md5)
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        _download(url, part, trusted=bool(sha256 or md5))
    except (OSError, http.client.HTTPException) as error:
        by_hand = f"fetch it by hand and put it at {path}, or try again to go on"
        raise InputError(f"cannot fetch {url} ({error}): {by_hand}") from error
    _verify(part, path.name, url, sha256, md5)
    os.replace(part, path)
    return path


def _download(url: str, part: Path, *, trusted: bool) -> None:
    """Appends to `part` what it still lacks.

    It starts again where the server knows no ranges, where its file has changed since (its ETag is kept
    beside the part), and where neither an ETag nor a checksum (`trusted`) would tell.
    """
    tag = part.with_suffix(".tag")
    have = part.stat().st_size if part.exists() and (trusted or tag.exists()) else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.exists():
        headers["If-Range"] = tag.read_text()
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        part.unlink()  # nothing lies past `have`: it is whole, or another file by now
        return _download(url, part, trusted=trusted)
    with response:
        if not (have and response.status == 206):
            have, etag = 0, response.headers.get("ETag") or ""
            # A weak ETag (W/"...") promises no equal bytes.
            tag.write_text(etag) if etag.startswith('"') else tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as out, Bar() as bar:
            task = bar.task(part.stem, total, have)
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                task.advance(len(chunk))
    if total not in (None, part.stat().st_size):
        raise OSError(f"the connection broke off after {part.stat().st_size} of {total} bytes")
    tag.unlink(missing_ok=True)


def _verify(path: Path, name: str, url: str, sha256: str, md5: str) -> None:
    """Raises InputError, and removes a fresh download, unless it is the published or the recorded file."""
    fresh, record = path.name != name, path.with_name("digests.json")
    known = json.loads(record.read_text()) if record.exists() else {}
    wanted = sha256 or known.get(name, {}).get("sha256", "")
    with open(path, "rb") as opened:
        page = fresh and opened.read(1) == b"<"
        opened.seek(0)
        digest, size = hashlib.file_digest(opened, "sha256").hexdigest(), path.stat().st_size
        opened.seek(0)
        other = bool(md5) and hashlib.file_digest(opened, "md5").hexdigest() != md5
    if page or other or not digest.startswith(wanted):
        what = "a web page" if page else f"{size} bytes of SHA-256 {digest[:16]}..."
        advice = "try again, or fetch it by hand" if fresh else f"delete {path} to fetch it anew"
        if fresh:
            path.unlink()
        raise InputError(
            f"{url} gave {what}, wanted {wanted[:16] or (f'MD5 {md5}' if md5 else 'a checkpoint')}: {advice}"
        )
    if name not in known:
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(known | {name: {"sha256": digest, "size": size}}, indent=1))
        os.replace(temporary, record)
