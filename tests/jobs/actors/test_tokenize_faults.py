"""`soundstorm tokenize` when something dies, hangs or is damaged on the way: actors, clips that kill them, the storage,
half-done shards."""

import gc
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.data.exceptions
from ray.data._internal.execution import streaming_executor_state

import jobs.actors.tokenizing_pool
import jobs.tokenize
from cluster.runtime.connect import connect
from cluster.scheduling.attempt_tracker import start_tracker, tracking
from jobs import tokenize
from jobs.actors.mixing_partners import MixingPartners
from jobs.actors.tokenizer import PLANNED_CLIPS, Decoded, TokenizerActor, read_shard, to_ipc
from jobs.inputs.datasets import open_dataset
from soundstorm.audio.files import encode_audio
from soundstorm.codec.files import load_codec
from tests.jobs.conftest import Command, MixedDataset, assert_one_message, interrupt, synthetic_clip
from tests.jobs.test_tokenize_job import rejected_rows, token_rows


def killing_encoder(marker: Path) -> type:
    """A codec actor that is killed when it gets shard 0, the first time."""

    class KillingEncoder(TokenizerActor):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            if row["shard"] == 0 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(row)

    return KillingEncoder


def dying_encoder(clip_id: str) -> type:
    """A codec actor that is killed whenever it encodes one of the clips."""

    class DyingEncoder(TokenizerActor):
        def _encode_clips(self, clips: list[tuple[dict[str, Any], Decoded]], found: Any) -> None:
            if any(clip["clip_id"] == clip_id for clip, _ in clips):
                os.kill(os.getpid(), signal.SIGKILL)
            super()._encode_clips(clips, found)

    return DyingEncoder


def test_a_codec_actor_that_is_killed_is_replaced_and_no_clip_is_lost(
    synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.actors.tokenizing_pool, "TokenizerActor", killing_encoder(tmp_path / "killed"))
    options = tokenize.Options(
        dataset="synthetic", data_dir=str(synthetic_dataset), output_dir=str(tmp_path / "out"), codec=str(tiny_codec)
    )
    options.num_actors = 1
    assert tokenize.run(options)["tokens"] == 50
    assert (tmp_path / "killed").exists()
    assert len(token_rows(options.output_dir)) == 50


def ended_from_outside(marker: Path) -> type:
    """A codec actor that is ended for good by `ray.kill` when it gets its second shard, the first time."""

    class TrialResult(TokenizerActor):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            if row["shard"] == 1 and not marker.exists():
                marker.touch()
                ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
                time.sleep(60)
            return super().__call__(row)

    return TrialResult


