"""The interface of a kind of classifier: a recipe on the driver, what it sends to the workers, and their epochs."""

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train.torch import get_device, prepare_model

from soundstorm.classification.training.trainer import ClassifierTrainer
from soundstorm.optimization.worker import Worker

STATE_FILE = "trainer.pt"


class WorkerRecipe(Protocol):
    """What a worker needs to train a kind of classifier; large weights are in Ray's object store."""

    def trainer(self, worker: Worker, device: torch.device) -> ClassifierTrainer:
        """A trainer on the recordings that this worker reads."""


class ClassifierRun:
    """The epochs of a classifier's training on one worker; a `jobs.training.fit.EpochTrainer`."""

    loss = "loss"

    def __init__(self, recipe: WorkerRecipe) -> None:
        context = ray.train.get_context()
        worker = Worker(rank=context.get_world_rank(), num_workers=context.get_world_size(), wrap=prepare_model)
        self.trainer = recipe.trainer(worker, get_device())
        self.num_choices = self.trainer.model.num_categories
        self.advice = f"{{}}: lower --lr (it is {self.trainer.peak_lr})"
        self.rows: list[dict[str, Any]] = []

    @property
    def is_finished(self) -> bool:
        return self.trainer.step_count >= self.trainer.total_steps

    def run_epoch(self) -> None:
        began = time.monotonic()
        steps = [self.trainer.step() for _ in range(self.trainer.steps_per_epoch)]
        means = torch.tensor([float(np.mean([step[name] for step in steps])) for name in steps[0]], device=get_device())
        torch.distributed.all_reduce(means)
        means /= torch.distributed.get_world_size()
        self.rows.append(
            {
                "epoch": self.trainer.step_count // self.trainer.steps_per_epoch,
                "step": self.trainer.step_count,
                **dict(zip(steps[0], means.tolist(), strict=True)),
                "lr": self.trainer.learning_rate(),
                "seconds": time.monotonic() - began,
            }
        )

    def save(self, folder: Path) -> None:
        folder.mkdir()
        torch.save({"trainer": self.trainer.state_dict(), "rows": self.rows}, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        state = load_state(folder)
        self.trainer.load_state_dict(state["trainer"])
        self.rows = state["rows"]
        # with another number of workers, an epoch may have another number of steps
        self.trainer.step_count = self.rows[-1]["epoch"] * self.trainer.steps_per_epoch


def load_state(folder: Path) -> dict[str, Any]:
    """The rows of the log and the trainer's state in a checkpoint; nothing is unpickled."""
    state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return state


class Recipe(Protocol):
    """How a kind of classifier is trained, according to the options; it stays on the driver."""

    config: Any
    """A data class with the settings of the training, `epochs` and `batch_size` (of a worker) among them."""

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
