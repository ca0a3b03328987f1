"""Tables that people write, CSV and the like, read to the letter: what may mean something else than is
written is refused, with the number of its line.
"""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ast_jax.errors import InputError, printable

# How files begin that other programs save in another encoding.
_UTF_16_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class Row(dict[str, str]):
    """A line of a table: {column: cell}, both without spaces around them."""

    def __init__(self, cells: dict[str, str], where: str):
        super().__init__(cells)
        self.where = where

    def whole_number(self, column: str) -> int:
        """Raises InputError for a cell that is none."""
        if not self[column].isascii() or not self[column].isdecimal():
            raise InputError(f"{self.where}: {column} is {self[column]!r}: wanted a whole number")
        return int(self[column])


def read_text(path: Path) -> str:
    """A file's text. Raises InputError if it cannot be read or is not UTF-8, with or without a byte order
    mark.
    """
    try:
        held = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if held.startswith(_UTF_16_32):
        raise InputError(f"{path} is UTF-16 or UTF-32 text: save it as UTF-8")
    try:
        text = held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text: save it as UTF-8") from None
    if "\0" in text:
        raise InputError(
            f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte: no text"
        )
    return text


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    header: Sequence[str] | None = None,
    delimiter: str = ",",
    comment: str = "",
) -> list[Row]:
    """The rows of a table whose first line names its columns, or that has the columns `header`.

    Lines that are empty or begin with `comment` are passed over. Raises InputError if the file cannot be read
    or is not UTF-8, has no rows, lacks one of `columns` or names one twice; for a row of more or fewer cells
    than columns, a quote that is not closed, a cell that goes over several lines.
    """
    text = read_text(path)
    if comment:
        # kept as empty lines, so that lines keep their numbers
        text = "".join("\n" if line.startswith(comment) else line for line in text.splitlines(keepends=True))
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=delimiter)
    names, rows = list(header or ()), []
    try:
        for cells in lines:
            where = f"{path}, line {lines.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if any("\n" in cell or "\r" in cell for cell in cells):
                raise InputError(f'{where}: a cell goes over several lines: is a quote (") missing?')
            if not names:
                names = [cell.strip() for cell in cells]
                _check_header(path, names, columns)
            elif len(cells) != len(names):
                raise InputError(
                    f"{where}: {len(cells)} cells in {len(names)} columns ({', '.join(names)}): a cell that "
                    f"holds a {'tab' if delimiter == chr(9) else delimiter!r} stands in quotes"
                )
            else:
                stripped = (cell.strip() for cell in cells)
                rows.append(Row(dict(zip(names, stripped, strict=True)), where))
    except csv.Error as error:
        raise InputError(f'{path}, line {lines.line_num}: {error}: is a quote (") missing?') from None
    if not rows:
        raise InputError(f"{path} has no rows" + ("" if text.strip() else ": it is empty"))
    return rows


def _check_header(path: Path, names: list[str], columns: Sequence[str]) -> None:
    if lacking := [column for column in columns if column not in names]:
        raise InputError(f"{path} needs the column {', '.join(lacking)}: its columns are {', '.join(names)}")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"{path} has {twice[0]!r} for several columns: which is meant?")


def labels_in(row: Row, column: str, separator: str = ";") -> tuple[str, ...]:
    """The labels that a cell lists, none if it is empty.

    Raises InputError for an empty one among others.
    """
    if not row[column]:
        return ()
    labels = tuple(composed(label.strip()) for label in row[column].split(separator))
    if not all(labels):
        raise InputError(
            f"{row.where}: an empty label in {row[column]!r}: {separator!r} stands between labels alone"
        )
    return labels


def composed(label: str) -> str:
    """A label in the one form in which letters with accents are one character each (NFC): two forms look the
    same and would be two classes. Bytes of a directory's name that are no UTF-8 are escaped.
    """
    return unicodedata.normalize("NFC", printable(label))
