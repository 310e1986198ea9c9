"""`soundstorm generate` on recordings: what stays, what a recipe brings back, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster import storage, tables
from cluster.tables.tar_shards import TarMemberReader
from jobs import generate
from jobs.generation.recipes import read_recipe
from soundstorm.audio.files import encode_audio, from_pcm16, to_pcm16
from soundstorm.errors import SoundStormError
from tests.jobs.conftest import Command, assert_one_message, generate_options, noise, synthetic_clip, wav

RATE, SPAN = 24_000, (12_000, 30_000)


def rows_of(output: str) -> list[dict[str, Any]]:
    return tables.read_table(storage.join(output, "samples.parquet"))[0].to_pylist()


def decoded(uri: str) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(storage.read_bytes(uri)), dtype="int16")
    assert rate == RATE and samples.ndim == 1
    return samples


def recipe_beside(uri: str) -> Path:
    return Path(uri).with_suffix(".json")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second and a half of rain, to full scale, as a file of the rate that all have here."""
    path = tmp_path_factory.mktemp("recording") / "rain.wav"
    waveform = synthetic_clip("rain", 1.5)
    path.write_bytes(encode_audio(from_pcm16(to_pcm16(waveform / np.abs(waveform).max())), RATE, "wav"))
    return path


@pytest.fixture(scope="module")
def mended(checkpoint: str, recording: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """The output folder of two takes of a region."""
    output = str(tmp_path_factory.mktemp("inpainted") / "out")
    edit = {"inpaint": str(recording), "region": ("0.5-1.0", "0.9-1.25"), "class_name": "rain"}
    generate.run(generate_options(checkpoint, output, duration=5.0, num_samples=2, iterations=(2,), **edit))
    return output


def test_every_sample_outside_of_a_mended_region_is_the_recording_s(mended: str, recording: Path) -> None:
    original, takes = decoded(str(recording)), [decoded(row["uri"]) for row in rows_of(mended)]
    assert [len(take) for take in takes] == [len(original)] * 2
    first, end = SPAN
    for take in takes:
        changed = take != original
        assert not changed[:first].any() and not changed[end:].any()
        assert changed[first:end].mean() > 0.9
    assert not np.array_equal(*takes)
    assert np.abs(original.astype(int)).max() >= 32_767  # what is at full scale is not scaled down either


def test_a_recipe_says_all_that_a_clip_was_made_of(mended: str, recording: Path, checkpoint: str) -> None:
    for row in rows_of(mended):
        about = json.loads(recipe_beside(row["uri"]).read_text())
        recipe = about.pop("recipe")
        assert about.pop("batch_size") >= 1
        assert about == {name: value for name, value in row.items() if name != "uri"} | {"sample_rate": RATE}
        assert (recipe["edit"], recipe["regions"]) == ("inpaint", ["0.5-1.0", "0.9-1.25"])
        [parent] = recipe["parents"]
        assert parent["uri"] == str(recording) and len(parent["sha256"]) == 64
        assert recipe["checkpoint"]["uri"] == checkpoint and recipe["codec"]["frame_rate"] == 18.75
        assert recipe["sampler"]["iterations"] == 2 and {"python", "torch", "numpy"} <= recipe["versions"].keys()


def test_from_a_recipe_the_same_bytes_come_again_and_not_from_another_recording(
    mended: str, recording: Path, tmp_path: Path, command: Command
) -> None:
    last = rows_of(mended)[-1]
    recipe = recipe_beside(last["uri"])
    code, _, err = command(generate, "--recipe", str(recipe), "--num-actors", "1", "--output-dir", str(tmp_path / "a"))
    assert code == 0 and "is identical to the clip" in " ".join(err.split())
    [row] = rows_of(str(tmp_path / "a"))
    assert {**row, "uri": ""} == {**last, "uri": ""}
    assert storage.read_bytes(row["uri"]) == storage.read_bytes(last["uri"])
    assert json.loads(recipe_beside(row["uri"]).read_text()) == json.loads(recipe.read_text())

    content = json.loads(recipe.read_text())
    other = tmp_path / "other.wav"
    other.write_bytes(wav(noise(1.5, RATE), RATE))
    content["recipe"]["parents"][0]["uri"] = str(other)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    result = command(generate, "--recipe", str(changed), "--output-dir", str(tmp_path / "b"))
    assert_one_message(result, f"--recipe {changed} needs the recording with SHA-256", "restore that recording")


@pytest.mark.parametrize("second_try", [True, False])
def test_a_recipe_says_whether_its_regions_could_have_a_second_try(
    second_try: bool, checkpoint: str, recording: Path, tmp_path: Path, ray_session: None
) -> None:
    edit: dict[str, Any] = {"inpaint": str(recording), "region": ("0.2-1.25",), "class_name": "siren"}
    edit |= {"candidates": 2, "second_try": second_try}
    output = str(tmp_path / "out")
    generate.run(generate_options(checkpoint, output, duration=5.0, num_samples=2, iterations=(1,), **edit))
    recipes = [recipe_beside(row["uri"]) for row in rows_of(output)]
    assert [json.loads(recipe.read_text())["recipe"]["second_try"] for recipe in recipes] == [second_try] * 2
    generate.run(generate.Options(recipe=str(recipes[1]), output_dir=str(tmp_path / "again"), num_actors=1))
    [again] = rows_of(str(tmp_path / "again"))
    assert again["sha256"] == rows_of(output)[1]["sha256"]


def test_a_recipe_of_a_version_without_second_tries_has_none(mended: str, tmp_path: Path) -> None:
    content = json.loads(recipe_beside(rows_of(mended)[0]["uri"]).read_text())
    assert content["recipe"].pop("second_try") is True
    (older := tmp_path / "older.json").write_text(json.dumps(content))
    assert read_recipe(str(older)).options(generate.Options()).second_try is False


def test_a_varied_loop_comes_again_from_its_recipe_out_of_an_archive(
    checkpoint: str, recording: Path, tmp_path: Path, ray_session: None
) -> None:
    output = str(tmp_path / "out")
    edit: dict[str, Any] = {"vary": str(recording), "strength": 0.3, "kept_levels": 2, "loop": True, "format": "wav"}
    generate.run(
        generate_options(
            checkpoint, output, duration=5.0, num_samples=1, class_name="rain", iterations=(1,), layout="webdataset",
            **edit,
        )
    )  # fmt: skip
    [row] = rows_of(output)
    recipe = tmp_path / "recipe.json"
    recipe.write_bytes(TarMemberReader().read(row["uri"].removesuffix(".wav") + ".json"))
    content = json.loads(recipe.read_text())["recipe"]
    assert (content["edit"], content["strength"], content["kept_levels"], content["loop"]) == ("vary", 0.3, 2, True)
    summary = generate.run(generate.Options(recipe=str(recipe), output_dir=str(tmp_path / "again"), num_actors=1))
    assert f"{recording}, varied 1 time" in summary["message"]
    [again] = rows_of(str(tmp_path / "again"))
    assert again["sha256"] == row["sha256"] and again["duration_s"] == 1.5


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--inpaint", "REC", "--region", "1.0-9"],
            ["--region 1-9 reaches beyond the end of the recording at 1.500 s"],
        ),
        (["--inpaint", "REC", "--region", "1.0-0.5"], ["--region 1-0.5 does not end after its start"]),
        (["--inpaint", "REC", "--region", "rain"], ["--region 'rain' is not valid", "such as 1.2-2.0"]),
        (["--inpaint", "REC"], ["--inpaint needs a stretch to replace: give --region"]),
        (["--inpaint", "/nowhere/x.wav", "--region", "0-1"], ["/nowhere/x.wav does not exist"]),
        (["--inpaint", "TEXT", "--region", "0-1"], ["--inpaint", "cannot be edited", "not_audio"]),
        (["--inpaint", "REC", "--vary", "REC"], ["--inpaint and --vary cannot be combined"]),
        (["--prompt", "REC", "--vary", "REC"], ["--prompt and --vary cannot be combined"]),
        (["--prompt", "REC", "--loop"], ["--loop replaces the beginning, which --prompt keeps"]),
        (["--region", "0-1"], ["--region needs --inpaint FILE"]),
        (["--strength", "0.5"], ["--strength needs --vary FILE"]),
        (["--kept-levels", "0"], ["--kept-levels needs --vary FILE"]),
        (["--vary", "REC", "--strength", "1.5"], ["--strength is 1.5: give a fraction from 0 to 1"]),
        (["--vary", "REC", "--kept-levels", "99"], ["--kept-levels is 99: give 0 to 32"]),
        (["--vary", "REC", "--strength", "0", "--kept-levels", "32"], ["leaves nothing to generate"]),
        (["--vary", "REC", "--duration", "3"], ["--duration cannot be given with --vary"]),
        (["--loop", "--duration", "0.3"], ["--duration has 0.3 s: a loop needs at least 0.5 s"]),
        (["--recipe", "/nowhere/x.json"], ["/nowhere/x.json does not exist"]),
        (["--recipe", "TEXT"], ["--recipe", "is not JSON"]),
    ],
)
def test_an_edit_that_cannot_be_made_is_one_clear_message(
    arguments: list[str], parts: list[str], checkpoint: str, recording: Path, tmp_path: Path, command: Command
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no sound at all")
    given = [{"REC": str(recording), "TEXT": str(text)}.get(word, word) for word in arguments]
    given += [] if "--recipe" in arguments else ["--class", "rain"]
    result = command(generate, "--checkpoint", checkpoint, "--output-dir", str(tmp_path / "out"), *given)
    assert_one_message(result, *parts)
    assert not (tmp_path / "out" / "audio").exists()


def test_an_edit_asks_for_the_class_and_a_recipe_for_nothing_else(recording: Path) -> None:
    with pytest.raises(SoundStormError, match="--vary needs --class: give the class of the recording"):
        generate.Options(vary=str(recording))
    for option, name in (("class_name", "class"), ("prompt", "prompt"), ("config", "config")):
        with pytest.raises(SoundStormError, match=f"--{name} cannot be given with --recipe"):
            generate.Options(recipe="x.json", **{option: "rain"})  # type: ignore[arg-type]
    assert generate.Options().count == 10
    assert generate.Options(vary=str(recording), class_name="rain").count == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sample_id": "rain"}, "sample_id is 'rain': give the unchanged .json file"),
        ({"seed": "7"}, "seed is '7': give the unchanged .json file beside a clip"),
        ({"recipe": 1}, "is not a recipe: give the .json file beside a clip"),
        ({"batch_size": 0}, "batch_size is 0: give 1 to 4096"),
        ({"recipe": {"format": 2}}, "has format 2, but this version reads 1"),
        ({"recipe": {"format": 1, "future": 1}}, "unknown setting 'future'"),
    ],
)
def test_a_damaged_recipe_is_refused_by_what_is_wrong_with_it(
    change: dict[str, Any], told: str, tmp_path: Path, command: Command
) -> None:
    about = {
        "sample_id": "rain-0000001",
        "category": "rain",
        "seed": 1,
        "duration_s": 1.0,
        "sha256": "0" * 64,
        "batch_size": 1,
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(about | {"recipe": {"format": 1}} | change))
    assert_one_message(command(generate, "--recipe", str(path), "--output-dir", str(tmp_path / "out")), told)
