"""A trial of the training study: the epochs that `soundstorm train` would run with the settings of the trial, and the
resulting network.

Its state is saved regularly, so that a trial whose process or study was killed loses half a minute, not all its epochs.
"""

import io
import math
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from torch import Tensor

from cluster import storage
from jobs.training.generator_recipe import GeneratorSettings
from jobs.training.generator_trainer import TrainingRun
from jobs.training.ray_trainer import use_threads
from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, TrainingConfig
from soundstorm.training.token_set import TokenSet
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY
from tune.search.trial_journal import TrialConfig, point_name

SAVE_EVERY_S = 30.0
STATES = "states"
"""Folder of the states that trials resume from."""
FOLLOWS = ("num_levels", "codebook_size", "num_classes", "centroid_dim")
"""Settings that are determined by the tokens and their codec."""
FIXED = (*FOLLOWS, "order", "centroids", "generated_levels", "epochs", "seed", "betas", "first_level_share")
"""Settings that cannot be searched: they are determined by the tokens or the study, are a pair, or (the last) weight
the levels in the loss, so that losses would not be comparable."""
MODEL_NAMES = tuple(field.name for field in fields(ModelConfig) if field.name not in FIXED)
TRAINING_NAMES = tuple(field.name for field in fields(TrainingConfig) if field.name not in FIXED)
EPOCH_FIGURES = ("train_loss", "lr", "seconds", "threads")


@dataclass(kw_only=True, frozen=True)
class Base:
    """Inputs that all trials share."""

    generator: GeneratorSettings
    """Before the settings of a trial are applied."""
    folder: str
    """URI of the study's folder; a trial saves its state in `states/` and its network in `checkpoints/` there."""
    cpus: int = 1

    def applied(self, point: TrialConfig) -> GeneratorSettings:
        """The settings with those of a trial applied; raises SoundStormError for invalid values."""
        architecture, training = applied(point, self.generator.architecture, self.generator.training)
        return replace(self.generator, architecture=architecture, training=training)


def applied(point: TrialConfig, model: ModelConfig, training: TrainingConfig) -> tuple[ModelConfig, TrainingConfig]:
    """The settings with those of a trial applied; raises SoundStormError for invalid values."""
    return (
        ModelConfig.from_dict(
            model.to_dict() | {name: value for name, value in point.items() if name in MODEL_NAMES}, "the network"
        ),
        TrainingConfig.from_dict(
            training.to_dict() | {name: value for name, value in point.items() if name in TRAINING_NAMES},
            "the training",
        ),
    )


def checkpoint_uri(folder: str, point: TrialConfig) -> str:
    """Where a trial saves its network after its last epoch."""
    return storage.join(folder, "checkpoints", point_name(point))


def trial(
    point: TrialConfig, training: TokenSet, validation: TokenSet, base: Base, weights: dict[str, Tensor] | None
) -> None:
    """The trial as a function that Ray Tune runs."""
    use_threads(base.cpus)
    run_trial(dict(point), training, validation, base, tune.report, weights)


def run_trial(
    point: TrialConfig,
    training: TokenSet,
    validation: TokenSet,
    base: Base,
    report: Callable[[dict[str, Any]], None],
    weights: dict[str, Tensor] | None = None,
) -> None:
    """The epochs of a trial, with a report each; a trial that cannot continue reports the reason and ends."""
    trainer = None
    try:
        settings = base.applied(point)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trainer = TrainingRun(
            settings.architecture, settings.training, training, validation, device=device, weights=weights
        )
        _run_epochs(trainer, point, base, report)
    except Exception as error:
        problem = failure_reason(error)
        if problem is None:
            raise
        began = trainer is not None and isinstance(
            error, SoundStormError
        )  # then the loss or its gradient is not finite
        report({"val_loss": PENALTY, "problem": problem, "state": "diverged" if began else "failed"})


def _run_epochs(trainer: TrainingRun, point: TrialConfig, base: Base, report: Callable[[dict[str, Any]], None]) -> None:
    state_uri = storage.join(base.folder, STATES, f"{point_name(point)}.pt")
    _restore(trainer, state_uri)
    for row in trainer.rows:
        report(figures_of(row, torch.get_num_threads()))
    saved = time.monotonic()
    while not trainer.is_finished:
        row = trainer.run_epoch()
        require_finite(row)
        if trainer.is_finished:
            _publish(trainer, point, base)
        elif time.monotonic() - saved > SAVE_EVERY_S:
            _save(trainer, state_uri)
            saved = time.monotonic()
        report(figures_of(row, torch.get_num_threads()))
    storage.delete(state_uri)


def require_finite(row: dict[str, Any]) -> None:
    """Raise SoundStormError if the validation loss of an epoch is not a number."""
    loss = row["val_loss"]
    if loss is None or not math.isfinite(loss):
        raise SoundStormError(f"the validation loss is {loss} after epoch {row['epoch']}: search lower learning rates")


def figures_of(row: dict[str, Any], threads: int) -> dict[str, Any]:
    """What a trial reports of an epoch."""
    return {"threads": threads} | {
        name: row[name] for name in ("epoch", "val_loss", *EPOCH_FIGURES) if name != "threads"
    }


def _save(trainer: TrainingRun, uri: str) -> None:
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    storage.write_bytes(uri, buffer.getvalue())


def _restore(trainer: TrainingRun, uri: str) -> None:
    """Resume from the state at `uri`, if it exists and is not damaged."""
    if not storage.exists(uri):
        return
    try:
        trainer.load_state_dict(
            torch.load(io.BytesIO(storage.read_bytes(uri)), map_location=trainer.device, weights_only=True)
        )
    except (SoundStormError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):  # then the trial starts over
        storage.delete(uri)


def _publish(trainer: TrainingRun, point: TrialConfig, base: Base) -> None:
    """Save the network of a trial after its last epoch."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-trial-") as scratch:
        folder = Path(scratch) / "checkpoint"
        base.applied(point).save(folder, trainer)
        storage.copy_from_local(folder, checkpoint_uri(base.folder, point))
