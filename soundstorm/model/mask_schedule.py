"""The cosine schedule of masking in training and of unmasking in decoding (Borsos et al., arXiv 2305.09636, section
3.2)."""

import math

import torch
from torch import Tensor


def cosine_share(progress: Tensor | float) -> Tensor:
    """Fraction of frames that are masked at `progress` (0 at the start, 1 at the end) of the cosine schedule."""
    return torch.cos(0.5 * math.pi * torch.as_tensor(progress, dtype=torch.float64)).clamp(min=0.0)


def num_still_masked(num_unknown: int, iteration: int, iterations: int) -> int:
    """Number of frames of a level that are still masked after `iteration` (from 0) of `iterations`; at least one until
    the last iteration, then none."""
    if iteration + 1 >= iterations or num_unknown == 0:
        return 0
    return max(1, math.floor(num_unknown * float(cosine_share((iteration + 1) / iterations))))


def lowest_ranked(candidate_BT: Tensor, count_B: Tensor, rank_BT: Tensor) -> Tensor:
    """True at the `count_B` candidate frames of lowest rank of each clip."""
    order_BT = rank_BT.masked_fill(~candidate_BT, torch.inf).argsort(dim=1, stable=True)
    place_BT = torch.empty_like(order_BT).scatter_(
        1, order_BT, torch.arange(order_BT.shape[1], device=order_BT.device).expand_as(order_BT)
    )
    return (place_BT < count_B[:, None]) & candidate_BT
