"""A command's flags, help and mistakes, from the signature of its function.

    def tag(files: list[Path], *, model: Annotated[list[str], Flag("a run; repeat it for an ensemble")],
            top: Annotated[int, Flag("labels shown", least=1)] = 5, json: bool = False): ...

What stands before the `*` is given by place, what follows as `--name`. A `list` is given by repeating the
flag, a `tuple` by commas, a `bool` by the flag alone; a `Recipe` is what --config and --config.KEY name;
a dataclass is a group of flags that several commands share; `*rest` gets what nothing else takes. The
docstring is the help's head.
"""

import argparse
import difflib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from ast_jax.config import WANTED, read
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe, split

RECIPE_HELP = (
    "--config=FILE[:WORDS] names a recipe, a file or an installed one; --config.KEY=VALUE changes a setting"
)


@dataclass(frozen=True)
class Flag:
    """What an annotation adds to a type: the meaning, bounds, and whether it is a file to write."""

    help: str = ""
    metavar: str | None = None
    least: int | float | None = None
    most: int | float | None = None
    above: int | float | None = None
    output: bool = False

    def check(self, value: Any) -> None:
        """Raises ValueError for a value out of bounds, or a file that cannot be written."""
        outside = (
            self.least is not None and value < self.least,
            self.above is not None and value <= self.above,
            self.most is not None and value > self.most,
            self.output and not _writable(value),
        )
        if any(outside):
            raise ValueError(value)

    def bounds(self) -> str:
        ends = {"at least": self.least, "above": self.above, "at most": self.most}
        told = "".join(f", {side} {end:g}" for side, end in ends.items() if end is not None)
        return f"{told} of a file that can be written" if self.output else told


def _writable(file: Path) -> bool:
    """Whether a file is there or could be, with the directories on the way to it."""
    there = next(path for path in (file, *file.parents) if os.path.exists(path))
    return os.access(there, os.W_OK) and os.path.isdir(there) == (there != file)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (`{self.prog} --help` lists the flags)")


def call(command: Callable[..., Any], argv: Sequence[str], *, prog: str) -> Any:
    """Calls a command with what `argv` says. Raises InputError: a flag unknown, missing, or wrong."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    parser = _Parser(prog, description=inspect.getdoc(command), allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    recipe = rest = None
    groups: dict[str, type] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = name
        elif Recipe in (hints[name], *get_args(hints[name])):
            recipe = parameter
            parser.add_argument_group("recipe", RECIPE_HELP)
        elif is_dataclass(hints[name]):
            groups[name] = hints[name]
            _add_group(parser, hints[name])
        else:
            _add(parser, parameter, hints[name])
    flags, words = split(argv) if recipe else ([], list(argv))
    asked = takewhile(lambda word: word != "--", words)
    names = {word.partition("=")[0] for word in asked if word.startswith("--")}
    # Before what is missing: a name with a slip in it is both.
    if not rest and (strange := sorted(names.difference(options := parser._option_string_actions))):
        close = difflib.get_close_matches(strange[0], options, n=1)
        parser.error(f"there is no {strange[0]} here" + (f": did you mean {close[0]}?" if close else ""))
    known, unknown = parser.parse_known_intermixed_args(words)
    if unknown and not rest:
        parser.error(f"{unknown[0]!r} is one too many")
    values = vars(known)
    for name, kind in groups.items():
        values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
    if recipe and (flags or recipe.default is not None):
        default = recipe.default.spec if isinstance(recipe.default, Recipe) else None
        values[recipe.name] = Recipe.of(flags, default)
    placed = [values.pop(p.name) for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return command(*placed, *unknown, **values)


def _add_group(parser: argparse.ArgumentParser, kind: Any) -> None:
    """The flags of a dataclass, each with a default."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        parameter = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        _add(parser, parameter, hints[field.name])


def _add(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any) -> None:
    """The argument of one parameter."""
    flag = Flag()
    if get_origin(hint) is Annotated:
        hint, flag = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    by_name, needed = parameter.kind is parameter.KEYWORD_ONLY, parameter.default is parameter.empty
    default = None if needed else parameter.default
    options: dict[str, Any] = {"default": default, "help": flag.help.replace("%", "%%")}
    if default not in (None, False, (), ""):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        options["help"] += f" (default: {shown})"
    if hint is bool:
        parser.add_argument(f"--{parameter.name}", action="store_true", **options)
        return
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Literal:
        options["choices"] = kinds
    else:
        options["type"] = partial(_value, kinds=kinds or (hint,), by_commas=origin is tuple, flag=flag)
    if flag.metavar:
        options["metavar"] = flag.metavar
    if by_name:
        options |= {"required": needed, "action": "append" if origin is list else "store"}
    elif origin is list:
        options["nargs"] = "+" if needed else "*"
    parser.add_argument(f"--{parameter.name}" if by_name else parameter.name, **options)


def _value(text: str, *, kinds: Sequence[Any], by_commas: bool, flag: Flag) -> Any:
    """A text as one value, or as a tuple. Raises what argparse makes a message of: got, wanted."""
    parts = text.split(",") if by_commas else [text]
    each = list(kinds[:1]) * len(parts) if kinds[-1] is Ellipsis else kinds
    several = f"{len(each)} values by commas, each " if len(each) > 1 else ""
    wanted = f"{several}{WANTED[each[0]]}{flag.bounds()}"
    try:
        values = tuple(read(part, kind) for part, kind in zip(parts, each, strict=True))
        for value in values:
            flag.check(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}") from None
    return values if by_commas else values[0]
