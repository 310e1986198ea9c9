"""Fréchet and kernel distances against closed forms, their biases against theory, and inputs at the edge."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import pdist
from scipy.stats import linregress

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.distances import frechet_distance, frechet_line, kernel_distance

RNG = np.random.default_rng


def exactly(mean_D: np.ndarray, covariance_DD: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Random rows moved and stretched until their mean and covariance are these to the last digit."""
    x_ND = RNG(seed).normal(size=(rows, len(mean_D)))
    x_ND -= x_ND.mean(axis=0)
    white_ND = x_ND @ np.linalg.inv(np.linalg.cholesky(np.cov(x_ND.T)).T)
    return white_ND @ np.linalg.cholesky(covariance_DD).T + mean_D


def test_frechet_of_gaussians_with_diagonal_covariance_is_the_closed_form() -> None:
    real_ND = exactly(np.array([1.0, 2.0, 3.0]), np.diag([1.0, 4.0, 9.0]), 50, seed=0)
    other_ND = exactly(np.array([1.0, 0.0, 3.5]), np.diag([4.0, 4.0, 0.25]), 70, seed=1)
    expected = (2.0**2 + 0.5**2) + ((1 - 2) ** 2 + 0 + (3 - 0.5) ** 2)
    assert frechet_distance(real_ND, other_ND) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_any_gaussians_equals_the_formula_with_a_matrix_root() -> None:
    real_ND, other_ND = RNG(0).normal(size=(40, 6)) @ RNG(1).normal(size=(6, 6)), RNG(2).normal(0.3, 2, size=(50, 6))
    c1, c2 = np.cov(real_ND.T), np.cov(other_ND.T)
    expected = np.sum((real_ND.mean(0) - other_ND.mean(0)) ** 2) + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    assert frechet_distance(real_ND, other_ND) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_fewer_rows_than_dimensions_is_that_in_the_space_they_span() -> None:
    real_ND, other_ND = RNG(0).normal(size=(9, 4)), RNG(1).normal(0.5, 1, size=(7, 4))
    wide, _ = np.linalg.qr(RNG(2).normal(size=(300, 4)))
    assert frechet_distance(real_ND @ wide.T, other_ND @ wide.T) == pytest.approx(
        frechet_distance(real_ND, other_ND), rel=1e-9
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**20), rows=st.integers(2, 30), width=st.integers(1, 12), scale=st.floats(0.01, 100))
def test_frechet_is_symmetric_zero_to_itself_and_in_squared_units(
    seed: int, rows: int, width: int, scale: float
) -> None:
    real_ND, other_ND = RNG(seed).normal(size=(rows, width)), RNG(seed + 1).normal(size=(rows + 3, width))
    distance = frechet_distance(real_ND, other_ND)
    assert distance > 0
    assert frechet_distance(other_ND, real_ND) == pytest.approx(distance, rel=1e-7)
    assert frechet_distance(scale * real_ND + 7, scale * other_ND + 7) == pytest.approx(scale**2 * distance, rel=1e-5)
    assert frechet_distance(real_ND, real_ND) == pytest.approx(0, abs=1e-10)


def test_the_line_over_one_by_n_takes_away_most_of_the_bias() -> None:
    generator, true = RNG(0), 16 * 0.3**2
    real_ND = generator.normal(size=(20_000, 16))
    others = [generator.normal(0.3, 1, size=(100, 16)) for _ in range(20)]
    plain = np.mean([frechet_distance(real_ND, other_ND) for other_ND in others]) - true
    extrapolated = np.mean([frechet_line(real_ND, other_ND).value for other_ND in others]) - true
    assert plain > 0.5
    assert abs(extrapolated) < 0.25 * plain


def test_of_many_rows_the_line_ends_at_the_plain_distance() -> None:
    real_ND, other_ND = RNG(0).normal(size=(20_000, 3)), RNG(1).normal(1, 1, size=(20_000, 3))
    assert frechet_line(real_ND, other_ND).value == pytest.approx(frechet_distance(real_ND, other_ND), rel=0.01)


