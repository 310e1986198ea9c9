"""`tokenize` on recordings that become something else: each kind is counted and told in a line, and noted in `clips`;
long ones are cut or split."""

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster import storage, tables
from cluster.storage import s3_objects as s3
from cluster.tables import stage_record as records
from jobs import tokenize
from jobs.inputs.audio_files import load_recording
from jobs.inputs.tokens import open_tokens
from soundstorm.schemas import CLIPS, check_schema
from tests.soundstorm.audio.test_recordings_of_every_kind import made_by_ffmpeg

RATE = 24_000


def noise(duration_s: float = 1.0, level: float = 0.1, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(duration_s * rate))).astype(np.float32)


@dataclass(frozen=True)
class Run:
    """What a run gave."""

    summary: dict[str, Any]
    clips: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    output: str
    told: list[str]
    """Its lines on standard error that are notes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "sounds" / "street"
    folder.mkdir(parents=True)
    kinds: dict[str, tuple[np.ndarray, int, str]] = {
        "anti_phase": (np.stack([noise(), -noise()], axis=1), RATE, "PCM_16"),
        "offset": (noise(level=0.02) + np.float32(0.9), RATE, "PCM_16"),
        "near_silent": (noise(level=1e-4), RATE, "PCM_24"),
        "clipped": (np.clip(noise(level=1.0), -1, 1), RATE, "PCM_16"),
        "low_rate": (noise(rate=8_000), 8_000, "PCM_16"),
        "cut": (noise(90.0), RATE, "PCM_16"),
    }
    for name, (samples, rate, subtype) in kinds.items():
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype=subtype)
    soundfile.write(folder / "ordinary.aiff", noise(seed=1), RATE)
    made_by_ffmpeg(folder / "ordinary.m4a", "aac")
    return folder.parent


def run(folder: Path, codec: Path, output: str, capture: pytest.CaptureFixture[str], **changes: Any) -> Run:
    capture.readouterr()
    summary = tokenize.run(
        tokenize.Options(
            dataset="folder", data_dir=str(folder), output_dir=output, codec=str(codec), num_actors=1, **changes
        )
    )
    told = "".join(
        line if line.startswith(("note:", "warning:")) else f" {line}"
        for line in capture.readouterr().err.split("\n")
        if line
    )
    clips = tables.read_table(f"{output}/clips.parquet")[0]
    check_schema(clips.schema, CLIPS, output)
    rows = tables.read_table(f"{output}/tokens")[0]
    return Run(summary, clips.to_pylist(), rows.to_pylist(), output, told.split("note: ")[1:])


def test_each_kind_is_one_line_and_a_note_of_its_clip(
    folder: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(folder, tiny_codec, str(tmp_path / "out"), capsys)
    assert (found.summary["clips"], found.summary["tokens"], found.summary["rejected"]) == (8, 8, 0)
    notes = {row["clip_id"]: row["notes"] for row in found.clips}
    assert notes["street/ordinary.aiff"] == notes["street/ordinary.m4a"] == []
    for kind in ("anti_phase", "offset", "near_silent", "clipped", "low_rate", "cut"):
        [note] = notes[f"street/{kind}.wav"]
        assert note.startswith(f"{kind}: ")
        [line] = [line for line in found.told if f"street/{kind}.wav" in line]
        assert "1 of 8 clips" in line
    assert found.summary["notes"] == dict.fromkeys(
        ("anti_phase", "offset", "near_silent", "clipped", "cut", "low_rate"), 1
    )
    record = records.read(found.output, "tokenize")
    assert record is not None and record.counts["notes"] == found.summary["notes"]
    assert record.counts["unused_s"] == 60.0
    [cut] = [line for line in found.told if "cut.wav" in line]
    assert "60.00 of 90.00 s are not used" in cut and "--long split uses them" in cut


def test_long_recordings_are_split_into_windows_that_share_a_fold(
    folder: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(folder, tiny_codec, str(tmp_path / "out"), capsys, long="split", max_duration=30.0)
    windows = [row for row in found.clips if row["clip_id"].startswith("street/cut.wav")]
    assert [row["clip_id"] for row in windows] == [f"street/cut.wav#t={start},{start + 30}" for start in (0, 30, 60)]
    assert len({row["fold"] for row in windows}) == 1
    assert all(row["notes"] == ["split: one of 3 windows of 90.00 s"] for row in windows)
    assert (found.summary["clips"], found.summary["tokens"], found.summary["unused_s"]) == (10, 10, 0.0)
    frames = {row["clip_id"]: row["num_frames"] for row in found.rows}
    assert all(frames[row["clip_id"]] == 30 * open_tokens(found.output, None).fingerprint.frame_rate for row in windows)
    codes = {row["clip_id"]: row["codes"] for row in found.rows}
    assert len({repr(codes[row["clip_id"]]) for row in windows}) == 3


def test_folds_of_windows_are_those_that_their_recordings_have_without_them(
    tiny_codec: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        path = tmp_path / "sounds" / "rain" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(2.5, seed=number), RATE)
    cut = run(tmp_path / "sounds", tiny_codec, str(tmp_path / "cut"), capsys, max_duration=1.0)
    split = run(tmp_path / "sounds", tiny_codec, str(tmp_path / "split"), capsys, max_duration=1.0, long="split")
    assert Counter(row["clip_id"].partition("#")[0] for row in split.clips) == {row["clip_id"]: 3 for row in cut.clips}
    folds = {row["clip_id"]: row["fold"] for row in cut.clips}
    assert all(row["fold"] == folds[row["clip_id"].partition("#")[0]] for row in split.clips)


def test_of_a_long_recording_in_storage_only_what_is_wanted_is_fetched(
    s3_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket()}/long.wav"
    file = io.BytesIO()
    soundfile.write(file, np.tile(noise(60.0), 15), RATE, format="WAV")
    storage.write_bytes(uri, file.getvalue())
    (tmp_path / "long.wav").write_bytes(file.getvalue())
    fetched = []
    fetch = s3.read_range

    def counted(*arguments: Any) -> Any:
        content, found = fetch(*arguments)
        fetched.append(len(content))
        return content, found

    monkeypatch.setattr(s3, "read_range", counted)
    for name in ("", "#t=600,605"):
        remote, local = load_recording(f"{uri}{name}"), load_recording(f"{tmp_path}/long.wav{name}")
        np.testing.assert_array_equal(remote.waveform, local.waveform)
        assert remote.original_duration_s == 900.0
    assert sum(fetched) < 10e6  # of 43 MB
