"""Reading a table of many part files, and writing it as one file, without holding it in memory."""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.storage.os_errors import file_error
from cluster.tables import parquet as tables

THREADS = 16
"""Files that are read at once."""
AHEAD = 4 * THREADS
"""Files that are prefetched."""
ROWS_PER_GROUP = 16_384
"""Rows that are written at once."""


def read_parts(uris: Iterable[str]) -> Iterator[tuple[str, pa.Table, dict[str, str]]]:
    """URI, rows and metadata of each Parquet file, in the given order; several are prefetched at once.

    Raises:
        ClusterError: a file is missing or malformed.
    """
    pending: deque[Future[tuple[str, pa.Table, dict[str, str]]]] = deque()
    pool = ThreadPoolExecutor(THREADS, "read-parts")
    try:
        for uri in uris:
            pending.append(pool.submit(_read, uri))
            if len(pending) >= AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(uri: str) -> tuple[str, pa.Table, dict[str, str]]:
    return uri, *tables.parse_table(storage.read_bytes(uri), uri)


def write_table_stream(uri: str, schema: pa.Schema, parts: Iterable[pa.Table], metadata: Mapping[str, str]) -> int:
    """Write `parts`, which have the columns of `schema`, to the single Parquet file `uri`, atomically; returns the
    number of rows."""
    rows = 0
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as folder:
        path = Path(folder, "table.parquet")
        try:
            with pq.ParquetWriter(path, schema.with_metadata(dict(metadata)), compression="zstd") as writer:
                for group in _groups(parts):
                    writer.write_table(group.cast(schema))
                    rows += group.num_rows
        except OSError as error:
            raise file_error(str(path), error) from error
        storage.write_file(uri, path)
    return rows


def in_slices(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of a table in portions, as `write_table_stream` takes them."""
    for start in range(0, table.num_rows, ROWS_PER_GROUP):
        yield table.slice(start, ROWS_PER_GROUP)


def _groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of `parts` in tables of about ROWS_PER_GROUP rows."""
    held: list[pa.Table] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += part.num_rows
        if rows >= ROWS_PER_GROUP:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)
