"""Parquet tables by URI: one file, or a folder of `part-*.parquet`, with key-value metadata that all parts share.

Files are written whole or not at all. Only plain column types are read: nothing in a file is ever unpickled.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.errors import ClusterError

SUFFIX = ".parquet"
ROWS_PER_BATCH = 1024
_NOT_OURS = (b"ARROW:schema", b"pandas")  # keys that libraries add to the metadata
_MALFORMED = (
    pa.ArrowException,
    OSError,
    UnicodeDecodeError,
    ValueError,
)  # raised by pyarrow for a file that is not Parquet, or damaged


@dataclass(frozen=True, slots=True)
class TableInfo:
    """Contents of a table, read from the file footers alone."""

    schema: pa.Schema
    """Columns of every part, without metadata."""
    metadata: dict[str, str]
    """Key-value metadata of every part."""
    num_rows: int
    """Rows of all parts together."""
    files: tuple[str, ...]
    """URIs of the parts, in order."""


def write_table(uri: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write `table` with `metadata` to the single Parquet file `uri`, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), sink, compression="zstd")
    storage.write_bytes(uri, memoryview(sink.getvalue()))


def part_uri(folder: str, number: int) -> str:
    """The URI of part `number` of the table in `folder`."""
    return storage.join(folder, f"part-{number:05d}{SUFFIX}")


def table_files(uri: str) -> list[str]:
    """The files of a table, sorted: itself if `uri` ends with .parquet, else the `part-*.parquet` right in the folder
    `uri`."""
    if uri.endswith(SUFFIX):
        return [storage.absolute(uri)]
    names = storage.list_folder(uri)
    files = [storage.join(uri, name) for name in names if name.startswith("part-") and name.endswith(SUFFIX)]
    if not files:
        raise ClusterError(
            f"{uri}: no table here (no part-*.parquet); run the step that writes it, or correct the address"
        )
    return files


def table_info(uri: str) -> TableInfo:
    """Schema, metadata and number of rows, without reading the rows."""
    files = table_files(uri)
    first: TableInfo | None = None
    num_rows = 0
    for file in files:
        with _opened(file) as parquet:
            schema, metadata = _checked(parquet, file)
            num_rows += parquet.metadata.num_rows
        if first is None:
            first = TableInfo(schema, metadata, 0, tuple(files))
        _require_same(file, files[0], schema, first.schema, metadata, first.metadata)
    assert first is not None
    return TableInfo(first.schema, first.metadata, num_rows, tuple(files))


def read_table(
    uri: str, columns: Sequence[str] | None = None, folds: Collection[int] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """Rows of all parts in order, and the metadata they share.

    Args:
        uri: a .parquet file or a folder of parts.
        columns: the columns to read; None = all.
        folds: keep only rows whose `fold` is one of these; None = all.

    Raises:
        ClusterError: a file is missing or malformed, a column is missing, or the parts do not belong together.
    """
    tables = []
    first: tuple[pa.Schema, dict[str, str]] | None = None
    files = table_files(uri)
    for file in files:
        with _opened(file) as parquet:
            schema, metadata = _checked(parquet, file)
            if first is None:
                first = (schema, metadata)
            _require_same(file, files[0], schema, first[0], metadata, first[1])
            table = parquet.read(columns=_needed(schema, columns, folds, file))
        tables.append(_selected(table, columns, folds).replace_schema_metadata(None))
    assert first is not None
    return pa.concat_tables(tables), first[1]


def iter_batches(
    uri: str, columns: Sequence[str] | None = None, folds: Collection[int] | None = None, rows: int = ROWS_PER_BATCH
) -> Iterator[pa.Table]:
    """Like `read_table`, a few rows at a time, so that the table need not fit into memory; empty batches are left
    out."""
    for file in table_files(uri):
        with _opened(file) as parquet:
            schema, _ = _checked(parquet, file)
            for batch in parquet.iter_batches(batch_size=rows, columns=_needed(schema, columns, folds, file)):
                table = _selected(pa.Table.from_batches([batch]), columns, folds)
                if table.num_rows:
                    yield table.replace_schema_metadata(None)


def parse_table(content: bytes, file: str) -> tuple[pa.Table, dict[str, str]]:
    """Rows and metadata of one Parquet file from its bytes; `file` is its name, for errors."""
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            _, metadata = _checked(parquet, file)
            return parquet.read(use_threads=False).replace_schema_metadata(None), metadata
    except _MALFORMED as error:
        raise _malformed(file, error) from error


@contextlib.contextmanager
def _opened(file: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file open for reading. Errors of pyarrow in the block become a ClusterError that names the file."""
    filesystem, path = storage.filesystem(file)
    try:
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as parquet:
            yield parquet
    except _MALFORMED as error:
        storage.require_file(file)  # raises the error of the storage, if there is one
        raise _malformed(file, error) from error


def _malformed(file: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"{file}: not a readable Parquet table ({_first_line(error)}); delete it and run the step that writes it again"
    )


def _checked(parquet: pq.ParquetFile, file: str) -> tuple[pa.Schema, dict[str, str]]:
    """Schema without metadata, and the metadata as text; refuses column types that would run code or need a library to
    be understood."""
    schema = parquet.schema_arrow
    for field in schema:
        if _is_extension(field):
            raise ClusterError(
                f"{file}: column '{field.name}' has the extension type {field.type}, but only plain types are read; "
                "run the "
                "step that writes it again"
            )
    raw = {key: value for key, value in (schema.metadata or {}).items() if key not in _NOT_OURS}
    return schema.remove_metadata(), {key.decode(): value.decode() for key, value in raw.items()}


def _is_extension(field: pa.Field) -> bool:
    if isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
        return True
    return any(_is_extension(field.type.field(index)) for index in range(field.type.num_fields))


def _require_same(
    file: str,
    first_file: str,
    schema: pa.Schema,
    first_schema: pa.Schema,
    metadata: dict[str, str],
    first_metadata: dict[str, str],
) -> None:
    if not schema.equals(first_schema):
        raise ClusterError(
            f"{file} has other columns than {first_file}; they are parts of different tables: run the step that "
            "writes it with --overwrite"
        )
    for key in sorted(metadata.keys() | first_metadata.keys()):
        if metadata.get(key) != first_metadata.get(key):
            raise ClusterError(
                f"{file} has '{key}' = {metadata.get(key)!r}, but {first_file} has {first_metadata.get(key)!r}; "
                "they are parts of different tables: run the step that writes it with --overwrite"
            )


def _needed(schema: pa.Schema, columns: Sequence[str] | None, folds: Collection[int] | None, file: str) -> list[str]:
    """Columns to read from the file."""
    wanted = list(schema.names if columns is None else columns)
    if folds is not None and "fold" not in wanted:
        wanted.append("fold")
    for name in wanted:
        if name not in schema.names:
            raise ClusterError(f"{file}: column '{name}' is missing; it has {', '.join(schema.names) or 'no columns'}")
    return wanted


def _selected(table: pa.Table, columns: Sequence[str] | None, folds: Collection[int] | None) -> pa.Table:
    if folds is not None:
        table = table.filter(
            pc.is_in(table["fold"], value_set=pa.array(sorted(folds), table.schema.field("fold").type))
        )
    return table if columns is None else table.select(list(columns))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
