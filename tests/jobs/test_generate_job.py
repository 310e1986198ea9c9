"""`soundstorm generate`: what is in the files, that seeds alone decide it, and runs that are repeated, interrupted or
wrongly asked for."""

import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import soundfile
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs import generate
from jobs.actors.finishing import Finishing, file_stem
from jobs.actors.generator import Generator, sample_seed
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.outputs_apart import check_not_class_folder
from soundstorm.audio.files import encode_audio
from soundstorm.audio.synthesis import CLASSES
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.editing import editor
from soundstorm.editing.edits import New
from soundstorm.errors import SoundStormError
from soundstorm.generation import windows
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.config import SamplerSettings
from soundstorm.schemas import SAMPLES, CodecFingerprint, check_schema
from tests.jobs.conftest import (
    NUM_SAMPLES,
    SAMPLE_S,
    SAMPLES_SHARD,
    Command,
    assert_one_message,
    file_times,
    generate_options,
    interrupt,
    noise,
    synthetic_clip,
    wav,
)


def manifest(output: str) -> list[dict[str, Any]]:
    table, _ = tables.read_table(storage.join(output, "samples.parquet"))
    check_schema(table.schema, SAMPLES, output)
    return table.to_pylist()


def audio_files(output: str) -> dict[str, bytes]:
    """Every audio file by its place below the output folder."""
    root = storage.absolute(output)
    return {
        entry.uri[len(root) :]: storage.read_bytes(entry.uri)
        for entry in storage.list_objects(storage.join(output, "audio"))
        if not entry.uri.endswith(".json")
    }


