"""What jobs train on and test on, found in real folders: the same clips under other names are known again, and nothing
is read that is not needed."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.runtime.connect import connect
from jobs import evaluate_classifier
from jobs.inputs.datasets import open_dataset
from jobs.inputs.provenance import combined, read_contents, test_of
from soundstorm.audio.synthesis import CLASSES
from soundstorm.classification.cnn import AudioClassifier, save_classifier
from soundstorm.data.synthetic import write_dataset
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, judge
from soundstorm.serialization.provenance import MISSING, Parent, Role, TrainedOn
from soundstorm.serialization.recordings import content_of, recordings_of

test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings in three folds, two of each of two classes in every fold."""
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("sounds")
    write_dataset(made, clips_per_class=6, seed=7, duration_s=0.1)
    rows = []
    for number, path in enumerate(sorted((made / "audio").glob("*-[01].wav"))):
        shutil.copy(path, folder / f"{number}.wav")
        rows.append(f"{number}.wav,{'ab'[number % 2]},{number % 3 + 1}")
    (folder / "clips.csv").write_text("\n".join(["filename,category,fold", *rows]) + "\n")
    return folder


def learned(folder: Path, fold: int) -> TrainedOn:
    """What is known of weights that were trained on the other folds of a folder."""
    clips = open_dataset("folder", str(folder)).clips.to_pylist()
    folds = {clip["clip_id"]: clip["fold"] for clip in clips}
    contents = {clip["clip_id"]: content_of(Path(clip["uri"]).read_bytes()) for clip in clips if clip["fold"] != fold}
    return combined(recordings_of("folder", folds, contents, contents))


def leaks(trained_on: TrainedOn, folder: Path, fold: int) -> tuple[str, ...]:
    return judge(
        [Learned(name="it", provenance=trained_on)], test_of(open_dataset("folder", str(folder)).clips, fold)
    ).leaks


def test_a_folder_is_told_by_the_files_in_it(sounds: Path, tmp_path: Path) -> None:
    trained_on = learned(sounds, 3)
    assert [not leaks(trained_on, sounds, fold) for fold in (1, 2, 3)] == [False, False, True]
    moved = tmp_path / "moved"
    shutil.copytree(sounds, moved)
    assert [not leaks(trained_on, moved, fold) for fold in (1, 2, 3)] == [False, False, True]
    other = tmp_path / "other"
    write_dataset(other, clips_per_class=6, seed=8, duration_s=0.1)
    (other / "audio" / "copy.wav").write_bytes((sounds / "0.wav").read_bytes())
    rows = [f"audio/{path.name},a,{1 + (path.name == 'copy.wav')}" for path in sorted((other / "audio").iterdir())]
    (other / "clips.csv").write_text("\n".join(["filename,category,fold", *rows]) + "\n")
    assert not leaks(trained_on, other / "clips.csv", 1)
    [leak] = leaks(trained_on, other / "clips.csv", 2)
    assert leak.endswith("(1 of its files is the same, such as " + str(other / "audio" / "copy.wav") + ")")


def test_a_file_that_is_gone_is_not_tested_on(sounds: Path, tmp_path: Path) -> None:
    there = str(sounds / "0.wav")
    assert read_contents([str(tmp_path / "gone.wav"), there]) == {content_of((sounds / "0.wav").read_bytes()): there}


def test_parents_that_contradict_each_other_are_not_known_any_more() -> None:
    outsides = {Role.CODEC: (), Role.TEACHER: ("encodec",)}
    one, other = (
        Parent(role=role, name="it", sha256="a" * 64, trained_on=TrainedOn(outside=outside))
        for role, outside in outsides.items()
    )
    recordings = recordings_of("esc50", {"a": 1}, ["a"])
    assert combined(recordings, one, None).parents == (one,)
    assert [parent.trained_on for parent in combined(recordings, one, other).parents] == [None, None]


@pytest.mark.parametrize("is_known", [True, False])
def test_evaluate_classifier_refuses_what_was_trained_on_or_is_not_known_unless_it_is_allowed(
    is_known: bool, synthetic_dataset: Path, ray_session: None, tmp_path: Path
) -> None:
    clips = open_dataset("synthetic", str(synthetic_dataset)).clips.to_pylist()
    folds = {clip["clip_id"]: clip["fold"] for clip in clips}
    contents = {clip["clip_id"]: content_of(Path(clip["uri"]).read_bytes()) for clip in clips}
    trained_on = combined(recordings_of("synthetic", folds, folds, contents)) if is_known else None
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, AudioClassifier(len(CLASSES)), categories=CLASSES, dataset="synthetic", trained_on=trained_on)
    data = {
        "dataset": "synthetic",
        "data_dir": str(synthetic_dataset),
        "checkpoint": str(path),
        "output_dir": str(tmp_path / "out"),
    }
    said = "was trained on synthetic, folds 1, 2, 3, 4, 5" if is_known else f"was trained on is {MISSING}"
    with pytest.raises(SoundStormError, match=said):
        evaluate_classifier.run(evaluate_classifier.Options(fold=2, **data))
    assert not (tmp_path / "out" / "summary.json").exists()
    told = evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))
    assert "NOT TO BE TRUSTED" in told["message"] and said in told["leaks"][0]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["leaks"] == told["leaks"]


def test_a_test_waits_for_no_gpu_that_the_cluster_may_add(
    synthetic_dataset: Path, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.runtime.connect.MAX_GPUS", "memory")  # a resource that this cluster has
    monkeypatch.setattr("cluster.runtime.connect.SCALE_UP_TIMEOUT_S", 0.0)
    with pytest.raises(ClusterError, match="the cluster added no GPU"), connect():
        pass
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, AudioClassifier(len(CLASSES)), categories=CLASSES, dataset="synthetic", trained_on=None)
    data = {
        "dataset": "synthetic",
        "data_dir": str(synthetic_dataset),
        "checkpoint": str(path),
        "output_dir": str(tmp_path / "out"),
    }
    assert evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))["clips"]


def test_a_test_whose_recordings_were_changed_is_not_taken_for_done(
    synthetic_dataset: Path, ray_session: None, tmp_path: Path
) -> None:
    sounds, path = shutil.copytree(synthetic_dataset, tmp_path / "sounds"), tmp_path / "classifier.safetensors"
    save_classifier(path, AudioClassifier(len(CLASSES)), categories=CLASSES, dataset="synthetic", trained_on=None)
    data = {
        "dataset": "synthetic",
        "data_dir": str(sounds),
        "checkpoint": str(path),
        "output_dir": str(tmp_path / "out"),
    }
    evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))
    assert evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))["message"].startswith(
        "already tested"
    )
    (tmp_path / "out" / "summary.json").unlink()
    again = evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))["message"]
    assert not again.startswith("already tested") and (tmp_path / "out" / "summary.json").exists()
    changed = next((sounds / "audio").glob("2-*"))
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    with pytest.raises(ClusterError, match="other settings: clips: then"):
        evaluate_classifier.run(evaluate_classifier.Options(fold=2, allow_leak=True, **data))
