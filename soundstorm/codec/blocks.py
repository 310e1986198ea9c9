"""Blocks of log-mel frames as points: less their mean, along their principal axes.

Everything here is a whole multiple of a power of two, so that sums in float64 are exact, in whatever order a machine
adds: a block becomes the same point, and a point the same block, everywhere.

Legend: T frames, M mel bands, B blocks, V values of a block (frames times bands), D principal axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstorm.codec.log_mel import Array, on_grid

AXIS_STEPS = 1 << 15
"""Steps of an axis' values per 1."""
POINT_STEPS = 1 << 12
"""Steps of a point's values per nat."""


@dataclass(frozen=True)
class BlockSpace:
    """Where blocks lie."""

    center_V: Array
    """The mean block, in nats on the grid of log-mel values."""
    axes_VD: NDArray[np.int16]
    """Orthonormal principal axes, in steps."""

    def points(self, log_mel_TM: Array) -> NDArray[np.int64]:
        """Log-mel frames (T, M), whole blocks on the grid, to points (B, D) in steps."""
        blocks_BV = log_mel_TM.reshape(-1, len(self.center_V)) - self.center_V
        return np.rint(blocks_BV @ self.axes_VD.astype(np.float64) * (POINT_STEPS / AXIS_STEPS)).astype(np.int64)

    def log_mel(self, points_BD: NDArray[np.int64], num_bands: int) -> Array:
        """Points (B, D) in steps to log-mel frames (T, M) on the grid."""
        blocks_BV = (
            points_BD.astype(np.float64) @ self.axes_VD.T.astype(np.float64) / (POINT_STEPS * AXIS_STEPS)
            + self.center_V
        )
        return on_grid(blocks_BV).reshape(-1, num_bands)


def find_space(blocks_BV: NDArray, dims: int) -> BlockSpace:
    """The mean and the `dims` principal axes of blocks, those of the largest variance first."""
    center_V = on_grid(blocks_BV.mean(0, dtype=np.float64))
    covariance_VV = np.zeros((len(center_V), len(center_V)))
    for part_BV in np.array_split(blocks_BV, max(1, len(blocks_BV) // 50_000)):
        rest_BV = part_BV - center_V
        covariance_VV += rest_BV.T @ rest_BV
    _, axes_VV = np.linalg.eigh(covariance_VV)
    axes_VD = axes_VV[:, ::-1][:, :dims]
    steps_VD = np.clip(np.rint(axes_VD * AXIS_STEPS), -AXIS_STEPS, AXIS_STEPS - 1)
    return BlockSpace(center_V, steps_VD.astype(np.int16))
