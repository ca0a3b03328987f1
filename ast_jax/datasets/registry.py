"""The data sets by name: each is one file with `list_clips(source_dir, **options) -> Listing`.

A file may say two things more: `default_source_dir(data_dir)`, where its sounds are if nobody says, and
`ensure_sounds(source_dir, **options)`, which puts them there. A user's own set is called `module:function`
and needs no row here.
"""

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ast_jax.datasets.listing import Listing
from ast_jax.tables import look_up

DATASETS = {
    "esc50": "ast_jax.datasets.esc50:list_clips",
    "speech_commands": "ast_jax.datasets.speech_commands:list_clips",
    "audioset": "ast_jax.datasets.audioset:list_clips",
    "folder": "ast_jax.datasets.folder:list_clips",
    "events": "ast_jax.datasets.events:list_clips",
    "fsd50k": "ast_jax.datasets.fsd50k:list_clips",
    "urbansound8k": "ast_jax.datasets.urbansound8k:list_clips",
    "nsynth": "ast_jax.datasets.nsynth:list_clips",
    "gtzan": "ast_jax.datasets.gtzan:list_clips",
    "vggsound": "ast_jax.datasets.vggsound:list_clips",
    "tau_scenes": "ast_jax.datasets.tau_scenes:list_clips",
    "crema_d": "ast_jax.datasets.crema_d:list_clips",
    "openmic": "ast_jax.datasets.openmic:list_clips",
    "birdset": "ast_jax.datasets.birdset:list_clips",
    "synthetic": "ast_jax.datasets.synthetic:list_clips",
}


def clip_lister(name: str) -> Callable[..., Listing]:
    """The set's `list_clips`. Raises InputError for a name that is neither a row's nor importable."""
    lister: Any = look_up(DATASETS, name, "data set")
    return lister


def module_of(name: str) -> ModuleType:
    """The set's file. Raises InputError as `clip_lister` does."""
    clip_lister(name)
    return importlib.import_module(DATASETS.get(name, name).partition(":")[0])


def directory_name(name: str) -> str:
    """What the directory of its shards is called, and the shards: `my_sounds:list_clips` -> my_sounds."""
    return re.sub(r"\W", "_", name.partition(":")[0])


def sounds_dir(name: str, source_dir: str | os.PathLike | None, data_dir: str | os.PathLike) -> str | None:
    """Where the sound files are: as given, or the set's own place for them; None if nobody says."""
    if source_dir:
        return os.fspath(source_dir)
    own: Callable[[Path], Path] | None = getattr(module_of(name), "default_source_dir", None)
    return os.fspath(own(Path(data_dir))) if own else None


def ensure_sounds(name: str, source_dir: str | None, options: dict[str, Any]) -> None:
    """Has a set that makes its own sounds put them there."""
    ensure = getattr(module_of(name), "ensure_sounds", None)
    if ensure and source_dir:
        ensure(source_dir, **options)
