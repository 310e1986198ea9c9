"""Reads tables of labels as people and spreadsheet programs write them: separated by commas, semicolons or tabs, with
headers in any spelling."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from soundstorm.data.data_folder import DatasetFolder
from soundstorm.data.indexing.listing import composed
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


@dataclass(kw_only=True, frozen=True)
class LabelTable:
    """A table of labels, whose rows are read when they are wanted, as often as they are."""

    where: str
    """URI of the file."""
    content: bytes
    delimiter: str
    place_of: Mapping[str, int]
    """Name of each requested column that exists -> its number."""
    header: int
    """Row number of the header."""
    width: int
    """Columns of the header."""

    def __iter__(self) -> Iterator[LabelRow]:
        """The rows below the header that are not empty; absent cells are empty.

        Raises:
            SoundStormError: a row cannot be read.
        """
        with _read_as_csv(self.where):
            for number, row in enumerate(_rows(self.content, self.delimiter), start=1):
                if number > self.header and any(row):
                    yield LabelRow(
                        number=number,
                        cells={name: row[at].strip() if at < len(row) else "" for name, at in self.place_of.items()},
                        surplus=sum(bool(cell.strip()) for cell in row[self.width :]),
                    )


def read_labels(
    data_folder: DatasetFolder, path: str, columns: Sequence[str], optional: Sequence[str], hint: str
) -> LabelTable:
    """The rows of a CSV file with a header.

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
    with _read_as_csv(where):
        if not data_folder.has_file(path):
            raise SoundStormError(f"{where} is missing: {hint}")
        content = data_folder.read(path)
        content.decode("utf-8-sig")
        delimiter = max(DELIMITERS, key=lambda one: _num_known(_header(content, one)[1], columns))
        number, header = _header(content, delimiter)
    place_of = {name: at for name in (*columns, *optional) if (at := _column(name, header)) is not None}
    missing = [name for name in columns if name not in place_of]
    if missing:
        others = "" if len(header) > 1 or not header else f" (it is not separated by {', '.join(DELIMITERS.values())})"
        raise SoundStormError(
            f"{where}: column '{missing[0]}' is missing; it has {', '.join(header) or 'no columns'}{others}: "
            f"name its columns {', '.join(columns)} in the first row"
        )
    table = LabelTable(
        where=where, content=content, delimiter=delimiter, place_of=place_of, header=number, width=len(header)
    )
    if next(iter(table), None) is None:
        raise SoundStormError(f"{where} has a header, but no rows: add a row for each recording")
    return table


def has_columns(data_folder: DatasetFolder, path: str, columns: Sequence[str]) -> bool:
    """Whether a file is a table with these columns."""
    try:
        for _ in read_labels(data_folder, path, columns, (), ""):
            pass
    except SoundStormError:
        return False
    return True


def whole_number(text: str, lowest: int, highest: int) -> int | None:
    """The number in a cell, also written as `1.0` or `fold1`; None if there is none or it is out of range."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found and lowest <= int(found[1]) <= highest else None


@contextlib.contextmanager
def _read_as_csv(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SoundStormError(
            f"{where} cannot be read as CSV in UTF-8: {error}; save it as 'CSV UTF-8', with a header"
        ) from error


def _rows(content: bytes, delimiter: str) -> Iterator[list[str]]:
    """All rows, also the empty ones."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    return csv.reader(text, delimiter=delimiter, skipinitialspace=True)


def _header(content: bytes, delimiter: str) -> tuple[int, list[str]]:
    """The first row that is not empty: its number and its cells; no cells if there is none."""
    rows = enumerate(_rows(content, delimiter), start=1)
    number, header = next(((number, row) for number, row in rows if any(row)), (0, []))
    return number, [name.strip() for name in header]


def _num_known(header: list[str], columns: Sequence[str]) -> int:
    """Number of `columns` that are in a header."""
    return sum(_column(name, header) is not None for name in columns)


def _column(name: str, header: Sequence[str]) -> int | None:
    """Index of the column `name`: an exact match, or else one in another spelling."""
    if name in header:
        return list(header).index(name)
    spelt = [_spelling(heading) for heading in header]
    return spelt.index(_spelling(name)) if _spelling(name) in spelt else None


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "", composed(name).casefold())
