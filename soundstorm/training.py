"""Loss, optimizer, learning-rate schedule and validation of a `SoundStorm` network.

Legend: B batch, Q levels, T codec frames, K codebook size.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from soundstorm.batching import Batch, seeded_generator
from soundstorm.ema import EMA
from soundstorm.errors import SoundStormError
from soundstorm.masking import MaskedBatch, cosine_share, level_shares, mask_level, training_masks
from soundstorm.model import SoundStorm
from soundstorm.presets import TrainingConfig

GOLDEN_SHARE = (math.sqrt(5) - 1) / 2
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 250_000


@dataclass(kw_only=True, frozen=True)
class LevelLosses:
    """Sums that add up over batches and workers (float64): all-reduce the two tensors to get the whole run's losses."""

    nats_Q: Tensor
    """Sum of the cross-entropy of the masked frames of each level, in nats, without label smoothing."""
    frames_Q: Tensor
    """Number of these frames."""

    def __add__(self, other: "LevelLosses") -> "LevelLosses":
        return LevelLosses(nats_Q=self.nats_Q + other.nats_Q, frames_Q=self.frames_Q + other.frames_Q)

    def per_level(self) -> list[float | None]:
        """Mean loss of each level in nats; None where no frame was masked."""
        return [nats / frames if frames else None for nats, frames in zip(self.nats_Q.tolist(), self.frames_Q.tolist(), strict=True)]

    def mean(self) -> float:
        """Mean loss over all masked frames in nats."""
        return float(self.nats_Q.sum() / self.frames_Q.sum().clamp(min=1))


@dataclass(kw_only=True, frozen=True)
class StepLoss:
    """What one training step is about to descend, and what it says about each level."""

    loss: Tensor
    """Scalar with a gradient: mean over the masked frames of the batch, with label smoothing."""
    levels: LevelLosses


def bare(model: nn.Module) -> SoundStorm:
    """The network inside a DDP wrapper, or `model` itself."""
    return cast(SoundStorm, model.module if isinstance(model, DistributedDataParallel) else model)


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether linear layers are computed in bfloat16; `auto` asks the device whether it has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which linear layers follow `precision` (auto, fp32 or bf16)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, precision))


