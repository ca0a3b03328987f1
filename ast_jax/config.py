"""The two ways in to settings: a recipe file and the command line. `settings.py` has every key once.

    --config=configs/esc50.py:fold=1,cpu --config.epochs=3

Suffix grammar, the same for every recipe: after the colon, words and key=value pairs joined by commas.
Each recipe says in its docstring which words and keys it knows; another one is an error that lists them.
"""

import ast
import difflib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from ast_jax import settings
from ast_jax.errors import InputError


def base(**dataset_options) -> ConfigDict:
    """The defaults every recipe starts from: AST-base on 10 s clips, the reference's optimiser, nothing augmented.

    `dataset_options` become `config.dataset.options`, the arguments of that data set's `list_clips`.
    Keys are locked: a recipe or flag that names another one is an error.
    """
    tree = settings.defaults()
    for key, kind in settings.optional_keys().items():
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = config_dict.placeholder(kind)
    config = ConfigDict(tree)
    config.dataset.options = ConfigDict(dataset_options)
    return config.lock()


def of_run(stored: Mapping[str, Any]) -> ConfigDict:
    """The recipe in a run's config.json; settings that came after it have their defaults."""
    stored = dict(stored)
    if isinstance(stored.get("model", {}).get("remat"), bool):  # runs from before there were policies
        stored["model"] = stored["model"] | {"remat": "blocks" if stored["model"]["remat"] else "none"}
    config = base()
    with config.unlocked():
        config.update(ConfigDict(stored))
    return config


def suffix_options(
    suffix: str, *, words: Sequence[str] = (), keys: Mapping[str, object] | None = None
) -> dict:
    """Parses a recipe's suffix: `{word: bool for every word, key: value or its default for every key}`.

    A value takes the type of its default. Raises InputError for an unknown word or key.
    """
    keys = keys or {}
    options: dict = {**dict.fromkeys(words, False), **keys}
    for part in filter(None, suffix.split(",")):
        key, equals, text = part.partition("=")
        if not equals and key in words:
            options[key] = True
        elif equals and key in keys:
            options[key] = _cast(key, text, keys[key])
        else:
            known = ", ".join([*words, *(f"{key}=..." for key in keys)]) or "none"
            raise InputError(f"this recipe has no suffix {part!r}: it knows {known}")
    return options


POD = 16  # times the recipe's batch, where the suffix says `pod` and not how much


def enlarge(config: ConfigDict, pod: int | bool) -> None:
    """Gives a recipe the batch of its suffix: `pod=TIMES`, or `pod` for 16 times, by one rule for all recipes.

    The rate grows with the square root of the batch, as the noise of Adam's steps shrinks; the warm-up keeps its number of *steps* and climbs
    linearly, so that it undoes no decay. docs/recipes.md has the evidence. Raises InputError for less than once.
    """
    times = POD if pod is True else int(pod)
    if times < 1:
        raise InputError(f"pod={pod}: a batch is enlarged by a whole number of times, at least 1")
    if times > 1:
        config.batch_size *= times
        config.lr *= times**0.5
        config.lr_warmup = "linear"


def _cast(key: str, text: str, default: object):
    if isinstance(default, str):
        return text
    cast: Any = type(default)
    try:
        return cast(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        raise InputError(f"{key}={text} in the suffix: wanted a value like {default!r}") from None


def parse(argv: Sequence[str]) -> tuple[ConfigDict, str, list[str]]:
    """Reads `--config=FILE[:SUFFIX]` and `--config.KEY=VALUE ...` out of `argv` (without the program's name).

    Returns the locked config, the recipe's text as given, and the arguments left over.
    Raises InputError: no such file, unknown key, value of another type.
    """
    spec = _spec(argv)
    path, _, _ = spec.partition(":")
    if not Path(path).is_file():
        raise InputError(
            f"no recipe at {path!r}: name one such as configs/esc50.py (or run from the repository's root)"
        )
    flag_values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=flag_values)
    before, sys.argv = sys.argv, ["ast_jax", *argv]  # config_flags looks for overrides in sys.argv
    try:
        rest = flag_values(sys.argv, known_only=True)[1:]
        config = flag_values.config
    except (AttributeError, KeyError) as error:
        raise InputError(_unknown_key(spec, argv, error)) from error
    except flags.Error as error:
        raise InputError(f"{error}".replace("\n", " ")) from error
    finally:
        sys.argv = before
    return config, spec, rest


def _spec(argv: Sequence[str]) -> str:
    for argument, following in itertools.pairwise([*argv, ""]):
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
        if argument == "--config":
            return following
    raise InputError("no --config was given: name a recipe, for example --config=configs/quickstart.py")


def _unknown_key(spec: str, argv: Sequence[str], error: Exception) -> str:
    known = list(flatten(base()))
    for argument in argv:
        key = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "ast_jax/config.py lists every key"
            return f"there is no setting {key!r}: {hint}"
    return f"the recipe {spec} failed: {error}".replace("\n", " ")


def flatten(config: ConfigDict) -> dict[str, object]:
    """`{"dataset.name": ..., ...}`, with lists for tuples, as JSON has them."""
    return settings.flat(json.loads(config.to_json_best_effort()))
