"""Train a classifier of recordings: decode them with Ray Data, train with Ray Train, say how many of the test fold it names rightly.

Every worker holds all training recordings and takes its own share of each step; a run that was cut short goes on as if it had not been.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model

from cluster import records, storage
from cluster.connect import connect
from cluster.tables import write_table
from jobs.datasets import DatasetOptions, open_dataset, rows_of_folds
from jobs.entry import console, leave, start
from jobs.finished import told_again
from jobs.progress import duration
from jobs.recordings import decode_clips, usable_recordings, warn_of_rejected
from jobs.trainer import RUN_FOLDER, plan_workers, run_trainer, use_threads
from jobs.training_log import TrainingLog
from soundstorm.audio import SAMPLE_RATE
from soundstorm.audio_classifier import AudioClassifier, AudioClassifierConfig, TrainedClassifier, load_classifier, save_classifier
from soundstorm.audio_classifier_training import AudioClassifierTrainer, AudioClassifierTrainingConfig
from soundstorm.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS

STAGE = "train_classifier"
CLASSIFIER_FILE = "classifier.safetensors"
PREDICTIONS_FILE = "predictions.parquet"
STATE_FILE = "trainer.pt"


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Train a classifier of recordings, with Ray Train."""

    output_dir: str = "runs/classifier"
    """Folder for the classifier, its predictions and its log, a path or s3:// URI."""
    model: Literal["cnn"] = "cnn"
    """Which classifier: cnn, a small convolutional network on log-mel spectrograms."""
    fold: int | None = None
    """The test fold, which is not trained on but named; default: the dataset's last."""
    epochs: int | None = None
    """Passes over the clips; default: the model's."""
    batch_size: int | None = None
    """Clips per step and worker; default: the model's."""
    lr: float | None = None
    """Highest learning rate; default: the model's."""
    seed: int | None = None
    """Seed of order, variations and initial weights; default: the model's."""
    max_duration: float = 30.0
    """Seconds of a recording that are used."""
    checkpoint_every: int = 10
    """Epochs between checkpoints, and between updates of the log."""
    num_workers: int | None = None
    """Training processes; default: one per GPU, or one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where there are any."""
    max_failures: int = 3
    """Restarts from the latest checkpoint before the run is given up."""
    overwrite: bool = False
    """Start afresh, whatever the output folder holds."""
    address: str | None = None
    """Ray cluster to join; default: start one here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("epochs", "batch_size", "num_workers", "checkpoint_every"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise SoundStormError(f"--{option.replace('_', '-')} is {value}: give at least 1")
        for option in ("seed", "max_failures"):
            value = getattr(self, option)
            if value is not None and value < 0:
                raise SoundStormError(f"--{option.replace('_', '-')} is {value}: give 0 or more")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise SoundStormError(f"--lr is {self.lr}: give a number above 0")
        if not self.max_duration > 0:
            raise SoundStormError(f"--max-duration is {self.max_duration}: give a number of seconds above 0")

    @property
    def training(self) -> AudioClassifierTrainingConfig:
        """The model's training, changed by single options."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "seed")}
        return replace(AudioClassifierTrainingConfig(), **{name: value for name, value in given.items() if value is not None})


def run(options: Options) -> dict[str, Any]:
    """Train the classifier that `options` describe, or go on where an earlier call was cut short; returns its accuracy on the test fold."""
    index = open_dataset(options.dataset, options.location)
    fold = index.num_folds if options.fold is None else options.fold
    if not 1 <= fold <= index.num_folds:
        raise SoundStormError(f"--fold is {fold}: the dataset has folds 1 to {index.num_folds}")
    settings = {
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "fold": fold,
        "model": options.model,
        "training": asdict(options.training),
        "network": AudioClassifierConfig().to_dict(),
        "max_duration_s": options.max_duration,
        "num_workers": options.num_workers,
    }
    storage.check_writable(options.output_dir)
    outputs = (CLASSIFIER_FILE, PREDICTIONS_FILE, "log.csv", "tensorboard", RUN_FOLDER)
    record = records.begin(options.output_dir, STAGE, settings, overwrite=options.overwrite, outputs=outputs)
    if record is not None:
        return told_again(options.output_dir, STAGE, lambda: _summary(options, record.counts, "already trained, nothing to do; "))
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        counts = _train(options, index, fold, info)
    records.finish(options.output_dir, STAGE, settings, counts)
    storage.delete(storage.join(options.output_dir, RUN_FOLDER))
    return _summary(options, counts, "")


