"""Losses of a generator by level.

Legend: Q levels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True, frozen=True)
class LevelLosses:
    """Sums over the masked frames, float64. They can be added over batches, and all-reduced over workers."""

    nats_Q: Tensor
    """Sum of the cross-entropy of the masked frames of each level, in nats, without label smoothing."""
    frames_Q: Tensor
    """Number of these frames."""

    @classmethod
    def none(cls, num_levels: int, device: torch.device) -> "LevelLosses":
        """Zero losses of zero frames."""
        zeros_Q = torch.zeros(num_levels, dtype=torch.float64, device=device)
        return cls(nats_Q=zeros_Q, frames_Q=zeros_Q.clone())

    def __add__(self, other: "LevelLosses") -> "LevelLosses":
        return LevelLosses(nats_Q=self.nats_Q + other.nats_Q, frames_Q=self.frames_Q + other.frames_Q)

    def per_level(self) -> list[float | None]:
        """Mean loss of each level in nats; None where no frame was masked."""
        return [
            nats / frames if frames else None
            for nats, frames in zip(self.nats_Q.tolist(), self.frames_Q.tolist(), strict=True)
        ]

    def mean(self) -> float:
        """Mean loss over all masked frames in nats."""
        return float(self.nats_Q.sum() / self.frames_Q.sum().clamp(min=1))


@dataclass(kw_only=True, frozen=True)
class StepLoss:
    """The loss of a training step, and its parts by level."""

    loss: Tensor
    """Scalar with a gradient: mean over the masked frames of the batch, with label smoothing."""
    levels: LevelLosses