def test_the_only_actor_ended_for_good_from_outside_is_replaced_by_another_pool(
    synthetic_dataset: Path,
    tiny_codec: Path,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    monkeypatch.setattr(jobs.actors.tokenizing_pool, "TokenizerActor", ended_from_outside(tmp_path / "ended"))
    output = tmp_path / "out"
    arguments = [
        "--dataset",
        "synthetic",
        "--data-dir",
        str(synthetic_dataset),
        "--codec",
        str(tiny_codec),
        "--num-actors",
        "1",
    ]
    code, _, err = command(tokenize, *arguments, "--shard-size", "16", "--output-dir", str(output))
    assert (
        code == 0
        and "a codec actor was killed from outside, with ray.kill; a new pool processes the remaining shards"
        in " ".join(err.split())
    )
    assert (tmp_path / "ended").exists() and len(token_rows(str(output))) == 50
    with connect():
        assert_cpus_come_back()


def test_a_clip_that_always_kills_its_actor_is_rejected_and_the_others_are_tokenized(
    synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = sorted(path.stem for path in (synthetic_dataset / "audio").iterdir())[7]
    monkeypatch.setattr(jobs.actors.tokenizing_pool, "TokenizerActor", dying_encoder(deadly))
    monkeypatch.setattr(jobs.tokenize, "tracking", lambda: tracking(max_deaths=1))
    options = tokenize.Options(
        dataset="synthetic", data_dir=str(synthetic_dataset), output_dir=str(tmp_path / "out"), codec=str(tiny_codec)
    )
    options.num_actors = 1
    summary = tokenize.run(options)
    assert (summary["tokens"], summary["reasons"]) == (49, {"killed_worker": 1})
    [row] = rejected_rows(options.output_dir)
    assert (row["clip_id"], row["stage"], row["reason"]) == (deadly, "encode", "killed_worker")
    assert deadly not in token_rows(options.output_dir)


def test_a_shard_at_which_every_actor_dies_ends_the_run_with_an_error_that_names_the_clip(
    synthetic_dataset: Path,
    tiny_codec: Path,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    deadly = sorted(path.stem for path in (synthetic_dataset / "audio").iterdir())[7]
    monkeypatch.setattr(jobs.actors.tokenizing_pool, "TokenizerActor", dying_encoder(deadly))
    monkeypatch.setattr(jobs.actors.tokenizing_pool, "MAX_SHARD_RETRIES", 1)
    # pytest keeps what is logged, also the error with all that it holds
    for module in (streaming_executor_state, ray.data.exceptions):
        monkeypatch.setattr(logging.getLogger(module.__name__), "disabled", True)
    output = tmp_path / "out"
    arguments = (
        "--dataset",
        "synthetic",
        "--data-dir",
        str(synthetic_dataset),
        "--codec",
        str(tiny_codec),
        "--num-actors",
        "1",
    )
    gc.disable()  # a collection by chance would hide what the next job finds
    try:
        code, _, err = command(tokenize, *arguments, "--output-dir", str(output))
        with connect():
            assert_cpus_come_back()
    finally:
        gc.enable()
    assert_one_message(
        (code, "", err), "tokenizing failed", "died 2 times at the same shard", deadly, "run the same command again"
    )  # Ray tells of it on stdout
    assert not (output / "tokenize.json").exists()


def assert_cpus_come_back(timeout_s: float = 60.0) -> None:
    """No actor of an earlier job keeps a CPU from the next."""
    deadline = time.monotonic() + timeout_s
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, f"only {ray.available_resources()} of {ray.cluster_resources()} are free"
        time.sleep(0.2)


def test_an_error_of_storage_in_an_actor_is_told_in_one_sentence(
    synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, command: Command
) -> None:
    output = tmp_path / "out"
    arguments = (
        "--dataset",
        "synthetic",
        "--data-dir",
        str(synthetic_dataset),
        "--codec",
        str(tiny_codec),
        "--num-actors",
        "1",
    )
    assert command(tokenize, *arguments, "--output-dir", str(output))[0] == 0
    interrupt(str(output), "tokenize")
    shutil.rmtree(output / "tokens")
    (output / "tokens").write_text("a file where the folder of the tokens should be")
    result = command(tokenize, *arguments, "--output-dir", str(output))
    assert_one_message(result, "exists and is a file, not a folder", str(output / "tokens"))
    assert not (output / "tokenize.json").exists()


def test_a_second_attempt_at_a_shard_forgets_what_the_first_rejected(
    tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    """An attempt that died between its two tables leaves rejected rows behind, which need not be true any more."""

    folder = tmp_path / "out"
    weights = tiny_codec.read_bytes()
    clip = {
        "clip_id": "a",
        "dataset": "folder",
        "uri": str(tmp_path / "a.wav"),
        "fold": 1,
        "label": 0,
        "category": "x",
        "partners": [],
    }
    row = {"shard": 0, "clips": to_ipc(pa.Table.from_pylist([clip], PLANNED_CLIPS))}
    encoder = TokenizerActor(
        ray.put(weights),
        str(folder),
        load_codec(weights).fingerprint.to_metadata(),
        30.0,
        False,
        start_tracker(),
        600.0,
    )

    encoder(row)
    assert [(found["reason"], found["stage"]) for found in rejected_rows(str(folder))] == [("missing_file", "decode")]
    assert token_rows(str(folder)) == {}

    (tmp_path / "a.wav").write_bytes(encode_audio(synthetic_clip("rain"), 24_000, "wav"))
    encoder(read_shard(row, 30.0, start_tracker(), 600.0))
    assert token_rows(str(folder)).keys() == {"a"}
    assert not list((folder / "rejected").glob("*.parquet"))


def test_a_shard_that_a_task_decoded_is_encoded_as_if_the_actor_had_read_it(
    mixed_dataset: MixedDataset, tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    weights, tracker = tiny_codec.read_bytes(), start_tracker()
    clips = open_dataset("synthetic", str(mixed_dataset.folder)).clips
    row = {"shard": 0, "clips": to_ipc(MixingPartners(clips, 0).planned(0, clips.num_rows))}
    reading = {"max_duration_s": 30.0, "tracker": tracker, "limit_s": 600.0}
    [decoded] = ray.data.from_items([row]).map(read_shard, fn_kwargs=reading, num_cpus=1, max_retries=1).take_all()
    for name, given in (("by itself", row), ("by a task", decoded)):
        TokenizerActor(
            ray.put(weights),
            str(tmp_path / name),
            load_codec(weights).fingerprint.to_metadata(),
            30.0,
            False,
            tracker,
            600.0,
        )(given)
    assert token_rows(str(tmp_path / "by a task")) == token_rows(str(tmp_path / "by itself"))
    assert rejected_rows(str(tmp_path / "by a task")) == rejected_rows(str(tmp_path / "by itself"))
    assert (tmp_path / "by a task/notes/part-00000.json").read_bytes() == (
        tmp_path / "by itself/notes/part-00000.json"
    ).read_bytes()


def test_a_batch_that_the_codec_cannot_take_is_encoded_clip_by_clip(
    tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:

    encoder = TokenizerActor(ray.put(tiny_codec.read_bytes()), str(tmp_path), {}, 30.0, False, start_tracker(), 600.0)
    encode = encoder.codec.encode_clips

    def encode_small(waveforms: list[np.ndarray]) -> list[np.ndarray]:
        if len(waveforms) > 1 or not waveforms[0].any():
            raise RuntimeError("out of memory\nin the codec")
        return encode(waveforms)

    encoder.codec.encode_clips = encode_small  # type: ignore[method-assign]
    waveform = synthetic_clip("rain")
    first, second = encoder._encode([waveform, np.zeros_like(waveform)])
    np.testing.assert_array_equal(first, encode([waveform])[0])
    assert second == "out of memory in the codec"
