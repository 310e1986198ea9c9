"""Loss, optimizer, learning-rate schedule and validation of a generator.

Legend: B batch, Q levels, T codec frames, K codebook size.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from soundstorm.errors import SoundStormError
from soundstorm.model.config import TrainingConfig
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.mask_schedule import cosine_share
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import autocast, uses_bf16
from soundstorm.optimization.schedules import cosine_between
from soundstorm.optimization.weight_decay import parameter_groups
from soundstorm.training.batches import Batch, seeded_generator
from soundstorm.training.losses import LevelLosses, StepLoss
from soundstorm.training.masking import MaskedBatch, level_shares, mask_level, training_masks
from soundstorm.training.place_step import fixed_places, place_losses, training_places, training_timbre

__all__ = [
    "LevelLosses",
    "StepLoss",
    "apply_gradients",
    "autocast",
    "build_optimizer",
    "build_schedule",
    "evaluate_loss",
    "lr_factor",
    "masked_nats",
    "mixed_loss",
    "training_step",
    "unwrap_ddp",
    "uses_bf16",
]

GOLDEN_SHARE = (math.sqrt(5) - 1) / 2
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 250_000


def unwrap_ddp(model: nn.Module) -> GeneratorNetwork:
    """The network inside a DDP wrapper, or `model` itself."""
    return cast(GeneratorNetwork, model.module if isinstance(model, DistributedDataParallel) else model)


def masked_nats(logits_BTK: Tensor, masked: MaskedBatch, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B, T) of the masked frames in nats, 0 elsewhere: with label smoothing, and without (no
    gradient)."""
    log_probability_BTK = logits_BTK.float().log_softmax(-1)
    target_BT = masked.target_BT.masked_fill(~masked.loss_mask_BT, 0)
    nats_BT = -log_probability_BTK.gather(-1, target_BT[..., None]).squeeze(-1)
    smoothed_BT = (
        nats_BT
        if label_smoothing == 0
        else (1 - label_smoothing) * nats_BT - label_smoothing * log_probability_BTK.mean(-1)
    )
    return smoothed_BT * masked.loss_mask_BT, nats_BT.detach() * masked.loss_mask_BT


def _sum_by_level(nats_BT: Tensor, masked: MaskedBatch, num_levels: int) -> LevelLosses:
    zeros_Q = torch.zeros(num_levels, dtype=torch.float64, device=nats_BT.device)
    return LevelLosses(
        nats_Q=zeros_Q.index_add(0, masked.level_B, nats_BT.double().sum(1)),
        frames_Q=zeros_Q.index_add(0, masked.level_B, masked.loss_mask_BT.sum(1).double()),
    )


def training_step(model: nn.Module, batch: Batch, generator: torch.Generator, config: TrainingConfig) -> StepLoss:
    """Mask a batch, drop some classes, and compute the loss; `apply_gradients` completes the step.

    Masks and dropped classes come from `generator`; dropout comes from PyTorch's global generator.

    Args:
        model: a `SoundStorm` or `PlaceNetwork`, possibly wrapped in DDP, in training mode.
        batch: clips on the device of the model.
    """
    network = unwrap_ddp(model)
    if isinstance(network, PlaceNetwork):
        places = training_places(batch, generator, config)
        label_B = _drop_classes(batch.label_B, generator, network, config)
        return place_losses(model, batch, places, label_B, config, training_timbre(network, batch, generator, config))
    masked = training_masks(batch.codes_BQT, batch.valid_BT, generator, config, network.mask_id)
    label_B = _drop_classes(batch.label_B, generator, network, config)
    with autocast(network.device, config.precision):
        logits_BTK = model(masked.input_codes_BQT, label_B, batch.valid_BT, masked.level_B)
    smoothed_BT, nats_BT = masked_nats(logits_BTK, masked, config.label_smoothing)
    return StepLoss(
        loss=smoothed_BT.sum() / masked.loss_mask_BT.sum(),
        levels=_sum_by_level(nats_BT, masked, network.config.num_levels),
    )


def _drop_classes(
    label_B: Tensor, generator: torch.Generator, network: GeneratorNetwork, config: TrainingConfig
) -> Tensor:
    """Labels, a random fraction of them replaced by "no class"."""
    dropped_B = torch.rand(len(label_B), generator=generator, device=generator.device) < config.class_dropout
    return label_B.masked_fill(dropped_B.to(label_B.device), network.no_class)