def _train(options: Options, index: Index, fold: int, info: Any) -> dict[str, Any]:
    plan = plan_workers(options.num_workers, options.device, info)
    config, folds = options.training, set(range(1, index.num_folds + 1))
    training = decode_clips(rows_of_folds(index.clips, folds - {fold}), SAMPLE_RATE, options.max_duration)
    usable = warn_of_rejected(training)
    if not usable:
        raise SoundStormError(f"{options.location}: no usable recording outside fold {fold}; see the warnings above")
    console.print(f"train-classifier: {usable} recordings of {len(index.categories)} categories, {plan}", highlight=False)
    with TrainingLog(options.output_dir, "epoch", STAGE, usable) as log, tempfile.TemporaryDirectory(prefix="soundstorm-classifier-") as scratch:
        result = run_trainer(
            train_on_worker,
            {
                "training": asdict(config),
                "network": AudioClassifierConfig().to_dict(),
                "num_categories": len(index.categories),
                "checkpoint_every": options.checkpoint_every,
                "cpus": plan.cpus_per_worker,
            },
            {"recordings": training},
            plan=plan,
            output_uri=options.output_dir,
            max_failures=options.max_failures,
            on_report=_progress(log, config.epochs),
        )
        assert result.checkpoint is not None  # the last epoch always has one
        state = _load_state(Path(result.checkpoint.to_directory(scratch)))
        log.update(state["rows"])
        model = AudioClassifier(len(index.categories))
        model.load_state_dict(state["trainer"]["model"])
        path = Path(scratch) / CLASSIFIER_FILE
        about: dict[str, Any] = {"categories": index.categories, "dataset": options.dataset, "held_out_fold": fold}
        save_classifier(path, model, **about)
        test = _name_test_fold(options, index, fold, load_classifier(path))
        save_classifier(path, model, **about, accuracy=test["accuracy"])
        storage.write_file(storage.join(options.output_dir, CLASSIFIER_FILE), path)
    return {
        "epochs": config.epochs,
        "recordings": usable,
        "fold": fold,
        "loss": state["rows"][-1]["loss"],
        "seconds": sum(row["seconds"] for row in state["rows"]),
        "num_workers": plan.num_workers,
        "test": test,
    }


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    where, test = storage.join(options.output_dir, CLASSIFIER_FILE), counts["test"]
    named = f"it names {test['right']} of {test['clips']} recordings of fold {counts['fold']} rightly"
    figures = "" if test["accuracy"] is None else f"; {named} ({test['accuracy']:.1%})"
    trained = f"{counts['epochs']} epochs of {counts['recordings']} recordings in {duration(counts['seconds'])}"
    return {"message": f"{prefix}{where}: {trained}{figures}", "output_dir": options.output_dir, "classifier": where, **counts}


# ---- measuring


