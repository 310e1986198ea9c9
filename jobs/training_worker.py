"""The training of SoundStorm on one worker of Ray Train: epochs until the last, a report and a checkpoint after each."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import get_checkpoint
from ray.train.torch import get_device, prepare_model

from jobs.checkpoints import CHECKPOINT_FOLDER
from jobs.tokens import TokenSet, split_tokens
from jobs.trainer import use_threads
from jobs.training_run import TrainingRun
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import load_training_state, save_checkpoint
from soundstorm.model.presets import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.provenance import TrainedOn


def train_on_worker(settings: dict[str, Any]) -> str | None:
    """Ray Train's loop: epochs until the last, a report after each; returns why training had to stop, if it had to."""
    use_threads(settings["cpus"], settings["threads"])
    context = ray.train.get_context()
    fingerprint = CodecFingerprint(**settings["codec"])
    training, validation = _read_tokens(settings["fold"], fingerprint)
    config = TrainingConfig.from_dict(settings["training"], "training")
    worker = TrainingRun(
        ModelConfig.from_dict(settings["architecture"], "architecture"),
        replace(config, batch_size=settings["batch_size"]),
        training,
        validation,
        device=get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        weights=None if settings["weights"] is None else ray.get(settings["weights"]),
        wrap=partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False}),  # centroids, which never change
    )
    checkpoint = get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            worker.load_state_dict(load_training_state(Path(folder)))
    while not worker.is_finished:
        try:
            worker.run_epoch()
        except SoundStormError as error:  # the gradient is not finite: the same on all workers, and would be again
            return str(error)
        _report(worker, settings, fingerprint)
        if worker.problem():
            return worker.problem()
    return None


def _read_tokens(fold: int, fingerprint: CodecFingerprint) -> tuple[TokenSet, TokenSet]:
    shard = ray.train.get_dataset_shard("tokens")
    tables = list(shard.iter_batches(batch_format="pyarrow", batch_size=None))
    return split_tokens(tables, fold, fingerprint.num_levels, fingerprint.codebook_size, "tokens")


def _report(worker: TrainingRun, settings: dict[str, Any], fingerprint: CodecFingerprint) -> None:
    """Report the log so far, on rank 0 with a checkpoint where one is due and worth it: the last good one is not driven out by worse."""
    is_due = worker.is_good and (worker.is_finished or worker.epochs_done % settings["checkpoint_every"] == 0)
    with tempfile.TemporaryDirectory(prefix="soundstorm-train-") as scratch:
        saved = None
        if is_due and worker.rank == 0:
            folder = Path(scratch) / CHECKPOINT_FOLDER
            save_checkpoint(
                folder,
                worker.averaged(),
                training=TrainingConfig.from_dict(settings["training"], "training"),
                categories=settings["categories"],
                fingerprint=fingerprint,
                step=worker.step,
                sampler=SamplerSettings.from_dict(settings["sampler"], "sampler"),
                trained_on=TrainedOn.from_dict(settings["trained_on"]),
                extra={
                    "epoch": worker.epochs_done,
                    "dataset": settings["dataset"],
                    "test_fold": settings["fold"],
                    "val_loss": worker.rows[-1]["val_loss"],
                },
                training_state=worker.state_dict(),
            )
            saved = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"rows": list(worker.rows)}, checkpoint=saved)
