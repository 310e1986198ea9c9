"""The notes of the clips of a run: the parts that workers write, and their way to the table of clips and the
terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cluster import storage
from jobs.console.command import print_note
from soundstorm.data.notes import NoteTally
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, Note

FOLDER = "notes"


def write_notes(output_dir: str, shard: int, notes: Mapping[str, Sequence[str]]) -> None:
    """Write the notes of a shard's clips, by clip_id, in place of what an earlier attempt wrote."""
    uri = part_of(output_dir, shard)
    noted = {clip_id: list(given) for clip_id, given in notes.items() if given}
    if noted:
        storage.write_bytes(uri, json.dumps(noted, ensure_ascii=False).encode())
    else:
        storage.delete(uri)


def noted_shards(output_dir: str) -> set[str]:
    """URIs of the parts, each with the notes of a shard's clips."""
    return {entry.uri for entry in storage.iter_objects(storage.join(output_dir, FOLDER), ".json")}


def part_of(output_dir: str, shard: int) -> str:
    """URI of a shard's notes, which exist if any of its clips has one."""
    return storage.join(output_dir, FOLDER, f"part-{shard:05d}.json")


def with_notes(clips: pa.Table, notes: Mapping[str, Sequence[str]], rejected: set[str]) -> pa.Table:
    """The clips (schema CLIPS) with their notes; null for a clip that was rejected, and so is not what a note could
    tell of."""
    column = [None if clip_id in rejected else list(notes.get(clip_id, ())) for clip_id in clips["clip_id"].to_pylist()]
    return clips.set_column(
        clips.schema.get_field_index("notes"), CLIPS.field("notes"), pa.array(column, CLIPS.field("notes").type)
    )


def report_notes(notes: NoteTally, num_clips: int, remedy: str = "") -> None:
    """Show a line for each kind of note; see `NoteTally.lines`."""
    for line in notes.lines(num_clips, remedy):
        print_note(line)


def read_notes(uri: str) -> dict[str, list[str]]:
    """The notes in a part, by clip_id.

    Raises:
        SoundStormError: the part is malformed.
    """
    try:
        found: Any = json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError):
        found = None
    kinds = {note.value for note in Note}
    if not isinstance(found, dict) or not all(
        isinstance(given, list) and all(isinstance(note, str) and note.partition(":")[0] in kinds for note in given)
        for given in found.values()
    ):
        raise SoundStormError(f"{uri}: not the notes of clips: run again with --overwrite")
    return found
