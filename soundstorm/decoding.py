"""Codes from a network, level by level, by confidence (Borsos et al., arXiv 2305.09636, section 3.3).

1. Levels above the current one stay MASK until their turn, save for codes that were given.
2. In each pass every masked frame of the level draws a code; the most confident are kept, the others stay MASK. Kept codes never change.
   With `order="even"`, frames that lie evenly over the clip are kept in their place: no code is preferred because it is sure.
3. The sampling temperature goes to `final_temperature` within a level (0: its last pass takes the likeliest codes), the Gumbel noise on
   log-confidence to 0.
4. Guidance: uncond + w (cond - uncond); w falls to 1 with the share of the level that is still masked.
5. Only the current level's logits are computed.
6. Each sample draws from a generator of its own seed, as many numbers as its own length asks for: batch mates do not matter, in
   bfloat16 those of equal length.

Legend: B batch, Q levels, T codec frames, K codebook size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.masking import num_still_masked
from soundstorm.presets import ModelConfig, SamplerSettings
from soundstorm.sampling import annealing, draw, even_order, filtered_probability, gumbel, most_confident

__all__ = ["DecodingStep", "Network", "SamplerSettings", "continuation", "generate_codes"]


class Network(Protocol):
    """What decoding asks of a network; `SoundStorm` is one."""

    config: ModelConfig
    training: bool

    @property
    def mask_id(self) -> int: ...

    @property
    def no_class(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def train(self, mode: bool = True) -> object: ...

    def __call__(self, codes_BQT: Tensor, label_B: Tensor, mask_BT: Tensor, level: int) -> Tensor: ...


@dataclass(kw_only=True, frozen=True)
class DecodingStep:
    """One pass as `on_step` sees it; the tensors are copies."""

    level: int
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


def continuation(prompts: Sequence[Tensor], num_frames_B: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Prompts (Q, frames) at the start of clips of `num_frames_B` as `known_BQT` and `known_mask_BQT` of `generate_codes`.

    Raises SoundStormError when a prompt is longer than its clip.
    """
    known_BQT = torch.zeros(len(prompts), prompts[0].shape[0], max(num_frames_B), dtype=torch.int64)
    known_mask_BQT = torch.zeros_like(known_BQT, dtype=torch.bool)
    for index, (prompt_QT, num_frames) in enumerate(zip(prompts, num_frames_B, strict=True)):
        if prompt_QT.shape[1] > num_frames:
            raise SoundStormError(f"a prompt of {prompt_QT.shape[1]} frames is longer than its clip of {num_frames} frames: give a longer duration")
        known_BQT[index, :, : prompt_QT.shape[1]] = prompt_QT
        known_mask_BQT[index, :, : prompt_QT.shape[1]] = True
    return known_BQT, known_mask_BQT


def _check(
    model: Network, label_B: Tensor, num_frames_B: Sequence[int], seeds: Sequence[int], known_BQT: Tensor | None, known_mask_BQT: Tensor | None
) -> None:
    config, size = model.config, len(num_frames_B)
    if size == 0 or label_B.shape != (size,) or len(seeds) != size:
        raise SoundStormError(
            f"{tuple(label_B.shape)} labels, {size} lengths and {len(seeds)} seeds: give one of each per sample, and at least one sample"
        )
    if min(num_frames_B) < 1:
        raise SoundStormError(f"a sample of {min(num_frames_B)} frames: give at least 1 frame")
    if int(label_B.min()) < 0 or int(label_B.max()) > model.no_class:
        raise SoundStormError(f"labels {sorted(set(label_B.tolist()))}: this model has classes 0 to {config.num_classes - 1}")
    if (known_BQT is None) != (known_mask_BQT is None):
        raise SoundStormError("known codes and the mask that says where they are go together: give both or neither")
    if known_BQT is not None and known_mask_BQT is not None:
        shape = (size, config.num_levels, max(num_frames_B))
        if known_BQT.shape != shape or known_mask_BQT.shape != shape:
            raise SoundStormError(
                f"known codes of shape {tuple(known_BQT.shape)} with a mask of shape {tuple(known_mask_BQT.shape)}: expected {shape}"
            )
        given = known_BQT[known_mask_BQT]
        if given.numel() and (int(given.min()) < 0 or int(given.max()) >= config.codebook_size):
            raise SoundStormError(f"known codes from {int(given.min())} to {int(given.max())}: this model has codes 0 to {config.codebook_size - 1}")


