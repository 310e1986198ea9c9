"""`soundstorm train`: real Ray Train on small token tables with a pattern that can be learnt."""

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import jobs.train
from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.scheduling.sole_process import sole_process
from cluster.tables import stage_record as records
from jobs import generate
from jobs.inputs.tokens import open_tokens
from jobs.train import Options, run
from jobs.training.fit import train_on_worker
from jobs.training.generator_trainer import TrainingRun
from jobs.training.ray_trainer import Outcome
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, save_checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.schemas import TOKENS, CodecFingerprint, codes_to_lists
from soundstorm.serialization.provenance import Parent, Role, TrainedOn, as_parent
from soundstorm.serialization.recordings import recordings_of
from soundstorm.training.token_set import TokenSet
from tests.jobs.conftest import Command, assert_one_message

CATEGORIES = ["rain", "wind", "siren"]
FINGERPRINT = CodecFingerprint(
    name="pattern", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=2, codebook_size=8
)
NUM_FOLDS = 3


def pattern(label: int, num_frames: int) -> np.ndarray:
    """Codes (2, num_frames) that the class and the frame before decide."""
    frames = np.arange(num_frames)
    return np.stack([(frames + 2 * label) % 8, (3 * frames + label) % 8])


def write_tokens(
    uri: str,
    fingerprint: CodecFingerprint = FINGERPRINT,
    folds: int = NUM_FOLDS,
    rows: list[dict[str, Any]] | None = None,
) -> str:
    """What `tokenize` would leave: 27 clips of three classes and three folds, 17 to 20 frames long, in two files."""
    clips = rows or [
        {
            "clip_id": f"clip-{number:02d}",
            "dataset": "folder",
            "fold": number // 3 % folds + 1,
            "label": number % 3,
            "category": CATEGORIES[number % 3],
            "view": 0,
            "num_frames": 17 + number % 4,
            "codes": codes_to_lists(pattern(number % 3, 17 + number % 4)),
        }
        for number in range(27)
    ]
    metadata = fingerprint.to_metadata() | {"categories": json.dumps(CATEGORIES), "num_folds": str(folds)}
    for part, half in enumerate((clips[::2], clips[1::2])):
        tables.write_table(
            tables.part_uri(storage.join(uri, "tokens"), part), pa.Table.from_pylist(half, TOKENS), metadata
        )
    records.complete_stage(uri, "tokenize", {}, {})
    return uri


def killing(epochs: dict[int, Path]) -> Callable[..., Outcome]:
    """The job's training loop, in which worker 1 is killed as it begins one of `epochs`, unless the marker file of that
    epoch is there."""

    def loop(*given: Any, **settings: Any) -> Outcome:
        original = TrainingRun.run_epoch

        def run_epoch(self: TrainingRun) -> Any:
            marker = epochs.get(self.epochs_done)
            if self.worker.rank == 1 and marker is not None and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self)

        TrainingRun.run_epoch = run_epoch  # type: ignore[method-assign]
        return train_on_worker(*given, **settings)

    return loop


def options(tokens: str, output: str, **changes: Any) -> Options:
    settings: dict[str, Any] = {"preset": "tiny", "epochs": 4, "lr": 5e-3, "batch_size": 4, "num_workers": 2}
    return Options(tokens=tokens, output_dir=output, **(settings | changes))


def log_rows(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(storage.read_bytes(storage.join(output, "log.csv")).decode().splitlines()))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokens(str(tmp_path_factory.mktemp("tokens")))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of another architecture than the presets', trained a little on two of the classes."""
    architecture = ModelConfig(width=32, depth=1, heads=2, kernel=7, num_levels=2, codebook_size=8, num_classes=2)
    clips = TokenSet.of([[pattern(1 - number % 2, 18)] for number in range(16)], [number % 2 for number in range(16)])
    pretraining = TrainingRun(
        architecture, TrainingConfig(batch_size=4, epochs=4, lr=1e-2), clips, clips, device=torch.device("cpu")
    )
    while not pretraining.is_finished:
        pretraining.run_epoch()
    folder = tmp_path_factory.mktemp("origin") / "checkpoint"
    save_checkpoint(
        folder,
        pretraining.averaged(),
        CheckpointInfo(
            training=pretraining.config,
            categories=["wind", "rain"],
            fingerprint=FINGERPRINT,
            step=pretraining.step,
            sampler=SamplerSettings(iterations=3),
            extra={"dataset": "esc10", "test_fold": 2},
        ),
        trained_on=TrainedOn(
            recordings=(recordings_of("esc10", {"a": 1, "b": 2}, ["a"]),),
            parents=(Parent(role=Role.CODEC, name=FINGERPRINT.name, sha256=FINGERPRINT.sha256, trained_on=None),),
        ),
    )
    return str(folder)


