"""Provenance of the training and test data of a job."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import pyarrow as pa

from jobs.inputs.audio_files import read_content
from jobs.inputs.datasets import rows_of_folds
from soundstorm.audio.files import RejectedAudio
from soundstorm.serialization.leakage import Test
from soundstorm.serialization.provenance import Parent, TrainedOn
from soundstorm.serialization.recordings import Recordings, digest_of, recordings_of

READERS = 16
"""Number of files that are read in parallel."""


def folds_of(clips: pa.Table) -> dict[str, int]:
    """Fold of each clip (columns clip_id and fold)."""
    return dict(zip(clips["clip_id"].to_pylist(), clips["fold"].to_pylist(), strict=True))


def decoded_recordings(clips: pa.Table, decoded: Any) -> Recordings:
    """The recordings that are trained on.

    Args:
        clips: the whole dataset, schema CLIPS.
        decoded: those of them that are trained on, schema `jobs.inputs.recordings.DECODED`; those that could not be
            used are left out.
    """
    rows = decoded.select_columns(["clip_id", "content", "reason"]).iter_rows()
    contents: dict[str, str | None] = {row["clip_id"]: row["content"] for row in rows if not row["reason"]}
    return recordings_of(clips["dataset"][0].as_py(), folds_of(clips), contents, contents)


def test_of(clips: pa.Table, fold: int) -> Test:
    """The test on a fold of a dataset, whose clips these are (schema CLIPS); their files are read only where they are
    asked for."""
    return Test(
        dataset=clips["dataset"][0].as_py(),
        fold=fold,
        digest=cache(lambda: digest_of(folds_of(clips))),
        contents=cache(lambda: read_contents(rows_of_folds(clips, {fold})["uri"].to_pylist())),
    )


def read_contents(uris: list[str]) -> dict[str, str]:
    """A URI for each `soundstorm.serialization.recordings.content_of` the files; those that cannot be read, and so not
    be tested on, are left out."""

    def read(uri: str) -> str | None:
        try:
            return read_content(uri)
        except RejectedAudio:
            return None

    with ThreadPoolExecutor(READERS) as readers:
        return {content: uri for content, uri in zip(readers.map(read, uris), uris, strict=True) if content is not None}


def combined(recordings: Recordings, *parents: Parent | None, outside: tuple[str, ...] = ()) -> TrainedOn:
    """The combined provenance. Contradictory information about parents is dropped, so that every test is refused."""
    there = tuple(parent for parent in parents if parent is not None)
    try:
        return TrainedOn(recordings=(recordings,), outside=outside, parents=there)
    except ValueError:
        return TrainedOn(
            recordings=(recordings,),
            outside=outside,
            parents=tuple(replace(parent, trained_on=None) for parent in there),
        )
