"""Fetching files: with a progress bar, resumed where it stopped, kept, and checked against its checksum ever after."""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte
_DIGESTS = "digests.json"


def file(url: str, cache: Path, *, sha256: str = "") -> Path:
    """The file at `url`, under its own name in `cache`.

    A download that broke off leaves `NAME.part` and goes on from there. The file's SHA-256 must begin with `sha256`;
    where that is empty, the first download's is recorded beside it and later calls are held to that.

    Raises:
        InputError: the address cannot be reached or breaks off, or the file is not the one expected.
    """
    cache.mkdir(parents=True, exist_ok=True)
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name
    path = cache / name
    if not path.exists():
        part = cache / f"{name}.part"
        try:
            _download(url, part, trusted=bool(sha256))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(error, urllib.error.HTTPError):
                reason = f"HTTP {error.code} {reason}"
                error.close()
            raise InputError(
                f"cannot fetch {url} ({reason}): fetch it by hand and put it at {path}, or try again to go on"
            ) from error
        part.with_suffix(".tag").unlink(missing_ok=True)
        _verify(part, name, url, sha256)
        os.replace(part, path)
    else:
        _verify(path, name, url, sha256)
    return path


def _download(url: str, part: Path, *, trusted: bool) -> None:
    """Appends to `part` what it still lacks, or starts again: where the server knows no ranges, where its file has changed
    since (its ETag is kept beside the part), and where neither an ETag nor a checksum (`trusted`) would tell.
    """
    tag = part.with_suffix(".tag")
    have = part.stat().st_size if part.exists() and (trusted or tag.exists()) else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.exists():
        headers["If-Range"] = tag.read_text()
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies past `have`: it is whole, or another file by now
            raise
        error.close()
        part.unlink()
        return _download(url, part, trusted=trusted)
    with response:
        resumed = have > 0 and response.status == 206
        if not resumed:
            version = response.headers.get("ETag") or ""
            tag.write_text(version) if version[:1] == '"' else tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        with (
            open(part, "ab" if resumed else "wb") as out,
            _progress(part.stem, total, have if resumed else 0) as advance,
        ):
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                advance(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection broke off after {part.stat().st_size} of {total} bytes")


class _progress:
    """A bar on the terminal, and nothing where there is none."""

    def __init__(self, name: str, total: int | None, done: int):
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=total, completed=done)

    def __enter__(self):
        self._bar.start()
        return lambda count: self._bar.update(self._task, advance=count)

    def __exit__(self, *_):
        self._bar.stop()


def _verify(path: Path, name: str, url: str, sha256: str) -> None:
    """Raises InputError, and removes a fresh download, unless the file is the published or the recorded one."""
    found: dict[str, Any] = {"sha256": _sha256(path), "size": path.stat().st_size}
    record = path.parent / _DIGESTS
    known: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    wanted = sha256 or known.get(name, {}).get("sha256", "")
    fresh = path.suffix == ".part"
    page = fresh and path.read_bytes()[:1] == b"<"
    if page or not found["sha256"].startswith(wanted):
        if fresh:
            path.unlink()
        what = "a web page" if page else f"{found['size']} bytes of SHA-256 {found['sha256'][:16]}..."
        raise InputError(
            f"{url} gave {what}, wanted {wanted[:16] or 'a checkpoint'}: "
            + ("try again, or fetch it by hand" if fresh else f"delete {path} to fetch it anew")
        )
    if name not in known:
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(known | {name: found}, indent=1))
        os.replace(temporary, record)


def _sha256(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hub_directory(repository: str, *, extra: tuple[str, ...] = (), cache: Path | None = None) -> Path:
    """The directory with a hub repository's config.json, its weights and `extra` files, from the hub client's cache or the hub.

    The client resumes, verifies and keeps what it fetches.

    Raises:
        InputError: it is not in the cache, and the hub cannot be reached or has no such thing.
    """
    config = _hub_file(repository, "config.json", cache)
    weights = _hub_file(repository, "model.safetensors", cache) or _hub_file(
        repository, "pytorch_model.bin", cache
    )
    others = [_hub_file(repository, name, cache) for name in extra]
    if config is None or weights is None or None in others:
        raise InputError(
            f"the hub's {repository} lacks weights or one of config.json {' '.join(extra)}: fetch it by hand"
        )
    return config.parent


def _hub_file(repository: str, name: str, cache: Path | None) -> Path | None:
    """One file, or None where the repository has no such file."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, name, cache_dir=cache)
    if cached is not None:  # a path, or the client's mark that there is no such file
        return Path(cached) if isinstance(cached, str) else None
    missing = (
        f"https://huggingface.co/{repository} cannot be reached and {name} is not in the hub client's cache: fetch the "
        "repository by hand and give its directory"
    )
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):  # the client would try for 20 s
        raise InputError(missing)
    try:
        return Path(hf_hub_download(repository, name, cache_dir=cache))
    except LocalEntryNotFoundError as error:
        raise InputError(missing) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise InputError(f"https://huggingface.co/{repository}: {str(error).splitlines()[0]}") from error


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except urllib.error.HTTPError as error:  # it does answer, if only with a refusal
        error.close()
    except OSError:
        return False
    return True
