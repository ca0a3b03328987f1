"""Directories of sounds as Hugging Face's `datasets` has them ("audiofolder"): a metadata.csv or .jsonl
beside the sounds, in the directory itself or in one a split.

Its columns are file_name, relative to the table, and here label or labels; without one of these two the names
of directories are the classes, and the table says nothing (huggingface.co/docs/datasets/audio_dataset).
"""

import json
import os
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError
from ast_jax.text_tables import Row, read_table, read_text

NAMES = ("metadata.csv", "metadata.jsonl")
# what a column is called elsewhere
ALIASES = {"file": "file_name", "labels": "label"}


def tables(directory: str | os.PathLike) -> list[Path]:
    """The tables of such a directory, those in directories below it in the order of their names; none where
    they do not say what is heard.
    """
    root = Path(directory)
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    # isfile: a directory that may not be opened is told by whoever reads it
    found = [place / name for place in places for name in NAMES if os.path.isfile(place / name)]
    return found if all(not _lacking(_read(table)[0]) for table in found) else []


def rows(table: Path) -> list[Row]:
    """The rows of a .csv or .jsonl table, its columns under the names that are used here.

    Raises InputError for one that cannot be read, or says nothing of a file or of its labels.
    """
    found = _read(table)
    for row in found:
        if lacking := _lacking(row):
            raise InputError(
                f"{row.where if table.suffix.lower() != '.csv' else table} needs the column "
                f"{', '.join(lacking)}: its columns are {', '.join(row)}"
            )
        for own, elsewhere in ALIASES.items():
            if own not in row:
                row[own] = row.pop(elsewhere)
    return found


def _lacking(row: Row) -> list[str]:
    return [own for own, elsewhere in ALIASES.items() if own not in row and elsewhere not in row]


def _read(table: Path) -> list[Row]:
    return read_table(table, ()) if table.suffix.lower() == ".csv" else _json_lines(table)


def _json_lines(table: Path) -> list[Row]:
    found = []
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: no JSON ({error}): wanted an object a line") from None
        if not isinstance(cells, dict):
            raise InputError(f"{where}: got {line[:40]}, wanted an object such as {{'file_name': 'a.wav'}}")
        found.append(Row({str(key): _text(value) for key, value in cells.items()}, where))
    if not found:
        raise InputError(f"{table} lists no files")
    return found


def _text(value: Any) -> str:
    """A cell as a table has it: several labels by semicolons, nothing for null."""
    if isinstance(value, list):
        return ";".join(map(_text, value))
    return "" if value is None else str(value).strip()