def _uniform(generators: Sequence[torch.Generator], num_drawn_B: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Uniform numbers (B, width), the first `num_drawn_B` of each row from the sample's own generator, the rest 0."""
    rows = torch.zeros(len(generators), width, dtype=torch.float64)
    for row, generator, num_drawn in zip(rows, generators, num_drawn_B, strict=True):
        row[:num_drawn] = torch.rand(num_drawn, generator=generator, dtype=torch.float64)
    return rows.to(device)


def _logits(model: Network, codes_BQT: Tensor, label_B: Tensor, mask_BT: Tensor, level: int, guidance_B: Tensor | None) -> Tensor:
    """Logits (B, T, K) in float32, guided if weights are given: both halves of the guidance go through the network as one batch."""
    if guidance_B is None:
        return model(codes_BQT, label_B, mask_BT, level).float()
    labels = torch.cat((label_B, torch.full_like(label_B, model.no_class)))
    conditional, unconditional = model(codes_BQT.repeat(2, 1, 1), labels, mask_BT.repeat(2, 1), level).float().chunk(2)
    return unconditional + guidance_B.float()[:, None, None] * (conditional - unconditional)


@torch.inference_mode()
def generate_codes(
    model: Network,
    label_B: Tensor,
    num_frames_B: Sequence[int],
    settings: SamplerSettings,
    seeds: Sequence[int],
    *,
    known_BQT: Tensor | None = None,
    known_mask_BQT: Tensor | None = None,
    bf16: bool = False,
    on_step: Callable[[DecodingStep], None] | None = None,
) -> list[Tensor]:
    """Codes (Q, T), int64 on the CPU, of one sample per label; see the top of this file for the procedure.

    Args:
        label_B: int64 class of each sample, or `no_class`.
        num_frames_B: length of each sample in frames.
        seeds: seed of each sample.
        known_BQT: codes that are given, (B, Q, longest length): a prompt (`continuation`) or the surroundings of a gap.
        known_mask_BQT: True where `known_BQT` holds.
        bf16: compute linear layers in bfloat16.
        on_step: called after each pass.

    Raises:
        SoundStormError: for counts or shapes that do not fit together, and labels or codes that the model does not have.
    """
    _check(model, label_B, num_frames_B, seeds, known_BQT, known_mask_BQT)
    config, device, longest = model.config, model.device, max(num_frames_B)
    passes_Q = settings.passes_per_level(config.num_levels)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    label_B = label_B.to(device)
    mask_BT = torch.arange(longest, device=device) < torch.tensor(num_frames_B, device=device)[:, None]
    codes_BQT = torch.full((len(seeds), config.num_levels, longest), model.mask_id, dtype=torch.int64, device=device)
    if known_BQT is not None and known_mask_BQT is not None:
        codes_BQT = torch.where(known_mask_BQT.to(device) & mask_BT[:, None, :], known_BQT.to(device), codes_BQT)
    was_training = model.training
    model.train(False)
    try:
        for level, passes in enumerate(passes_Q):
            masked_BT = (codes_BQT[:, level] == model.mask_id) & mask_BT
            num_unknown_B = masked_BT.sum(1)
            unknown_counts = num_unknown_B.tolist()
            if not any(unknown_counts):
                continue
            # A sample with nothing to draw at this level draws nothing, as if it were decoded alone.
            num_drawn_B = [num_frames if count else 0 for num_frames, count in zip(num_frames_B, unknown_counts, strict=True)]
            order_BT = None
            if settings.order == "even":
                order_BT = even_order(_uniform(generators, [min(drawn, 1) for drawn in num_drawn_B], 1, device)[:, 0], longest)
            for iteration in range(passes):
                before_BQT, masked_before_BT = codes_BQT, masked_BT
                num_masked_B = masked_BT.sum(1)
                guidance_B = 1 + (settings.guidance - 1) * num_masked_B / num_unknown_B.clamp(min=1)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits_BTK = _logits(model, codes_BQT, label_B, mask_BT, level, None if settings.guidance == 1 else guidance_B)
                factor = annealing(iteration, passes)
                temperature = settings.final_temperature + (settings.temperature - settings.final_temperature) * factor
                if temperature > 0:
                    probability_BTK = filtered_probability(logits_BTK, temperature, settings.top_p, settings.typical_mass)
                    drawn_BT = draw(probability_BTK, _uniform(generators, num_drawn_B, longest, device))
                else:
                    drawn_BT = logits_BTK.argmax(-1)
                remaining = [num_still_masked(count, iteration, passes) for count in unknown_counts]
                num_kept_B = num_masked_B - torch.tensor(remaining, device=device)
                if order_BT is None:
                    confidence_BT = logits_BTK.log_softmax(-1).gather(-1, drawn_BT[..., None]).squeeze(-1).double()
                    if settings.choice_temperature * factor > 0:
                        confidence_BT = confidence_BT + settings.choice_temperature * factor * gumbel(
                            _uniform(generators, num_drawn_B, longest, device)
                        )
                else:
                    confidence_BT = -order_BT
                kept_BT = most_confident(confidence_BT, masked_BT, num_kept_B)
                codes_BQT = codes_BQT.clone()
                codes_BQT[:, level] = torch.where(kept_BT, drawn_BT, codes_BQT[:, level])
                masked_BT = masked_BT & ~kept_BT
                if on_step is not None:
                    on_step(
                        DecodingStep(
                            level=level,
                            iteration=iteration,
                            before_BQT=before_BQT.clone(),
                            after_BQT=codes_BQT.clone(),
                            masked_before_BT=masked_before_BT.clone(),
                            masked_after_BT=masked_BT.clone(),
                            guidance_B=guidance_B.clone(),
                            annealing=factor,
                        )
                    )
    finally:
        model.train(was_training)
    return [codes_QT[:, :num_frames].cpu().clone() for codes_QT, num_frames in zip(codes_BQT, num_frames_B, strict=True)]
