"""Residual vector quantization: each level's codebook holds k-means centroids of the residuals that the levels before
it leave.

Centroids are stored as 8-bit integers, with one scale factor per level and axis. All values are whole steps, so the
distance between a point and a sum of centroids is exact in float64, and the chosen codes are the same on every machine.

Legend: B blocks, D principal axes, Q levels, K codes per level, W partial code sequences in the beam.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstorm.codec.blocks import POINT_STEPS

SPARE = 4
"""Additional candidates whose distance is computed exactly: single precision may order nearly equal distances
wrongly."""
GROUP = 32
"""Maximum number of codes in a group; the search first selects groups by the minimum of each."""
PART = 256
"""Blocks that are encoded at once."""


@dataclass(frozen=True)
class Codebooks:
    """The codebooks of all levels."""

    codes_QKD: NDArray[np.int8]
    """Centroids in units of `multiplier_QD`."""
    multiplier_QD: NDArray[np.int32]
    """Scale factors: steps of a point per unit of a centroid."""

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Centroids (Q, K, D) in steps of a point: integers below 2^24, so exact in single precision."""
        return self.codes_QKD.astype(np.float32) * self.multiplier_QD[:, None].astype(np.float32)

    def sums(self, codes_QB: NDArray[np.integer]) -> NDArray[np.int64]:
        """The sums (B, D), in steps, of the centroids of codes (Q, B); Q may be smaller than the number of levels."""
        points_BD = np.zeros((codes_QB.shape[1], self.codes_QKD.shape[2]), dtype=np.int64)
        for level, codes_B in enumerate(codes_QB):
            points_BD += self.codes_QKD[level, codes_B].astype(np.int64) * self.multiplier_QD[level]
        return points_BD

    def covariance(self, level: int) -> NDArray[np.float64]:
        """Covariance (D, D), in squared steps, of the contribution of a level, assuming that its codes are equally
        frequent."""
        centroids_KD = self.codes_QKD[level].astype(np.float64) * self.multiplier_QD[level]
        return centroids_KD.T @ centroids_KD / len(centroids_KD)


def pack_centroids(centroids_KD: NDArray) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Quantize centroids (K, D) in nats to 8-bit integers and a scale factor (D,) per axis in steps."""
    steps_KD = centroids_KD.astype(np.float64) * POINT_STEPS
    multiplier_D = np.maximum(np.ceil(np.abs(steps_KD).max(0) / 127), 1)
    return np.rint(steps_KD / multiplier_D).astype(np.int8), multiplier_D.astype(np.int32)


class Search:
    """Finds the codes of points by a beam search over the levels.

    Args:
        centroids_QKD: float32, in steps, on the device to compute on; not copied.
        width: beam width: number of partial code sequences that are kept after each level.
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
        """Encode points (B, D) in steps to codes (B, Q), so that the sum of their centroids is close to the point; ties
        go to the lower codes."""
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
        """The partial sequences and the codes (B, C) that are nearest in single precision, sorted by both."""
        num_blocks, num_sequences, dims = rest_BWD.shape
        size = self._half_norm_QK.shape[1]
        rest_SD = (rest_BWD.to(torch.float32) / POINT_STEPS).view(-1, dims)
        # Half the squared distance to each code, without the squared norm of the residual.
        distance_SK = torch.addmm(
            self._half_norm_QK[level], rest_SD, self._centroids_QKD[level].T, alpha=-1 / POINT_STEPS
        )
        # First select the groups of codes with the smallest minima, which contain the smallest distances; then only
        # few codes are left to sort.
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
