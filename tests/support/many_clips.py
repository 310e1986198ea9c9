"""A made-up dataset of many clips, and what the driver of `tokenize` does before and after its actors work on it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage, tables
from cluster.tables.stream import in_slices, write_table_stream
from jobs import tokenize
from jobs.actors.tokenized_clips import TokenizedClips
from jobs.actors.tokenizing_pool import TokenizingPool
from jobs.inputs.datasets import index_digest, open_and_report, report_ignored
from jobs.inputs.rejections import check_rejected_fraction
from soundstorm.data.datasets import Index
from soundstorm.schemas import TOKENIZED

CLASSES = 50
MISSING_EVERY = 100
"""One row in so many of the table of labels names no file."""


def make_recordings(folder: Path, count: int, *, with_table: bool) -> None:
    """Empty files in the folders of classes, and with a table of labels also rows that name no file."""
    for label in range(CLASSES):
        (folder / f"class_{label:02d}").mkdir(parents=True)
    names = [f"class_{number % CLASSES:02d}/recording_{number:08d}.wav" for number in range(count)]
    for name in names:
        (folder / name).open("x").close()
    if with_table:
        rows = [f"{name},{name.split('/')[0]}\n" for name in names]
        rows += [f"{name[:-4]}_gone.wav,{name.split('/')[0]}\n" for name in names[::MISSING_EVERY]]
        (folder / "clips.csv").write_text("filename,category\n" + "".join(rows))


def plan(options: tokenize.Options, capacity: int = 2) -> tuple[Index, int]:
    """Index the recordings, write the tables and plan the shards of `capacity` actors, as a run does; returns the index
    and the number of clips in the plan."""
    index = open_and_report(options)
    index_digest(index.clips)
    report_ignored(index, options.verbose)
    for name, table in (("clips.parquet", index.clips), ("rejected/part-index.parquet", index.rejected)):
        write_table_stream(storage.join(options.output_dir, name), table.schema, in_slices(table), {})
    pool = TokenizingPool(
        output_dir=options.output_dir,
        clips=index.clips,
        shard_size=options.shard_size,
        views=options.views,
        weights=b"",
        metadata={},
        max_duration_s=options.max_duration,
        num_actors=None,
    )
    todo = pool.missing_shards()
    planned = sum(len(some) for some in pool.plan(todo, capacity))
    assert planned == len(todo) == -(-index.clips.num_rows // options.shard_size)
    return index, index.clips.num_rows


def make_tokens(output_dir: str, num_clips: int, shard_size: int) -> None:
    """What actors leave: a table of tokens, of one frame, for each shard."""
    folder = Path(output_dir, "tokens")
    folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, num_clips, shard_size)):
        rows = min(shard_size, num_clips - start)
        columns = {
            "clip_id": [str(number) for number in range(start, start + rows)],
            "dataset": ["folder"] * rows,
            "fold": [1] * rows,
            "label": [0] * rows,
            "category": ["class_00"] * rows,
            "view": [0] * rows,
            "num_frames": [1] * rows,
            "codes": [[[0]]] * rows,
            "content": [""] * rows,
        }
        pq.write_table(pa.table(columns, TOKENIZED), tables.part_uri(str(folder), shard))


def end(options: tokenize.Options, index: Index) -> int:
    """Count tokens and rejections and write the table of clips, as a run does when all shards are done; returns the
    number of rejected clips."""
    num_tokens = tables.table_info(storage.join(options.output_dir, "tokens")).num_rows
    result = TokenizedClips(output_dir=options.output_dir, index=index, shard_size=options.shard_size, metadata={})
    num_rejected = result.num_rejected()
    total = index.clips.num_rows + index.rejected.num_rows
    assert num_tokens + num_rejected == total
    check_rejected_fraction(
        result.rejections(), total, options.max_rejected, problem="were rejected", named_by="clip_id", remedy=""
    )
    _, account = result.write_notes()
    assert account.tokenized == num_tokens
    return num_rejected
