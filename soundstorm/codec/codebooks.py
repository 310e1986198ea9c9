"""Codebooks of residual k-means: each level's codes are the means of clusters of what the levels before it leave.

Centroids are 8-bit integers with one multiplier per level and axis. All are whole steps, so that the distance between a
point and a sum of centroids is exact in float64 and the choice of codes is the same on every machine.

Legend: B blocks, D principal axes, Q levels, K codes of a level, W partial sequences of the beam.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstorm.codec.blocks import POINT_STEPS

SPARE = 4
"""Candidates that are measured exactly beyond those that stay: single precision orders near equals wrongly."""
GROUP = 32
"""Codes of which the nearest is looked up at once, at most."""
PART = 256
"""Blocks that are encoded at once."""


@dataclass(frozen=True)
class Codebooks:
    """Centroids of all levels."""

    codes_QKD: NDArray[np.int8]
    """Centroids in multiples of `multiplier_QD`."""
    multiplier_QD: NDArray[np.int32]
    """Steps of a point per unit of a centroid."""

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Centroids (Q, K, D) in steps of a point: whole numbers below 2^24, exact in single precision."""
        return self.codes_QKD.astype(np.float32) * self.multiplier_QD[:, None].astype(np.float32)

    def sums(self, codes_QB: NDArray[np.integer]) -> NDArray[np.int64]:
        """Codes (Q, B) of the first levels, or of all, to the sums of their centroids (B, D) in steps."""
        points_BD = np.zeros((codes_QB.shape[1], self.codes_QKD.shape[2]), dtype=np.int64)
        for level, codes_B in enumerate(codes_QB):
            points_BD += self.codes_QKD[level, codes_B].astype(np.int64) * self.multiplier_QD[level]
        return points_BD

    def covariance(self, level: int) -> NDArray[np.float64]:
        """Covariance (D, D) in square steps of what a level adds, its codes taken for equally frequent."""
        centroids_KD = self.codes_QKD[level].astype(np.float64) * self.multiplier_QD[level]
        return centroids_KD.T @ centroids_KD / len(centroids_KD)


def pack_centroids(centroids_KD: NDArray) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Centroids in nats (K, D) as 8-bit integers and the multiplier (D,) of each axis in steps."""
    steps_KD = centroids_KD.astype(np.float64) * POINT_STEPS
    multiplier_D = np.maximum(np.ceil(np.abs(steps_KD).max(0) / 127), 1)
    return np.rint(steps_KD / multiplier_D).astype(np.int8), multiplier_D.astype(np.int32)


class Search:
    """Finds the codes of points by beam search over the levels.

    Args:
        centroids_QKD: float32, in steps, on the device that computes; kept as they are.
        width: partial sequences that are followed.
    """

    def __init__(self, centroids_QKD: Tensor, width: int) -> None:
        self.width = width
        self._centroids_QKD = centroids_QKD
        self._half_norm_QK = torch.stack(
            [(centroids_KD / POINT_STEPS).square().sum(1) / 2 for centroids_KD in centroids_QKD]
        )

    @property
    def device(self) -> torch.device:
        return self._centroids_QKD.device

    def __call__(self, points_BD: Tensor) -> Tensor:
        """Points (B, D) in steps to codes (B, Q) with a small distance between their sum and the point; ties go to the
        lower codes."""
        return torch.cat([self._part(part_BD) for part_BD in points_BD.split(PART)])

    def _part(self, points_BD: Tensor) -> Tensor:
        rest_BWD = points_BD.to(self.device, torch.float64)[:, None]
        chosen_BWQ = torch.zeros((len(points_BD), 1, 0), dtype=torch.int64, device=rest_BWD.device)
        for level in range(len(self._centroids_QKD)):
            parent_BC, code_BC = self._candidates(rest_BWD, level)
            rest_BCD = _of_parents(rest_BWD, parent_BC) - self._centroids_QKD[level, code_BC].double()
            distance_BC = rest_BCD.square().sum(2)  # whole numbers below 2^53: exact
            keep_BW = distance_BC.argsort(dim=1, stable=True)[:, : self.width]
            rest_BWD = _of_parents(rest_BCD, keep_BW)
            before_BWQ = _of_parents(chosen_BWQ, parent_BC.gather(1, keep_BW))
            chosen_BWQ = torch.cat([before_BWQ, code_BC.gather(1, keep_BW)[..., None]], dim=2)
        return chosen_BWQ[:, 0]

    def _candidates(self, rest_BWD: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The partial sequences and codes (B, C) that single precision takes for the nearest, in ascending order of
        both."""
        num_blocks, num_sequences, dims = rest_BWD.shape
        size = self._half_norm_QK.shape[1]
        rest_SD = (rest_BWD.to(torch.float32) / POINT_STEPS).view(-1, dims)
        # Half the squared distance, less that of the sequence itself.
        distance_SK = torch.addmm(
            self._half_norm_QK[level], rest_SD, self._centroids_QKD[level].T, alpha=-1 / POINT_STEPS
        )
        # The groups of codes with the smallest minima first: the smallest distances are among theirs, and little is
        # left to sort.
        group = math.gcd(size, GROUP)
        distance_BGL = distance_SK.view(num_blocks, -1, group)
        own_BG = (rest_SD.square().sum(1) / 2).view(num_blocks, num_sequences).repeat_interleave(size // group, dim=1)
        count = min(self.width + SPARE, own_BG.shape[1])
        group_BC = (distance_BGL.amin(2) + own_BG).topk(count, largest=False).indices
        among_BCL = _of_parents(distance_BGL, group_BC) + own_BG.gather(1, group_BC)[..., None]
        member_BC = among_BCL.flatten(1).topk(min(self.width + SPARE, count * group), largest=False).indices
        place_BC = (group_BC.gather(1, member_BC // group) * group + member_BC % group).sort(dim=1).values
        return place_BC // size, place_BC % size


def _of_parents(values_BWX: Tensor, parent_BC: Tensor) -> Tensor:
    return values_BWX.gather(1, parent_BC[..., None].expand(-1, -1, values_BWX.shape[2]))
