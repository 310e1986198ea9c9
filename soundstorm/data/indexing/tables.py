"""The tables of clips and of rejections that the entries of a dataset make."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from soundstorm.data.indexing.entries import Entries
from soundstorm.data.indexing.text_lookup import ROWS_AT_ONCE
from soundstorm.schemas import CLIPS, REJECTED


def clip_table(entries: Entries, dataset: str, folder_uri: str, categories: Sequence[str]) -> pa.Table:
    """A clip for each usable entry: schema CLIPS.

    Args:
        entries: of the dataset.
        dataset: name of the dataset.
        folder_uri: of the data folder, without trailing slash.
        categories: name of each class, by label.
    """
    names = pa.array(categories, pa.string())
    batches = []
    for batch in entries.usable.to_batches(ROWS_AT_ONCE):
        columns = {
            "clip_id": batch["clip_id"],
            "dataset": pa.repeat(pa.scalar(dataset, pa.string()), batch.num_rows),
            "uri": _uris(folder_uri, entries.listing.paths.take(batch["file"])),
            "fold": batch["fold"],
            "label": batch["label"],
            "category": names.take(batch["label"]),
            "notes": pa.nulls(batch.num_rows, CLIPS.field("notes").type),
        }
        batches.append(pa.record_batch([columns[name] for name in CLIPS.names], CLIPS))
    return pa.Table.from_batches(batches, CLIPS)


def rejection_table(entries: Entries, folder_uri: str) -> pa.Table:
    """The rejected entries: schema REJECTED, stage "index"."""
    batches = []
    for batch in entries.rejected.to_batches(ROWS_AT_ONCE):
        columns = {
            "clip_id": batch["clip_id"],
            "uri": _uris(folder_uri, batch["path"]),
            "stage": pa.repeat(pa.scalar("index", pa.string()), batch.num_rows),
            "reason": batch["reason"],
            "detail": batch["detail"],
        }
        batches.append(pa.record_batch([columns[name] for name in REJECTED.names], REJECTED))
    return pa.Table.from_batches(batches, REJECTED)


def _uris(folder_uri: str, paths: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(folder_uri, paths.cast(pa.string()), "/")
