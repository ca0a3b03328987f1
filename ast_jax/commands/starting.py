"""What a run starts from where nobody says: the weights that its recipe names for this machine, where they
can be had.
"""

import sys
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError
from ast_jax.recipes import Recipe
from ast_jax.weights.files import read_json

# Words after a recipe's colon, and settings, by which people say themselves what a model starts from.
CHOSEN_WORDS = ("scratch", "pretrained", "model", "mel", "unlabelled")
CHOSEN_SETTINGS = ("init_from", "teacher", "model.", "dataset.kind")


def started(recipe: Recipe, workdir: Path | None = None) -> Recipe:
    """The recipe as it stands; or, where its file has a table PRETRAINED and nothing was chosen, with the
    words and the weights of that table's row for this kind of device.

    A run that is there goes on from what it began with. Weights that cannot be had, for want of a network for
    instance, are told in a line, and the recipe stands as it is: from scratch.
    """
    recipe.config()  # a mistake in it is told before anything else
    table: dict[str, tuple[str, str]] = recipe.table("PRETRAINED")
    words = [word.partition("=")[0] for word in recipe.spec.partition(":")[2].split(",")]
    chosen = [word for word in words if word in CHOSEN_WORDS]
    chosen += [key for key, _ in recipe.changes if key.startswith(CHOSEN_SETTINGS)]
    if not table or chosen:
        return recipe

    import jax

    from ast_jax.weights import catalogue

    word, name = table["cpu" if "cpu" in words or jax.default_backend() == "cpu" else "accelerator"]
    other = recipe.with_words(word).with_setting("init_from", name)
    if workdir is not None and (workdir / "config.json").is_file():
        known: Any = read_json(workdir / "config.json")
        return other if known.get("init_from") == name else recipe
    try:
        catalogue.fetch(name)
    except InputError as error:
        asked = recipe.with_words("scratch").spec
        _tell(f"from scratch: {error} (the word scratch, as in {asked}, does not try)")
        return recipe
    entry = catalogue.find(name)
    _tell(
        f"starts from {name} ({entry.figure}; {entry.licence}), as with {other.spec}; from scratch it is "
        f"{recipe.with_words('scratch').spec}"
    )
    return other


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
