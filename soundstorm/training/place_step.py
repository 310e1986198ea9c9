"""Masks and loss of a network of order `places`, which is trained on all levels of the masked places.

As in SoundStorm, the fraction of masked places follows the cosine schedule of MaskGIT (Chang et al., arXiv 2202.04200);
some examples mask spans, some have a visible prefix. A masked place is masked at all levels.

Legend: B batch, Q levels, T places, N places with a loss, K codebook size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soundstorm.model.config import TrainingConfig
from soundstorm.model.mask_schedule import cosine_share, lowest_ranked
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.precision import autocast
from soundstorm.training.batches import Batch
from soundstorm.training.losses import LevelLosses, StepLoss
from soundstorm.training.masking import level_shares, masked_frames, sample_frames


@dataclass(kw_only=True, frozen=True)
class MaskedPlaces:
    """Input and targets of a training step."""

    codes_BQT: Tensor
    """Codes; some of the visible places have random codes of other clips (corruption)."""
    known_BT: Tensor
    """True at visible places."""
    asked_BT: Tensor
    """True at the masked places with a loss."""


def training_places(batch: Batch, generator: torch.Generator, config: TrainingConfig) -> MaskedPlaces:
    """Sample the masked places of every clip, those with a loss, and the corruption of visible places.

    A corrupted place has, from a random level on, the codes of a random place of another clip, because in decoding the
    upper levels are wrong more often. The random numbers come from `generator` on its own device, so that a seed gives
    the same result on CPU and GPU.
    """
    codes_BQT, valid_BT = batch.codes_BQT, batch.valid_BT
    B, Q, T = codes_BQT.shape
    device = codes_BQT.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device).to(device)

    drawn = sample_frames(valid_BT, generator, config)
    masked_BT = masked_frames(valid_BT & ~drawn.prefix_BT, drawn.share_B, drawn.rank_BT)
    known_BT = valid_BT & ~masked_BT
    asked_BT = masked_BT
    if config.head_share < 1:
        num_asked = torch.tensor([max(1, int(config.head_share * int(masked_BT.sum())))], device=device)
        asked_BT = lowest_ranked(masked_BT.view(1, -1), num_asked, uniform(1, B * T)).view(B, T)
    if config.noise_share > 0:
        random_place_BT = (uniform(B, T) * valid_BT.sum(1).roll(1)[:, None]).long()
        random_BQT = codes_BQT.roll(1, 0).gather(2, random_place_BT[:, None, :].expand(-1, Q, -1))
        noise_share_B = 2 * config.noise_share * uniform(B)
        is_random_BT = (uniform(B, T) < noise_share_B[:, None]) & known_BT & ~drawn.prefix_BT
        first_level_BT = (uniform(B, T) * Q).long()
        level_Q1 = torch.arange(Q, device=device)[:, None]
        codes_BQT = torch.where(
            is_random_BT[:, None, :] & (level_Q1 >= first_level_BT[:, None, :]), random_BQT, codes_BQT
        )
    return MaskedPlaces(codes_BQT=codes_BQT, known_BT=known_BT, asked_BT=asked_BT)


def fixed_places(batch: Batch, progress_B: Tensor, rank_BT: Tensor) -> MaskedPlaces:
    """Masks for validation: the places of lowest rank, their fraction given by the cosine schedule at `progress_B`; all
    of them have a loss."""
    masked_BT = masked_frames(batch.valid_BT, cosine_share(progress_B).to(rank_BT.device), rank_BT)
    return MaskedPlaces(codes_BQT=batch.codes_BQT, known_BT=batch.valid_BT & ~masked_BT, asked_BT=masked_BT)


def place_nats(logits_QNK: Tensor, masked: MaskedPlaces, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy (Q, N) in nats of the places with a loss: with label smoothing, and without (no gradient)."""
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
    is_known_B = (
        torch.rand(len(timbre_BS), generator=generator, device=generator.device).to(timbre_BS.device)
        >= config.timbre_dropout
    )
    return torch.where(is_known_B[:, None], network.timbre.blurred(timbre_BS, config.timbre_noise, normal_BS), math.nan)


def place_losses(
    model: nn.Module,
    batch: Batch,
    masked: MaskedPlaces,
    label_B: Tensor,
    config: TrainingConfig,
    timbre_BS: Tensor | None = None,
) -> StepLoss:
    """The loss of a batch with these masks: the mean over the places with a loss, with the levels weighted by
    `level_shares`."""
    with autocast(batch.codes_BQT.device, config.precision):
        logits_QNK = model(masked.codes_BQT, masked.known_BT, label_B, batch.valid_BT, masked.asked_BT, timbre_BS)
    smoothed_QN, nats_QN = place_nats(logits_QNK, masked, config.label_smoothing)
    weight_Q = level_shares(len(nats_QN), config).to(nats_QN.device)
    levels = LevelLosses(
        nats_Q=nats_QN.double().sum(1), frames_Q=torch.full_like(nats_QN[:, 0], nats_QN.shape[1], dtype=torch.float64)
    )
    return StepLoss(loss=weight_Q @ smoothed_QN.mean(1), levels=levels)
