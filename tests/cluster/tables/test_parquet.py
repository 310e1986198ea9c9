"""Tables keep rows, order, types and metadata, and a file that is no table is refused by name."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError

METADATA = {"codec_name": "tiny", "note": 'ü, "quoted"'}


def rows(start: int, count: int) -> pa.Table:
    codes = [list(np.arange(8 * (n + 1), dtype=np.uint16).reshape(8, n + 1)) for n in range(start, start + count)]
    columns = {
        "clip_id": [f"clip-{n}" for n in range(start, start + count)],
        "fold": pa.array([1 + n % 5 for n in range(start, start + count)], pa.int32()),
    }
    return pa.table({**columns, "codes": pa.array(codes, pa.list_(pa.list_(pa.uint16())))})


def write_parts(root: str, parts: int = 3, count: int = 5) -> None:
    for part in range(parts):
        tables.write_table(tables.part_uri(root, part), rows(part * count, count), METADATA)


def test_one_file_comes_back_as_it_was_written(storage_root: str) -> None:
    uri = storage.join(storage_root, "tokens.parquet")
    tables.write_table(uri, rows(0, 5), {"old": "1"})
    tables.write_table(uri, rows(0, 7), METADATA)
    table, metadata = tables.read_table(uri)
    assert table.equals(rows(0, 7))
    assert metadata == METADATA


def test_a_folder_of_parts_is_one_table_in_order(storage_root: str) -> None:
    write_parts(storage_root)
    storage.write_bytes(storage.join(storage_root, "deeper", "part-00000.parquet"), b"not ours")
    storage.write_bytes(storage.join(storage_root, "other.parquet"), b"not ours")
    table, metadata = tables.read_table(storage_root)
    assert table.equals(rows(0, 15))
    assert metadata == METADATA
    info = tables.table_info(storage_root)
    assert (info.num_rows, info.metadata, len(info.files)) == (15, METADATA, 3)
    assert info.schema.equals(rows(0, 1).schema)


def test_columns_and_folds_narrow_what_is_read(tmp_path: Path) -> None:
    write_parts(str(tmp_path))
    table, _ = tables.read_table(str(tmp_path), columns=["clip_id"], folds=[2, 5])
    assert table.column_names == ["clip_id"]
    assert table["clip_id"].to_pylist() == [f"clip-{n}" for n in range(15) if 1 + n % 5 in (2, 5)]
    assert tables.read_table(str(tmp_path), folds=[9])[0].num_rows == 0
    with pytest.raises(ClusterError, match="column 'sound' is missing; it has clip_id, fold, codes"):
        tables.read_table(str(tmp_path), columns=["sound"])


def test_batches_are_the_table_in_pieces(tmp_path: Path) -> None:
    write_parts(str(tmp_path))
    batches = list(tables.iter_batches(str(tmp_path), rows=2))
    assert max(batch.num_rows for batch in batches) == 2
    assert pa.concat_tables(batches).equals(rows(0, 15))
    kept = list(tables.iter_batches(str(tmp_path), columns=["clip_id"], folds=[1], rows=2))
    assert pa.concat_tables(kept)["clip_id"].to_pylist() == ["clip-0", "clip-5", "clip-10"]


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    tables.write_table(str(tmp_path / "empty.parquet"), rows(0, 1).slice(0, 0), METADATA)
    table, metadata = tables.read_table(str(tmp_path / "empty.parquet"))
    assert table.num_rows == 0 and table.schema.equals(rows(0, 1).schema) and metadata == METADATA


def test_parts_of_different_tables_are_not_mixed(tmp_path: Path) -> None:
    write_parts(str(tmp_path))
    tables.write_table(tables.part_uri(str(tmp_path), 1), rows(5, 5), {**METADATA, "codec_name": "other"})
    for read in (tables.read_table, tables.table_info):
        with pytest.raises(
            ClusterError, match=r"part-00001\.parquet has 'codec_name' = 'other', but .*part-00000\.parquet has 'tiny'"
        ):
            read(str(tmp_path))
    tables.write_table(tables.part_uri(str(tmp_path), 1), rows(5, 5).select(["clip_id"]), METADATA)
    with pytest.raises(ClusterError, match=r"part-00001\.parquet has other columns"):
        tables.read_table(str(tmp_path))


def test_a_missing_table_is_named(storage_root: str) -> None:
    with pytest.raises(ClusterError, match=r"clips\.parquet does not exist"):
        tables.read_table(storage.join(storage_root, "clips.parquet"))
    with pytest.raises(ClusterError, match="no table here"):
        tables.read_table(storage.join(storage_root, "tokens"))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"clip_id,fold\n1,2\n", b"PAR1" + bytes(100) + b"PAR1", pickle.dumps({"a": 1})]
)
def test_a_file_that_is_no_table_is_named(storage_root: str, content: bytes) -> None:
    uri = storage.join(storage_root, "bad.parquet")
    storage.write_bytes(uri, content)
    for read in (tables.read_table, tables.table_info, lambda where: list(tables.iter_batches(where))):
        with pytest.raises(ClusterError, match=r"bad\.parquet: not a readable Parquet table") as error:
            read(uri)
        assert "\n" not in str(error.value)


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    uri = tmp_path / "bad.parquet"
    tables.write_table(str(uri), rows(0, 200), METADATA)
    whole = uri.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-4],
        whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :],
    ):
        uri.write_bytes(damaged)
        with pytest.raises(ClusterError, match=r"bad\.parquet: not a readable Parquet table"):
            tables.read_table(str(uri))


def test_column_types_that_run_code_are_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "pickled.parquet")
    field = pa.field(
        "codes",
        pa.binary(),
        metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""},
    )
    pq.write_table(pa.table([pa.array([pickle.dumps(print)])], schema=pa.schema([field])), uri)
    with pytest.raises(ClusterError, match="column 'codes' has the extension type"):
        tables.read_table(uri)
