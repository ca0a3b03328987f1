"""Checkpoints with a name: where they are, whose they are, and what their files do not say.

They are listed in `data/catalogue.toml`; `fetch` brings their files here once and checks them ever after.
Where no checksum is published, the first download counts.
"""

import dataclasses
import difflib
import functools
import os
from pathlib import Path
from typing import Any

from ast_jax.cache import cache_directory
from ast_jax.errors import InputError
from ast_jax.weights import download, hub, published


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published checkpoint. Strides are (mel bins, frames); `figure` is the publisher's."""

    name: str
    # An address, or a repository of the Hugging Face hub.
    source: str
    licence: str
    figure: str
    # Its beginning, as far as published.
    sha256: str = ""
    # Whole, where it is published instead.
    md5: str = ""
    family: str = "ast"
    non_commercial: bool = False
    num_frames: int | None = None
    strides: tuple[int, int] | None = None
    mean: float | None = None
    std: float | None = None
    # 'audioset' or 'speech_commands'; None for ImageNet models, whose heads are left aside, and for classes
    # whose order nobody says
    labels: str | None = None
    # None for what does not tag
    multi_label: bool | None = None
    channels: str | None = None
    # what a repository of the hub has beside its config and weights, where a model of sounds has no
    # preprocessor_config.json
    extra: tuple[str, ...] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What `read_source` takes as known of a reference file."""
        stated = {"num_frames": self.num_frames, "strides": self.strides, "family": self.family}
        return {key: value for key, value in stated.items() if value is not None}

    @property
    def on_hub(self) -> bool:
        return "://" not in self.source

    @property
    def notes(self) -> list[str]:
        """What whoever loads it is told."""
        what = "normalisation and classes are those" if self.labels else "normalisation is that"
        known = f"{what} published with {self.name}"
        bound = f"{self.name} is under {self.licence}: not for commercial use"
        return [known] * (self.multi_label is not None) + [bound] * self.non_commercial

    def label_names(self) -> list[str] | None:
        """The classes by index."""
        return published.labels(self.labels) if self.labels else None


@functools.cache
def entries() -> dict[str, Entry]:
    """The catalogue by name."""
    tables = published.table("catalogue").values()
    read = [_entry(table | own) for table in tables for own in table["entries"]]
    return {entry.name: entry for entry in read}


def _entry(row: dict[str, Any]) -> Entry:
    """An entry of the words of its row, which come before those of its task."""
    row = published.TASKS.get(row.get("task", ""), {}) | row
    row["source"] = row.get("source", "{name}").format_map(row)
    for name in ("strides", "extra"):
        if name in row:
            row[name] = tuple(row[name])
    fields = [field.name for field in dataclasses.fields(Entry)]
    return Entry(**{key: value for key, value in row.items() if key in fields})


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        InputError: there is none; the nearest names are told.
    """
    known = entries()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"names look like {next(iter(known))}"
    raise InputError(f"{name!r} is no file or directory here, and the catalogue has no such name: {hint}")


def fetch(name: str, *, cache: Path | None = None, hub_cache: Path | None = None) -> Path:
    """The local file or directory of an entry, downloaded at the first call and verified at every one.

    Args:
        name: a name of `entries()`.
        cache: for files from an address; default $AST_JAX_CACHE, else ~/.cache/ast_jax.
        hub_cache: for repositories of the Hugging Face hub; default the hub client's own.

    Raises:
        InputError: no such name, no network, a wrong checksum; with the address, to fetch it by hand.
    """
    entry = find(name)
    if entry.on_hub:
        beside = entry.extra
        if beside is None:
            beside = ("preprocessor_config.json",) if entry.labels else ()
        return hub.directory(entry.source, extra=beside, cache=hub_cache)
    cache = cache or Path(os.environ.get("AST_JAX_CACHE", cache_directory()))
    return download.file(entry.source, cache, sha256=entry.sha256, md5=entry.md5)
