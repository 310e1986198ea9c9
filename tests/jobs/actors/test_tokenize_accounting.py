"""`soundstorm tokenize`: whatever lies in a folder is used, or named with its reason, and the numbers add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster import tables
from jobs import tokenize
from soundstorm.data.datasets import URBANSOUND8K_CATEGORIES

RATE = 22_050


def tone(pitch: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE)


def write_m4a(path: Path, samples: np.ndarray) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="ipod") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)


def counts_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "tokenize.json").read_text())["counts"]


def test_of_twenty_kinds_of_file_each_is_used_or_named_with_its_reason(
    tmp_path: Path, tiny_codec: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sounds" / "rain"
    folder.mkdir(parents=True)
    kinds = {
        "wav": "WAV",
        "flac": "FLAC",
        "ogg": "OGG",
        "mp3": "MP3",
        "aiff": "AIFF",
        "caf": "CAF",
        "au": "AU",
        "w64": "W64",
        "rf64": "RF64",
    }
    for number, (ending, kind) in enumerate(kinds.items()):
        soundfile.write(folder / f"a.{ending}", tone(200 + 50 * number), RATE, format=kind)
    soundfile.write(folder / "a.opus", tone(900)[: RATE // 4], 24_000, format="OGG", subtype="OPUS")
    write_m4a(folder / "a.m4a", tone(1000))
    used = {f"rain/a.{ending}" for ending in (*kinds, "opus", "m4a")}
    (folder / "broken.wav").write_bytes(b"RIFF....WAVE")
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "text.m4a").write_text("no sound")
    (folder / "gone.wav").symlink_to("nowhere.wav")
    others = ("notes.txt", "cover.png", ".DS_Store", "._a.wav", "readme")
    for name in others:
        (folder / name).write_bytes(b"x")
    output = tmp_path / "out"
    found = tokenize.run(
        tokenize.Options(
            dataset="folder",
            data_dir=str(tmp_path / "sounds"),
            output_dir=str(output),
            codec=str(tiny_codec),
            max_rejected=0.5,
            verbose=True,
        )
    )
    assert set(tables.read_table(f"{output}/tokens")[0]["clip_id"].to_pylist()) == used
    counts = counts_of(output)
    assert counts["files"] == {"found": 20, "tokenized": 11, "rejected": 4, "ignored": 5, "rows_without_file": 0}
    assert "(20 files found: 11 tokenized, 4 rejected, 5 ignored)" in found["message"]
    rejected = tables.read_table(f"{output}/rejected")[0].to_pylist()
    assert {row["clip_id"] for row in rejected} == {
        "rain/broken.wav",
        "rain/empty.mp3",
        "rain/text.m4a",
        "rain/gone.wav",
    }
    assert all(row["reason"] and row["detail"] for row in rejected)
    ignored = {
        Path(row["uri"]).name: row["reason"] for row in tables.read_table(f"{output}/ignored.parquet")[0].to_pylist()
    }
    assert ignored == {name: "hidden" if name.startswith(".") else "no_recording" for name in others}
    assert counts["ignored_reasons"] == {"hidden": 2, "no_recording": 3}
    said = capsys.readouterr().err
    assert all(f"rain/{name} (" in said for name in others)


def test_slices_of_one_recording_in_two_folds_of_urbansound8k_are_tokenized_and_strict_folds_leave_one_side_out(
    tmp_path: Path, tiny_codec: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for number in range(40):
        source, label, fold = 100 + number // 4, number // 4 % 10, 1 + number // 4
        fold = 10 if number in (3, 7) else fold  # one slice of the recordings 100 and 101 lies elsewhere
        name = f"{source}-{label}-0-{number % 4}.wav"
        rows.append(f"{name},{source},0,4,1,{fold},{label},{URBANSOUND8K_CATEGORIES[label]}")
        path = tmp_path / "data" / "audio" / f"fold{fold}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(200 + 20 * number), RATE)
    (tmp_path / "data" / "metadata").mkdir()
    (tmp_path / "data" / "metadata" / "UrbanSound8K.csv").write_text("\n".join(rows) + "\n")
    shared: dict[str, Any] = {"dataset": "urbansound8k", "data_dir": str(tmp_path / "data"), "codec": str(tiny_codec)}
    tokenize.run(tokenize.Options(output_dir=str(tmp_path / "out"), **shared))
    counts = counts_of(tmp_path / "out")
    assert (counts["tokens"], counts["rejected"], counts["strict_folds"]) == (40, 0, False)
    assert counts["sources_in_two_folds"] == {
        "100": {"1": ["100-0-0-0", "100-0-0-1", "100-0-0-2"], "10": ["100-0-0-3"]},
        "101": {"2": ["101-1-0-0", "101-1-0-1", "101-1-0-2"], "10": ["101-1-0-3"]},
    }
    assert (
        "2 recordings have clips in two folds, as UrbanSound8K is published: 100 (folds 1 and 10), 101 (folds 2 and 10)"
        in capsys.readouterr().err
    )
    tokenize.run(tokenize.Options(output_dir=str(tmp_path / "strict"), strict_folds=True, **shared))
    strict = counts_of(tmp_path / "strict")
    assert (strict["tokens"], strict["files"]["ignored"], strict["strict_folds"]) == (38, 2, True)
    kept = tables.read_table(f"{tmp_path}/strict/tokens")[0]["clip_id"].to_pylist()
    assert len(kept) == 38 and not {"100-0-0-3", "101-1-0-3"} & set(kept)
