"""`soundstorm train-codec`: real Ray Data and Ray Train on short synthetic recordings and a small network."""

import csv
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

import jobs.train_codec
from cluster import records
from jobs.train_codec import Options, run, train_on_worker
from soundstorm.audio_classifier import PACKAGED_WEIGHTS, AudioClassifier, load_classifier, save_classifier
from soundstorm.codec import load_codec, provenance_of_codec
from soundstorm.codec_training import CodecTrainer, CodecTrainingConfig
from soundstorm.compact_codec import CompactCodecConfig
from soundstorm.errors import SoundStormError
from soundstorm.packaged import packaged
from soundstorm.provenance import Role, TrainedOn, as_parent
from tests.jobs.conftest import trained_on_all_but

PACKAGED_CLASSIFIER = packaged(PACKAGED_WEIGHTS)
STEPS = 20
"""Of all phases; in the last four the decoder goes on alone."""
TRAINING = CodecTrainingConfig(
    steps=16,
    polish_steps=4,
    polish_lr=0.003,
    quantizer_start=3,
    adversarial_start=15,
    batch_size=4,
    crop_frames=16,
    discriminator_filters=2,
    revive_every=4,
    lr=0.03,
)
NETWORK = CompactCodecConfig(encoder_width=16, encoder_blocks=1, decoder_width=16, decoder_blocks=1, latent_dim=8, num_levels=2, codebook_size=32)


def observed(folder: Path, dies_before_step: int) -> Callable[[dict[str, Any]], None]:
    """The job's training loop; worker 1 is killed once, and each worker leaves a digest of all its weights and codebooks in `folder`."""

    def loop(settings: dict[str, Any]) -> None:
        trainers: list[CodecTrainer] = []
        original = CodecTrainer.step

        def step(self: CodecTrainer) -> dict[str, float]:
            if self.step_count == dies_before_step and self.rank == 1 and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if not trainers:
                (folder / f"began-{self.rank}").write_text(str(self.step_count))
            trainers[:] = [self]
            return original(self)

        CodecTrainer.step = step  # type: ignore[method-assign]
        train_on_worker(settings)
        state = trainers[0].codec.state_dict() | trainers[0].discriminator.state_dict()
        digest = sha256(b"".join(value.detach().contiguous().numpy().tobytes() for value in state.values())).hexdigest()
        (folder / f"worker-{ray.train.get_context().get_world_rank()}").write_text(digest)

    return loop


