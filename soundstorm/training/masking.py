"""Masks of training examples (Borsos et al., arXiv 2305.09636, section 3.2).

An example trains one level: lower levels are visible, higher ones are all MASK, and a fraction of the frames of the
level itself is MASK; the fraction follows the cosine schedule of MaskGIT (Chang et al., arXiv 2202.04200). Some
examples also have a visible prefix of all levels (a prompt).

Legend: B batch, Q levels, T codec frames.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from soundstorm.model.config import TrainingConfig
from soundstorm.model.mask_schedule import cosine_share, lowest_ranked


@dataclass(kw_only=True, frozen=True)
class MaskedBatch:
    """Input and targets of a training step."""

    input_codes_BQT: Tensor
    """Codes with `mask_id` where masked."""
    target_BT: Tensor
    """Codes of the trained level; only those under `loss_mask_BT` count."""
    loss_mask_BT: Tensor
    """True at the frames whose code of the trained level is masked."""
    level_B: Tensor
    """The trained level of each example."""


def level_shares(num_levels: int, config: TrainingConfig) -> Tensor:
    """Fraction of the examples that train each level, (Q,); `first_level_share` for level 0, on which all others
    depend."""
    if num_levels == 1:
        return torch.ones(1)
    share_Q = torch.full((num_levels,), (1.0 - config.first_level_share) / (num_levels - 1))
    share_Q[0] = config.first_level_share
    return share_Q


def masked_frames(candidate_BT: Tensor, share_B: Tensor, rank_BT: Tensor) -> Tensor:
    """Mask the fraction `share_B` (rounded down, at least one frame) of the candidate frames of each clip: those of
    lowest rank.

    Args:
        candidate_BT: True at frames that may be masked: real, and after the prefix.
        rank_BT: any floating-point numbers; ties go to the earlier frame.
    """
    num_candidates_B = candidate_BT.sum(1)
    return lowest_ranked(
        candidate_BT, (share_B * num_candidates_B).floor().long().clamp(min=1).minimum(num_candidates_B), rank_BT
    )


@dataclass(kw_only=True, frozen=True)
class FrameMasks:
    """Random choice of the masked frames of training examples, for one level or for all."""

    share_B: Tensor
    """Fraction of the frames after the prefix that are masked."""
    prefix_BT: Tensor
    """True at the frames of the prefix, padding included."""
    rank_BT: Tensor
    """The frames of lowest rank are masked; frames of a span have the same rank."""


def sample_frames(valid_BT: Tensor, generator: torch.Generator, config: TrainingConfig) -> FrameMasks:
    """Sample a masked fraction (cosine schedule), a prefix and a rank of the frames for each clip, with `generator` on
    its own device."""
    B, T = valid_BT.shape
    device = valid_BT.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device).to(device)

    share_B = cosine_share(uniform(B))
    num_frames_B = valid_BT.sum(1)
    # shorter than the clip, so that at least one frame is trained
    prefix_frames_B = (uniform(B) * num_frames_B).floor().long()
    prefix_frames_B = prefix_frames_B * (uniform(B) < config.prompt_share)
    frame_T = torch.arange(T, device=device)
    in_spans_B = uniform(B) < config.span_share
    offset_B = (uniform(B) * config.span_frames).floor().long()
    span_BT = torch.where(in_spans_B[:, None], (frame_T + offset_B[:, None]) // config.span_frames, frame_T)
    rank_BT = uniform(B, T + 1).gather(1, span_BT)
    return FrameMasks(share_B=share_B, prefix_BT=frame_T < prefix_frames_B[:, None], rank_BT=rank_BT)


def mask_level(
    codes_BQT: Tensor,
    candidate_BT: Tensor,
    prefix_BT: Tensor,
    level_B: Tensor,
    share_B: Tensor,
    rank_BT: Tensor,
    mask_id: int,
) -> MaskedBatch:
    """Mask the fraction `share_B` (rounded down, at least one frame) of each clip's candidate frames at its level:
    those of lowest rank.

    Args:
        candidate_BT: True at frames that may be masked: real, and after the prefix.
        prefix_BT: True at frames in which all levels stay visible.
        rank_BT: any floating-point numbers; ties go to the earlier frame.
    """
    level_index_Q = torch.arange(codes_BQT.shape[1], device=codes_BQT.device)[None, :, None]
    masked_BT = masked_frames(candidate_BT, share_B, rank_BT)
    above_BQT = (level_index_Q > level_B[:, None, None]) & ~prefix_BT[:, None, :]
    at_level_BQT = (level_index_Q == level_B[:, None, None]) & masked_BT[:, None, :]
    target_BT = codes_BQT.gather(1, level_B[:, None, None].expand(-1, 1, codes_BQT.shape[2])).squeeze(1)
    return MaskedBatch(
        input_codes_BQT=codes_BQT.masked_fill(above_BQT | at_level_BQT, mask_id),
        target_BT=target_BT,
        loss_mask_BT=masked_BT,
        level_B=level_B,
    )


def training_masks(
    codes_BQT: Tensor, valid_BT: Tensor, generator: torch.Generator, config: TrainingConfig, mask_id: int
) -> MaskedBatch:
    """Sample a level, a masked fraction, a prefix and the masked frames of each clip.

    The random numbers come from `generator` on its own device, so that a seed gives the same result on CPU and GPU.

    Args:
        codes_BQT: int64 codes; any value at padding frames.
        valid_BT: True at real frames.
        mask_id: the id of MASK.
    """
    B, Q, T = codes_BQT.shape
    device = codes_BQT.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device).to(device)

    level_B = torch.multinomial(
        level_shares(Q, config).to(generator.device), B, replacement=True, generator=generator
    ).to(device)
    drawn = sample_frames(valid_BT, generator, config)
    candidate_BT, prefix_BT = valid_BT & ~drawn.prefix_BT, drawn.prefix_BT
    masked = mask_level(codes_BQT, candidate_BT, prefix_BT & valid_BT, level_B, drawn.share_B, drawn.rank_BT, mask_id)
    if config.noise_share == 0:
        return masked
    random_frame_BT = (uniform(B, T) * valid_BT.sum(1).roll(1)[:, None]).long()
    level_B1T = level_B[:, None, None].expand(-1, 1, T)
    random_BT = codes_BQT.roll(1, 0).gather(1, level_B1T).squeeze(1).gather(1, random_frame_BT)
    noise_share_B = 2 * config.noise_share * uniform(B)
    is_random_BT = (uniform(B, T) < noise_share_B[:, None]) & valid_BT & ~prefix_BT & ~masked.loss_mask_BT
    noisy_BT = torch.where(is_random_BT, random_BT, masked.input_codes_BQT.gather(1, level_B1T).squeeze(1))
    return replace(masked, input_codes_BQT=masked.input_codes_BQT.scatter(1, level_B1T, noisy_BT[:, None, :]))
