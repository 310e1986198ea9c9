"""`soundstorm train-classifier`: real Ray Data and Ray Train on short synthetic recordings."""

import csv
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import ray.train

import jobs.train_classifier
from cluster.errors import ClusterError
from cluster.tables import read_table
from cluster.tables import stage_record as records
from jobs.classification.predictions import clips_of_classes, predict_clips
from jobs.inputs.datasets import open_dataset, rows_of_folds
from jobs.train_classifier import Options, _recipe, run
from jobs.training.fit import train_on_worker
from jobs.training.ray_trainer import Outcome
from soundstorm.audio.files import from_pcm16, read_audio, to_pcm16
from soundstorm.audio.synthesis import CLASSES
from soundstorm.classification.cnn import load_classifier
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainer
from soundstorm.data.views import make_view
from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS
from soundstorm.serialization.provenance import TrainedOn
from soundstorm.serialization.recordings import content_of

EPOCHS = 4
CHECKPOINT_KNOWN_S = 5.0
"""By then the controller, which looks every half second, knows of a checkpoint; a worker that dies sooner takes it
along."""


def observed(folder: Path, dies_before_step: int) -> Callable[..., Outcome]:
    """The job's training loop; worker 1 is killed once, and each worker leaves a digest of its weights in `folder`."""

    def loop(*given: Any, **settings: Any) -> Outcome:
        trainers: list[AudioClassifierTrainer] = []
        original = AudioClassifierTrainer.step

        def step(self: AudioClassifierTrainer) -> dict[str, float]:
            if self.step_count == dies_before_step and self.worker.rank == 1 and not (folder / "died").exists():
                (folder / "died").touch()
                time.sleep(CHECKPOINT_KNOWN_S)
                os.kill(os.getpid(), signal.SIGKILL)
            if not trainers:
                (folder / f"began-{self.worker.rank}").write_text(str(self.step_count))
            trainers[:] = [self]
            return original(self)

        AudioClassifierTrainer.step = step  # type: ignore[method-assign]
        outcome = train_on_worker(*given, **settings)
        weights = [value.detach().contiguous().numpy().tobytes() for value in trainers[0].model.parameters()]
        (folder / f"worker-{ray.train.get_context().get_world_rank()}").write_text(
            sha256(b"".join(weights)).hexdigest()
        )
        return outcome

    return loop


