"""A recording's file that is missing, or cannot be read, has the same reason in every job, wherever it lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.inputs.recordings
from cluster import storage
from cluster.tables import tar_shards as tars
from jobs.actors.tokenizer import decode_recording
from jobs.inputs.audio_files import load_clip, load_known_recording, load_recording, open_recording, read_content
from jobs.inputs.recordings import pcm16
from soundstorm.audio.files import RejectedAudio
from soundstorm.data.clip_windows import Window
from soundstorm.schemas import Reason
from soundstorm.serialization.recordings import content_of


def of_training(uri: str) -> str:
    """The reason that `train-codec` and `train-classifier` give, none where the recording is read."""
    return str(
        jobs.inputs.recordings._decoded_row(
            {"clip_id": "it", "label": 0, "uri": uri, "dataset": "folder"}, 24_000, 5.0, pcm16
        )["reason"]
    )


def of_tokenize(uri: str) -> str:
    return decode_recording(uri, "folder", 5.0).problem.partition("\n")[0]


def of_evaluate(uri: str) -> str:
    try:
        load_clip(uri)
    except RejectedAudio as error:
        return error.reason.value
    return ""


JOBS = [of_training, of_tokenize, of_evaluate]


def place(root: Path, bucket: str, kind: str) -> str:
    """The URI of a file that is not there, or is not one."""
    (root / "folder").mkdir()
    (root / "file").write_bytes(b"content")
    (root / "damaged.tar").write_bytes(b"no archive")
    (root / "whole.tar").write_bytes(tars.write_tar([("a.wav", b"content")]))
    storage.write_bytes(f"{bucket}/there.wav", b"content")
    return {
        "gone": str(root / "gone.wav"),
        "in a folder that is gone": str(root / "gone" / "a.wav"),
        "below a file": str(root / "file" / "a.wav"),
        "gone from the bucket": f"{bucket}/gone.wav",
        "gone from the archive": f"{root}/whole.tar#gone.wav",
        "in an archive that is gone": f"{root}/gone.tar#a.wav",
        "no address": "s3://",
        "a folder": str(root / "folder"),
        "on a disk with a fault": "/proc/self/mem",
        "in a damaged archive": f"{root}/damaged.tar#a.wav",
    }[kind]


@pytest.mark.parametrize("job", JOBS, ids=[job.__name__ for job in JOBS])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gone", Reason.MISSING_FILE),
        ("in a folder that is gone", Reason.MISSING_FILE),
        ("below a file", Reason.MISSING_FILE),
        ("gone from the bucket", Reason.MISSING_FILE),
        ("gone from the archive", Reason.MISSING_FILE),
        ("in an archive that is gone", Reason.MISSING_FILE),
        ("no address", Reason.MISSING_FILE),
        ("a folder", Reason.UNREADABLE_FILE),
        ("on a disk with a fault", Reason.UNREADABLE_FILE),
    ],
)
def test_a_missing_file_is_called_missing_by_every_job_and_one_that_is_there_unreadable(
    job: Callable[[str], str], kind: str, reason: Reason, tmp_path: Path, s3_bucket: Any
) -> None:
    assert job(place(tmp_path, s3_bucket(), kind)) == reason.value


def test_an_archive_that_is_damaged_is_there(tmp_path: Path, s3_bucket: Any) -> None:
    assert (
        of_evaluate(place(tmp_path, s3_bucket(), "in a damaged archive")) == "unreadable_file"
    )  # the others take no archives


def test_what_is_there_is_read_and_known_again(tmp_path: Path, s3_bucket: Any) -> None:
    bucket = s3_bucket()
    place(tmp_path, bucket, "gone")
    for uri in (str(tmp_path / "file"), f"{bucket}/there.wav"):
        with open_recording(uri) as file:
            assert file.read() == b"content"
        assert read_content(uri) == content_of(b"content")


def test_what_a_recording_is_known_again_by_does_not_take_its_end_from_it(synthetic_dataset: Path) -> None:
    path = sorted((synthetic_dataset / "audio").iterdir())[0]
    recording, content = load_known_recording(str(path))
    assert content == content_of(path.read_bytes()) and len(recording.waveform) == 24_000
    np.testing.assert_array_equal(recording.waveform, load_recording(str(path)).waveform)
    assert load_known_recording(f"{Window(start_s=0.25, duration_s=0.5).of(str(path))}")[1] == content
