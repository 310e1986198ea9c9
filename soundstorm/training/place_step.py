"""What a network of order `places` is asked in training and validation: all levels of the masked places.

As with SoundStorm the share of places that are masked follows the cosine schedule of MaskGIT (Chang et al., arXiv
2202.04200), in some examples in spans, in some after a visible prefix; a masked place is masked at all levels.

Legend: B batch, Q levels, T places, N places that are asked for, K codebook size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soundstorm.model.config import TrainingConfig
from soundstorm.model.mask_schedule import cosine_share
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.precision import autocast
from soundstorm.training.batches import Batch
from soundstorm.training.losses import LevelLosses, StepLoss
from soundstorm.training.masking import draw_frames, hidden_frames, level_shares, lowest_ranked


@dataclass(kw_only=True, frozen=True)
class MaskedPlaces:
    """A batch as the network sees it, and where it is asked."""

    codes_BQT: Tensor
    """Codes; among the visible places some that are not the clip's own."""
    known_BT: Tensor
    """True at visible places."""
    asked_BT: Tensor
    """True at the masked places that are asked for."""


def training_places(batch: Batch, generator: torch.Generator, config: TrainingConfig) -> MaskedPlaces:
    """Draws the masked places of every clip, those of them that are asked for, and stray codes in visible ones.

    A stray place has, from a level on that is drawn, the codes of a place of another clip: in decoding the upper levels
    err more often. The draws come from `generator` on its own device, so that one seed gives one result on CPU and GPU.
    """
    codes_BQT, valid_BT = batch.codes_BQT, batch.valid_BT
    B, Q, T = codes_BQT.shape
    device = codes_BQT.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device).to(device)

    drawn = draw_frames(valid_BT, generator, config)
    hidden_BT = hidden_frames(valid_BT & ~drawn.prefix_BT, drawn.share_B, drawn.rank_BT)
    known_BT = valid_BT & ~hidden_BT
    asked_BT = hidden_BT
    if config.head_share < 1:
        num_asked = torch.tensor([max(1, int(config.head_share * int(hidden_BT.sum())))], device=device)
        asked_BT = lowest_ranked(hidden_BT.view(1, -1), num_asked, uniform(1, B * T)).view(B, T)
    if config.noise_share > 0:
        stray_place_BT = (uniform(B, T) * valid_BT.sum(1).roll(1)[:, None]).long()
        stray_BQT = codes_BQT.roll(1, 0).gather(2, stray_place_BT[:, None, :].expand(-1, Q, -1))
        share_of_noise_B = 2 * config.noise_share * uniform(B)
        is_stray_BT = (uniform(B, T) < share_of_noise_B[:, None]) & known_BT & ~drawn.prefix_BT
        first_level_BT = (uniform(B, T) * Q).long()
        level_Q1 = torch.arange(Q, device=device)[:, None]
        codes_BQT = torch.where(
            is_stray_BT[:, None, :] & (level_Q1 >= first_level_BT[:, None, :]), stray_BQT, codes_BQT
        )
    return MaskedPlaces(codes_BQT=codes_BQT, known_BT=known_BT, asked_BT=asked_BT)


def fixed_places(batch: Batch, progress_B: Tensor, rank_BT: Tensor) -> MaskedPlaces:
    """Masks for a validation: a cosine share of the places at `progress_B`, those of the lowest rank, all of them asked
    for."""
    hidden_BT = hidden_frames(batch.valid_BT, cosine_share(progress_B).to(rank_BT.device), rank_BT)
    return MaskedPlaces(codes_BQT=batch.codes_BQT, known_BT=batch.valid_BT & ~hidden_BT, asked_BT=hidden_BT)


def place_nats(logits_QNK: Tensor, masked: MaskedPlaces, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy (Q, N) in nats of the places that are asked for: with label smoothing, and without (no
    gradient)."""
    log_probability_QNK = logits_QNK.float().log_softmax(-1)
    target_QN = masked.codes_BQT.transpose(1, 2)[masked.asked_BT].T
    nats_QN = -log_probability_QNK.gather(-1, target_QN[..., None]).squeeze(-1)
    smoothed_QN = (
        nats_QN
        if label_smoothing == 0
        else (1 - label_smoothing) * nats_QN - label_smoothing * log_probability_QNK.mean(-1)
    )
    return smoothed_QN, nats_QN.detach()


def training_timbre(
    network: PlaceNetwork, batch: Batch, generator: torch.Generator, config: TrainingConfig
) -> Tensor | None:
    """The clips' own timbres (B, S) with added noise, some of them dropped (NaN); None if the network has no timbre
    conditioning. Draws random numbers from `generator`."""
    timbre_BS = network.timbre_of(batch.codes_BQT, batch.valid_BT)
    if network.timbre is None or timbre_BS is None:
        return None
    normal_BS = torch.randn(timbre_BS.shape, generator=generator, device=generator.device).to(timbre_BS.device)
    is_told_B = (
        torch.rand(len(timbre_BS), generator=generator, device=generator.device).to(timbre_BS.device)
        >= config.timbre_dropout
    )
    return torch.where(is_told_B[:, None], network.timbre.blurred(timbre_BS, config.timbre_noise, normal_BS), math.nan)


def place_losses(
    model: nn.Module,
    batch: Batch,
    masked: MaskedPlaces,
    label_B: Tensor,
    config: TrainingConfig,
    timbre_BS: Tensor | None = None,
) -> StepLoss:
    """The loss of a batch under these masks: the mean over the places that are asked for, the levels weighted as
    `level_shares` says."""
    with autocast(batch.codes_BQT.device, config.precision):
        logits_QNK = model(masked.codes_BQT, masked.known_BT, label_B, batch.valid_BT, masked.asked_BT, timbre_BS)
    smoothed_QN, nats_QN = place_nats(logits_QNK, masked, config.label_smoothing)
    weight_Q = level_shares(len(nats_QN), config).to(nats_QN.device)
    levels = LevelLosses(
        nats_Q=nats_QN.double().sum(1), frames_Q=torch.full_like(nats_QN[:, 0], nats_QN.shape[1], dtype=torch.float64)
    )
    return StepLoss(loss=weight_Q @ smoothed_QN.mean(1), levels=levels)
