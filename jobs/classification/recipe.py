"""Ray Train's loop for every kind of classifier, and the interface of a kind: a recipe on the driver, and what it sends
to the workers."""

import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model

from jobs.training.ray_trainer import use_threads
from soundstorm.classification.training.trainer import ClassifierTrainer
from soundstorm.errors import SoundStormError
from soundstorm.optimization.divergence import far_above_guessing, lost
from soundstorm.optimization.worker import Worker

STATE_FILE = "trainer.pt"


class WorkerRecipe(Protocol):
    """What a worker needs to train a kind of classifier; large weights are in Ray's object store."""

    @property
    def categories(self) -> list[str]:
        """Name of each label."""

    def trainer(self, worker: Worker, device: torch.device) -> ClassifierTrainer:
        """A trainer on the recordings that this worker reads."""


class Recipe(Protocol):
    """How a kind of classifier is trained, according to the options; it stays on the driver."""

    config: Any
    """A data class with the settings of the training, `batch_size` (of a worker) among them."""

    @property
    def kind(self) -> str:
        """Its name in `--model`."""

    @property
    def dataset(self) -> str:
        """Name of the training dataset."""

    @property
    def fold(self) -> int:
        """The test fold."""

    @property
    def categories(self) -> list[str]:
        """Name of each label."""

    @property
    def epochs(self) -> int:
        """Passes over the recordings."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the result depends on, for the record of the run."""

    @property
    def leaks(self) -> list[str]:
        """Sentences about weights that were trained on the test fold and are used nevertheless."""

    def describe(self) -> str:
        """A phrase on what is trained and how."""

    def open_weights(self) -> None:
        """Read the weights to start from, where that takes long: a finished run does without."""

    def data(self) -> tuple[dict[str, "ray.data.Dataset"], int]:
        """Datasets for the workers, and the number of recordings; Ray must be running."""

    def for_workers(self) -> WorkerRecipe:
        """What the workers need; Ray must be running."""

    def test_clips(self) -> pa.Table:
        """The recordings of the test fold, schema CLIPS."""

    def save(self, path: Path, state: dict[str, Any], accuracy: float | None) -> None:
        """Write the classifier's file from the state of a trainer after its last step."""

    def files(self) -> dict[str, bytes]:
        """Files that belong beside the classifier's file, by name."""


def train_on_worker(settings: dict[str, Any]) -> None:
    """Run a trainer on each worker; gradients and running statistics are shared, and rank 0 saves checkpoints."""
    use_threads(settings["cpus"])
    context = ray.train.get_context()
    recipe: WorkerRecipe = ray.get(settings["recipe"])
    worker = Worker(rank=context.get_world_rank(), num_workers=context.get_world_size(), wrap=prepare_model)
    trainer = recipe.trainer(worker, get_device())
    rows: list[dict[str, Any]] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = load_state(Path(folder))
        trainer.load_state_dict(state["trainer"])
        rows = state["rows"]
        trainer.step_count = (
            rows[-1]["epoch"] * trainer.steps_per_epoch
        )  # with another number of workers, an epoch may have another number of steps
    while trainer.step_count < trainer.total_steps:
        began = time.monotonic()
        steps = [trainer.step() for _ in range(trainer.steps_per_epoch)]
        means = _mean_over_workers({name: float(np.mean([step[name] for step in steps])) for name in steps[0]})
        epoch = trainer.step_count // trainer.steps_per_epoch
        rows.append(
            {
                "epoch": epoch,
                "step": trainer.step_count,
                **means,
                "lr": trainer.learning_rate(),
                "seconds": time.monotonic() - began,
            }
        )
        is_last = trainer.step_count >= trainer.total_steps
        why = lost([row["loss"] for row in rows], len(recipe.categories), is_last)
        if epoch % settings["checkpoint_every"] and not is_last and why is None:
            continue
        with tempfile.TemporaryDirectory(prefix="soundstorm-classifier-") as folder:
            saved = None
            if context.get_world_rank() == 0 and not far_above_guessing(rows[-1]["loss"], len(recipe.categories)):
                torch.save({"trainer": trainer.state_dict(), "rows": rows}, Path(folder) / STATE_FILE)
                saved = Checkpoint.from_directory(folder)
            ray.train.report({"rows": list(rows)}, checkpoint=saved)
        if why is not None:
            raise SoundStormError(f"training stopped: {why}: start again with --overwrite and a lower --lr")


def load_state(folder: Path) -> dict[str, Any]:
    """The rows of the log and the trainer's state in a checkpoint; nothing is unpickled."""
    state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return state


def _mean_over_workers(values: dict[str, float]) -> dict[str, float]:
    if not torch.distributed.is_initialized():
        return values
    means = torch.tensor(list(values.values()), device=get_device())
    torch.distributed.all_reduce(means)
    return dict(zip(values, (means / torch.distributed.get_world_size()).tolist(), strict=True))