def decoded(audio: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
    assert rate == 24_000 and samples.ndim == 1
    return samples


# ---- what a run leaves


def test_classes_get_equal_shares_and_every_sample_is_in_the_manifest(generated: str) -> None:
    rows = manifest(generated)
    assert Counter(row["category"] for row in rows) == dict.fromkeys(CLASSES, NUM_SAMPLES // len(CLASSES))
    assert all(CLASSES[row["label"]] == row["category"] for row in rows)
    assert len({row["sample_id"] for row in rows}) == len({row["seed"] for row in rows}) == NUM_SAMPLES
    assert len(audio_files(generated)) == NUM_SAMPLES


def test_every_clip_has_the_length_asked_for_and_is_neither_clipped_nor_silent(generated: str) -> None:
    num_frames = np.ceil(SAMPLE_S * load_codec().frame_rate)
    for row in manifest(generated):
        samples = decoded(storage.read_bytes(row["uri"]))
        assert len(samples) == SAMPLE_S * 24_000 and row["duration_s"] == SAMPLE_S and row["num_frames"] == num_frames
        assert 0 < np.abs(samples.astype(int)).max() < 32_767
        assert len(np.unique(samples)) > 100


def test_the_sha256_of_the_manifest_are_those_of_the_files(generated: str) -> None:
    for row in manifest(generated):
        assert hashlib.sha256(storage.read_bytes(row["uri"])).hexdigest() == row["sha256"]
        assert (
            row["uri"]
            == f"{generated}/audio/{row['sample_id'][-2:]}/{file_stem(row['category'])}/{row['sample_id']}.flac"
        )


def test_the_manifest_says_which_checkpoint_codec_and_sampler_made_it(generated: str, checkpoint: str) -> None:
    metadata = tables.table_info(storage.join(generated, "samples.parquet")).metadata
    assert CodecFingerprint.from_metadata(metadata, generated) == load_codec().fingerprint
    weights = Path(checkpoint, "checkpoint", "model.safetensors").read_bytes()
    assert metadata["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()
    sampler = open_checkpoint(checkpoint_files(checkpoint)).sampler
    assert {f"sampler_{name}": str(value) for name, value in sampler.to_dict().items()}.items() <= metadata.items()


def test_one_actor_writes_the_same_bytes_to_object_storage_also_after_an_interruption(
    generated: str, checkpoint: str, s3_bucket: Any
) -> None:
    output = f"{s3_bucket()}/some/prefix"
    options = generate_options(checkpoint, output, num_actors=1)
    generate.run(options)
    expected = audio_files(generated)
    assert audio_files(output) == expected

    interrupt(output, "generate")
    for place in ("samples.parquet", "parts/01/part-0000001.parquet", "audio/08", "audio/15"):
        storage.delete(f"{output}/{place}")
    kept = {entry.uri: storage.read_bytes(entry.uri) for entry in storage.list_objects(f"{output}/parts")}
    lost = [place for place in expected if place not in audio_files(output)]
    assert lost
    generate.run(options)
    again = audio_files(output)
    part_1 = [
        row for row in manifest(output) if SAMPLES_SHARD <= int(row["sample_id"].rpartition("-")[2]) < 2 * SAMPLES_SHARD
    ]
    assert len(part_1) == SAMPLES_SHARD
    for row in part_1:
        place = row["uri"].removeprefix(output)
        assert again[place] == expected[place]
    assert all(storage.read_bytes(uri) == content for uri, content in kept.items())
    assert len(manifest(output)) == NUM_SAMPLES


def test_a_second_run_does_nothing(generated: str, checkpoint: str) -> None:
    before = file_times(generated)
    summary = generate.run(generate_options(checkpoint, generated, num_actors=1))
    assert file_times(generated) == before
    assert summary["message"].startswith("already done") and summary["samples"] == NUM_SAMPLES


def test_a_folder_that_was_moved_half_way_names_the_new_place(generated: str, checkpoint: str, tmp_path: Path) -> None:
    moved = str(tmp_path / "moved")
    shutil.copytree(generated, moved)
    (tmp_path / "moved" / "samples.parquet").unlink()
    generate.run(generate_options(checkpoint, moved))
    there, here = (tables.read_table(storage.join(place, "samples.parquet")) for place in (generated, moved))
    assert here[0]["uri"].to_pylist() == [uri.replace(generated, moved) for uri in there[0]["uri"].to_pylist()]
    assert all(Path(uri).exists() for uri in here[0]["uri"].to_pylist())
    assert here[0].drop_columns("uri").equals(there[0].drop_columns("uri")) and here[1] == there[1]


def test_other_settings_are_refused_with_the_names_of_their_keys(generated: str, checkpoint: str) -> None:
    with pytest.raises(
        ClusterError, match=r"sampler\.temperature: then 1\.0, now 0\.5; seed: then 5, now 6.*--overwrite"
    ):
        generate.run(generate_options(checkpoint, generated, seed=6, temperature=0.5))


def test_overwrite_one_class_in_wav_that_continues_a_recording(
    checkpoint: str, tmp_path: Path, ray_session: None
) -> None:
    prompt = tmp_path / "prompt.wav"
    waveform = synthetic_clip("siren", 2.0)
    prompt.write_bytes(encode_audio(waveform, 24_000, "wav"))
    output = str(tmp_path / "out")
    records.start_stage(output, "generate", {"seed": 1})
    storage.write_bytes(f"{output}/audio/00/wind/wind-0000000.flac", b"of an earlier run")
    settings: dict[str, Any] = {
        "num_samples": 2,
        "class_name": "Siren",
        "format": "wav",
        "prompt": str(prompt),
        "prompt_duration": 1.5,
    }
    generate.run(generate_options(checkpoint, output, duration=2.0, num_actors=1, overwrite=True, **settings))
    rows = manifest(output)
    assert [row["category"] for row in rows] == ["siren", "siren"]
    assert set(audio_files(output)) == {f"/audio/{number:02d}/siren/siren-{number:07d}.wav" for number in range(2)}
    codec = load_codec()
    prompt_codes = codec.encode_clips([waveform[: round(1.5 * 24_000)]])
    for row in rows:
        [heard] = codec.decode_clips(prompt_codes, [row["seed"]])
        samples = decoded(storage.read_bytes(row["uri"]))
        assert np.corrcoef(samples[:12_000], heard[:12_000])[0, 1] > 0.95  # the first half second is the prompt's
        assert abs(np.corrcoef(samples[-6_000:], waveform[-6_000:])[0, 1]) < 0.9
        step, seam = np.abs(np.diff(samples.astype(int))), 36_000
        assert (
            step[seam - 48 : seam + 48].max() <= np.delete(step, np.s_[seam - 48 : seam + 48]).max()
        )  # no click where it goes on


def test_a_relative_output_folder_is_that_of_the_command_not_of_the_actors(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Ray's workers stay where Ray was started
    generate.run(generate_options(checkpoint, "relative", num_samples=1, duration=0.1, num_actors=1))
    [row] = manifest("relative")
    assert Path(row["uri"]).is_relative_to(tmp_path / "relative") and Path(row["uri"]).is_file()


# ---- the actor


@pytest.fixture(scope="module")
def model(checkpoint: str, ray_session: None) -> list[ray.ObjectRef]:
    return [ray.put((checkpoint_files(checkpoint), packaged_codec_bytes(), None))]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield {
        "output_dir": str(tmp_path / "out"),
        "layout": "files",
        "duration_s": 0.4,
        "format": "wav",
        "seed": 0,
        "settings": "0" * 64,
    }


PART = "00/part-0000000.parquet"


def codes_of(generator: Generator, samples: list[tuple[int, int]]) -> list[np.ndarray]:
    """Makes a part anew; returns the codes that were decoded for it."""
    storage.delete(part_uri(generator))
    decode, seen = generator.codec.decode_clips, []

    def watch(codes: list[np.ndarray], seeds: list[int]) -> list[np.ndarray]:
        seen.extend(codes)
        return decode(codes, seeds)

    generator.codec.decode_clips = watch  # type: ignore[method-assign]
    assert generator.generate_shard((PART, samples)) == len(samples)
    return seen


def part_uri(generator: Generator) -> str:
    return storage.join(generator.job["output_dir"], "parts", PART)


def test_a_continuation_begins_with_the_codes_of_its_prompt(model: list[ray.ObjectRef], work: dict[str, Any]) -> None:
    [prompt_QT] = load_codec().encode_clips([synthetic_clip("rain")[:4_800]])
    generator = Generator(model, SamplerSettings(iterations=2), New(prompt_QT=prompt_QT), work, "cpu")
    codes = codes_of(generator, [(0, 0), (1, 1)])
    for codes_QT in codes:
        assert codes_QT.shape == (len(prompt_QT), np.ceil(0.4 * load_codec().frame_rate))
        np.testing.assert_array_equal(codes_QT[:, : prompt_QT.shape[1]], prompt_QT)
    assert not np.array_equal(codes[0][:, prompt_QT.shape[1] :], codes[1][:, prompt_QT.shape[1] :])


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_used_only_where_the_machine_is_fast_in_it(
    fast: bool, model: list[ray.ObjectRef], work: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor, "uses_bf16", lambda device, precision: fast)
    asked = []

    def watch(*arguments: Any, bf16: bool, **others: Any) -> list[torch.Tensor]:
        asked.append(bf16)
        return generate_codes(*arguments, bf16=bf16, **others)

    monkeypatch.setattr(windows, "generate_codes", watch)
    Generator(model, SamplerSettings(iterations=1), None, work, "cpu").generate_shard((PART, [(0, 0)]))
    assert asked == [fast]


def test_seeds_decide_what_a_sample_is(model: list[ray.ObjectRef], work: dict[str, Any]) -> None:
    def codes(seed: int) -> np.ndarray:
        generator = Generator(model, SamplerSettings(iterations=2), None, work | {"seed": seed}, "cpu")
        return codes_of(generator, [(0, 0)])[0]

    first = codes(0)
    np.testing.assert_array_equal(first, codes(0))
    assert (first != codes(1)).mean() > 0.2  # of a network with random weights, which prefers a few codes


@pytest.mark.parametrize(("length", "frames"), [(21.0, 21), (21.75, 22), (3.75, 4)])
def test_a_clip_has_the_frames_that_its_samples_need(
    model: list[ray.ObjectRef], work: dict[str, Any], length: float, frames: int
) -> None:
    codec = load_codec()
    duration_s = length / codec.frame_rate
    generator = Generator(model, SamplerSettings(iterations=1), None, work | {"duration_s": duration_s}, "cpu")
    assert codes_of(generator, [(0, 0)])[0].shape == (codec.fingerprint.num_levels, frames)
    [row] = tables.read_table(part_uri(generator))[0].to_pylist()
    assert row["duration_s"] == pytest.approx(duration_s) and row["num_frames"] == frames


def test_a_clip_beyond_full_scale_is_limited_and_not_cut() -> None:
    finishing = Finishing(
        sample_rate=24_000, hop=320, num_samples=9_600, format="flac", keeps_recording=False, recipe=None
    )
    loud = 3.0 * np.sin(np.arange(9_600) / 20).astype(np.float32)
    _, audio = finishing.clip(0, 0, "siren", 0, loud)
    samples = decoded(audio) / 32768
    np.testing.assert_allclose(samples, loud * (0.999 / np.abs(loud).max()), atol=2e-3)
    with pytest.raises(SoundStormError, match="NaN or infinite"):
        finishing.clip(0, 0, "siren", 0, np.full(9_600, np.nan, dtype=np.float32))


def test_seeds_of_samples_are_spread_out_and_fit_the_table() -> None:
    seeds = {sample_seed(seed, label, index) for seed in range(3) for label in range(3) for index in range(100)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("category", "stem"),
    [
        ("sea_waves", "sea_waves"),
        ("Möwe 鳥", "Möwe_鳥"),
        ("../../etc", "_etc"),
        ("a/b\\c", "a_b_c"),
        ("..", "_"),
        ("", "_"),
        ("🐶", "u1f436"),
        ("🐱🐱", "u1f431_u1f431"),
        ("dog 🐶", "dog_u1f436"),
    ],
)
def test_a_class_name_is_a_safe_file_name(category: str, stem: str) -> None:
    assert file_stem(category) == stem


# ---- what is refused


def nothing_finished(output: Path) -> bool:
    return not any((output / name).exists() for name in ("generate.json", "samples.parquet", "audio"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--class", "dragon"], ["--class is 'dragon'", "rain"]),
        (["--class", "the rain"], ["--class is 'the rain': did you mean 'rain'?"]),
        (["--output-dir", "s3:bucket/samples"], ["s3:bucket/samples", "starts with 's3://'"]),
        (["--iterations", "4", "2"], ["iterations", f"or {load_codec().fingerprint.num_levels} of them"]),
        (["--temperature=-1"], ["temperature"]),
        (["--top-p", "0"], ["top_p"]),
        (["--num-samples", "0"], ["--num-samples is 0: give at least 1"]),
        (["--duration", "0"], ["--duration is 0.0"]),
        (["--prompt", "x.wav", "--prompt-duration", "9"], ["--prompt-duration is 9:", "less than 5 seconds"]),
        (["--prompt", "/nowhere/x.wav"], ["/nowhere/x.wav does not exist"]),
        (["--codec", "/nowhere/codec.th"], ["/nowhere/codec.th does not exist"]),
    ],
)
def test_wrong_options_are_one_clear_message(
    arguments: list[str], parts: list[str], checkpoint: str, tmp_path: Path, command: Command
) -> None:
    result = command(generate, "--checkpoint", checkpoint, "--output-dir", str(tmp_path / "out"), *arguments)
    assert_one_message(result, *parts)
    assert nothing_finished(tmp_path / "out")


def test_a_codec_that_the_checkpoint_was_not_trained_with_is_refused_and_both_are_named(
    checkpoint: str, tiny_codec: Path, tmp_path: Path, command: Command
) -> None:
    result = command(
        generate, "--checkpoint", checkpoint, "--codec", str(tiny_codec), "--output-dir", str(tmp_path / "out")
    )
    assert_one_message(
        result, load_codec().fingerprint.sha256[:12], load_codec(tiny_codec).fingerprint.sha256[:12], checkpoint
    )
    assert nothing_finished(tmp_path / "out")


def test_a_damaged_codec_is_refused_by_its_name(
    checkpoint: str, tiny_codec: Path, tmp_path: Path, command: Command
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny_codec.read_bytes()[:-1000])
    result = command(
        generate, "--checkpoint", checkpoint, "--codec", str(damaged), "--output-dir", str(tmp_path / "out")
    )
    assert_one_message(result, f"--codec {damaged}", "not a codec of this project")


def test_a_missing_or_damaged_checkpoint_is_refused_by_its_name(
    checkpoint: str, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "out"
    assert_one_message(
        command(generate, "--checkpoint", str(tmp_path), "--output-dir", str(output)),
        f"--checkpoint {tmp_path}: no config.json there",
    )
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    weights = copy / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert_one_message(command(generate, "--checkpoint", str(copy), "--output-dir", str(output)), f"{weights} is not")
    weights.unlink()
    assert_one_message(
        command(generate, "--checkpoint", str(copy), "--output-dir", str(output)), str(weights), "does not exist"
    )
    assert nothing_finished(output)


@pytest.mark.parametrize("place", ["sounds/generated", "sounds/dog/generated"])
def test_an_output_folder_among_recordings_is_refused(
    place: str, checkpoint: str, tmp_path: Path, command: Command
) -> None:
    for name in ("dog", "rain"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        (tmp_path / "sounds" / name / "1.wav").write_bytes(wav(noise(0.1)))
    before = file_times(str(tmp_path))
    result = command(generate, "--checkpoint", checkpoint, "--output-dir", str(tmp_path / place))
    assert_one_message(
        result, f"--output-dir {tmp_path / place} is inside {tmp_path / 'sounds'}, a folder of recordings ("
    )
    assert file_times(str(tmp_path)) == before
    (tmp_path / "sounds" / "notes" / "more").mkdir(parents=True)
    (tmp_path / "sounds" / "notes" / "more" / "letter.txt").write_text("a folder of many things")
    check_not_class_folder(str(tmp_path / "sounds" / "generated"))
    check_not_class_folder(str(tmp_path / "sounds" / "notes" / "generated"))
    check_not_class_folder(str(tmp_path / "generated"))


def test_a_prompt_that_is_no_audio_is_refused_by_its_name(checkpoint: str, tmp_path: Path, command: Command) -> None:
    prompt = tmp_path / "text.wav"
    prompt.write_text("no sound at all")
    result = command(
        generate, "--checkpoint", checkpoint, "--prompt", str(prompt), "--output-dir", str(tmp_path / "out")
    )
    assert_one_message(result, f"--prompt {prompt}", "not_audio")


def test_a_prompt_that_leaves_nothing_to_generate_is_refused(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.wav").write_bytes(wav(noise(2.0)))
    options = generate_options(
        checkpoint, str(tmp_path / "out"), duration=1.0, prompt=str(tmp_path / "prompt.wav"), prompt_duration=0.995
    )
    with pytest.raises(SoundStormError, match=r"--prompt-duration 0\.995 leaves nothing of --duration 1 "):
        generate.run(options)
