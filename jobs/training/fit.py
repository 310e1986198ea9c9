"""Trains a network of any kind with Ray Train: the loop on each worker, and the driver that shows how far it is."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray.data
import ray.train

from jobs.console.command import console
from jobs.console.progress import duration
from jobs.inputs.checkpoints import CHECKPOINT_FOLDER
from jobs.training.ray_trainer import Outcome, WorkerScaling, run_trainer, use_threads
from jobs.training.training_log import TrainingLog
from soundstorm.errors import SoundStormError
from soundstorm.optimization.divergence import far_above_guessing, lost


class EpochTrainer(Protocol):
    """A network in training on one worker, epoch by epoch."""

    rows: list[dict[str, Any]]
    """The log: a row for each epoch, with `epoch`, `lr` and `seconds` among its columns."""
    loss: str
    """The column of the training loss (nats)."""
    num_choices: int
    """Codes or categories that the loss is about."""
    advice: str
    """Format string of the error when training is lost; its only field is the reason."""

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""

    def run_epoch(self) -> Any:
        """Train an epoch and add its row; raises SoundStormError, on all workers alike, if a value is not finite."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint into a new folder."""

    def load(self, folder: Path) -> None:
        """Resume from the checkpoint in a folder."""


def train_on_worker(
    begin: Callable[[], EpochTrainer],
    *,
    cpus: int,
    checkpoint_every: int,
    report_every: int = 1,
    threads: int | None = None,
) -> Outcome:
    """Loop of Ray Train: all epochs, with a report every `report_every`, and a checkpoint every `checkpoint_every` and
    after the last. `begin` makes the worker's trainer; `threads` as in `use_threads`."""
    use_threads(cpus, threads)
    trainer, checkpoint = begin(), ray.train.get_checkpoint()
    why: str | None = None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder))
    while not trainer.is_finished and why is None:
        try:
            trainer.run_epoch()
        except SoundStormError as error:  # on all workers, and a restart would not change that
            return trainer.rows, str(error)
        epoch, losses = len(trainer.rows), [row[trainer.loss] for row in trainer.rows]
        why = lost(losses, trainer.num_choices, trainer.is_finished)
        if trainer.is_finished or why or epoch % report_every == 0:
            # a checkpoint of a network that diverged never replaces a good one
            is_good = not far_above_guessing(losses[-1], trainer.num_choices)
            _report(trainer, is_good and (trainer.is_finished or epoch % checkpoint_every == 0))
    return trainer.rows, why and trainer.advice.format(why)


def _report(trainer: EpochTrainer, is_due: bool) -> None:
    """Report the log so far; rank 0 adds a checkpoint if one is due."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-train-") as scratch:
        folder, saved = Path(scratch) / CHECKPOINT_FOLDER, None
        if is_due and ray.train.get_context().get_world_rank() == 0:
            trainer.save(folder)
            saved = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"rows": list(trainer.rows)}, checkpoint=saved)


def fit(
    loop: Callable[[], Outcome],
    datasets: dict[str, ray.data.Dataset],
    log: TrainingLog,
    *,
    scaling: WorkerScaling,
    max_failures: int,
    epochs: int,
    figures: str,
    recent: int = 5,
) -> tuple[list[dict[str, Any]], ray.train.Checkpoint]:
    """Run the loop with `run_trainer`, and print a line for each report; returns the rows and the last checkpoint.

    Args:
        loop, datasets, scaling, max_failures: as in `run_trainer`.
        log: in the output folder, not yet opened.
        epochs: of the whole training.
        figures: format string of the columns that a line shows besides epoch, learning rate and time.
        recent: number of epochs whose mean time predicts the remaining time.
    """

    def show(metrics: dict[str, Any]) -> None:
        log.update(metrics["rows"])
        row, seconds = metrics["rows"][-1], [earlier["seconds"] for earlier in metrics["rows"][-recent:]]
        eta_s = sum(seconds) / len(seconds) * (epochs - row["epoch"])
        console.print(
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {figures.format(**row)}  lr {row['lr']:.1e}  "
            f"{row['seconds']:.1f} s  ETA {duration(eta_s)}"
        )

    with log:
        rows, checkpoint = run_trainer(
            loop, datasets, scaling=scaling, output_uri=log.output_uri, max_failures=max_failures, on_report=show
        )
        log.update(rows)
    return rows, checkpoint
