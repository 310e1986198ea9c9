"""Principal component analysis of blocks of log-mel frames.

A block (some consecutive frames) minus the mean block, projected onto the principal axes, is a point. All values are
whole multiples of a power of two, so that sums in float64 are exact in any order: a block gives the same point, and a
point the same block, on every machine.

Legend: T frames, M mel bands, B blocks, V values of a block (frames times bands), D principal axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstorm.codec.log_mel import Array, on_grid

AXIS_STEPS = 1 << 15
"""Quantization steps per 1 of the elements of an axis."""
POINT_STEPS = 1 << 12
"""Quantization steps per nat of the coordinates of a point."""


@dataclass(frozen=True)
class BlockSpace:
    """The mean block and the principal axes."""

    center_V: Array
    """The mean block in nats, rounded like log-mel values."""
    axes_VD: NDArray[np.int16]
    """Orthonormal principal axes in steps of 1 / AXIS_STEPS."""

    def points(self, log_mel_TM: Array) -> NDArray[np.int64]:
        """Project log-mel frames (T, M), a whole number of blocks, to points (B, D) in steps of 1 / POINT_STEPS nat."""
        blocks_BV = log_mel_TM.reshape(-1, len(self.center_V)) - self.center_V
        return np.rint(blocks_BV @ self.axes_VD.astype(np.float64) * (POINT_STEPS / AXIS_STEPS)).astype(np.int64)

    def log_mel(self, points_BD: NDArray[np.int64], num_bands: int) -> Array:
        """Reconstruct log-mel frames (T, M), rounded to the grid, from points (B, D) in steps."""
        blocks_BV = (
            points_BD.astype(np.float64) @ self.axes_VD.T.astype(np.float64) / (POINT_STEPS * AXIS_STEPS)
            + self.center_V
        )
        return on_grid(blocks_BV).reshape(-1, num_bands)


def find_space(blocks_BV: NDArray, dims: int) -> BlockSpace:
    """The mean and the first `dims` principal axes of blocks, in descending order of variance."""
    center_V = on_grid(blocks_BV.mean(0, dtype=np.float64))
    covariance_VV = np.zeros((len(center_V), len(center_V)))
    for part_BV in np.array_split(blocks_BV, max(1, len(blocks_BV) // 50_000)):
        rest_BV = part_BV - center_V
        covariance_VV += rest_BV.T @ rest_BV
    _, axes_VV = np.linalg.eigh(covariance_VV)
    axes_VD = axes_VV[:, ::-1][:, :dims]
    steps_VD = np.clip(np.rint(axes_VD * AXIS_STEPS), -AXIS_STEPS, AXIS_STEPS - 1)
    return BlockSpace(center_V, steps_VD.astype(np.int16))
