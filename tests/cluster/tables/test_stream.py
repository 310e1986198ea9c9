"""Tables in many files, read and put together a few at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError, NotFoundError
from cluster.tables.stream import AHEAD, ROWS_PER_GROUP, read_parts, write_table_stream

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("name", pa.string())])


def rows(start: int, count: int) -> pa.Table:
    return pa.table(
        {"n": range(start, start + count), "name": [f"clip {n}" for n in range(start, start + count)]}, SCHEMA
    )


def write_parts(root: str, count: int) -> list[str]:
    uris = [storage.join(root, f"{number % 10}", f"part-{number}.parquet") for number in range(count)]
    for number, uri in enumerate(uris):
        tables.write_table(uri, rows(3 * number, 3), {"number": str(number)})
    return uris


def test_parts_come_in_the_order_asked_for_with_their_metadata(storage_root: str) -> None:
    uris = write_parts(storage_root, 30)[::-1]
    found = list(read_parts(uris))
    assert [uri for uri, _, _ in found] == uris
    assert [int(metadata["number"]) for _, _, metadata in found] == list(range(30))[::-1]
    assert found[0][1].equals(rows(87, 3))


def test_only_a_few_parts_are_read_ahead(tmp_path: Path) -> None:
    uris = write_parts(str(tmp_path), AHEAD + 20)
    asked: list[str] = []

    def ask() -> Iterator[str]:
        for uri in uris:
            asked.append(uri)
            yield uri

    parts = read_parts(ask())
    for number, _ in enumerate(parts):
        assert len(asked) <= number + AHEAD
    assert len(asked) == len(uris)


def test_a_missing_or_damaged_part_is_named(storage_root: str) -> None:
    uris = write_parts(storage_root, 5)
    storage.delete(uris[3])
    with pytest.raises(NotFoundError, match=r"part-3\.parquet does not exist"):
        list(read_parts(uris))
    storage.write_bytes(uris[3], b"PAR1 is not enough")
    with pytest.raises(ClusterError, match=r"part-3\.parquet: not a readable Parquet table"):
        list(read_parts(uris))


def test_a_stream_of_parts_becomes_one_table(storage_root: str) -> None:
    uri = storage.join(storage_root, "all.parquet")
    count = 2 * ROWS_PER_GROUP // 1000 + 1
    assert (
        write_table_stream(uri, SCHEMA, (rows(1000 * number, 1000) for number in range(count)), {"codec": "x"})
        == 1000 * count
    )
    table, metadata = tables.read_table(uri)
    assert table.equals(rows(0, 1000 * count)) and metadata == {"codec": "x"}
    assert pq.read_metadata(pa.BufferReader(storage.read_bytes(uri))).num_row_groups == 2
    assert write_table_stream(uri, SCHEMA, [], {}) == 0
    assert tables.read_table(uri)[0].num_rows == 0


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    uri = str(tmp_path / "all.parquet")
    write_table_stream(uri, SCHEMA, [rows(0, 3)], {})

    def broken() -> Iterator[pa.Table]:
        yield rows(0, 100)
        raise ClusterError("part 2 is missing")

    with pytest.raises(ClusterError, match="part 2 is missing"):
        write_table_stream(uri, SCHEMA, broken(), {})
    assert tables.read_table(uri)[0].num_rows == 3
