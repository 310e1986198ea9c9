"""State of one decoding call: the codes so far, the settings, and the random generator of each sample.

Legend: B batch, Q levels, T codec frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from soundstorm.generation.sampling import filtered_probability, low_discrepancy_order, sample_codes
from soundstorm.model.config import SamplerSettings


@dataclass(kw_only=True, frozen=True)
class DecodingStep:
    """One iteration, as passed to `on_step`; the tensors are copies."""

    level: int | None
    """Level that is decoded; None: all levels at once (order `places`)."""
    iteration: int
    """Number of the iteration within the level, from 0."""
    before_BQT: Tensor
    """Codes that the network was given."""
    after_BQT: Tensor
    """The same codes, with those that this iteration kept."""
    masked_before_BT: Tensor
    """Frames of the level that were masked."""
    masked_after_BT: Tensor
    """Frames of the level that are still masked."""
    guidance_B: Tensor
    """Guidance weight of each sample in this iteration."""
    annealing: float
    """Annealing factor of the temperatures: 1 in a level's first iteration, 0 in its last."""


@dataclass(kw_only=True)
class DecodingTask:
    """The samples of one call to `generate_codes`; a decoder fills in their `codes_BQT`."""

    codes_BQT: Tensor
    """Codes so far; `mask_id` where a code is still masked."""
    valid_BT: Tensor
    """True at real frames, False at padding."""
    label_B: Tensor
    num_frames_B: Sequence[int]
    settings: SamplerSettings
    generators: Sequence[torch.Generator]
    """Random generator of each sample, seeded with the sample's seed."""
    bf16: bool
    on_step: Callable[[DecodingStep], None] | None
    timbre_BS: Tensor | None = None
    """Timbre of each sample, if the network is conditioned on timbre; a row of NaN: unknown."""

    def part(self, first: int, end: int) -> "DecodingTask":
        """The task of some of the samples; their codes are filled in here too."""
        return replace(
            self,
            codes_BQT=self.codes_BQT[first:end],
            valid_BT=self.valid_BT[first:end],
            label_B=self.label_B[first:end],
            num_frames_B=self.num_frames_B[first:end],
            generators=self.generators[first:end],
            timbre_BS=None if self.timbre_BS is None else self.timbre_BS[first:end],
        )

    @property
    def padding_mask(self) -> Tensor | None:
        """`valid_BT`; None if no sample is padded, so that the network needs no mask."""
        return self.valid_BT if min(self.num_frames_B) < self.valid_BT.shape[1] else None

    def uniform(self, num_drawn_B: Sequence[int], width: int) -> Tensor:
        """Uniform random numbers (B, width): the first `num_drawn_B` of each row come from the sample's own generator,
        the rest are 0."""
        rows = torch.zeros(len(self.generators), width, dtype=torch.float64)
        for row, generator, num_drawn in zip(rows, self.generators, num_drawn_B, strict=True):
            row[:num_drawn] = torch.rand(num_drawn, generator=generator, dtype=torch.float64)
        return rows.to(self.codes_BQT.device)

    def start(self, num_unknown_B: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """How many random numbers each sample draws in an iteration, and the rank (B, T) of its frames; None if frames
        are ranked by confidence.

        A sample without masked frames draws no numbers, so it does not depend on its batch.

        Args:
            num_unknown_B: masked frames of each sample.
        """
        num_drawn_B = [
            num_frames if count else 0 for num_frames, count in zip(self.num_frames_B, num_unknown_B, strict=True)
        ]
        if self.settings.order != "even":
            return num_drawn_B, None
        return num_drawn_B, low_discrepancy_order(
            self.uniform([min(drawn, 1) for drawn in num_drawn_B], 1)[:, 0], self.valid_BT.shape[1]
        )

    def temperature(self, level: int, factor: float) -> float:
        """Sampling temperature at a level; `factor` is the annealing factor of the iteration."""
        if level > 0 and self.settings.upper_temperature is not None:
            return self.settings.upper_temperature
        return self.settings.final_temperature + (self.settings.temperature - self.settings.final_temperature) * factor

    def top_p(self, level: int) -> float:
        """Probability mass of nucleus sampling at a level."""
        upper = self.settings.upper_top_p
        return self.settings.top_p if level == 0 or upper is None else upper

    def sample(self, logits_NK: Tensor, level: int, factor: float, uniform_N: Tensor | None) -> Tensor:
        """Codes (N,) of a level, sampled with the numbers `uniform_N`; the likeliest if the temperature is 0, for which
        there are none."""
        temperature = self.temperature(level, factor)
        if temperature == 0 or uniform_N is None:
            return logits_NK.max(-1).indices  # argmax takes three times as long on CPUs
        probability_NK = filtered_probability(logits_NK, temperature, self.top_p(level), self.settings.typical_mass)
        return sample_codes(probability_NK, uniform_N)

    def guidance(self, level: int, masked_share_B: Tensor) -> Tensor | None:
        """Guidance weight of each sample at a level, which falls to 1 with the fraction of masked frames; None if
        guidance is off."""
        weight = self.settings.guidance
        if level > 0 and self.settings.upper_guidance is not None:
            weight = self.settings.upper_guidance
        return None if weight == 1 else 1 + (weight - 1) * masked_share_B

    def codes_before(self) -> Tensor:
        """The current codes, for `report`; copied only if there is an `on_step`."""
        return self.codes_BQT if self.on_step is None else self.codes_BQT.clone()

    def report(
        self,
        before_BQT: Tensor,
        masked_before_BT: Tensor,
        masked_after_BT: Tensor,
        guidance_B: Tensor | None,
        *,
        level: int | None,
        iteration: int,
        factor: float,
    ) -> None:
        """Call `on_step`, if set, for an iteration; arguments as in `DecodingStep`."""
        if self.on_step is None:
            return
        self.on_step(
            DecodingStep(
                level=level,
                iteration=iteration,
                before_BQT=before_BQT,
                after_BQT=self.codes_BQT.clone(),
                masked_before_BT=masked_before_BT.clone(),
                masked_after_BT=masked_after_BT.clone(),
                guidance_B=torch.ones_like(self.label_B, dtype=torch.float32)
                if guidance_B is None
                else guidance_B.clone(),
                annealing=factor,
            )
        )
