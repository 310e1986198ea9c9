"""Iterative decoding level by level (Borsos et al., arXiv 2305.09636, section 3.3).

1. Levels above the current one stay MASK until their turn, except for codes that were given.
2. In each iteration a code is sampled at every masked frame of the level; the most confident codes are kept, the
   others stay MASK. Kept codes never change. With `order="even"`, the frames to keep follow a low-discrepancy order
   instead: they lie evenly over the clip, whatever their confidence.
3. The sampling temperature falls to `final_temperature` within a level (0: the last iteration takes the likeliest
   codes); the Gumbel noise on log-confidence falls to 0.
4. Classifier-free guidance: uncond + w (cond - uncond); w falls to 1 with the fraction of the level that is masked.
5. The network computes the logits of the current level only. Codes are sampled at the frames that are still masked;
   with `order="even"`, only at those that the iteration keeps. The logits of all frames are computed in one matrix
   product, because its last bits may depend on the number of rows.

Legend: B batch, Q levels, T codec frames, K codebook size.
"""

from typing import Protocol

import torch
from torch import Tensor

from soundstorm.generation.decoding_task import DecodingTask
from soundstorm.generation.sampling import annealing, gumbel, most_confident
from soundstorm.model.config import ModelConfig
from soundstorm.model.mask_schedule import lowest_ranked, num_still_masked


class LevelNetwork(Protocol):
    """What decoding by levels needs of a network; `SoundStorm` is one."""

    config: ModelConfig

    @property
    def mask_id(self) -> int: ...

    @property
    def no_class(self) -> int: ...

    def __call__(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor, level: int) -> Tensor: ...


def _logits(model: LevelNetwork, task: DecodingTask, level: int, guidance_B: Tensor | None) -> Tensor:
    """Logits (B, T, K) in float32. If guidance weights are given, the conditional and the unconditional logits are
    computed as one batch."""
    codes_BQT, label_B, valid_BT = task.codes_BQT, task.label_B, task.valid_BT
    with torch.autocast(codes_BQT.device.type, torch.bfloat16, enabled=task.bf16):
        if guidance_B is None:
            return model(codes_BQT, label_B, valid_BT, level).float()
        labels = torch.cat((label_B, torch.full_like(label_B, model.no_class)))
        conditional, unconditional = (
            model(codes_BQT.repeat(2, 1, 1), labels, valid_BT.repeat(2, 1), level).float().chunk(2)
        )
    return unconditional + guidance_B.float()[:, None, None] * (conditional - unconditional)


def decode_levels(model: LevelNetwork, task: DecodingTask) -> None:
    """Fill the masked codes of `task`, level after level."""
    settings, valid_BT, device = task.settings, task.valid_BT, task.codes_BQT.device
    longest = valid_BT.shape[1]
    for level, iterations in enumerate(settings.iterations_for(model.config)):
        masked_BT = (task.codes_BQT[:, level] == model.mask_id) & valid_BT
        num_unknown_B = masked_BT.sum(1)
        unknown_counts = num_unknown_B.tolist()
        if not any(unknown_counts):
            continue
        num_drawn_B, order_BT = task.start(unknown_counts)
        for iteration in range(iterations):
            before_BQT, masked_before_BT = task.codes_before(), masked_BT
            num_masked_B = masked_BT.sum(1)
            guidance_B = task.guidance(level, num_masked_B / num_unknown_B.clamp(min=1))
            remaining = [num_still_masked(count, iteration, iterations) for count in unknown_counts]
            num_kept_B = num_masked_B - torch.tensor(remaining, device=device)
            sampled_BT = masked_BT if order_BT is None else lowest_ranked(masked_BT, num_kept_B, order_BT)
            factor = annealing(iteration, iterations)
            draws = task.temperature(level, factor) > 0
            uniform_N = task.uniform(num_drawn_B, longest)[sampled_BT] if draws else None
            logits_NK = _logits(model, task, level, guidance_B)[sampled_BT]
            sampled_N = task.sample(logits_NK, level, factor, uniform_N)
            kept_BT = sampled_BT
            if order_BT is None:
                confidence_BT = torch.zeros(valid_BT.shape, dtype=torch.float64, device=device)
                confidence_BT[sampled_BT] = logits_NK.log_softmax(-1).gather(-1, sampled_N[:, None])[:, 0].double()
                if settings.choice_temperature * factor > 0:
                    confidence_BT = confidence_BT + settings.choice_temperature * factor * gumbel(
                        task.uniform(num_drawn_B, longest)
                    )
                kept_BT = most_confident(confidence_BT, masked_BT, num_kept_B)
                sampled_N = sampled_N[kept_BT[sampled_BT]]
            task.codes_BQT[:, level][kept_BT] = sampled_N
            masked_BT = masked_BT & ~kept_BT
            task.report(
                before_BQT, masked_before_BT, masked_BT, guidance_B, level=level, iteration=iteration, factor=factor
            )