@pytest.fixture(scope="module")
def dataset(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic recordings; one to train on and one of the test fold are not audio."""
    folder = tmp_path_factory.mktemp("classifier-data") / "data"
    shutil.copytree(synthetic_dataset, folder)
    for fold in (1, 5):
        sorted((folder / "audio").glob(f"{fold}-*.wav"))[0].write_bytes(b"not audio")
    return folder


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": 10,
        "checkpoint_every": 2,
        "num_workers": 2,
        "device": "cpu",
    }
    return Options(dataset="synthetic", data_dir=str(dataset), output_dir=str(output), **(settings | changes))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, Any]:
    """One run of two workers, of which one is killed after the only checkpoint before the end; the tests below look at
    it."""
    seen = tmp_path_factory.mktemp("seen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.train_classifier, "train_on_worker", observed(seen, dies_before_step=5))
        summary = run(options(dataset, tmp_path_factory.mktemp("classifier-out"), max_failures=1))
    return summary | {"seen": seen}


def test_after_the_loss_of_a_worker_all_go_on_from_the_checkpoint_and_the_log_has_every_epoch_once(
    trained: dict[str, Any],
) -> None:
    assert (trained["seen"] / "died").exists()
    assert [(trained["seen"] / f"began-{rank}").read_text() for rank in (0, 1)] == ["4", "4"]
    rows = list(csv.DictReader((Path(trained["output_dir"]) / "log.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4"), ("3", "6"), ("4", "8")]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert not (Path(trained["output_dir"]) / "run").exists()


def test_a_classifier_of_other_folds_is_not_taken_for_this_one(trained: dict[str, Any], dataset: Path) -> None:
    table = dataset / "meta" / "esc50.csv"
    before = table.read_text()
    first = next(row for row in before.splitlines() if row.startswith("1-")).split(",")
    try:
        table.write_text(before.replace(",".join(first), ",".join([first[0], "2", *first[2:]])))
        with pytest.raises(ClusterError, match=r"made there with other settings: clips: then"):
            run(options(dataset, Path(trained["output_dir"]), max_failures=1))
    finally:
        table.write_text(before)


def test_weights_are_equal_on_all_workers(trained: dict[str, Any]) -> None:
    assert len({(trained["seen"] / f"worker-{rank}").read_text() for rank in (0, 1)}) == 1


def test_recordings_that_are_not_audio_are_left_out(trained: dict[str, Any]) -> None:
    assert trained["recordings"] == 4 * len(CLASSES) - 1
    assert trained["test"]["clips"] == len(CLASSES) - 1


def test_the_line_that_tells_the_accuracy_tells_what_it_is_worth(trained: dict[str, Any]) -> None:
    lacking, few = trained["caveats"]
    assert re.fullmatch(r"1 of 10 classes \('\w+'\) had no clip to test with", lacking)
    assert re.fullmatch(r"9 clips leave it anywhere from \d+% to \d+% \(95% confidence\)", few)
    assert f"%), which says little: {lacking}; {few}" in trained["message"]


def test_classes_without_clips_are_counted_too() -> None:
    assert clips_of_classes([2, 0, 2], ["dog", "rain", "siren"]) == {"dog": 1, "rain": 0, "siren": 2}


def test_the_predictions_are_those_of_the_classifier_it_leaves_for_each_clip_of_the_test_fold(
    trained: dict[str, Any], dataset: Path
) -> None:
    classifier = load_classifier(Path(trained["classifier"]))
    table, _ = read_table(f"{trained['output_dir']}/predictions.parquet")
    assert table.schema.names == PREDICTIONS.names
    rows = table.to_pylist()
    assert (
        len(rows) == trained["test"]["clips"]
        and {row["fold"] for row in rows} == {5}
        and {row["model"] for row in rows} == {"cnn"}
    )
    assert all((dataset / "audio" / f"{row['clip_id']}.wav").exists() for row in rows)
    right = [row["label"] == row["predicted"] for row in rows]
    assert classifier.accuracy == sum(right) / len(rows) == trained["test"]["accuracy"]
    assert sum(mistake["clips"] for mistake in trained["test"]["mistakes"]) == len(rows) - sum(right)
    assert all(1 / len(CLASSES) <= row["probability"] <= 1 for row in rows)


def test_probabilities_of_several_views_of_a_recording_are_averaged(
    trained: dict[str, Any], dataset: Path, ray_session: None
) -> None:
    classifier = load_classifier(Path(trained["classifier"]))
    clips = rows_of_folds(open_dataset("synthetic", str(dataset)).clips, {5})
    table = predict_clips(classifier, clips, 30.0, num_views=3)
    row = table.to_pylist()[0]
    recorded = from_pcm16(to_pcm16(read_audio(dataset / "audio" / f"{row['clip_id']}.wav").waveform))
    views = [recorded, *(make_view(recorded, row["clip_id"], view) for view in (1, 2))]
    averaged_C = classifier.predict([to_pcm16(view) for view in views]).mean(0)
    assert row["predicted"] == averaged_C.argmax() and row["probability"] == pytest.approx(averaged_C.max(), abs=1e-5)
    assert table["probability"] != predict_clips(classifier, clips, 30.0)["probability"]


def test_the_classifier_it_leaves_knows_what_it_was_trained_on(trained: dict[str, Any], dataset: Path) -> None:
    classifier = load_classifier(Path(trained["classifier"]))
    assert (classifier.categories, classifier.dataset, classifier.held_out_fold) == (list(CLASSES), "synthetic", 5)
    found, usable = classifier.provenance, trained["recordings"]
    assert isinstance(found, TrainedOn) and (found.parents, found.outside) == ((), ())
    [recordings] = found.recordings
    assert (recordings.dataset, recordings.folds, recordings.num_clips) == ("synthetic", (1, 2, 3, 4), usable)
    files = {content_of(path.read_bytes()) for path in (dataset / "audio").iterdir() if not path.name.startswith("5-")}
    assert recordings.contents is not None and recordings.contents <= files and len(recordings.contents) == usable
    record = records.read(trained["output_dir"], "train_classifier")
    assert record is not None and record.counts["epochs"] == EPOCHS and record.settings["fold"] == 5


def test_a_finished_classifier_is_not_trained_again(trained: dict[str, Any], dataset: Path) -> None:
    assert "already trained" in run(options(dataset, Path(trained["output_dir"])))["message"]


def test_a_training_that_is_lost_begins_again_with_other_settings_and_does_not_resume(
    dataset: Path, tmp_path: Path, ray_session: None
) -> None:
    with pytest.raises(
        SoundStormError, match=r"^training stopped: .*: lower --lr \(it is 10000\.0\)\. Start again with "
    ):
        run(options(dataset, tmp_path / "out", lr=1e4, num_workers=1))


@pytest.mark.parametrize("name", ["classifier.safetensors", "predictions.parquet"])
def test_a_classifier_of_which_a_file_was_deleted_is_trained_again(
    name: str, trained: dict[str, Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_arguments: Any) -> None:
        raise SoundStormError("the training began")

    output = shutil.copytree(trained["output_dir"], tmp_path / "output")
    (output / name).unlink()
    monkeypatch.setattr(jobs.train_classifier, "_train", begin)
    with pytest.raises(SoundStormError, match="the training began"):
        run(options(dataset, output))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"lr": 0.0}, "--lr is 0.0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"seed": -1}, "--seed is -1"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"max_duration": 0.0}, "--max-duration is 0.0"),
        ({"max_duration": float("inf")}, "--max-duration is inf: give seconds, more than 0 and at most 3600"),
        ({"test_views": 0}, "--test-views is 0"),
        ({"checkpoint": "runs/train"}, "--checkpoint is runs/train: only --model soundstorm uses it"),
        ({"cache_dir": "cache"}, "--cache-dir is cache: only --model soundstorm uses it; leave it out for cnn"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=message):
        options(tmp_path, tmp_path, **changes)


def test_without_an_option_the_test_fold_is_the_last_that_has_clips(dataset: Path, tmp_path: Path) -> None:
    index = open_dataset("synthetic", str(dataset))
    without_5 = replace(index, clips=index.clips.filter(pc.less(index.clips["fold"], 5)))
    assert [_recipe(options(dataset, tmp_path), found).fold for found in (index, without_5)] == [5, 4]


def test_a_test_fold_that_the_dataset_does_not_have_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="--fold is 6: the dataset has folds 1 to 5"):
        run(options(dataset, tmp_path, fold=6))
