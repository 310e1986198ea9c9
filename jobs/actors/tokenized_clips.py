"""What `tokenize` made of each clip: rejections and notes are read shard by shard, and the table of clips gets the
notes."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage, tables
from cluster.tables.stream import write_table_stream
from jobs.inputs.clip_notes import noted_shards, part_of, read_notes, with_notes
from soundstorm.data.accounting import Account, Accounting
from soundstorm.data.datasets import Index
from soundstorm.data.notes import NoteTally
from soundstorm.schemas import CLIPS, REJECTED, check_schema, check_table


@dataclass(kw_only=True, frozen=True)
class TokenizedClips:
    """The output of a run whose shards are all done."""

    output_dir: str
    index: Index
    """Clips of the dataset, with windows in the place of longer recordings if they were split."""
    shard_size: int
    """Clips per shard."""
    metadata: dict[str, str]
    """Metadata of the table of clips."""

    @property
    def rejected_uri(self) -> str:
        """URI of the table of rejections."""
        return storage.join(self.output_dir, "rejected")

    def num_rejected(self) -> int:
        """Rows of the table of rejections.

        Raises:
            SoundStormError: it has other columns.
        """
        info = tables.table_info(self.rejected_uri)
        check_schema(info.schema, REJECTED, self.rejected_uri)
        return info.num_rows

    def rejections(self) -> Iterator[pa.Table]:
        """The table of rejections in portions.

        Raises:
            SoundStormError: a value is missing.
        """
        for table in tables.iter_batches(self.rejected_uri):
            check_table(table, REJECTED, self.rejected_uri)
            yield table

    def write_notes(self) -> tuple[NoteTally, Account]:
        """Write the table of clips with the notes of each; counts the notes and what happened to each file.

        Raises:
            SoundStormError: notes are malformed, or the numbers of files do not add up.
        """
        index, notes = self.index, NoteTally()
        accounting = Accounting(index.num_files, index.ignored, index.rejected_files)
        accounting.add(index.clips.slice(0, 0), index.rejected)
        uri = storage.join(self.output_dir, "clips.parquet")
        write_table_stream(uri, CLIPS, self._shards(notes, accounting), self.metadata)
        return notes, accounting.result()

    def _shards(self, notes: NoteTally, accounting: Accounting) -> Iterator[pa.Table]:
        """The clips of each shard with their notes; adds to both counts."""
        noted = noted_shards(self.output_dir)
        rejecting = set(tables.table_files(self.rejected_uri))
        for shard, start in enumerate(range(0, self.index.clips.num_rows, self.shard_size)):
            clips = self.index.clips.slice(start, self.shard_size)
            part = tables.part_uri(self.rejected_uri, shard)
            rejected = tables.read_table(part)[0] if part in rejecting else REJECTED.empty_table()
            given = read_notes(uri) if (uri := part_of(self.output_dir, shard)) in noted else {}
            for clip_id, lines in given.items():
                notes.add(clip_id, lines)
            accounting.add(clips, rejected)
            lost = rejected.filter(pc.not_equal(rejected["stage"], "index"))["clip_id"]
            yield with_notes(clips, given, set(lost.to_pylist()))