@pytest.fixture(scope="module")
def trained(tokens: str, origin: str, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, Any]:
    """One run of two workers from beginning to end, started from `origin`; several tests look at it."""
    return run(options(tokens, str(tmp_path_factory.mktemp("trained")), checkpoint=origin))


# ---- a run from beginning to end


def test_two_workers_learn_and_leave_every_file(trained: dict[str, Any], tokens: str) -> None:
    output = Path(trained["output_dir"])
    rows = log_rows(str(output))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["step"] for row in rows] == ["3", "6", "9", "12"]  # 18 clips, 2 workers, batches of at most 4
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["val_loss"]) < 0.95 * float(rows[0]["val_loss"])
    assert {"train_level_0", "train_level_1", "val_level_0", "val_level_1", "lr", "seconds"} <= set(rows[0])
    assert sorted(path.name for path in (output / "checkpoint").iterdir()) == [
        "config.json",
        "model.safetensors",
        "training_state.pt",
    ]
    assert len(list((output / "tensorboard").iterdir())) == 1
    record = records.read(str(output), "train")
    assert record is not None and record.counts["clips"] == 18 and record.counts["validation_clips"] == 9
    assert not (output / "run").exists()


def test_the_checkpoint_holds_the_averaged_weights_and_says_what_they_are(trained: dict[str, Any], origin: str) -> None:
    folder = Path(trained["checkpoint"])
    checkpoint = load_checkpoint(folder)
    assert checkpoint.categories == CATEGORIES and checkpoint.fingerprint == FINGERPRINT and checkpoint.step == 12
    assert checkpoint.extra["test_fold"] == NUM_FOLDS
    found = checkpoint.provenance
    assert isinstance(found, TrainedOn)
    assert [(part.dataset, part.folds, part.num_clips) for part in found.recordings] == [("folder", (1, 2), 18)]
    codec = Parent(role=Role.CODEC, name=FINGERPRINT.name, sha256=FINGERPRINT.sha256, trained_on=None)
    assert found.of_role(Role.CODEC) == codec  # the tokens are of an earlier version, which did not say it
    before = load_checkpoint(Path(origin))
    assert isinstance(before.provenance, TrainedOn) and [part.dataset for part in before.provenance.recordings] == [
        "esc10"
    ]
    assert found.of_role(Role.GENERATOR) == as_parent(Role.GENERATOR, "started from", before.sha256, before.provenance)
    state = torch.load(folder / "training_state.pt", weights_only=True)
    weights = checkpoint.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in state["ema"]["average"].items())
    assert not torch.equal(weights["head_weight"], state["network"]["head_weight"])


def test_a_run_from_a_checkpoint_keeps_its_architecture_and_starts_where_it_was(trained: dict[str, Any]) -> None:
    checkpoint = load_checkpoint(Path(trained["checkpoint"]))
    assert (checkpoint.model.config.width, checkpoint.model.config.num_classes) == (32, 3)
    assert checkpoint.sampler == SamplerSettings(iterations=3)
    assert (
        float(log_rows(trained["output_dir"])[0]["train_loss"]) < math.log(8) - 0.2
    )  # an untrained network has ln 8 or more


