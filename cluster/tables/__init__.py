"""Parquet tables, archives of clips and records of finished stages, on top of the storage."""

from cluster.tables.parquet import (
    ROWS_PER_BATCH,
    SUFFIX,
    TableInfo,
    iter_batches,
    parse_table,
    part_uri,
    read_table,
    table_files,
    table_info,
    write_table,
)

__all__ = [
    "ROWS_PER_BATCH",
    "SUFFIX",
    "TableInfo",
    "iter_batches",
    "parse_table",
    "part_uri",
    "read_table",
    "table_files",
    "table_info",
    "write_table",
]
