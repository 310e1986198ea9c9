"""`soundstorm classify`: every file named once as the classifier names it alone, or rejected; it goes on where it was,
and outlives deadly files."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

import jobs.actors.classifier
import jobs.classify
from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.scheduling.attempt_tracker import start_tracker
from cluster.tables import stage_record as records
from jobs import classify
from jobs.actors.classifier import ClassifierActor
from jobs.inputs.classifiers import classifier_files
from soundstorm.audio.files import SAMPLE_RATE, encode_audio, read_audio, to_pcm16
from soundstorm.classification.cnn import AudioClassifier, load_classifier, save_classifier
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLASSIFIED, REJECTED
from tests.jobs.conftest import Command, assert_one_message, file_times, interrupt, noise, wav

LONG_S = 7.0
BAD = {"empty.wav": (b"", "empty_file"), "text.wav": (b"a letter, and no sound\n" * 50, "not_audio")}


def options(*files: str, output: str, **changes: Any) -> classify.Options:
    settings: dict[str, Any] = {"shard_size": 8, "num_actors": 1, "window": 2.5, "max_duration": 60.0}
    return classify.Options(files=files, output_dir=output, **(settings | changes))


def rows(output: str, name: str = "classified") -> list[dict[str, Any]]:
    return tables.read_table(f"{output}/{name}.parquet")[0].to_pylist()


@pytest.fixture(scope="module")
def folder(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 recordings of a second, a longer one, a very short one, and files that are not audio."""
    folder = tmp_path_factory.mktemp("sounds") / "all"
    shutil.copytree(synthetic_dataset / "audio", folder / "a" / "b")
    (folder / "long.wav").write_bytes(wav(noise(LONG_S)))
    (folder / "short.wav").write_bytes(wav(noise(0.01)))
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("not named")
    return folder


