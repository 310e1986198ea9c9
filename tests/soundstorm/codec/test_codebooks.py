"""K-means and the search for codes."""

import itertools

import numpy as np
import pytest
import torch

from soundstorm.codec import kmeans
from soundstorm.codec.blocks import POINT_STEPS
from soundstorm.codec.codebooks import Codebooks, Search, pack_centroids


def _books(levels: int, size: int, dims: int) -> Codebooks:
    rng = np.random.default_rng(0)
    packed = [pack_centroids(rng.standard_normal((size, dims)) * 0.6**level) for level in range(levels)]
    return Codebooks(np.stack([codes for codes, _ in packed]), np.stack([multiplier for _, multiplier in packed]))


def _points(count: int, dims: int) -> np.ndarray:
    return np.rint(np.random.default_rng(1).standard_normal((count, dims)) * POINT_STEPS).astype(np.int64)


def _search(books: Codebooks, width: int, points_BD: np.ndarray) -> np.ndarray:
    return Search(torch.from_numpy(books.centroids), width)(torch.from_numpy(points_BD)).numpy()


def _distance(books: Codebooks, points_BD: np.ndarray, codes_BQ: np.ndarray) -> np.ndarray:
    return np.square(points_BD - books.sums(codes_BQ.T)).sum(1)


def test_packed_centroids_are_right_to_a_254th_of_the_largest_of_their_axis() -> None:
    centroids_KD = np.random.default_rng(0).standard_normal((50, 7)) * np.array([9, 3, 1, 1, 0.3, 0.1, 0.01])
    codes_KD, multiplier_D = pack_centroids(centroids_KD)
    error_KD = np.abs(codes_KD * multiplier_D / POINT_STEPS - centroids_KD)
    assert (error_KD <= np.abs(centroids_KD).max(0) / 254 + 1 / POINT_STEPS).all()


def test_a_beam_of_one_takes_the_nearest_code_at_each_level() -> None:
    books, points_BD = _books(4, 16, 6), _points(300, 6)
    rest_BD, expected = points_BD.copy(), []
    for centroids_KD in books.centroids:
        code_B = np.square(rest_BD[:, None] - centroids_KD).sum(2).argmin(1)
        expected.append(code_B)
        rest_BD = rest_BD - centroids_KD[code_B]
    np.testing.assert_array_equal(_search(books, 1, points_BD), np.stack(expected, axis=1))


def test_a_wide_beam_finds_the_best_of_all_sequences() -> None:
    books, points_BD = _books(3, 6, 4), _points(40, 4)
    every = np.array(list(itertools.product(range(6), repeat=3)))
    all_distances = np.stack(
        [_distance(books, np.repeat(point_D[None], len(every), 0), every) for point_D in points_BD]
    )
    found = _distance(books, points_BD, _search(books, 64, points_BD))
    np.testing.assert_array_equal(found, all_distances.min(1))


def test_a_wider_beam_comes_nearer() -> None:
    books, points_BD = _books(6, 32, 16), _points(300, 16)
    errors = [_distance(books, points_BD, _search(books, width, points_BD)).mean() for width in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.97 * errors[0]


def test_codes_do_not_depend_on_the_points_beside_them() -> None:
    books, points_BD = _books(5, 32, 16), _points(300, 16)
    together = _search(books, 4, points_BD)
    np.testing.assert_array_equal(
        np.concatenate([_search(books, 4, part) for part in np.array_split(points_BD, 17)]), together
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_k_means_finds_clusters_that_lie_apart(seed: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors with and without bfloat16."""
    monkeypatch.setattr(kmeans, "fast_type", lambda device: kind)
    rng = np.random.default_rng(seed)
    centres_KD = rng.standard_normal((12, 8)) * 10
    points_SD = centres_KD[rng.integers(12, size=6_000)] + 0.1 * rng.standard_normal((6_000, 8))
    found_KD = kmeans.fit(torch.from_numpy(points_SD).float(), 24, torch.Generator().manual_seed(seed)).numpy()
    nearest_K = np.sqrt(np.square(centres_KD[:, None] - found_KD).sum(2).min(1))
    assert nearest_K.max() < 0.2


def test_clusters_without_points_are_moved_to_where_points_are() -> None:
    points_SD = torch.cat(
        [torch.zeros(5_000, 2), torch.randn(5_000, 2, generator=torch.Generator().manual_seed(0)) + 20]
    )
    centroids_KD = kmeans.fit(points_SD, 64, torch.Generator().manual_seed(1))
    cluster_S = kmeans.nearest(points_SD, centroids_KD)
    assert len(cluster_S.unique()) > 32
