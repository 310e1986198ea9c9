"""What is to be decoded, on its way: the codes so far and where each sample's numbers come from.

Legend: B batch, Q levels, T codec frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soundstorm.generation.sampling import even_order
from soundstorm.model.config import SamplerSettings


@dataclass(kw_only=True, frozen=True)
class DecodingStep:
    """One pass as `on_step` sees it; the tensors are copies."""

    level: int | None
    """None: all levels at once (order `places`)."""
    iteration: int
    """From 0 within the level."""
    before_BQT: Tensor
    """What the network was given."""
    after_BQT: Tensor
    """The same with the codes that this pass kept."""
    masked_before_BT: Tensor
    """Frames of the level that were masked."""
    masked_after_BT: Tensor
    """Frames of the level that are still masked."""
    guidance_B: Tensor
    """Guidance weight in this pass."""
    annealing: float
    """1 in a level's first pass, 0 in its last: where the temperatures are on their way."""


@dataclass(kw_only=True)
class DecodingTask:
    """The samples of one call; a decoder fills `codes_BQT`."""

    codes_BQT: Tensor
    """`mask_id` where a code is not known."""
    mask_BT: Tensor
    """True at real frames."""
    label_B: Tensor
    num_frames_B: Sequence[int]
    settings: SamplerSettings
    generators: Sequence[torch.Generator]
    """One for each sample, of its own seed."""
    bf16: bool
    on_step: Callable[[DecodingStep], None] | None
    timbre_BS: Tensor | None = None
    """Timbre of each sample, where the network has timbres; a row of NaN: not told."""

    def uniform(self, num_drawn_B: Sequence[int], width: int) -> Tensor:
        """Uniform numbers (B, width), the first `num_drawn_B` of each row from the sample's own generator, the rest
        0."""
        rows = torch.zeros(len(self.generators), width, dtype=torch.float64)
        for row, generator, num_drawn in zip(rows, self.generators, num_drawn_B, strict=True):
            row[:num_drawn] = torch.rand(num_drawn, generator=generator, dtype=torch.float64)
        return rows.to(self.codes_BQT.device)

    def start(self, num_unknown_B: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """How many numbers each sample draws in a pass, and the order of its frames (B, T), or None where they are
        ranked by confidence.

        A sample with nothing to draw draws no numbers, as if it were decoded alone.

        Args:
            num_unknown_B: frames of each sample that are to be drawn.
        """
        num_drawn_B = [
            num_frames if count else 0 for num_frames, count in zip(self.num_frames_B, num_unknown_B, strict=True)
        ]
        if self.settings.order != "even":
            return num_drawn_B, None
        return num_drawn_B, even_order(
            self.uniform([min(drawn, 1) for drawn in num_drawn_B], 1)[:, 0], self.mask_BT.shape[1]
        )

    def temperature(self, level: int, factor: float) -> float:
        """Sampling temperature at a level; `factor` is the annealing of the pass."""
        if level > 0 and self.settings.upper_temperature is not None:
            return self.settings.upper_temperature
        return self.settings.final_temperature + (self.settings.temperature - self.settings.final_temperature) * factor

    def guidance(self, level: int, masked_share_B: Tensor) -> Tensor | None:
        """Guidance weight of each sample at a level, falling to 1 with the masked share; None where nothing is
        guided."""
        weight = self.settings.guidance
        if level > 0 and self.settings.upper_guidance is not None:
            weight = self.settings.upper_guidance
        return None if weight == 1 else 1 + (weight - 1) * masked_share_B
