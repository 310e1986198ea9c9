"""Iterative decoding place by place. A place is a position of the clip with its codes of all levels; each iteration
fills some places, each with all levels, level after level.

1. A place is masked until all its levels are known; the network sees all levels of the known places. Codes that are
   given at single levels of a masked place are kept, and higher levels are sampled given them.
2. With `order="even"` the places of an iteration lie evenly over the clip, and only these are sampled. With
   `order="confidence"` every masked place is sampled, and those are kept whose codes have the highest joint
   probability, after Gumbel noise. Kept codes never change.
3. The sampling temperature falls to `final_temperature` over the iterations; at levels above 0 only if
   `upper_temperature` is not set.
4. Classifier-free guidance: uncond + w (cond - uncond), at each level given the same lower codes; w falls to 1 with the
   fraction of places that are masked.
5. Each sample has a random generator of its own seed and draws as many numbers as its own length needs.

Legend: B batch, Q levels, T places, N places that are sampled, D width, K codebook size.
"""

import torch
from torch import Tensor

from soundstorm.generation.decoding_task import DecodingStep, DecodingTask
from soundstorm.generation.sampling import annealing, filtered_probability, gumbel, most_confident, sample_codes
from soundstorm.model.mask_schedule import num_still_masked
from soundstorm.model.place_network import PlaceNetwork


def decode_places(model: PlaceNetwork, task: DecodingTask) -> None:
    """Fill the masked codes of `task`, some places in each iteration."""
    settings, valid_BT, device = task.settings, task.valid_BT, task.codes_BQT.device
    num_levels, longest = task.codes_BQT.shape[1:]
    [iterations] = settings.iterations_for(model.config)
    masked_BT = (task.codes_BQT == model.mask_id).any(1) & valid_BT
    num_unknown_B = masked_BT.sum(1)
    unknown_counts = num_unknown_B.tolist()
    if not any(unknown_counts):
        return
    num_drawn_B, order_BT = task.start(unknown_counts)
    for iteration in range(iterations):
        before_BQT, masked_before_BT = task.codes_BQT, masked_BT
        num_masked_B = masked_BT.sum(1)
        masked_share_B = num_masked_B / num_unknown_B.clamp(min=1)
        factor = annealing(iteration, iterations)
        num_kept_B = num_masked_B - torch.tensor(
            [num_still_masked(count, iteration, iterations) for count in unknown_counts], device=device
        )
        uniform_BTQ = task.uniform([drawn * num_levels for drawn in num_drawn_B], longest * num_levels).view(
            -1, longest, num_levels
        )
        kept_BT = masked_BT if order_BT is None else most_confident(-order_BT, masked_BT, num_kept_B)
        drawn_BQT, log_probability_BT = _sample_places(model, task, kept_BT, masked_share_B, factor, uniform_BTQ)
        if order_BT is None:
            if settings.choice_temperature * factor > 0:
                log_probability_BT = log_probability_BT + settings.choice_temperature * factor * gumbel(
                    task.uniform(num_drawn_B, longest)
                )
            kept_BT = most_confident(log_probability_BT, masked_BT, num_kept_B)
        task.codes_BQT = torch.where(kept_BT[:, None, :], drawn_BQT, task.codes_BQT)
        masked_BT = masked_BT & ~kept_BT
        if task.on_step is not None:
            guidance_B = task.guidance(0, masked_share_B)
            task.on_step(
                DecodingStep(
                    level=None,
                    iteration=iteration,
                    before_BQT=before_BQT.clone(),
                    after_BQT=task.codes_BQT.clone(),
                    masked_before_BT=masked_before_BT.clone(),
                    masked_after_BT=masked_BT.clone(),
                    guidance_B=torch.ones(len(valid_BT), device=device) if guidance_B is None else guidance_B.clone(),
                    annealing=factor,
                )
            )


def _sample_places(
    model: PlaceNetwork,
    task: DecodingTask,
    drawn_BT: Tensor,
    masked_share_B: Tensor,
    factor: float,
    uniform_BTQ: Tensor,
) -> tuple[Tensor, Tensor]:
    """Samples codes (B, Q, T) at the places where `drawn_BT` is True; elsewhere they are those of `task`. Also returns
    the log-probability (B, T) of the sampled codes."""
    settings, valid_BT, device = task.settings, task.valid_BT, task.codes_BQT.device
    codes_NQ = task.codes_BQT.transpose(1, 2)[drawn_BT]
    clip_N = drawn_BT.nonzero()[:, 0]
    uniform_NQ = uniform_BTQ[drawn_BT]
    known_BT = ~(task.codes_BQT == model.mask_id).any(1)
    is_guided = task.guidance(0, masked_share_B) is not None or task.guidance(1, masked_share_B) is not None
    labels = [task.label_B, torch.full_like(task.label_B, model.no_class)] if is_guided else [task.label_B]
    with torch.autocast(device.type, torch.bfloat16, enabled=task.bf16):
        repeats = len(labels)
        timbre_BS = None if task.timbre_BS is None else task.timbre_BS.repeat(repeats, 1)
        x_BTD = model.hidden(
            task.codes_BQT.repeat(repeats, 1, 1),
            known_BT.repeat(repeats, 1),
            torch.cat(labels),
            valid_BT.repeat(repeats, 1),
            timbre_BS,
        )
        levels = model.level_by_level(x_BTD[drawn_BT.repeat(repeats, 1)])
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
            temperature = task.temperature(level, factor)
            if temperature > 0:
                drawn_N = sample_codes(
                    filtered_probability(logits_NK, temperature, task.top_p(level), settings.typical_mass),
                    uniform_NQ[:, level],
                )
            else:
                drawn_N = logits_NK.argmax(-1)
            was_masked_N = codes_NQ[:, level] == model.mask_id
            codes_N = torch.where(was_masked_N, drawn_N, codes_NQ[:, level])
            codes_NQ[:, level] = codes_N
            log_probability_N += logits_NK.log_softmax(-1).gather(-1, codes_N[:, None])[:, 0].double() * was_masked_N
            levels.take(codes_N.repeat(repeats))
    result_BTQ = task.codes_BQT.transpose(1, 2).clone()
    result_BTQ[drawn_BT] = codes_NQ
    log_probability_BT = torch.zeros(drawn_BT.shape, dtype=torch.float64, device=device)
    log_probability_BT[drawn_BT] = log_probability_N
    return result_BTQ.transpose(1, 2), log_probability_BT