@pytest.fixture(scope="module")
def dataset(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic recordings, one of which is not audio."""
    folder = tmp_path_factory.mktemp("codec-data") / "data"
    shutil.copytree(synthetic_dataset, folder)
    sorted((folder / "audio").glob("1-*.wav"))[0].write_bytes(b"not audio")
    return folder


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {"training": TRAINING, "network": NETWORK, "checkpoint_every": 10, "log_every": 5, "num_workers": 2, "device": "cpu"}
    return Options(dataset="synthetic", data_dir=str(dataset), output_dir=str(output), **(settings | changes))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, Any]:
    """One run of two workers, of which one is killed after the only checkpoint before the end; the tests below look at it."""
    seen = tmp_path_factory.mktemp("seen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.train_codec, "train_on_worker", observed(seen, dies_before_step=17))
        listener = str(PACKAGED_CLASSIFIER)
        summary = run(options(dataset, tmp_path_factory.mktemp("codec-out"), max_failures=1, listener=listener))
    return summary | {"seen": seen}


def test_after_the_loss_of_a_worker_all_go_on_from_the_checkpoint_and_the_log_has_every_row_once(trained: dict[str, Any]) -> None:
    assert (trained["seen"] / "died").exists()
    assert [(trained["seen"] / f"began-{rank}").read_text() for rank in (0, 1)] == ["10", "10"]
    rows = list(csv.DictReader((Path(trained["output_dir"]) / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["5", "10", "15", "20"]
    assert float(rows[-1]["discriminator"]) > 0
    for name in ("loudness", "perceptual", "texture"):
        assert [row[name] != "" for row in rows] == [False, False, False, True]
    assert float(rows[-1]["flatness"]) < 0.95 * float(rows[0]["flatness"])


def test_weights_codebooks_and_discriminator_are_equal_on_all_workers(trained: dict[str, Any]) -> None:
    digests = {(trained["seen"] / f"worker-{rank}").read_text() for rank in (0, 1)}
    assert len(digests) == 1


def test_the_codec_it_leaves_can_be_used_and_was_measured_on_the_test_fold(trained: dict[str, Any]) -> None:
    codec = load_codec(Path(trained["codec"]))
    assert (codec.fingerprint.num_levels, codec.fingerprint.codebook_size, codec.frame_rate) == (2, 32, 75)
    assert codec.encode(torch.zeros(1, 1, 3200)).shape == (1, 2, 10)
    record = records.read(trained["output_dir"], "train_codec")
    assert record is not None and record.counts["steps"] == STEPS and record.counts["leaks"] == []
    found, listener = provenance_of_codec(Path(trained["codec"]).read_bytes()), load_classifier()
    assert isinstance(found, TrainedOn)
    [recordings] = found.recordings
    assert (recordings.dataset, recordings.folds, recordings.num_clips) == ("synthetic", (1, 2, 3, 4), trained["recordings"])
    assert recordings.contents is not None and len(recordings.contents) == recordings.num_clips
    assert found.parents == (as_parent(Role.LISTENER, "heard by", listener.sha256, listener.provenance),)
    test = record.counts["test"]
    assert test["clips"] > 0 and test["log_mel_distance"] > 0 and len(test["codes_in_use"]) == 2
    assert not (Path(trained["output_dir"]) / "run").exists()


def test_a_recording_that_is_not_audio_is_left_out(trained: dict[str, Any], dataset: Path) -> None:
    folds = [path.name.split("-")[0] for path in (dataset / "audio").glob("*.wav")]
    assert trained["recordings"] == sum(fold != "5" for fold in folds) - 1
    assert trained["test"]["clips"] == folds.count("5")


def test_a_finished_codec_is_not_trained_again(trained: dict[str, Any], dataset: Path) -> None:
    assert "already trained" in run(options(dataset, Path(trained["output_dir"]), listener=str(PACKAGED_CLASSIFIER)))["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": replace(TRAINING, steps=0)}, "--steps is 0"),
        ({"training": replace(TRAINING, quantizer_start=16)}, "--quantizer-start is 16: give 0 to 15"),
        ({"training": replace(TRAINING, polish_steps=-1)}, "--polish-steps is -1"),
        ({"training": replace(TRAINING, polish_lr=0.0)}, "--polish-lr is 0.0"),
        ({"training": replace(TRAINING, crop_frames=4)}, "--crop-frames is 4: the losses need at least 13"),
        ({"network": replace(NETWORK, codebook_size=10_000)}, "--codebook-size is 10000"),
        ({"num_workers": 0}, "--num-workers is 0"),
        ({"log_every": 0}, "--log-every is 0"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=message):
        options(tmp_path, tmp_path, **changes)


def test_a_test_fold_that_the_dataset_does_not_have_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="--test-fold is 6: the dataset has folds 1 to 5"):
        run(options(dataset, tmp_path, test_fold=6))


def test_a_listener_that_knows_the_test_fold_or_is_none_is_refused(dataset: Path, tmp_path: Path) -> None:
    listener = tmp_path / "listener.safetensors"
    learned = trained_on_all_but(5, dataset)
    save_classifier(listener, AudioClassifier(2), categories=["a", "b"], dataset="synthetic", held_out_fold=5, trained_on=learned)
    with pytest.raises(SoundStormError, match=r"listener\.safetensors was trained on synthetic without fold 5, and fold 4 of synthetic is the test"):
        run(options(dataset, tmp_path / "out", test_fold=4, listener=str(listener)))
    save_classifier(listener, AudioClassifier(2), categories=["a", "b"], dataset="synthetic", held_out_fold=5)
    with pytest.raises(SoundStormError, match=r"what --listener .*listener\.safetensors was trained on is not known: its file does not say it"):
        run(options(dataset, tmp_path / "out", listener=str(listener)))
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(SoundStormError, match=r"other\.safetensors: classifier weights: not a classifier"):
        run(options(dataset, tmp_path / "out", listener=str(tmp_path / "other.safetensors")))
