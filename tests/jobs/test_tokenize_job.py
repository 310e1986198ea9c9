"""`soundstorm tokenize`: what becomes of good, odd and bad recordings, and runs that are repeated, interrupted or
faulty."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs import tokenize
from jobs.inputs.tokens import open_tokens
from soundstorm.audio.files import from_pcm16, read_audio, to_pcm16
from soundstorm.codec.files import load_codec, provenance_of_codec
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, REJECTED, TOKENS, CodecFingerprint, check_schema, codes_from_column
from soundstorm.serialization.provenance import Role, TrainedOn, as_parent
from soundstorm.serialization.recordings import content_of
from tests.jobs.conftest import (
    SHARD_SIZE,
    MixedDataset,
    Tokenized,
    file_times,
    interrupt,
    noise,
    synthetic_clip,
    tokenize_options,
    wav,
)


def token_rows(output: str) -> dict[str, dict[str, Any]]:
    table, _ = tables.read_table(storage.join(output, "tokens"))
    check_schema(table.schema, TOKENS, output)
    rows = {row["clip_id"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


def rejected_rows(output: str) -> list[dict[str, str]]:
    table, _ = tables.read_table(storage.join(output, "rejected"))
    check_schema(table.schema, REJECTED, output)
    return table.to_pylist()


# ---- good, odd and bad recordings


def test_every_bad_recording_is_a_row_of_rejected_with_its_stage_and_reason(
    tokenized: Tokenized, mixed_dataset: MixedDataset
) -> None:
    rows = rejected_rows(tokenized.output)
    assert {row["clip_id"]: (row["stage"], row["reason"]) for row in rows} == mixed_dataset.bad
    assert len(rows) == len(mixed_dataset.bad)
    assert all(row["detail"] for row in rows)
    assert all(row["uri"].startswith(f"{mixed_dataset.folder}/") for row in rows)


def test_the_run_goes_on_and_tokenizes_every_good_and_odd_recording(
    tokenized: Tokenized, mixed_dataset: MixedDataset
) -> None:
    assert token_rows(tokenized.output).keys() == mixed_dataset.good
    assert tokenized.summary["tokens"] + tokenized.summary["rejected"] == tokenized.summary["clips"]
    assert tokenized.summary["rejected"] == len(mixed_dataset.bad)


def test_clips_keep_their_own_length(tokenized: Tokenized) -> None:
    rows = token_rows(tokenized.output)
    assert rows["short"]["num_frames"] == 4  # 0.05 s are 1,200 samples at 24 kHz, 3.75 frames
    assert rows["96-khz"]["num_frames"] == rows["24-bit"]["num_frames"] == 38
    assert all(len(level) == row["num_frames"] for row in rows.values() for level in row["codes"])


def test_digital_silence_is_flagged_also_when_another_run_tokenized_it(
    tokenized: Tokenized, mixed_dataset: MixedDataset
) -> None:
    record = records.read(tokenized.output, "tokenize")
    assert record is not None
    assert set(record.counts["silent"]) == mixed_dataset.silent


def test_the_codes_are_those_of_each_recording_alone(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path
) -> None:
    codec = load_codec(tiny_codec)
    clips, _ = tables.read_table(storage.join(tokenized.output, "clips.parquet"))
    uris = dict(zip(clips["clip_id"].to_pylist(), clips["uri"].to_pylist(), strict=True))
    for clip_id, row in token_rows(tokenized.output).items():
        waveform = from_pcm16(to_pcm16(read_audio(Path(uris[clip_id])).waveform))
        np.testing.assert_array_equal(np.array(row["codes"]), codec.encode_clips([waveform])[0])


def test_the_tokens_say_which_codec_classes_and_folds_they_are_of(tokenized: Tokenized, tiny_codec: Path) -> None:
    tokens = open_tokens(tokenized.output, fold=1)
    assert tokens.fingerprint == load_codec(tiny_codec).fingerprint
    assert len(tokens.categories) == 10
    table, metadata = tables.read_table(storage.join(tokenized.output, "tokens"))
    assert metadata["num_folds"] == "5"
    fingerprint = CodecFingerprint.from_metadata(metadata, tokenized.output)
    for codes_QT in codes_from_column(
        table["codes"], fingerprint.num_levels, fingerprint.codebook_size, tokenized.output
    ):
        assert codes_QT.shape[0] == fingerprint.num_levels
    check_schema(tables.table_info(storage.join(tokenized.output, "clips.parquet")).schema, CLIPS, tokenized.output)


# ---- too many rejected


def test_too_many_rejected_clips_fail_the_job_at_its_end_with_the_reasons(
    tokenized: Tokenized, mixed_dataset: MixedDataset
) -> None:
    total = len(mixed_dataset.good) + len(mixed_dataset.bad)
    assert f"{len(mixed_dataset.bad)} of {total} clips were rejected" in tokenized.first_error
    for reason in {reason for _, reason in mixed_dataset.bad.values()}:
        assert reason in tokenized.first_error
    assert "--max-rejected 0.05" in tokenized.first_error
    assert "tokenize.json" not in tokenized.files_after_first


def test_a_higher_limit_takes_what_the_failed_run_left(tokenized: Tokenized) -> None:
    assert tokenized.summary["tokens"] > 0
    now = file_times(tokenized.output)
    parts = {name: time for name, time in tokenized.files_after_first.items() if name.startswith("tokens/")}
    assert len(parts) > 2
    assert {name: now[name] for name in parts} == parts


# ---- repeated and interrupted runs


def test_a_second_run_does_nothing(tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path) -> None:
    before = file_times(tokenized.output)
    summary = tokenize.run(tokenize_options(mixed_dataset, tiny_codec, tokenized.output))
    assert file_times(tokenized.output) == before
    assert summary["message"].startswith("already done")
    assert summary["tokens"] == tokenized.summary["tokens"]


def test_what_was_deleted_of_a_finished_run_is_made_again(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path, tmp_path: Path
) -> None:
    output = str(shutil.copytree(tokenized.output, tmp_path / "out"))
    part = Path(output) / "tokens" / "part-00001.parquet"
    content, before = part.read_bytes(), file_times(output)
    part.unlink()
    assert not tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output))["message"].startswith("already done")
    assert part.read_bytes() == content
    kept = {name for name in before if name.startswith("tokens/") and name != "tokens/part-00001.parquet"}
    assert kept and {name: file_times(output)[name] for name in kept} == {name: before[name] for name in kept}
    assert tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output))["message"].startswith("already done")


def test_other_settings_are_refused_with_the_names_of_their_keys(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path
) -> None:
    before = file_times(tokenized.output)
    with pytest.raises(ClusterError, match=r"max_duration_s: then 30\.0, now 2\.0.*--overwrite"):
        tokenize.run(tokenize_options(mixed_dataset, tiny_codec, tokenized.output, max_duration=2.0))
    assert file_times(tokenized.output) == before


def test_a_relative_output_folder_is_that_of_the_command_not_of_the_actors_and_names_in_notes_are_whole(
    tiny_codec: Path,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # Ray's workers stay where Ray was started
    (tmp_path / "sounds" / "quiet").mkdir(parents=True)
    (tmp_path / "sounds" / "quiet" / "[take 1].wav").write_bytes(wav(np.zeros(4_410)))
    tokenize.run(tokenize.Options(dataset="folder", data_dir="sounds", output_dir="relative", codec=str(tiny_codec)))
    assert token_rows(str(tmp_path / "relative")).keys() == {"quiet/[take 1].wav"}
    assert "quiet/[take 1].wav" in capsys.readouterr().err


def test_an_interrupted_run_does_only_the_part_that_is_missing(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path, tmp_path: Path
) -> None:
    output = str(shutil.copytree(tokenized.output, tmp_path / "interrupted"))
    missing = tables.part_uri(f"{output}/tokens", 1)
    lost = Path(missing).read_bytes()
    Path(missing).unlink()
    interrupt(output, "tokenize")
    before = file_times(f"{output}/tokens")
    summary = tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output))
    after = file_times(f"{output}/tokens")
    assert after.items() - before.items() == {("part-00001.parquet", after["part-00001.parquet"])}
    assert Path(missing).read_bytes() == lost
    assert {key: summary[key] for key in ("clips", "tokens", "rejected", "reasons", "silent")} == {
        key: tokenized.summary[key] for key in ("clips", "tokens", "rejected", "reasons", "silent")
    }


def test_the_rows_in_object_storage_are_the_same_and_overwrite_replaces_them(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path, s3_bucket: Any, ray_session: None
) -> None:
    output = f"{s3_bucket()}/some/prefix"
    summary = tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output, num_actors=1))
    assert token_rows(output) == token_rows(tokenized.output)
    assert sorted(row["clip_id"] for row in rejected_rows(output)) == sorted(
        row["clip_id"] for row in rejected_rows(tokenized.output)
    )
    assert summary["silent"] == tokenized.summary["silent"]

    shorter = tokenize.run(
        tokenize_options(
            mixed_dataset, tiny_codec, output, num_actors=1, max_duration=0.2, shard_size=100, overwrite=True
        )
    )
    rows = token_rows(output)
    assert rows.keys() == mixed_dataset.good and shorter["tokens"] == len(rows)
    assert max(row["num_frames"] for row in rows.values()) == 15
    record = records.read(output, "tokenize")
    assert record is not None and record.settings["max_duration_s"] == 0.2


def test_real_urbansound8k_is_tokenized(
    urbansound8k: Path, tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    options = tokenize.Options(
        dataset="urbansound8k",
        data_dir=str(urbansound8k),
        output_dir=str(tmp_path / "out"),
        codec=str(tiny_codec),
        num_actors=1,
        max_rejected=1.0,
    )
    tokenize.run(options)
    rows = token_rows(options.output_dir)
    present = {path.stem for path in urbansound8k.rglob("*.wav")}
    assert rows.keys() == present
    assert all(
        row["reason"] == "missing_file" for row in rejected_rows(options.output_dir)
    )  # the table may list more than lies there
    assert all(1 <= row["fold"] <= 10 and row["clip_id"].split("-")[1] == str(row["label"]) for row in rows.values())


# ---- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "esc-50"}, r"--dataset is 'esc-50': give one of esc50"),
        ({"max_rejected": 1.5}, r"--max-rejected is 1\.5"),
        ({"max_duration": 0.0}, r"--max-duration is 0\.0"),
        ({"max_duration": float("nan")}, r"--max-duration is nan"),
        (
            {"long": "split", "max_duration": 0.01},
            r"--max-duration is 0\.01: with --long split, give at least 0\.1 seconds",
        ),
        ({"num_actors": 0}, r"--num-actors is 0"),
        ({"shard_size": 0}, r"--shard-size is 0"),
        ({"views": -1}, r"--views is -1: give 0 to 1000"),
    ],
)
def test_a_wrong_value_names_its_option(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        tokenize.Options(**changes)


def test_parts_are_as_many_as_the_clips_ask_for(tokenized: Tokenized) -> None:
    clips, _ = tables.read_table(storage.join(tokenized.output, "clips.parquet"))
    parts = sorted(path.name for path in Path(tokenized.output, "tokens").iterdir())
    assert parts == [f"part-{number:05d}.parquet" for number in range(-(-clips.num_rows // SHARD_SIZE))]
    assert (
        json.loads(Path(tokenized.output, "tokenize.json").read_text())["counts"]["clips"] == tokenized.summary["clips"]
    )


# ---- one by one and together


@pytest.mark.parametrize("recordings", ["synthetic", "esc50"])
def test_the_codec_in_the_package_encodes_twenty_clips_alike_together_and_one_by_one(
    recordings: str, request: pytest.FixtureRequest
) -> None:
    if recordings == "esc50":
        folder: Path = request.getfixturevalue("esc50")
        clips = [read_audio(path).waveform for path in sorted((folder / "audio").iterdir())[::100][:20]]
    else:
        from soundstorm.audio.synthesis import CLASSES

        clips = [
            synthetic_clip(CLASSES[number % 10], duration_s=0.5 + 0.25 * (number % 3), seed=number)
            for number in range(20)
        ]
    assert len(clips) == 20
    codec = load_codec()
    for clip, codes_QT in zip(clips, codec.encode_clips(clips), strict=True):
        np.testing.assert_array_equal(codes_QT, codec.encode_clips([clip])[0])


def test_output_within_a_folder_of_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain" / "a.wav").write_bytes(wav(noise(0.2)))
    options = tokenize.Options(dataset="folder", data_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    with pytest.raises(SoundStormError, match=r"--output-dir .*out is inside --data-dir"):
        tokenize.run(options)
    assert not (tmp_path / "out").exists()


def test_a_recording_that_was_replaced_is_noticed(tmp_path: Path, tiny_codec: Path, ray_session: None) -> None:
    (tmp_path / "data" / "rain").mkdir(parents=True)
    file = tmp_path / "data" / "rain" / "a.wav"
    file.write_bytes(wav(noise(0.2)))
    options = tokenize.Options(
        dataset="folder", data_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "out"), codec=str(tiny_codec)
    )
    tokenize.run(options)
    file.write_bytes(wav(noise(0.3)))
    with pytest.raises(ClusterError, match="other settings: clips"):
        tokenize.run(options)


def test_the_tokens_tell_which_files_they_are_of_and_what_their_codec_was_trained_on(
    tokenized: Tokenized, mixed_dataset: MixedDataset, tiny_codec: Path
) -> None:
    tokens = open_tokens(tokenized.output, None)
    files = {
        row["clip_id"]: row["uri"] for row in tables.read_table(f"{tokenized.output}/clips.parquet")[0].to_pylist()
    }
    assert tokens.contents is not None and len(tokens.contents) == len(token_rows(tokenized.output))
    assert tokens.contents == {clip_id: content_of(storage.read_bytes(files[clip_id])) for clip_id in tokens.contents}
    learned = tokens.trained_on()
    [recordings] = learned.recordings
    trained = {row["clip_id"] for row in tokens.table.to_pylist() if row["fold"] != tokens.fold}
    assert recordings.num_clips == len(trained) and tokens.fold not in recordings.folds
    assert recordings.contents == {tokens.contents[clip_id] for clip_id in trained}
    assert tokens.codec == provenance_of_codec(tiny_codec.read_bytes()) == TrainedOn()
    assert learned.parents == (as_parent(Role.CODEC, "tiny", tokens.fingerprint.sha256, TrainedOn()),)