def _name_test_fold(options: Options, index: Index, fold: int, classifier: TrainedClassifier) -> dict[str, Any]:
    """Write the predictions (schema PREDICTIONS) for the test fold; returns how many are right, and what was taken for what how often."""
    decoded = decode_clips(rows_of_folds(index.clips, {fold}), SAMPLE_RATE, options.max_duration)
    warn_of_rejected(decoded)
    rows = sorted((row for row in decoded.iter_rows() if row["samples"]), key=lambda row: str(row["clip_id"]))
    probability_XC = classifier.predict([np.frombuffer(row["samples"], "<i2") for row in rows])
    labels, predicted = [row["label"] for row in rows], probability_XC.argmax(1).tolist() if rows else []
    columns = {
        "clip_id": [row["clip_id"] for row in rows],
        "fold": [fold] * len(rows),
        "label": labels,
        "predicted": predicted,
        "probability": [float(row_C.max()) for row_C in probability_XC],
        "model": [options.model] * len(rows),
    }
    uri = storage.join(options.output_dir, PREDICTIONS_FILE)
    write_table(uri, pa.Table.from_pydict(columns, PREDICTIONS), {"dataset": options.dataset})
    right = sum(label == guess for label, guess in zip(labels, predicted, strict=True))
    mistakes = Counter((index.categories[label], index.categories[guess]) for label, guess in zip(labels, predicted, strict=True) if label != guess)
    return {
        "clips": len(rows),
        "right": right,
        "accuracy": right / len(rows) if rows else None,
        "mistakes": [{"category": category, "predicted": guess, "clips": count} for (category, guess), count in mistakes.most_common()],
    }


# ---- training


def _progress(log: TrainingLog, epochs: int) -> Callable[[dict[str, Any]], None]:
    def show(metrics: dict[str, Any]) -> None:
        rows = metrics["rows"]
        log.update(rows)
        recent = [earlier["seconds"] for earlier in rows[-20:]]
        eta_s = sum(recent) / len(recent) * (epochs - rows[-1]["epoch"])
        console.print(
            f"epoch {rows[-1]['epoch']:>{len(str(epochs))}}/{epochs}  loss {rows[-1]['loss']:.3f}  accuracy {rows[-1]['accuracy']:.3f}  "
            f"lr {rows[-1]['lr']:.1e}  {rows[-1]['seconds']:.1f} s  ETA {duration(eta_s)}",
            highlight=False,
        )

    return show


def train_on_worker(settings: dict[str, Any]) -> None:
    """Ray Train's loop: one `AudioClassifierTrainer` a worker, gradients and running statistics shared."""
    use_threads(settings["cpus"])
    context = ray.train.get_context()
    config = AudioClassifierTrainingConfig(**settings["training"])
    torch.manual_seed(config.seed)
    model = AudioClassifier(settings["num_categories"], AudioClassifierConfig.from_dict(settings["network"], "network")).to(get_device())
    clips, labels = zip(*usable_recordings(ray.train.get_dataset_shard("recordings")), strict=True)
    trainer = AudioClassifierTrainer(
        model, config, clips, labels, rank=context.get_world_rank(), num_workers=context.get_world_size(), wrap=prepare_model
    )
    rows: list[dict[str, Any]] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load_state(Path(folder))
        trainer.load_state_dict(state["trainer"])
        rows = state["rows"]
    while trainer.step_count < trainer.total_steps:
        began = time.monotonic()
        steps = [trainer.step() for _ in range(trainer.steps_per_epoch)]
        means = _mean_over_workers({name: float(np.mean([step[name] for step in steps])) for name in steps[0]})
        epoch = trainer.step_count // trainer.steps_per_epoch
        rows.append({"epoch": epoch, "step": trainer.step_count, **means, "lr": trainer.learning_rate(), "seconds": time.monotonic() - began})
        if epoch % settings["checkpoint_every"] and epoch < config.epochs:
            continue
        with tempfile.TemporaryDirectory(prefix="soundstorm-classifier-") as folder:
            saved = None
            if context.get_world_rank() == 0:
                torch.save({"trainer": trainer.state_dict(), "rows": rows}, Path(folder) / STATE_FILE)
                saved = Checkpoint.from_directory(folder)
            ray.train.report({"rows": list(rows)}, checkpoint=saved)


def _mean_over_workers(values: dict[str, float]) -> dict[str, float]:
    if not torch.distributed.is_initialized():
        return values
    means = torch.tensor(list(values.values()), device=get_device())
    torch.distributed.all_reduce(means)
    return dict(zip(values, (means / torch.distributed.get_world_size()).tolist(), strict=True))


def _load_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return state


if __name__ == "__main__":
    leave(start(Options, run))
