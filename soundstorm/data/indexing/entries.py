"""The rows or files of a dataset, in columns: those that can be clips, and those that are rejected."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from soundstorm.data.indexing.listing import Listing, Rejection
from soundstorm.data.indexing.text_lookup import ROWS_AT_ONCE, hashes_of
from soundstorm.schemas import Reason

USABLE = pa.schema(
    [
        ("position", pa.int64()),
        ("clip_id", pa.string()),
        ("file", pa.int64()),
        ("fold", pa.int32()),
        ("label", pa.int32()),
        ("source", pa.string()),
    ]
)
"""Columns of the usable entries: place in the dataset's order; clip_id; number of the file in the listing; fold; label;
source, null if it is not known."""
REJECTED = pa.schema(
    [
        ("position", pa.int64()),
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("file", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Columns of the rejected entries; `file` is null if there is no such file."""


@dataclass(kw_only=True, frozen=True, slots=True)
class IndexEntry:
    """A row or file of a dataset. If `rejection` says why it cannot be used, fold and label are meaningless."""

    clip_id: str
    path: str
    """Path relative to the data folder: as it is stored, or, if there is no such file, as the row has it."""
    fold: int = 0
    label: int = 0
    source: str = ""
    """The recording that the clip was cut from, if the CSV states it."""
    rejection: Rejection | None = None


@dataclass(kw_only=True, frozen=True)
class Entries:
    """The entries of a dataset."""

    listing: Listing
    usable: pa.Table
    """Schema USABLE, in order."""
    rejected: pa.Table
    """Schema REJECTED, in order."""

    def files(self) -> np.ndarray:
        """Numbers of the files that an entry names, in the listing."""
        return np.concatenate([table["file"].drop_null().to_numpy() for table in (self.usable, self.rejected)])


def tabulate(entries: Iterable[IndexEntry], listing: Listing) -> Entries:
    """Put entries into columns as they come; the file of each usable one is in `listing`."""
    numbered = enumerate(entries)
    usable, rejected = [], []
    while some := list(islice(numbered, ROWS_AT_ONCE)):
        usable.append(_usable([pair for pair in some if pair[1].rejection is None], listing))
        rejected.append(_rejected([pair for pair in some if pair[1].rejection is not None], listing))
    return Entries(
        listing=listing,
        usable=pa.Table.from_batches(usable, USABLE),
        rejected=pa.Table.from_batches(rejected, REJECTED),
    )


def _usable(entries: list[tuple[int, IndexEntry]], listing: Listing) -> pa.RecordBatch:
    columns: list[list[object]] = [
        [position for position, _ in entries],
        [entry.clip_id for _, entry in entries],
        [listing.row(entry.path) for _, entry in entries],
        [entry.fold for _, entry in entries],
        [entry.label for _, entry in entries],
        [entry.source or None for _, entry in entries],
    ]
    return _batch(columns, USABLE)


def _rejected(entries: list[tuple[int, IndexEntry]], listing: Listing) -> pa.RecordBatch:
    reasons = [entry.rejection or (Reason.MISSING_FILE, "") for _, entry in entries]
    columns: list[list[object]] = [
        [position for position, _ in entries],
        [entry.clip_id for _, entry in entries],
        [entry.path for _, entry in entries],
        [listing.row(entry.path) for _, entry in entries],
        [reason.value for reason, _ in reasons],
        [detail for _, detail in reasons],
    ]
    return _batch(columns, REJECTED)


def _batch(columns: list[list[object]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
    )


def without_duplicates(entries: Entries) -> Entries:
    """The entries with those rejected whose clip_id or file is that of an earlier usable one, which is kept."""
    clip_ids, files = entries.usable["clip_id"], entries.usable["file"].to_numpy()
    suspects = np.union1d(_repeated(hashes_of(clip_ids)), _repeated(files))
    if not len(suspects):
        return entries
    kept: set[str] = set()
    owners: dict[int, str] = {}
    duplicates: dict[int, tuple[int, IndexEntry]] = {}
    for row, clip_id, position in zip(
        suspects.tolist(),
        clip_ids.take(suspects).to_pylist(),
        entries.usable["position"].take(suspects).to_pylist(),
        strict=True,
    ):
        file = int(files[row])
        path = entries.listing.paths[file].as_py()
        if clip_id in kept:
            detail = f"{path}: clip_id '{clip_id}' is that of an earlier clip, which is kept"
        elif file in owners:
            detail = f"{path}: it is also the file of the earlier clip '{owners[file]}', which is kept"
        else:
            kept.add(clip_id)
            owners[file] = clip_id
            continue
        rejection = (Reason.DUPLICATE_ID, detail)
        duplicates[row] = position, IndexEntry(clip_id=clip_id, path=path, rejection=rejection)
    is_kept = np.ones(len(files), bool)
    is_kept[list(duplicates)] = False
    added = pa.Table.from_batches([_rejected(list(duplicates.values()), entries.listing)], REJECTED)
    return Entries(
        listing=entries.listing,
        usable=entries.usable.filter(pa.array(is_kept)),
        rejected=pa.concat_tables([entries.rejected, added]).sort_by("position"),
    )


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """Places of the numbers that occur more than once."""
    order = np.argsort(numbers, kind="stable")
    equal = numbers[order][1:] == numbers[order][:-1]
    return np.union1d(order[1:][equal], order[:-1][equal])
