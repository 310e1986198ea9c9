"""Iterative decoding place by place. A place is a position of the clip with its codes of all levels; each iteration
fills some places, each with all levels, level after level.

1. A place is masked until all its levels are known; the network sees all levels of the known places. Codes that are
   given at single levels of a masked place are kept, and higher levels are sampled given them.
2. With `order="even"` the places of an iteration lie evenly over the clip, and only these are sampled. With
   `order="confidence"` every masked place is sampled, and those are kept whose codes have the highest joint
   probability, after Gumbel noise. Kept codes never change. An iteration that keeps none does not run the network.
3. The sampling temperature falls to `final_temperature` over the iterations; at levels above 0 only if
   `upper_temperature` is not set.
4. Classifier-free guidance: uncond + w (cond - uncond), at each level given the same lower codes; w falls to 1 with the
   fraction of places that are masked.
5. Each sample has its own random generator, seeded with its seed, and draws as many random numbers as its length
   requires.

Legend: B batch, Q levels, T places, N places that are sampled, D width, K codebook size.
"""

import torch
from torch import Tensor

from soundstorm.generation.decoding_task import DecodingTask
from soundstorm.generation.sampling import annealing, gumbel, most_confident
from soundstorm.model.mask_schedule import lowest_ranked, num_still_masked
from soundstorm.model.place_network import PlaceNetwork


def decode_places(model: PlaceNetwork, task: DecodingTask) -> None:
    """Fill the masked codes of `task`, some places in each iteration."""
    settings, device = task.settings, task.codes_BQT.device
    num_levels, longest = task.codes_BQT.shape[1:]
    [iterations] = settings.iterations_for(model.config)
    masked_BT = (task.codes_BQT == model.mask_id).any(1) & task.valid_BT
    num_unknown_B = masked_BT.sum(1)
    unknown_counts = num_unknown_B.tolist()
    if not any(unknown_counts):
        return
    num_drawn_B, order_BT = task.start(unknown_counts)
    masked_counts = unknown_counts
    for iteration in range(iterations):
        before_BQT, masked_before_BT = task.codes_before(), masked_BT
        masked_share_B = torch.tensor(masked_counts, device=device) / num_unknown_B.clamp(min=1)
        factor = annealing(iteration, iterations)
        remaining = [num_still_masked(count, iteration, iterations) for count in unknown_counts]
        kept_counts = [before - after for before, after in zip(masked_counts, remaining, strict=True)]
        uniform_BTQ = task.uniform([drawn * num_levels for drawn in num_drawn_B], longest * num_levels).view(
            -1, longest, num_levels
        )
        noise_BT = torch.zeros((), dtype=torch.float64, device=device)
        if order_BT is None and settings.choice_temperature * factor > 0:
            noise_BT = settings.choice_temperature * factor * gumbel(task.uniform(num_drawn_B, longest))
        if any(kept_counts):
            num_kept_B = torch.tensor(kept_counts, device=device)
            sampled_BT = masked_BT if order_BT is None else lowest_ranked(masked_BT, num_kept_B, order_BT)
            codes_NQ, log_probability_N = _sample_places(
                model, task, masked_BT, sampled_BT, masked_share_B, factor, uniform_BTQ
            )
            kept_BT = sampled_BT
            if log_probability_N is not None:
                confidence_BT = torch.zeros(sampled_BT.shape, dtype=torch.float64, device=device)
                confidence_BT[sampled_BT] = log_probability_N
                kept_BT = most_confident(confidence_BT + noise_BT, masked_BT, num_kept_B)
                codes_NQ = codes_NQ[kept_BT[sampled_BT]]
            task.codes_BQT.transpose(1, 2)[kept_BT] = codes_NQ
            masked_BT = masked_BT & ~kept_BT
        masked_counts = remaining
        guidance_B = task.guidance(0, masked_share_B)
        task.report(before_BQT, masked_before_BT, masked_BT, guidance_B, level=None, iteration=iteration, factor=factor)


def _sample_places(
    model: PlaceNetwork,
    task: DecodingTask,
    masked_BT: Tensor,
    sampled_BT: Tensor,
    masked_share_B: Tensor,
    factor: float,
    uniform_BTQ: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Samples codes (N, Q) at the places where `sampled_BT` is True, except codes that are known there. Also returns
    their log-probability (N,) if places are kept by confidence."""
    device, repeats = task.codes_BQT.device, 1
    row_N = sampled_BT.flatten().nonzero()[:, 0]
    clip_N = row_N // sampled_BT.shape[1]
    codes_NQ = task.codes_BQT.transpose(1, 2).flatten(0, 1)[row_N]
    uniform_NQ = uniform_BTQ.flatten(0, 1)[row_N]
    label_B, asked_N = task.label_B, row_N
    is_guided = task.guidance(0, masked_share_B) is not None or task.guidance(1, masked_share_B) is not None
    if is_guided:
        repeats, label_B = 2, torch.cat((label_B, torch.full_like(label_B, model.no_class)))
        asked_N = torch.cat((row_N, row_N + sampled_BT.numel()))

    def repeated(x: Tensor) -> Tensor:
        return torch.cat([x] * repeats) if repeats > 1 else x

    mask_BT = task.padding_mask
    with torch.autocast(device.type, torch.bfloat16, enabled=task.bf16):
        x_BTD = model.hidden(
            repeated(task.codes_BQT),
            repeated(task.valid_BT & ~masked_BT),
            label_B,
            None if mask_BT is None else repeated(mask_BT),
            None if task.timbre_BS is None else repeated(task.timbre_BS),
        )
        levels = model.level_by_level(x_BTD.flatten(0, 1)[asked_N])
        log_probability_N = None
        if task.settings.order != "even":
            log_probability_N = torch.zeros(len(codes_NQ), dtype=torch.float64, device=device)
        for level in range(codes_NQ.shape[1]):
            logits_NK = levels.logits()
            if is_guided:
                conditional_NK, unconditional_NK = logits_NK.chunk(2)
                guidance_B = task.guidance(level, masked_share_B)
                weight_N1 = (
                    torch.ones_like(clip_N)[:, None] if guidance_B is None else guidance_B.float()[clip_N][:, None]
                )
                logits_NK = unconditional_NK + weight_N1 * (conditional_NK - unconditional_NK)
            sampled_N = task.sample(logits_NK, level, factor, uniform_NQ[:, level])
            was_masked_N = codes_NQ[:, level] == model.mask_id
            codes_N = torch.where(was_masked_N, sampled_N, codes_NQ[:, level])
            codes_NQ[:, level] = codes_N
            if log_probability_N is not None:
                nats_N = logits_NK.log_softmax(-1).gather(-1, codes_N[:, None])[:, 0].double()
                log_probability_N += nats_N * was_masked_N
            levels.take(repeated(codes_N))
    return codes_NQ, log_probability_N
