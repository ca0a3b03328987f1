"""Repositories of the Hugging Face hub through its client, which resumes, verifies and keeps files."""

import urllib.error
from pathlib import Path
from urllib.request import Request, urlopen

from ast_jax.errors import InputError


def directory(repository: str, *, extra: tuple[str, ...] = (), cache: Path | None = None) -> Path:
    """A directory with config.json, the weights and `extra` files, from the client's cache or from the hub.

    Raises:
        InputError: it is not in the cache, and the hub cannot be reached or has no such thing.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    found = [_file(repository, name, cache) for name in ("config.json", *extra)]
    found.append(next(filter(None, (_file(repository, name, cache) for name in names)), None))
    if found[0] is None or None in found:
        wanted = ", ".join(("config.json", *extra, " or ".join(names)))
        raise InputError(f"the hub's {repository} lacks one of {wanted}: fetch it by hand")
    return found[0].parent


def _file(repository: str, name: str, cache: Path | None) -> Path | None:
    """One file, or None where the repository has no such file."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, name, cache_dir=cache)
    if cached is not None:  # a path, or the client's mark that there is no such file
        return Path(cached) if isinstance(cached, str) else None
    where = f"https://huggingface.co/{repository}"
    missing = (
        f"{where} cannot be reached and {name} is not in the hub client's cache: "
        "fetch the repository by hand and give its directory"
    )
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        raise InputError(missing)
    try:
        return Path(hf_hub_download(repository, name, cache_dir=cache))
    except LocalEntryNotFoundError as error:
        raise InputError(missing) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error


def _answers(url: str) -> bool:
    """Whether anybody is there: the client itself would go on trying for 23 s."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=30).close()
    except urllib.error.HTTPError as error:  # it does answer, if only with a refusal
        error.close()
    except OSError:
        return False
    return True
