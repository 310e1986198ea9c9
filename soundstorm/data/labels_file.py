"""Reads tables of labels as people and spreadsheet programs write them: separated by commas, semicolons or tabs, with
headers in any spelling."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from soundstorm.data.data_folder import DatasetFolder, composed
from soundstorm.errors import SoundStormError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""Possible delimiters, the most likely first."""

_NUMBER = re.compile(r"(?:fold[ _-]?)?(\d{1,9})(?:\.0+)?", re.ASCII | re.IGNORECASE)


@dataclass(kw_only=True, frozen=True)
class LabelRow:
    """A row of a table of labels."""

    number: int
    """Row number as in a spreadsheet: the header is row 1."""
    cells: dict[str, str]
    """Cells of the requested columns that exist, by the requested names, without surrounding spaces."""
    surplus: int
    """Number of non-empty cells beyond the last column: a name that contains the delimiter was not quoted."""


def read_labels(
    data_folder: DatasetFolder, path: str, columns: Sequence[str], optional: Sequence[str], hint: str
) -> list[LabelRow]:
    """The rows of a CSV file with a header; absent cells are empty.

    Column names are compared without case, spaces, `_` and `-`: ` File Name` is `filename`.

    Args:
        data_folder: the data folder.
        path: path of the file in it.
        columns: required columns.
        optional: columns that are read if they exist.
        hint: what to do if the file is missing.

    Raises:
        SoundStormError: the file is missing, is not a table in UTF-8, lacks a column or has no rows.
    """
    where = f"{data_folder.uri}/{path}"
    try:
        if not data_folder.has_file(path):
            raise SoundStormError(f"{where} is missing: {hint}")
        text = data_folder.read(path).decode("utf-8-sig")
        delimiter = _delimiter(text, columns)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SoundStormError(
            f"{where} cannot be read as CSV in UTF-8: {error}; save it as 'CSV UTF-8', with a header"
        ) from error
    first = next((number for number, row in enumerate(rows) if any(row)), len(rows))
    header = [name.strip() for name in rows[first]] if first < len(rows) else []
    place_of = {name: at for name in (*columns, *optional) if (at := _column(name, header)) is not None}
    missing = [name for name in columns if name not in place_of]
    if missing:
        others = "" if len(header) > 1 or not header else f" (it is not separated by {', '.join(DELIMITERS.values())})"
        raise SoundStormError(
            f"{where}: column '{missing[0]}' is missing; it has {', '.join(header) or 'no columns'}{others}: "
            f"name its columns {', '.join(columns)} in the first row"
        )
    found = [
        LabelRow(
            number=number,
            cells={name: row[at].strip() if at < len(row) else "" for name, at in place_of.items()},
            surplus=sum(bool(cell.strip()) for cell in row[len(header) :]),
        )
        for number, row in enumerate(rows[first + 1 :], start=first + 2)
        if any(row)
    ]
    if not found:
        raise SoundStormError(f"{where} has a header, but no rows: add a row for each recording")
    return found


def has_columns(data_folder: DatasetFolder, path: str, columns: Sequence[str]) -> bool:
    """Whether a file is a table with these columns."""
    try:
        read_labels(data_folder, path, columns, (), "")
    except SoundStormError:
        return False
    return True


def whole_number(text: str, lowest: int, highest: int) -> int | None:
    """The number in a cell, also written as `1.0` or `fold1`; None if there is none or it is out of range."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found and lowest <= int(found[1]) <= highest else None


def _delimiter(text: str, columns: Sequence[str]) -> str:
    """The delimiter with which the header has the most of `columns`."""

    def known(delimiter: str) -> int:
        header = next(
            (
                row
                for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
                if any(row)
            ),
            [],
        )
        return sum(_column(name, header) is not None for name in columns)

    return max(DELIMITERS, key=known)


def _column(name: str, header: Sequence[str]) -> int | None:
    """Index of the column `name`: an exact match, or else one in another spelling."""
    if name in header:
        return list(header).index(name)
    spelt = [_spelling(heading) for heading in header]
    return spelt.index(_spelling(name)) if _spelling(name) in spelt else None


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "", composed(name).casefold())
