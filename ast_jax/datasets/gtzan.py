"""GTZAN in its own layout, a directory a genre, with the fault-filtered split.

1,000 excerpts of 30 s, 10 genres (Tzanetakis and Cook 2002). Repeated, distorted and mislabelled ones are
left out and artists kept apart by the lists of Kereliuk, Sturm and Larsen (2015): 443 to train, 197 to
validate, 290 to test; they are not part of the set and lie beside it.
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import scan
from ast_jax.errors import InputError
from ast_jax.text_tables import read_text

LISTS = {"train": "train_filtered.txt", "valid": "valid_filtered.txt", "test": "test_filtered.txt"}


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train, valid, test: lines such as blues/blues.00029.wav of the three lists, which, like the
    sounds, may lie anywhere below. The one excerpt that is known not to be decodable (jazz.00054) is of no
    list.

    Raises InputError where a list is missing, or speaks of an excerpt that is not there.
    """
    sounds, others, unopened = scan(source_dir)
    lists = {os.path.basename(path): Path(path) for path in reversed(others)}
    if missing := [name for name in LISTS.values() if name not in lists]:
        raise InputError(
            f"{source_dir}: no {', '.join(missing)} below it: the fault-filtered lists are no part of GTZAN; "
            "put them there, a line an excerpt, such as blues/blues.00029.wav"
        )
    place = {Path(path).stem: path for path in reversed(sounds)}
    listed = {
        split: [line.strip() for line in read_text(lists[name]).splitlines() if line.strip()]
        for split, name in LISTS.items()
    }
    genres = sorted({Path(line).parts[0] for lines in listed.values() for line in lines})
    splits: dict[str, list[Clip]] = {}
    for split, lines in listed.items():
        if gone := [line for line in lines if Path(line).stem not in place]:
            raise InputError(
                f"{lists[LISTS[split]]}: {gone[0]} and {len(gone) - 1} more are not below {source_dir}"
            )
        splits[split] = [
            Clip(Path(line).stem, place[Path(line).stem], (genres.index(Path(line).parts[0]),))
            for line in lines
        ]
    return Listing("gtzan", genres, False, splits, left_out=unopened)
