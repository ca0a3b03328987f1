"""Speech Commands V2 in its own layout: a directory per word, and lists for validation and testing.

105,829 one-second utterances of 35 words (Warden, arXiv:1804.03209); what is in neither list is for training.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import read_label_names, scan, subdirectories
from ast_jax.errors import InputError
from ast_jax.text_tables import read_text

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def list_clips(
    source_dir: str | os.PathLike, *, label_names: Sequence[str] | str | os.PathLike | None = None
) -> Listing:
    """Splits train, validation, test; 35 words in alphabetical order unless `label_names` gives another.

    `label_names` are names, or a file of them in `source_dir`. Published checkpoints have an order of their
    own, so it belongs with the weights. Directories whose name starts with `_` (_background_noise_) are no
    words. A listed file that is missing is skipped when it comes to reading it. Raises InputError if a list
    or every word is missing, or a word is not among `label_names`.
    """
    source = Path(source_dir)
    if not source.is_dir():
        raise InputError(f"no directory {source}: give the directory that Speech Commands was unpacked to")
    words = [name for name in subdirectories(source) if not name.startswith("_")]
    names = read_label_names(label_names, source) if label_names is not None else words
    if unknown := sorted(set(words) - set(names)):
        raise InputError(
            f"{source}: word {', '.join(unknown)} is not among the {len(names)} label names given"
        )
    split_of = {line: split for split, file in LISTS.items() for line in _listed(source / file)}
    found = {f"{word}/{Path(path).name}" for word in words for path in scan(source / word).sounds}
    expected = {line for line in split_of if line.split("/")[0] in words}
    splits: dict[str, list[Clip]] = {"train": [], "validation": [], "test": []}
    for line in found | expected:
        label = names.index(line.split("/")[0])
        splits[split_of.get(line, "train")].append(
            Clip(os.path.splitext(line)[0], str(source / line), (label,))
        )
    return Listing("speech_commands", names, False, splits)


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(
            f"no {path.name} in {path.parent}: give the directory that Speech Commands V2 was unpacked to"
        )
    return read_text(path).split()