@pytest.mark.parametrize("rows", [20, 40, 200])
def test_a_set_beside_itself_is_at_0_and_nothing_is_extrapolated_to_below(rows: int) -> None:
    real_ND = RNG(0).normal(size=(rows, 128))
    line = frechet_line(real_ND, real_ND)
    assert line.at_infinity < -10
    assert line.problem == f"not extrapolated: with {rows} rows the extrapolation is below 0"
    assert frechet_line(real_ND, real_ND).value == line.value == line.plain == pytest.approx(0, abs=1e-9)


def test_where_the_subsets_lie_far_off_a_line_the_plain_distance_is_taken() -> None:
    other_ND = RNG(1).normal(size=(20, 4))
    other_ND[0] = 60  # subsets with this row and without it have nothing in common
    real_ND = RNG(0).normal(size=(400, 4))
    line = frechet_line(real_ND, other_ND)
    assert line.standard_error > line.plain / 3 or line.at_infinity < 0
    assert line.problem is not None and "20 rows" in line.problem
    assert frechet_line(real_ND, other_ND).value == line.plain == frechet_distance(real_ND, other_ND)


def test_the_standard_error_of_a_line_is_that_of_a_regression() -> None:
    real_ND, other_ND = RNG(0).normal(size=(2_000, 3)), RNG(1).normal(0.3, 1, size=(50, 3))
    line = frechet_line(real_ND, other_ND)
    generator, sizes, values = RNG(0), [25, 26, 28, 30, 32, 35, 38, 41, 45, 50], []
    for size in sizes:
        subsets = [other_ND] if size == 50 else [other_ND[generator.permutation(50)[:size]] for _ in range(4)]
        values.append(np.mean([frechet_distance(real_ND, subset) for subset in subsets]))
    expected = linregress([1 / size for size in sizes], values)
    assert line.at_infinity == pytest.approx(expected.intercept, rel=1e-6)
    assert line.standard_error == pytest.approx(expected.intercept_stderr, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(8, 60),
    width=st.integers(1, 60),
    shared=st.floats(0, 1),
    shift=st.floats(0, 2),
)
def test_no_frechet_distance_is_below_0_or_without_a_value(
    seed: int, rows: int, width: int, shared: float, shift: float
) -> None:
    real_ND, other_ND = RNG(seed).normal(size=(rows, width)), RNG(seed + 1).normal(shift, 1, size=(rows, width))
    same = round(shared * rows)
    other_ND[:same] = real_ND[:same]
    found = frechet_line(real_ND, other_ND).value
    assert math.isfinite(found) and found >= 0


def test_the_subsets_are_those_of_the_seed() -> None:
    real_ND, other_ND = RNG(0).normal(size=(60, 5)), RNG(1).normal(1, 1, size=(60, 5))
    assert (
        frechet_line(real_ND, other_ND, seed=1).value
        == frechet_line(real_ND, other_ND, seed=1).value
        != frechet_line(real_ND, other_ND, seed=2).value
    )


