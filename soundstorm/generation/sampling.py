"""Sampling of codes from logits: filters, inverse transform sampling, and which frames to keep. Pure functions.

Legend: T codec frames, K codebook size, leading dimensions "..." are free.
"""

import math

import numpy as np
import torch
from torch import Tensor

from soundstorm.model.mask_schedule import lowest_ranked

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


def keep_top_p(probability_K: Tensor, top_p: float) -> Tensor:
    """Nucleus filter: zeroes all but the smallest set of likeliest codes whose probability reaches `top_p` (Holtzman et
    al., arXiv 1904.09751). Shape (..., K), not renormalized."""
    if top_p >= 1:
        return probability_K
    if probability_K.device.type != "cpu":
        return _keep_likeliest(probability_K, top_p)
    # numpy sorts values ten times faster than torch argsorts, and except for ties the values determine what is kept
    ordered_K = torch.from_numpy(np.flip(np.sort(probability_K.detach().numpy(), axis=-1), -1).copy())
    kept_K = _reaching(ordered_K, top_p)
    count = kept_K.sum(-1, keepdim=True)
    is_kept_K = probability_K >= ordered_K.gather(-1, count - 1)
    result_K = probability_K * is_kept_K
    has_gap = (kept_K[..., 1:] > kept_K[..., :-1]).any(-1)
    is_undecided = has_gap | (is_kept_K.sum(-1, keepdim=True) != count)[..., 0]  # ties with the last kept code
    if bool(is_undecided.any()):
        result_K[is_undecided] = _keep_likeliest(probability_K[is_undecided], top_p)
    return result_K


def _keep_likeliest(probability_K: Tensor, top_p: float) -> Tensor:
    """Nucleus filter in which ties go to the first code."""
    return _keep_first(probability_K, probability_K.argsort(dim=-1, descending=True, stable=True), top_p)


def keep_typical(probability_K: Tensor, mass: float) -> Tensor:
    """Locally typical filter: zeroes all but the smallest set of codes whose information is nearest the entropy and
    whose probability reaches `mass` (Meister et al., arXiv 2202.00666). Shape (..., K), not renormalized."""
    if mass >= 1:
        return probability_K
    probability_K = probability_K / probability_K.sum(-1, keepdim=True)
    information_K = -probability_K.clamp(min=torch.finfo(probability_K.dtype).tiny).log()
    entropy = (probability_K * information_K).sum(-1, keepdim=True)
    return _keep_first(probability_K, (information_K - entropy).abs().argsort(dim=-1, stable=True), mass)


def _keep_first(probability_K: Tensor, order_K: Tensor, mass: float) -> Tensor:
    """Keeps codes in the given order until their sum reaches the fraction `mass` of the total."""
    ordered_K = probability_K.gather(-1, order_K)
    return torch.zeros_like(probability_K).scatter_(-1, order_K, ordered_K * _reaching(ordered_K, mass))


def _reaching(ordered_K: Tensor, mass: float) -> Tensor:
    """True at the first codes up to the one at which the cumulative sum reaches the fraction `mass` of the total."""
    before_K = ordered_K.cumsum(-1) - ordered_K
    kept_K = before_K < mass * ordered_K.sum(-1, keepdim=True)
    kept_K[..., 0] = True
    return kept_K


def filtered_probability(logits_K: Tensor, temperature: float, top_p: float, typical_mass: float) -> Tensor:
    """Distribution (..., K) to sample from, not renormalized; `temperature` is above 0."""
    return keep_typical(keep_top_p(torch.softmax(logits_K / temperature, dim=-1), top_p), typical_mass)


def sample_codes(probability_K: Tensor, uniform: Tensor) -> Tensor:
    """Samples one code (...) from `probability_K` (..., K) by inverse transform: the first code at which the cumulative
    sum exceeds `uniform` times the total.

    Args:
        probability_K: weights, which need not sum to 1. A code of weight 0 is never sampled.
        uniform: one number in [0, 1) for each code to sample, (...).
    """
    running_K = probability_K.double().cumsum(-1)
    total = running_K[..., -1:]
    below_total = torch.nextafter(total, torch.full_like(total, -math.inf))  # for a number that is 1, or a total of 0
    wanted = (uniform.double().unsqueeze(-1) * total).minimum(below_total)
    return torch.searchsorted(running_K, wanted, right=True).clamp(max=running_K.shape[-1] - 1).squeeze(-1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1)."""
    return -(-uniform.double().clamp(1e-20, 1 - 1e-16).log()).log()


def annealing(iteration: int, iterations: int) -> float:
    """Annealing factor of `iteration` (from 0) of `iterations`: falls linearly from 1 in the first to 0 in the last. A
    single iteration has 0."""
    return 0.0 if iterations == 1 else 1.0 - iteration / (iterations - 1)


def low_discrepancy_order(offset_B: Tensor, num_frames: int) -> Tensor:
    """Ranks (B, T), float64 in [0, 1), of a low-discrepancy order: the k frames of lowest rank lie evenly over the
    clip, for every k.

    The rank of frame t is t times the golden ratio, modulo 1 (an additive recurrence). By the three-distance theorem
    the frames below any rank have at most three distances. Frames decoded in one iteration are therefore far apart and
    nearly independent of each other, the aim of the Halton order for images (Besnier et al., arXiv 2503.17076).

    Args:
        offset_B: added to the ranks of each clip, in [0, 1).
        num_frames: T.
    """
    multiple_T = torch.arange(num_frames, dtype=torch.float64, device=offset_B.device) * GOLDEN_RATIO
    return (multiple_T + offset_B.double()[:, None]) % 1.0


def most_confident(confidence_BT: Tensor, masked_BT: Tensor, num_kept_B: Tensor) -> Tensor:
    """True at the `num_kept_B` masked frames of highest confidence, (B, T); ties go to the earlier frame."""
    return lowest_ranked(masked_BT, num_kept_B, -confidence_BT)