def test_a_finished_run_is_not_repeated(trained: dict[str, Any], tokens: str, origin: str) -> None:
    written = (Path(trained["checkpoint"]) / "model.safetensors").stat().st_mtime_ns
    again = run(options(tokens, trained["output_dir"], checkpoint=origin))
    assert "already trained" in again["message"]
    assert again["checkpoint_sha256"] == trained["checkpoint_sha256"]
    assert (Path(trained["checkpoint"]) / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_checkpoint_of_which_a_file_was_deleted_is_trained_again(
    name: str, trained: dict[str, Any], tokens: str, origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_arguments: Any) -> None:
        raise SoundStormError("the training began")

    output = shutil.copytree(trained["output_dir"], tmp_path / "output")
    (output / "checkpoint" / name).unlink()
    monkeypatch.setattr(jobs.train, "_train", begin)
    with pytest.raises(SoundStormError, match="the training began"):
        run(options(tokens, str(output), checkpoint=origin))


def test_a_second_run_in_the_folder_of_one_at_work_is_told_so_and_one_with_other_workers_is_not_refused(
    trained: dict[str, Any], tokens: str, origin: str, tmp_path: Path, command: Command
) -> None:
    with sole_process(str(tmp_path), "train"):
        result = command(jobs.train, "--tokens", tokens, "--preset", "tiny", "--output-dir", str(tmp_path))
        assert_one_message(result, "another `train` is running there")
    assert "already trained" in run(options(tokens, trained["output_dir"], checkpoint=origin, num_workers=1))["message"]


def test_a_training_under_way_is_no_checkpoint_yet(tmp_path: Path, command: Command) -> None:
    records.start_stage(str(tmp_path / "train"), "train", {})
    result = command(generate, "--checkpoint", str(tmp_path / "train"), "--output-dir", str(tmp_path / "out"))
    assert_one_message(
        result,
        f"--checkpoint {tmp_path}/train: the training there is not finished",
        "run the same `soundstorm train` again",
    )


def test_other_settings_in_the_same_folder_are_refused_by_name(
    trained: dict[str, Any], tokens: str, origin: str
) -> None:
    with pytest.raises(ClusterError, match=r"training\.lr: then 0.005, now 0.001.*--overwrite"):
        run(options(tokens, trained["output_dir"], checkpoint=origin, lr=1e-3))


# ---- a run that loses workers


def test_a_run_in_object_storage_survives_a_killed_worker_and_is_resumed_after_another_to_the_same_weights(
    trained: dict[str, Any],
    tokens: str,
    origin: str,
    tmp_path: Path,
    s3_bucket: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = storage.join(s3_bucket(), "experiments", "one")
    settings = options(tokens, output, checkpoint=origin, max_failures=1)
    deaths = {1: tmp_path / "first", 3: tmp_path / "second"}
    with monkeypatch.context() as patch:
        patch.setattr(jobs.train, "train_on_worker", killing(deaths))
        with pytest.raises(SoundStormError, match=r"after 1 restart.*run the same command again"):
            run(settings)
    assert all(marker.exists() for marker in deaths.values())
    assert not storage.exists(storage.join(output, "train.json"))
    before = log_rows(output)
    assert len(before) in (
        1,
        2,
        3,
    )  # epochs take a tenth of a second here: reports of the last half may have been on their way

    resumed = run(settings)
    assert resumed["checkpoint_sha256"] == trained["checkpoint_sha256"]
    after = log_rows(output)
    assert [row["epoch"] for row in after] == ["1", "2", "3", "4"]
    assert after[0] == before[0]  # with its seconds: the first epoch was not made again
    names = {entry.uri[len(output) + 1 :].split("/")[0] for entry in storage.list_objects(output)}
    assert names == {"checkpoint", "log.csv", "tensorboard", "train.json"}


# ---- a run that goes wrong


def test_a_run_whose_loss_stays_far_above_guessing_is_stopped_and_its_last_good_checkpoint_kept(
    tokens: str, tmp_path: Path, ray_session: None, command: Command
) -> None:
    (tmp_path / "slowly.json").write_text('{"training": {"warmup_share": 0.9}}')
    output = tmp_path / "out"
    arguments = [
        "--tokens",
        tokens,
        "--preset",
        "tiny",
        "--config",
        str(tmp_path / "slowly.json"),
        "--output-dir",
        str(output),
    ]
    result = command(jobs.train, *arguments, "--epochs", "12", "--batch-size", "4", "--lr", "1")
    assert_one_message(
        result,
        "training stopped: the loss stays at",
        "where a guess gives 2.08: lower --lr (it is 1)",
        "The last good epoch was",
    )
    losses = [float(row["train_loss"]) for row in log_rows(str(output))]
    good = [loss < 2 * math.log(8) for loss in losses]
    assert good[0] and good[-3:] == [False] * 3 and len(losses) < 12  # it was stopped
    kept = load_checkpoint(output / "checkpoint")
    assert kept.extra["epoch"] == max(epoch for epoch, is_good in enumerate(good, start=1) if is_good)
    assert not (output / "train.json").exists()


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch_size": -1}, "--batch-size is -1"),
        ({"num_workers": 0}, "--num-workers is 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"seed": -1}, "--seed is -1"),
        ({"max_failures": -1}, "--max-failures is -1"),
        ({"preset": "huge"}, "--preset is 'huge': give one of reference, small, "),
        ({"codec": "codec.safetensors", "checkpoint": "out"}, "--codec and --checkpoint both .* give one of the two"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        options("tokens", "out", **changes)


def test_a_fold_that_the_tokens_do_not_have_is_refused(tokens: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="--fold is 7: the tokens have folds 1, 2, 3"):
        run(options(tokens, str(tmp_path), fold=7))


def test_tokens_of_one_fold_leave_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="nothing to train on"):
        open_tokens(write_tokens(str(tmp_path), folds=1), None)


def test_unfinished_tokens_are_refused(tmp_path: Path) -> None:
    uri = write_tokens(str(tmp_path))
    (tmp_path / "tokenize.json").unlink()
    with pytest.raises(SoundStormError, match=r"no finished tokens there.*soundstorm tokenize"):
        open_tokens(uri, None)


def test_codes_out_of_range_are_refused_before_any_worker_starts(tmp_path: Path) -> None:
    uri = write_tokens(str(tmp_path / "tokens"), replace(FINGERPRINT, codebook_size=7))
    with pytest.raises(SoundStormError, match="code 7 is out of range"):
        run(options(uri, str(tmp_path / "out")))


def test_augmented_views_are_trained_on_and_not_validated_with(tmp_path: Path) -> None:
    base = {"dataset": "folder", "label": 0, "category": "rain", "num_frames": 9}
    rows = [
        base
        | {"clip_id": f"clip-{fold}", "fold": fold, "view": view, "codes": codes_to_lists((pattern(0, 9) + view) % 8)}
        for view in (2, 0, 1)
        for fold in (3, 1, 2)
    ]
    training, validation = open_tokens(write_tokens(str(tmp_path), rows=rows), 3).split()
    assert (len(training), training.num_views, training.labels) == (2, 6, [0, 0])
    assert (len(validation), validation.num_views) == (1, 1)
    for views in training.views:
        for view, codes_QT in enumerate(views):
            np.testing.assert_array_equal(codes_QT, (pattern(0, 9) + view) % 8)
    np.testing.assert_array_equal(validation.recorded(0), pattern(0, 9))


@pytest.mark.parametrize(
    ("views", "problem"), [((0, 1, 1), "has view 1 2 times"), ((1, 2), "has view 1 and not view 0, the recording")]
)
def test_views_that_no_tokenizer_makes_are_refused(views: tuple[int, ...], problem: str, tmp_path: Path) -> None:
    base = {
        "dataset": "folder",
        "label": 0,
        "category": "rain",
        "num_frames": 9,
        "codes": codes_to_lists(pattern(0, 9)),
    }
    rows = [base | {"clip_id": f"clip-{fold}", "fold": fold, "view": view} for fold in (1, 2) for view in views]
    with pytest.raises(SoundStormError, match=f"clip 'clip-.' {problem}: run `soundstorm tokenize` again"):
        open_tokens(write_tokens(str(tmp_path), rows=rows), 2)


def test_a_checkpoint_of_another_codec_is_refused(tokens: str, tmp_path: Path) -> None:
    other = replace(FINGERPRINT, sha256="cd" * 32)
    architecture = replace(preset("tiny").model, num_levels=2, codebook_size=8, num_classes=3)
    save_checkpoint(
        tmp_path / "other",
        SoundStorm(architecture),
        CheckpointInfo(
            training=preset("tiny").training,
            categories=CATEGORIES,
            fingerprint=other,
            step=0,
            sampler=SamplerSettings(),
        ),
    )
    with pytest.raises(SoundStormError, match="was made with codec"):
        run(options(tokens, str(tmp_path / "out"), checkpoint=str(tmp_path / "other")))


@pytest.mark.parametrize(
    "content",
    ["not json", "[]", '{"training": 3}', '{"training": {"lr": "high"}}', '{"training": {"learning_rate": 1}}'],
)
def test_a_malformed_config_file_is_refused(content: str, tokens: str, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(SoundStormError, match=r"--config .*best\.json"):
        run(options(tokens, str(tmp_path / "out"), config=str(tmp_path / "best.json")))


def test_the_default_test_fold_is_the_last_that_has_clips(tmp_path: Path) -> None:
    uri = write_tokens(str(tmp_path), folds=2)
    assert open_tokens(uri, None).fold == 2
