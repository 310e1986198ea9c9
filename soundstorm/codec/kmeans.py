"""Mini-batch k-means for the codebook of one level, with a final update on all points.

Source: MacQueen, "Some methods for classification and analysis of multivariate observations", 1967. In addition,
centroids to which hardly any point belongs are moved next to those with the largest error; if there are none, and one
cluster has much of all error, the centroid that is missed least is moved there.

Legend: S points, D dimensions, K codes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

ROUNDS = 6
"""Number of mini-batch updates."""
ROUND_POINTS = 40_000
"""Minimum number of points in a mini-batch."""
POINTS_PER_CODE = 40
"""Minimum number of points in a mini-batch per code."""
MIN_POINTS = 3
"""A cluster with fewer points of a mini-batch is moved."""
DOMINANT, DOMINANT_CODES = 0.3, 8
"""A cluster dominates if it has more than this share of all error, and more than as many clusters of mean error."""
SHIFT = 0.05
"""Distance of a moved centroid from the other one, in standard deviations of the centroids."""
PART = 20_000


def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16 if the processor multiplies it natively, which is three times as fast as float32; emulated, it is
    seventy times slower."""
    multiplies = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if multiplies else torch.float32


def nearest(points_SD: Tensor, centroids_KD: Tensor) -> Tensor:
    """Index of the nearest centroid of each point (S,), computed in `fast_type`."""
    kind = fast_type(points_SD.device)
    half_K, transposed_DK = 0.5 * centroids_KD.square().sum(1), centroids_KD.to(kind).T.contiguous()
    parts = [((part_SD.to(kind) @ transposed_DK).float() - half_K).argmax(1) for part_SD in points_SD.split(PART)]
    return torch.cat(parts)


def means(points_SD: Tensor, cluster_S: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (K, D) of each cluster's points (the old centroid if it has none), and the number of its points (K,)."""
    count_K = torch.bincount(cluster_S, minlength=len(centroids_KD)).float()
    sum_KD = torch.zeros_like(centroids_KD).index_add_(0, cluster_S, points_SD)
    return torch.where(count_K[:, None] > 0, sum_KD / count_K[:, None].clamp_min(1), centroids_KD), count_K


def fit(points_SD: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    """Fit `num_codes` centroids (num_codes, D) to points."""
    size = min(len(points_SD), max(ROUND_POINTS, POINTS_PER_CODE * num_codes))
    centroids_KD = points_SD[torch.randperm(len(points_SD), generator=generator)[:num_codes]].clone()
    for batch_SD in _batches(points_SD, size, generator):
        cluster_S = nearest(batch_SD, centroids_KD)
        centroids_KD, count_K = means(batch_SD, cluster_S, centroids_KD)
        rare_K = (count_K < MIN_POINTS).nonzero()[: num_codes // 2, 0]
        error_S = (batch_SD - centroids_KD[cluster_S]).square().sum(1)
        error_K = torch.zeros_like(count_K).index_add_(0, cluster_S, error_S)
        if not len(rare_K) and error_K.max() > max(DOMINANT, DOMINANT_CODES / num_codes) * error_K.sum():
            rare_K = _most_redundant(centroids_KD, count_K)
        worst_K = error_K.topk(len(rare_K)).indices
        shift_KD = torch.randn(len(rare_K), centroids_KD.shape[1], generator=generator).to(points_SD.device)
        centroids_KD[rare_K] = centroids_KD[worst_K] + shift_KD * (SHIFT * centroids_KD.std())
    centroids_KD, _ = means(points_SD, nearest(points_SD, centroids_KD), centroids_KD)
    return centroids_KD


def _most_redundant(centroids_KD: Tensor, count_K: Tensor) -> Tensor:
    """Index (1,) of the centroid whose points are the nearest to another one, all in all."""
    square_KK = torch.cdist(centroids_KD, centroids_KD).square().fill_diagonal_(torch.inf)
    return (count_K * square_KK.amin(1)).argmin()[None]


def _batches(points_SD: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(ROUNDS):
        yield points_SD[torch.randint(len(points_SD), (size,), generator=generator)]
