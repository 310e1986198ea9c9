"""Decoding recordings into the object store: one that kills whoever decodes it is left out, and the others are
there."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import jobs.inputs.recordings
from cluster.scheduling.attempt_tracker import tracking
from jobs.inputs.datasets import open_dataset
from jobs.inputs.recordings import decode_clips, in_order, usable_recordings, warn_of_rejected
from soundstorm.errors import SoundStormError


def deadly(clip_id: str) -> Any:
    """What decodes a recording, and dies at one of them."""
    decode = jobs.inputs.recordings._decoded_row

    def die(row: dict[str, Any], *how: Any) -> dict[str, Any]:
        if row["clip_id"] == clip_id:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(row, *how)

    return die


def test_a_recording_that_kills_whoever_decodes_it_is_named_and_left_out(
    synthetic_dataset: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = open_dataset("synthetic", str(synthetic_dataset)).clips.slice(0, 2)
    fatal = clips["clip_id"][1].as_py()
    monkeypatch.setattr(jobs.inputs.recordings, "_decoded_row", deadly(fatal))
    monkeypatch.setattr(jobs.inputs.recordings, "tracking", lambda: tracking(max_deaths=1))
    decoded = decode_clips(clips, 24_000, 5.0)
    assert warn_of_rejected(decoded) == 1
    assert f"{fatal} is left out: killed_worker" in capsys.readouterr().err
    assert len(list(usable_recordings(decoded))) == 1


def test_where_tasks_die_again_and_again_the_recording_is_named(
    synthetic_dataset: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = open_dataset("synthetic", str(synthetic_dataset)).clips.slice(0, 1)
    fatal = clips["clip_id"][0].as_py()
    monkeypatch.setattr(jobs.inputs.recordings, "_decoded_row", deadly(fatal))
    monkeypatch.setattr(jobs.inputs.recordings, "MAX_RETRIES", 1)
    with pytest.raises(SoundStormError, match=rf"tasks died 2 times at {fatal}"):
        decode_clips(clips, 24_000, 5.0)


def test_more_samples_than_an_array_of_arrow_can_hold_are_read_in_order() -> None:
    """2^31 bytes of 128 rows that share their memory, 16 MB."""
    rows = [pa.table({"clip_id": [f"clip-{number:03d}"], "label": [number]}) for number in reversed(range(128))]
    samples = pa.array([bytes(2**24)], pa.binary())
    tables = [row.append_column("samples", samples) for row in rows]
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        pa.concat_tables(tables).sort_by("clip_id")
    assert [(label, len(found)) for label, found in in_order(tables, "label", "samples")] == [
        (number, 2**24) for number in range(128)
    ]
    assert list(in_order([], "label")) == []
