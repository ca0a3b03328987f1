"""What the reference published with its checkpoints and is not in their files: classes, normalisation.

`data/tasks.toml` has it, and says where it is from.
"""

import tomllib
from importlib import resources
from typing import Any

_DATA = resources.files("ast_jax.weights") / "data"


def table(name: str) -> dict[str, Any]:
    """The TOML file `data/NAME.toml`."""
    return tomllib.loads((_DATA / f"{name}.toml").read_text(encoding="utf-8"))


def labels(task: str) -> list[str]:
    """The classes by index: 527 display names of audioset, 35 words of speech_commands."""
    return (_DATA / f"{task}_labels.txt").read_text(encoding="utf-8").splitlines()


def identifiers() -> list[str]:
    """AudioSet's identifiers (`/m/...`) of the same classes."""
    return (_DATA / "audioset_identifiers.txt").read_text(encoding="utf-8").splitlines()


def named(found: list[str]) -> list[str]:
    """AudioSet's names of these identifiers; another text stays as it is."""
    names = dict(zip(identifiers(), labels("audioset"), strict=True))
    return [names.get(identifier, identifier) for identifier in found]


TASKS = table("tasks")
# those whose classes have published names
NAMED = ("audioset", "speech_commands")
# Mean and standard deviation of log-mel features, as the reference gathered them.
AUDIOSET, ESC50, SPEECH_COMMANDS = (
    (TASKS[task]["mean"], TASKS[task]["std"]) for task in ("audioset", "esc50", "speech_commands")
)