@pytest.fixture(scope="module")
def classified(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[str, dict[str, Any]]:
    """The output of a run over the folder and a file that is not there."""
    output = str(tmp_path_factory.mktemp("classified") / "out")
    return output, classify.run(options(str(folder), str(folder / "absent.wav"), output=output, num_actors=2))


def heard(uri: str) -> np.ndarray:
    return to_pcm16(read_audio(Path(uri), max_duration_s=60.0).waveform)


def test_every_file_has_the_likeliest_categories_as_the_classifier_alone_gives_them(
    folder: Path, classified: tuple[str, dict[str, Any]]
) -> None:
    output, summary = classified
    assert (summary["files"], summary["classified"], summary["rejected"]) == (55, 52, 3)
    table, metadata = tables.read_table(f"{output}/classified.parquet")
    classifier = load_classifier()
    assert table.schema.equals(CLASSIFIED) and json.loads(metadata["categories"]) == classifier.categories
    assert (metadata["classifier_sha256"], metadata["model"]) == (classifier.sha256, "cnn")
    found = {row["uri"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows and found.keys() == {
        str(path) for path in folder.rglob("*.wav") if path.name not in BAD
    }
    for uri, row in found.items():
        clip = heard(uri)
        assert row["duration_s"] == pytest.approx(len(clip) / SAMPLE_RATE)
        if len(clip) < 0.1 * SAMPLE_RATE:
            assert (row["categories"], row["probabilities"], row["note"]) == ([], [], "too short")
            continue
        assert row["note"] is None
        third = -(-len(clip) // 3)
        parts = (
            [clip] if len(clip) <= 2.5 * SAMPLE_RATE else [clip[:third], clip[third : 2 * third], clip[-third:]]
        )  # 7 s in windows of 2.5 s
        probability_C = classifier.predict(parts).mean(0)
        best = np.argsort(-probability_C)[:3]
        assert row["categories"] == [classifier.categories[label] for label in best], uri
        np.testing.assert_allclose(row["probabilities"], probability_C[best], atol=1e-4)


def test_files_that_cannot_be_heard_are_rejected_with_the_reason(
    folder: Path, classified: tuple[str, dict[str, Any]]
) -> None:
    output, summary = classified
    assert tables.read_table(f"{output}/rejected.parquet")[0].schema.equals(REJECTED)
    found = {row["uri"]: (row["stage"], row["reason"]) for row in rows(output, "rejected")}
    expected = {str(folder / name): ("classify", reason) for name, (_, reason) in BAD.items()}
    assert found == expected | {str(folder / "absent.wav"): ("classify", "missing_file")}
    assert summary["reasons"] == {"empty_file": 1, "not_audio": 1, "missing_file": 1}


def test_a_finished_run_is_told_again_and_other_settings_are_refused(
    folder: Path, classified: tuple[str, dict[str, Any]]
) -> None:
    output, summary = classified
    before = file_times(output)
    again = classify.run(options(str(folder), str(folder / "absent.wav"), output=output))
    assert again["message"].startswith(
        "already done: 51 of 55 files classified, 1 without a class (1 too short), 3 rejected"
    )
    assert again["reasons"] == summary["reasons"]
    for changes, message in (({"top": 2}, "top: then 3, now 2"), ({"window": 2.0}, "window_s: then 2.5, now 2.0")):
        with pytest.raises(ClusterError, match=message):
            classify.run(options(str(folder), str(folder / "absent.wav"), output=output, **changes))
    with pytest.raises(ClusterError, match="num_files: then 55, now 54"):
        classify.run(options(str(folder), output=output))
    assert file_times(output) == before


def test_a_run_that_was_cut_short_does_only_what_is_missing_and_comes_to_the_same_table(
    folder: Path, classified: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    shutil.copytree(classified[0], output)
    interrupt(output, "classify")
    parts = sorted(Path(output, "parts", "classified").rglob("*.parquet"))
    assert len(parts) == 7
    for path in (parts[1], parts[4], Path(output, "classified.parquet")):
        path.unlink()
    before = file_times(output)
    classify.run(options(str(folder), str(folder / "absent.wav"), output=output, num_actors=1))
    after = file_times(output)
    kept = [name for name in before if name.startswith("parts/classified/")]
    assert len(kept) == 5 and all(after[name] == before[name] for name in kept)
    assert rows(output) == rows(classified[0]) and rows(output, "rejected") == rows(classified[0], "rejected")
    record = records.read(output, "classify")
    assert record is not None and record.counts["classified"] == 52


def test_files_in_object_storage_are_named_alike(
    folder: Path, classified: tuple[str, dict[str, Any]], s3_bucket: Any, ray_session: None, command: Command
) -> None:
    bucket = s3_bucket()
    names = [
        "long.wav",
        "short.wav",
        "text.wav",
        "a/b/" + sorted(path.name for path in (folder / "a" / "b").iterdir())[0],
    ]
    for name in names:
        storage.write_bytes(f"{bucket}/in/{name}", (folder / name).read_bytes())
    listed = [f"{bucket}/in/{name}" for name in names[2:]]
    tables.write_table(f"{bucket}/list.parquet", pa.table({"uri": listed}), {})
    arguments = (
        f"{bucket}/in/*.wav",
        "--list",
        f"{bucket}/list.parquet",
        "--output-dir",
        f"{bucket}/out",
        "--window",
        "2.5",
        "--num-actors",
        "1",
    )
    code, out, err = command(classify, *arguments)
    assert code == 0 and "2 of 5 files classified, 1 without a class (1 too short), 2 rejected (2 not_audio)" in out, (
        err
    )
    local = {row["uri"].removeprefix(f"{folder}/"): row for row in rows(classified[0])}
    for row in rows(f"{bucket}/out"):
        expected = local[row["uri"].removeprefix(f"{bucket}/in/")]
        assert row["categories"] == expected["categories"] and (row["categories"] or ["no class"])[0] in err
        np.testing.assert_allclose(row["probabilities"], expected["probabilities"], atol=1e-4)


def dying_namer(deadly: Sequence[str]) -> type:
    """An actor that is killed whenever it decodes one of these files."""

    class DyingNamer(ClassifierActor):
        def _decoded(self, uris: Sequence[str]) -> Any:
            for uri, clip in super()._decoded(uris):
                if uri in deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield uri, clip

    return DyingNamer


def test_a_file_that_always_kills_its_actor_is_set_aside_and_all_others_are_named(
    folder: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = sorted(str(path) for path in (folder / "a" / "b").iterdir())[:16]
    monkeypatch.setattr(jobs.classify, "ClassifierActor", dying_namer([uris[5]]))
    monkeypatch.setattr(jobs.classify, "start_tracker", lambda: start_tracker(max_deaths=1))
    summary = classify.run(options(*uris, output=str(tmp_path / "out"), num_actors=1))
    assert (summary["classified"], summary["reasons"]) == (15, {"killed_worker": 1})
    assert [row["uri"] for row in rows(str(tmp_path / "out"))] == uris[:5] + uris[6:]
    assert [row["uri"] for row in rows(str(tmp_path / "out"), "rejected")] == [uris[5]]


def test_a_run_in_which_nothing_can_be_heard_is_an_error(folder: Path, tmp_path: Path, ray_session: None) -> None:
    with pytest.raises(SoundStormError, match=r"none of 1 files can be used \(1 not_audio; .*text\.wav"):
        classify.run(options(str(folder / "text.wav"), output=str(tmp_path / "out"), num_actors=1))


def test_a_file_is_heard_as_far_as_it_was_asked_for_and_files_are_named_in_order_however_many_are_heard_together(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [str(tmp_path / f"{number}.wav") for number in range(30)]
    for number, uri in enumerate(uris):
        Path(uri).write_bytes(
            encode_audio(noise(0.1 * (1 + number % 13), SAMPLE_RATE, seed=number)[:, 0], SAMPLE_RATE, "wav")
        )
    job = {
        "parts_folder": str(tmp_path / "parts"),
        "top": 50,
        "window_s": 0.5,
        "max_duration_s": 1.0,
        "limit_s": 60.0,
        "settings": "",
        "name_all": False,
    }
    namer = ClassifierActor([ray.put(classifier_files(None))], start_tracker(), job, "cpu")
    found = []
    for number, together_s in enumerate((0.01, 3.0, 600.0)):
        monkeypatch.setattr(jobs.actors.classifier, "MAX_BATCH_S", together_s)
        assert namer.classify_shard((f"part-{number}.parquet", uris)) == 30
        found.append(tables.read_table(f"{tmp_path}/parts/classified/part-{number}.parquet")[0].to_pylist())
    for named in found:
        assert [row["uri"] for row in named] == uris
        np.testing.assert_allclose(
            [row["duration_s"] for row in named], [min(1.0, 0.1 * (1 + number % 13)) for number in range(30)]
        )
        np.testing.assert_allclose(
            [row["probabilities"] for row in named], [row["probabilities"] for row in found[0]], atol=1e-4
        )
    row = found[0][12]
    assert len(row["categories"]) == 50 and sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert row["probabilities"] == sorted(row["probabilities"], reverse=True)


@pytest.fixture
def namer(tmp_path: Path, ray_session: None) -> Callable[..., list[dict[str, Any]]]:
    """Names clips int16 (N,); returns their rows."""

    def name(*clips: np.ndarray, **changes: Any) -> list[dict[str, Any]]:
        uris = [str(tmp_path / f"{number}.wav") for number in range(len(clips))]
        for uri, clip in zip(uris, clips, strict=True):
            Path(uri).write_bytes(wav(clip, SAMPLE_RATE))
        job = {
            "parts_folder": str(tmp_path / "parts"),
            "top": 3,
            "window_s": 10.0,
            "max_duration_s": 60.0,
            "limit_s": 60.0,
        }
        job |= {"settings": "", "name_all": False} | changes
        ClassifierActor([ray.put(classifier_files(None))], start_tracker(), job, "cpu").classify_shard(
            ("part-0.parquet", uris)
        )
        found = tables.read_table(f"{tmp_path}/parts/classified/part-0.parquet")[0].to_pylist()
        storage.delete(str(tmp_path / "parts"))
        return found

    return name


def test_silence_and_a_single_sample_have_a_note_and_no_class_unless_all_are_named(
    namer: Callable[..., list[dict[str, Any]]],
) -> None:
    clips = [np.zeros(SAMPLE_RATE, np.int16), np.array([9000], np.int16), to_pcm16(noise(1.0, SAMPLE_RATE)[:, 0])]
    found = namer(*clips)
    assert [row["note"] for row in found] == ["silent", "too short", None]
    assert [len(row["categories"]) for row in found] == [len(row["probabilities"]) for row in found] == [0, 0, 3]
    everything = namer(*clips, name_all=True)
    assert [row["note"] for row in everything] == ["silent", "too short", None]
    assert [len(row["categories"]) for row in everything] == [3, 3, 3]
    assert everything[2]["categories"] == found[2]["categories"]
    assert everything[2]["probabilities"] == pytest.approx(found[2]["probabilities"], rel=1e-5)
    assert [row["categories"] for row in namer(*clips[:2])] == [[], []]


def test_a_classifier_of_two_classes_gives_both_where_nothing_else_is_asked(
    folder: Path, tmp_path: Path, ray_session: None, command: Command
) -> None:
    two = load_classifier()
    with torch.random.fork_rng(devices=[]):
        model = AudioClassifier(2, two.model.config)
    save_classifier(tmp_path / "classifier.safetensors", model, categories=["dog", "rain"], dataset="mine")
    arguments = [
        str(folder / "long.wav"),
        "--checkpoint",
        str(tmp_path),
        "--output-dir",
        str(tmp_path / "out"),
        "--num-actors",
        "1",
    ]
    code, out, err = command(classify, *arguments)
    assert code == 0 and "1 of 1 files classified, 0 rejected" in out, err
    assert [sorted(row["categories"]) for row in rows(str(tmp_path / "out"))] == [["dog", "rain"]]
    assert_one_message(command(classify, *arguments, "--top", "3"), "--top is 3: the classifier knows 2 categories")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 0}, "--top is 0"),
        ({"window": 0.0}, "--window is 0.0"),
        ({"max_duration": float("nan")}, "--max-duration is nan"),
        ({"num_actors": 0}, "--num-actors is 0"),
        ({"shard_size": 0}, "--shard-size is 0"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        options("a.wav", output="out", **changes)


def test_a_damaged_classifier_is_named_by_its_file_and_not_by_the_folder_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "classifier.safetensors").write_bytes(classifier_files(None)["classifier.safetensors"][:-9])
    with pytest.raises(SoundStormError, match=rf"^{tmp_path}/classifier\.safetensors: .*not a classifier"):
        classify.run(options("a.wav", output=str(tmp_path / "out"), checkpoint=str(tmp_path)))


def test_more_categories_than_there_are_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="--top is 51: the classifier knows 50 categories"):
        classify.run(options(str(folder), output=str(tmp_path / "out"), top=51))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (8, 1), (100, 13), (8_192, 1024), (10_000_000, 1024)])
def test_parts_are_large_but_several_where_nothing_else_is_asked(count: int, size: int) -> None:
    assert classify.default_shard_size(count) == size