def plain_kernel_distance(real_ND: np.ndarray, other_ND: np.ndarray) -> float:
    """The unbiased estimate transcribed with loops."""
    sigma = float(np.median(pdist(real_ND)))

    def kernel(a_D: np.ndarray, b_D: np.ndarray) -> float:
        return math.exp(-float(np.sum((a_D - b_D) ** 2)) / (2 * sigma**2))

    n, m = len(real_ND), len(other_ND)
    within_real = sum(kernel(real_ND[i], real_ND[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_other = sum(kernel(other_ND[i], other_ND[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_real + within_other - 2 * sum(kernel(a, b) for a in real_ND for b in other_ND) / (n * m)


def test_kernel_distance_equals_a_plain_transcription() -> None:
    real_ND, other_ND = RNG(0).normal(5, 1, size=(12, 4)), RNG(1).normal(5.5, 2, size=(9, 4))
    assert kernel_distance(real_ND, other_ND) == pytest.approx(plain_kernel_distance(real_ND, other_ND), rel=1e-9)


def test_kernel_distance_is_zero_on_average_for_equal_distributions_however_few_the_rows() -> None:
    generator = RNG(0)
    for rows in (5, 40):
        values = np.array(
            [kernel_distance(generator.normal(size=(rows, 8)), generator.normal(size=(rows, 8))) for _ in range(400)]
        )
        assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
        assert (values < 0).mean() > 0.3


def test_kernel_distance_grows_with_the_shift_and_sees_more_than_mean_and_covariance() -> None:
    real_ND = RNG(0).normal(size=(400, 2))
    values = [kernel_distance(real_ND, RNG(1).normal(shift, 1, size=(400, 2))) for shift in (0.0, 0.3, 1.0, 100.0)]
    assert values == sorted(values)
    assert values[-1] < 2
    signs = np.where(RNG(2).random((400, 1)) < 0.5, -1.0, 1.0)
    assert frechet_distance(real_ND[:, :1], signs) < 0.02
    assert kernel_distance(real_ND[:, :1], signs) > 10 * abs(
        kernel_distance(real_ND[:, :1], RNG(3).normal(size=(400, 1)))
    )


def test_kernel_distance_has_no_unit() -> None:
    real_ND, other_ND = RNG(0).normal(size=(50, 3)), RNG(1).normal(1, 1, size=(60, 3))
    assert kernel_distance(1e4 * real_ND + 1e5, 1e4 * other_ND + 1e5) == pytest.approx(
        kernel_distance(real_ND, other_ND), rel=1e-9
    )


def test_many_rows_are_the_sum_of_their_blocks() -> None:
    real_ND, other_ND = RNG(0).normal(size=(1500, 2)), RNG(1).normal(1, 1, size=(1100, 2))
    sigma = np.median(pdist(real_ND))
    kernel = lambda a, b: np.exp(-np.square(a[:, None] - b).sum(-1) / (2 * sigma**2))  # noqa: E731
    within = [(kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (real_ND, other_ND)]
    assert kernel_distance(real_ND, other_ND) == pytest.approx(
        sum(within) - 2 * kernel(real_ND, other_ND).mean(), rel=1e-9
    )


def test_sets_without_spread_have_the_values_of_the_table() -> None:
    point, elsewhere = np.full((10, 3), 0.1, dtype=np.float32), np.full((12, 3), 0.6, dtype=np.float32)
    assert frechet_distance(point, point) == kernel_distance(point, point) == 0
    assert frechet_line(point, point).value == pytest.approx(0, abs=1e-12)
    assert frechet_distance(point, elsewhere) == pytest.approx(3 * 0.5**2, rel=1e-6)
    assert kernel_distance(point, elsewhere) == pytest.approx(2 - 2 * math.exp(-0.5))


def test_real_rows_that_are_mostly_one_point_still_give_a_bandwidth() -> None:
    real_ND = np.concatenate([np.zeros((30, 2)), RNG(0).normal(size=(5, 2))])
    assert 0 < kernel_distance(real_ND, real_ND[:30] + 5) <= 2


@pytest.mark.parametrize(
    ("real_ND", "other_ND", "message"),
    [
        (np.zeros((1, 4)), np.zeros((9, 4)), r"real embeddings of shape \(1, 4\): .* at least 2 rows"),
        (np.zeros((9, 4)), np.zeros((0, 4)), r"other embeddings of shape \(0, 4\)"),
        (np.zeros(9), np.zeros((9, 4)), r"shape \(9,\)"),
        (np.zeros((9, 4)), np.zeros((9, 5)), "real embeddings have width 4, other 5"),
        (np.zeros((9, 4)), np.full((9, 4), np.nan), "other embeddings contain NaN"),
        (np.zeros((9, 0)), np.zeros((9, 0)), r"shape \(9, 0\)"),
    ],
)
def test_sets_that_have_no_distance_are_refused(real_ND: np.ndarray, other_ND: np.ndarray, message: str) -> None:
    for distance in (frechet_distance, frechet_line, kernel_distance):
        with pytest.raises(SoundStormError, match=message):
            distance(real_ND, other_ND)


def test_too_few_rows_for_a_line_are_refused() -> None:
    assert frechet_distance(np.eye(7), np.eye(7)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(SoundStormError, match="at least 8 rows"):
        frechet_line(np.eye(7), np.eye(7))
