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


def address(repository: str) -> str:
    """Where people see it."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def check(repository: str, *, needs_token: bool) -> None:
    """Raises InputError for a name that the hub does not take, and where there is no token to write with."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository} is no name of a repository: {str(error).splitlines()[0]}") from error
    if repository.count("/") != 1:
        raise InputError(f"{repository} is no name of a repository: wanted OWNER/NAME")
    if needs_token and get_token() is None:
        raise InputError("the hub wants a token to write with: `hf auth login`, or set HF_TOKEN")


def push(directory: Path, repository: str, *, private: bool) -> str:
    """The files of a directory as one commit, to a repository that is made where it is not there; gives the
    commit's address.

    Raises:
        InputError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    where = address(repository)
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise InputError(f"{where} cannot be reached: nothing was sent")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repository, folder_path=directory, commit_message="ast_jax push")
        )
    except HfHubHTTPError as error:
        raise InputError(f"{where} refuses: {str(error).splitlines()[0]}") from error


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