def masked_nats(logits_BTK: Tensor, masked: MaskedBatch, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B, T) of the masked frames in nats, 0 elsewhere: with label smoothing, and without (no gradient)."""
    log_probability_BTK = logits_BTK.float().log_softmax(-1)
    target_BT = masked.target_BT.masked_fill(~masked.loss_mask_BT, 0)
    nats_BT = -log_probability_BTK.gather(-1, target_BT[..., None]).squeeze(-1)
    smoothed_BT = nats_BT if label_smoothing == 0 else (1 - label_smoothing) * nats_BT - label_smoothing * log_probability_BTK.mean(-1)
    return smoothed_BT * masked.loss_mask_BT, nats_BT.detach() * masked.loss_mask_BT


def _sum_by_level(nats_BT: Tensor, masked: MaskedBatch, num_levels: int) -> LevelLosses:
    zeros_Q = torch.zeros(num_levels, dtype=torch.float64, device=nats_BT.device)
    return LevelLosses(
        nats_Q=zeros_Q.index_add(0, masked.level_B, nats_BT.double().sum(1)),
        frames_Q=zeros_Q.index_add(0, masked.level_B, masked.loss_mask_BT.sum(1).double()),
    )


def training_step(model: nn.Module, batch: Batch, generator: torch.Generator, config: TrainingConfig) -> StepLoss:
    """Masks a batch, drops some classes, and computes the loss; `apply_gradients` does the rest of the step.

    Masks and dropped classes come from `generator`; dropout, where a network has it, from PyTorch's global generator.

    Args:
        model: a `SoundStorm`, or it wrapped in DDP, in training mode.
        batch: clips on the device of the model.
    """
    network = bare(model)
    masked = training_masks(batch.codes_BQT, batch.mask_BT, generator, config, network.mask_id)
    dropped_B = torch.rand(len(batch.label_B), generator=generator, device=generator.device) < config.class_dropout
    label_B = batch.label_B.masked_fill(dropped_B.to(batch.label_B.device), network.no_class)
    with autocast(network.device, config.precision):
        logits_BTK = model(masked.input_codes_BQT, label_B, batch.mask_BT, masked.level_B)
    smoothed_BT, nats_BT = masked_nats(logits_BTK, masked, config.label_smoothing)
    return StepLoss(loss=smoothed_BT.sum() / masked.loss_mask_BT.sum(), levels=_sum_by_level(nats_BT, masked, network.config.num_levels))


def apply_gradients(
    model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, schedule: LambdaLR, config: TrainingConfig, ema: EMA | None = None
) -> float:
    """Backward pass, clipping, optimizer, schedule and average; returns the norm of the gradient before clipping.

    Raises:
        SoundStormError: the gradient is not finite; nothing was updated.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip))
    if not math.isfinite(norm):
        raise SoundStormError(f"the gradient is {norm} at a loss of {loss.item():.3f} nats: lower --lr (it is {config.lr}) or compute in fp32")
    optimizer.step()
    schedule.step()
    if ema is not None:
        ema.update(bare(model))
    return norm


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Adam; with `weight_decay` above 0 AdamW, which decays the matrices of linear layers and heads only."""
    decayed: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and not name.endswith(("embedding.weight", "depthwise.weight", "head_bias"))
        (decayed if is_matrix else other).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def lr_factor(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Share of the highest learning rate at `step` (from 0); past the last step it stays where it ended.

    `onecycle` is the published schedule (Smith and Topin, arXiv 1708.07120) as PyTorch has it: a cosine from 1/25 up to 1, then a cosine
    down to 1/250000, with the momentum left alone. `trapezoid` stays at 1 between its rise and its fall, so that one can decide late
    how long to train (Hägele et al., arXiv 2405.18392).
    """
    warmup_steps = config.warmup_share * total_steps
    last_step = max(total_steps - 1, 1)
    if config.schedule == "onecycle":
        peak_step = min(max(warmup_steps - 1, 0.0), last_step)
        if step < peak_step:
            return _cosine_between(ONECYCLE_START, 1.0, step / peak_step)
        return _cosine_between(1.0, ONECYCLE_END, min(1.0, (step - peak_step) / max(last_step - peak_step, 1e-9)))
    if step < warmup_steps:
        return (step + 1) / (math.floor(warmup_steps) + 1)
    if config.schedule == "trapezoid":
        cooldown_steps = config.cooldown_share * total_steps
        return 1.0 if step <= total_steps - cooldown_steps or cooldown_steps == 0 else max(0.0, (total_steps - step) / cooldown_steps)
    return _cosine_between(1.0, 0.0, min(1.0, (step - warmup_steps) / max(total_steps - warmup_steps, 1e-9)))


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int) -> LambdaLR:
    """Learning rate per optimizer step; its state is the number of steps done, so it resumes from `state_dict`."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, config))


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Iterable[Batch], config: TrainingConfig, first: int = 0, stride: int = 1) -> LevelLosses:
    """Losses of whole clips under fixed masks, with their classes and without prompts: equal from run to run and from epoch to epoch.

    Each clip is asked twice: at level 0, and at one of the other levels in turn. The masked share runs evenly over the cosine schedule.
    The mask of a clip depends on `config.seed` and its place among the clips, not on how they are batched or dealt over workers.

    Args:
        model: the network, or a wrapper of it.
        batches: the clips of this worker, in order.
        config: of the training.
        first: place of the first clip among those of all workers.
        stride: places from one clip of this worker to its next.
    """
    network = bare(model)
    num_levels, device = network.config.num_levels, network.device
    total = LevelLosses(
        nats_Q=torch.zeros(num_levels, dtype=torch.float64, device=device), frames_Q=torch.zeros(num_levels, dtype=torch.float64, device=device)
    )
    was_training = network.training
    network.eval()
    place = first
    for whole_batch in batches:
        batch = whole_batch.to(device)
        places = range(place, place + stride * len(batch.label_B), stride)
        place = places.stop
        for turn in range(min(2, num_levels)):
            masked = _fixed_masks(batch, places, turn, num_levels, config.seed, network.mask_id)
            with autocast(device, config.precision):
                logits_BTK = network(masked.input_codes_BQT, batch.label_B, batch.mask_BT, masked.level_B)
            total = total + _sum_by_level(masked_nats(logits_BTK, masked, 0.0)[1], masked, num_levels)
    network.train(was_training)
    return total


def _fixed_masks(batch: Batch, places: range, turn: int, num_levels: int, seed: int, mask_id: int) -> MaskedBatch:
    """Level 0 in turn 0, level 1 + place modulo (Q - 1) in turn 1."""
    device = batch.codes_BQT.device
    rank_BT = torch.zeros(batch.mask_BT.shape)
    for row, place, num_frames in zip(rank_BT, places, batch.mask_BT.sum(1).tolist(), strict=True):
        row[:num_frames] = torch.rand(num_frames, generator=seeded_generator(seed, place, turn))
    level_B = torch.tensor([0 if turn == 0 else 1 + place % (num_levels - 1) for place in places], device=device)
    progress_B = torch.tensor([(0.5 + (place + turn / 2) * GOLDEN_SHARE) % 1.0 for place in places], dtype=torch.float64)
    no_prefix_BT = torch.zeros_like(batch.mask_BT)
    return mask_level(batch.codes_BQT, batch.mask_BT, no_prefix_BT, level_B, cosine_share(progress_B).to(device), rank_BT.to(device), mask_id)


def mixed_loss(losses: LevelLosses, config: TrainingConfig) -> float:
    """One figure for a validation: per-level losses weighted as training draws the levels; levels without frames are left out."""
    weights_Q = level_shares(len(losses.frames_Q), config).tolist()
    pairs = [(weight, loss) for weight, loss in zip(weights_Q, losses.per_level(), strict=True) if loss is not None]
    total = sum(weight for weight, _ in pairs)
    return sum(weight * loss for weight, loss in pairs) / total if total > 0 else math.nan
