"""Blocks as points."""

import numpy as np

from soundstorm.codec.blocks import find_space
from soundstorm.codec.log_mel import on_grid


def _blocks(count: int, size: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    return on_grid(rng.standard_normal((count, size)) @ rng.standard_normal((size, size)) - 3)


def test_with_all_axes_a_block_comes_back() -> None:
    blocks_BV = _blocks(500)
    space = find_space(blocks_BV, 24)
    np.testing.assert_allclose(space.log_mel(space.points(blocks_BV), 12).reshape(-1, 24), blocks_BV, atol=1 / 200)


def test_the_axes_are_those_of_the_largest_variance() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 3.0, 1.0, 0.2])
    space = find_space(rng.standard_normal((20_000, 4)) * scales, 2)
    np.testing.assert_allclose(np.abs(space.axes_VD / 32_768).round(1), [[0, 0], [1, 0], [0, 1], [0, 0]], atol=0.1)


def test_a_point_does_not_depend_on_the_blocks_beside_it_or_on_their_order() -> None:
    blocks_BV = _blocks(300)
    space = find_space(blocks_BV, 10)
    together = space.points(blocks_BV)
    np.testing.assert_array_equal(np.concatenate([space.points(block_V) for block_V in blocks_BV]), together)
    back = space.log_mel(together, 24)
    np.testing.assert_array_equal(np.concatenate([space.log_mel(point_D[None], 24) for point_D in together]), back)
