"""The recipe that a command line names: the one reader of `--config` and `--config.KEY`.

--config=configs/esc50.py:fold=1,cpu --config.epochs=3
--config.epochs 3 --config esc50:fold=1,cpu            # an installed recipe, by its name
"""

import difflib
import runpy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ast_jax.config import WANTED, flatten, read
from ast_jax.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """A recipe and what is changed in it, as the command line names them."""

    spec: str  # a file or the name of an installed recipe, with the words after its colon
    # settings and their values; the last one of a setting counts, None switches it on
    changes: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def of(cls, flags: Sequence[tuple[str, str | None]], default: str | None = None) -> "Recipe":
        """From the pairs that `split` finds. Raises InputError unless they or `default` name one recipe."""
        specs = [value for name, value in flags if name == "config"]
        if len(specs) > 1:
            raise InputError(
                f"--config is given {len(specs)} times ({', '.join(map(str, specs))}): choose one"
            )
        if not (spec := specs[0] if specs else default):
            raise InputError(
                "no --config was given: name a recipe, for example --config=configs/quickstart.py"
            )
        changes = [(name.removeprefix("config."), value) for name, value in flags if name != "config"]
        return cls(spec, tuple(changes))

    def with_word(self, key: str, value: object) -> "Recipe":
        """With `key=value` among the words after the colon."""
        path, _, suffix = self.spec.partition(":")
        words = [word for word in suffix.split(",") if word and word.partition("=")[0] != key]
        return replace(self, spec=f"{path}:{','.join([*words, f'{key}={value}'])}")

    def with_words(self, more: str) -> "Recipe":
        """With these at the end of the words after the colon."""
        path, _, suffix = self.spec.partition(":")
        return replace(self, spec=f"{path}:{','.join(filter(None, [suffix, more]))}")

    def with_setting(self, key: str, value: object) -> "Recipe":
        return replace(self, changes=(*self.changes, (key, str(value))))

    def flags(self) -> list[str]:
        """The arguments that name this recipe to another process."""
        changes = (key if value is None else f"{key}={value}" for key, value in self.changes)
        return [f"--config={self.spec}", *(f"--config.{change}" for change in changes)]

    @property
    def path(self) -> Path:
        """The recipe's file. Raises InputError where there is none."""
        name = self.spec.partition(":")[0]
        installed = {path.stem: path for path in sorted(recipes_directory().glob("*.py"))}
        file = Path(name)
        if name in installed or (file.suffix == ".py" and file.is_file()):
            return installed.get(name, file)
        if file.is_file():
            raise InputError(
                f"{name} is no recipe: wanted a Python file with get_config, or a name such as esc50"
            )
        close = difflib.get_close_matches(file.stem, installed, cutoff=0.5) or list(installed)
        raise InputError(
            f"no recipe at {name!r}: name a file, or an installed one by its name: {', '.join(close)}"
        )

    def table(self, name: str) -> dict[str, Any]:
        """What the recipe's file says beside `get_config`, under this name; {} where it says nothing."""
        return runpy.run_path(str(self.path)).get(name, {})

    def config(self) -> ConfigDict:
        """The locked settings. Raises InputError: no such file or setting, a mistake in it, another type."""
        path, words = self.path, self.spec.partition(":")[2].split(",")
        suffix = ",".join(word for word in words if word != "float32")
        try:
            get_config = runpy.run_path(str(path)).get("get_config", lambda *_: None)
            config = get_config(*([suffix] if suffix else []))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the recipe {self.spec} failed: {_where(error, path)}") from error
        if not isinstance(config, ConfigDict):
            raise InputError(
                f"{path} is no recipe: wanted a function get_config(suffix) that returns base() changed"
            )
        if "float32" in words:  # of every recipe
            config.model.dtype = "float32"
        for key in dict.fromkeys(key for key, _ in self.changes):
            _change(config, key, [value for other, value in self.changes if other == key])
        return config.lock()


def recipe(spec: str, **changes: Any) -> ConfigDict:
    """The settings of a recipe, by its file or installed name with the words after the colon:
    `recipe("esc50:fold=1")`.

    `changes` are settings by their keys; a dot in a key is written as two underscores:
    dataset__source_dir="sounds".

    Raises:
        InputError: no such recipe or setting, or a value that cannot be read as its type.
    """
    found = Recipe(spec)
    for key, value in changes.items():
        found = found.with_setting(key.replace("__", "."), value)
    return found.config()


def recipes_directory() -> Path:
    """Where the recipes of this package lie: inside it once installed, beside it in a checkout."""
    package = Path(__file__).parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def _where(error: Exception, path: Path) -> str:
    """What went wrong in a recipe, and in which of its lines."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    told = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    return f"{told} (line {line})" if line else told


def _change(config: ConfigDict, key: str, texts: Sequence[str | None]) -> None:
    """Changes one setting. The last text counts; single values, one a text, make a tuple together.

    Raises InputError: no such setting, or a text that cannot be read as its type.
    """
    known = flatten(config)
    *sections, name = key.split(".")
    node: Any = config
    for section in sections:
        node = node.get(section) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or name not in node:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "ast_jax/config.py lists every key"
        raise InputError(f"there is no setting {key!r}: {hint}")
    kind, last = node.get_type(name), texts[-1]
    try:
        values = [_given(text, kind) for text in (texts if kind is tuple else [last])]
        one_by_one = kind is tuple and all(len(value) == 1 for value in values)
        node[name] = sum(values, ()) if one_by_one else values[-1]
    except (ValueError, TypeError) as error:
        flag = f"--config.{key}" + ("" if last is None else f"={last}")
        raise InputError(f"{flag}: wanted {WANTED.get(kind, f'a {kind.__name__}')}") from error


def _given(text: str | None, kind: Any) -> Any:
    if text is None and kind is not bool:
        raise ValueError("no value")
    return True if text is None else read(text, kind)


def split(argv: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The flags of a recipe as pairs, ("config", FILE) and ("config.KEY", VALUE), and everything else.

    `--config FILE`, `--config=FILE`, `--config.KEY VALUE` and `--config.KEY=VALUE`, in any order. The value
    is None where none follows.
    """
    flags: list[tuple[str, str | None]] = []
    rest: list[str] = []
    words = list(argv)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name != "--config" and not name.startswith("--config."):
            rest.append(name + equals + value)
        elif equals:
            flags.append((name[2:], value))
        else:
            follows = words and not words[0].startswith("--")
            flags.append((name[2:], words.pop(0) if follows else None))
    return flags, rest


def parse(argv: Sequence[str]) -> tuple[ConfigDict, str, list[str]]:
    """The locked settings that `argv` names, the recipe's text as given, and the arguments left over.

    Raises InputError: no recipe, no such file or setting, value of another type.
    """
    flags, rest = split(argv)
    recipe = Recipe.of(flags)
    return recipe.config(), recipe.spec, rest
