"""What the trainers of all kinds of classifiers share: the order of clips, an optimizer step, and a state to resume
from.

A kind of classifier adds its examples (augmentation), its optimizer and its learning rate. None of them knows of Ray;
`jobs/classification/recipe.py` distributes them.

Legend: B batch, C categories.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import autocast
from soundstorm.optimization.worker import Worker


@dataclass(kw_only=True, frozen=True)
class Examples:
    """The examples of a step."""

    inputs: tuple[Tensor, ...]
    """Arguments of the network."""
    target: Tensor
    """Label of each example (B,), or weight of each category in it (B, C)."""
    teacher_BC: Tensor | None = None
    """Logits of a teacher for the same examples (B, C), if there is one."""

    @property
    def label(self) -> Tensor:
        """Label of each example (B,); the one with the largest weight if there are several."""
        return self.target if self.target.ndim == 1 else self.target.argmax(1)


class ClassifierTrainer(ABC):
    """Holds the network and optimizer of a run and makes steps; the next step depends only on this state.

    Args:
        model: the network to train, on its device; it has `device` and `num_categories`.
        config: settings with `epochs`, `batch_size`, `precision` and `seed`.
        clips: training recordings, int16 (N,), of any lengths.
        labels: label of each clip.
        worker: which of the workers this is.

    Raises:
        SoundStormError: there are no clips, a clip has no samples, or a label is not one of the network's.
    """

    network: nn.Module
    """The model as it is called in training, perhaps wrapped for several workers."""
    optimizer: torch.optim.Optimizer
    label_smoothing = 0.0
    """Probability mass of the target that is spread over all categories."""
    grad_clip = math.inf
    """Maximum norm of the gradient, to which it is clipped."""

    def __init__(
        self, model: Any, config: Any, clips: Sequence[np.ndarray], labels: Sequence[int], worker: Worker
    ) -> None:
        if not clips or len(clips) != len(labels) or not all(map(len, clips)):
            raise SoundStormError(
                f"{len(clips)} clips and {len(labels)} labels to train on: give one label per clip, and no empty clips"
            )
        if not all(0 <= label < model.num_categories for label in labels):
            raise SoundStormError(
                f"labels {min(labels)} to {max(labels)}: the classifier has {model.num_categories} categories, from 0"
            )
        self.model, self.config, self.worker = model, config, worker
        self.labels = np.asarray(labels)
        self.steps_per_epoch = -(-len(clips) // (config.batch_size * worker.num_workers))
        self.total_steps = config.epochs * self.steps_per_epoch
        self.step_count = 0

    @abstractmethod
    def learning_rate(self) -> float:
        """Learning rate of the next step."""

    @property
    @abstractmethod
    def peak_lr(self) -> float:
        """The highest learning rate, for errors."""

    @abstractmethod
    def _examples(self, chosen: np.ndarray, rng: np.random.Generator) -> Examples:
        """The chosen clips, augmented."""

    def _loss(self, logits_BC: Tensor, examples: Examples) -> Tensor:
        return F.cross_entropy(logits_BC, examples.target, label_smoothing=self.label_smoothing)

    def _train_mode(self) -> None:
        self.network.train()

    def _stateful(self) -> dict[str, Any]:
        """The parts of the trainer that have a state."""
        return {"model": self.model, "optimizer": self.optimizer}

    def state_dict(self) -> dict[str, Any]:
        """State that a later run resumes from: tensors and plain values."""
        return {name: part.state_dict() for name, part in self._stateful().items()} | {"step_count": self.step_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state of `state_dict`."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.step_count = int(state["step_count"])

    def step(self) -> dict[str, float]:
        """Make one optimizer step; returns the loss (nats) and the fraction of examples that are classified correctly.

        Raises:
            SoundStormError: the gradient is not finite; no weight was updated.
        """
        device = self.model.device
        rng = np.random.default_rng([self.config.seed, self.worker.rank, self.step_count])
        examples = self._examples(self._chosen(), rng)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._train_mode()
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            autocast(device, self.config.precision),
        ):
            torch.manual_seed(int(rng.integers(2**31)))  # for dropout
            logits_BC = self.network(*examples.inputs)
        loss = self._loss(logits_BC.float(), examples)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip))
        if not math.isfinite(norm):
            raise SoundStormError(
                f"training diverged: the gradient is {norm} at a loss of {float(loss.detach()):.3f} nats in step "
                f"{self.step_count + 1}: lower --lr (it is {self.peak_lr})"
            )
        self.optimizer.step()
        self.step_count += 1
        correct_B = logits_BC.argmax(1) == examples.label
        return {"loss": float(loss.detach()), "accuracy": float(correct_B.float().mean())}

    def _chosen(self) -> np.ndarray:
        """Indices of this worker's clips in the next step. The order of an epoch depends on (seed, epoch) alone and is
        distributed over the workers; some clips occur twice to fill the last step."""
        epoch, step = divmod(self.step_count, self.steps_per_epoch)
        order = np.random.default_rng([self.config.seed, 1_000_003, epoch]).permutation(len(self.labels))
        shared = self.config.batch_size * self.worker.num_workers
        in_step = np.resize(order, self.steps_per_epoch * shared)[step * shared : (step + 1) * shared]
        return in_step[self.worker.rank :: self.worker.num_workers]