def apply_gradients(
    model: nn.Module,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    config: TrainingConfig,
    ema: EMA | None = None,
) -> float:
    """Backward pass, gradient clipping, optimizer step, schedule step and EMA update. Returns the norm of the gradient
    before clipping.

    Raises:
        SoundStormError: the gradient is not finite; nothing was updated.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip))
    if not math.isfinite(norm):
        raise SoundStormError(
            f"the gradient is {norm} at a loss of {loss.item():.3f} nats: lower --lr (it is {config.lr}) or compute "
            "in fp32"
        )
    optimizer.step()
    schedule.step()
    if ema is not None:
        ema.update(unwrap_ddp(model))
    return norm


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Adam; with `weight_decay` above 0 AdamW, which decays only the matrices of linear layers and heads."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def lr_factor(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Learning rate at `step` (from 0) as a fraction of the peak; after the last step it stays constant.

    `onecycle` is the published schedule (Smith and Topin, arXiv 1708.07120) as in PyTorch: a cosine from 1/25 up to 1,
    then a cosine down to 1/250000, with constant momentum. `trapezoid` stays at 1 between its rise and its fall, so
    that the length of a training can be chosen late (Hägele et al., arXiv 2405.18392).
    """
    warmup_steps = config.warmup_share * total_steps
    last_step = max(total_steps - 1, 1)
    if config.schedule == "onecycle":
        peak_step = min(max(warmup_steps - 1, 0.0), last_step)
        if step < peak_step:
            return cosine_between(ONECYCLE_START, 1.0, step / peak_step)
        return cosine_between(1.0, ONECYCLE_END, (step - peak_step) / max(last_step - peak_step, 1e-9))
    if step < warmup_steps:
        return (step + 1) / (math.floor(warmup_steps) + 1)
    if config.schedule == "trapezoid":
        cooldown_steps = config.cooldown_share * total_steps
        return (
            1.0
            if step <= total_steps - cooldown_steps or cooldown_steps == 0
            else max(0.0, (total_steps - step) / cooldown_steps)
        )
    return cosine_between(1.0, 0.0, (step - warmup_steps) / max(total_steps - warmup_steps, 1e-9))


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int) -> LambdaLR:
    """Learning rate per optimizer step; its state is the number of steps, so it can be resumed from `state_dict`."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, config))


@torch.no_grad()
def evaluate_loss(
    model: nn.Module, batches: Iterable[Batch], config: TrainingConfig, first: int = 0, stride: int = 1
) -> LevelLosses:
    """Losses of whole clips under fixed masks, with their classes and without prompts: the same masks in every run and
    epoch.

    Each clip is masked twice: at level 0, and at one of the other levels in turn; for a network of order `places` once,
    at all levels. The masked fractions are spread evenly over the cosine schedule. The mask of a clip depends on
    `config.seed` and its index among all clips, not on the batches or the number of workers.

    Args:
        model: the network, or a wrapper of it.
        batches: the clips of this worker, in order.
        config: settings of the training.
        first: index of this worker's first clip among those of all workers.
        stride: difference between the indices of consecutive clips of this worker.
    """
    network = unwrap_ddp(model)
    num_levels, device = network.config.num_levels, network.device
    total = LevelLosses.none(num_levels, device)
    was_training = network.training
    network.eval()
    place = first
    for whole_batch in batches:
        batch = whole_batch.to(device)
        places = range(place, place + stride * len(batch.label_B), stride)
        place = places.stop
        if isinstance(network, PlaceNetwork):
            masks = fixed_places(batch, _fixed_progress(places, 0), _fixed_ranks(batch, places, 0, config.seed))
            timbre_BS = network.timbre_of(batch.codes_BQT, batch.valid_BT)
            total = total + place_losses(network, batch, masks, batch.label_B, config, timbre_BS).levels
            continue
        for turn in range(min(2, num_levels)):
            masked = _fixed_masks(batch, places, turn, num_levels, config.seed, network.mask_id)
            with autocast(device, config.precision):
                logits_BTK = network(masked.input_codes_BQT, batch.label_B, batch.valid_BT, masked.level_B)
            total = total + _sum_by_level(masked_nats(logits_BTK, masked, 0.0)[1], masked, num_levels)
    network.train(was_training)
    return total


def _fixed_masks(batch: Batch, places: range, turn: int, num_levels: int, seed: int, mask_id: int) -> MaskedBatch:
    """Masks of level 0 in turn 0, and of level 1 + index modulo (Q - 1) in turn 1."""
    device = batch.codes_BQT.device
    rank_BT = _fixed_ranks(batch, places, turn, seed)
    level_B = torch.tensor([0 if turn == 0 else 1 + place % (num_levels - 1) for place in places], device=device)
    no_prefix_BT = torch.zeros_like(batch.valid_BT)
    share_B = cosine_share(_fixed_progress(places, turn)).to(device)
    return mask_level(batch.codes_BQT, batch.valid_BT, no_prefix_BT, level_B, share_B, rank_BT, mask_id)


def _fixed_ranks(batch: Batch, places: range, turn: int, seed: int) -> Tensor:
    rank_BT = torch.zeros(batch.valid_BT.shape)
    for row, place, num_frames in zip(rank_BT, places, batch.valid_BT.sum(1).tolist(), strict=True):
        row[:num_frames] = torch.rand(num_frames, generator=seeded_generator(seed, place, turn))
    return rank_BT.to(batch.codes_BQT.device)


def _fixed_progress(places: range, turn: int) -> Tensor:
    return torch.tensor([(0.5 + (place + turn / 2) * GOLDEN_SHARE) % 1.0 for place in places], dtype=torch.float64)


def mixed_loss(losses: LevelLosses, config: TrainingConfig) -> float:
    """Validation loss: per-level losses weighted by the frequency of the levels in training; levels without frames are
    ignored."""
    weights_Q = level_shares(len(losses.frames_Q), config).tolist()
    pairs = [(weight, loss) for weight, loss in zip(weights_Q, losses.per_level(), strict=True) if loss is not None]
    total = sum(weight for weight, _ in pairs)
    return sum(weight * loss for weight, loss in pairs) / total if total > 0 else math.nan
