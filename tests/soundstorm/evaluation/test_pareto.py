"""Quality against cost: the front, the curve over passes, and where more stops paying."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.pareto import fewest_sufficient_iterations, iterations_curve, pareto_front, pooled_std

figure = st.floats(0, 10, allow_nan=False).map(lambda value: round(value, 1))


@given(st.lists(st.tuples(figure, figure), max_size=30))
def test_the_front_is_what_no_other_beats(points: list[tuple[float, float]]) -> None:
    front = [points[position] for position in pareto_front(points)]
    beaten = [
        any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in points) for point in points
    ]
    assert set(front) == {point for point, is_beaten in zip(points, beaten, strict=True) if not is_beaten}
    assert len(front) == len(set(front)) and front == sorted(front, key=lambda point: point[1])


def test_the_curve_has_mean_spread_and_cost_of_each_number() -> None:
    curve = iterations_curve({4: [(0.2, 1.0), (0.4, 3.0)], 1: [(0.9, 0.5)], 8: []})
    assert [point.iterations for point in curve] == [1, 4]
    assert (
        curve[1].quality == pytest.approx(0.3)
        and curve[1].spread == pytest.approx(np.sqrt(0.02))
        and curve[1].cost == 2.0
    )
    assert curve[0].spread == 0.0
    assert pooled_std(curve) == pytest.approx(np.sqrt(0.02))  # the single seed says nothing of it


def test_more_passes_pay_as_long_as_the_gain_is_more_than_chance() -> None:
    def seeds(mean: float, noise: float) -> list[tuple[float, float]]:
        return [(mean - noise, 1.0), (mean, 1.0), (mean + noise, 1.0)]

    falling = {1: seeds(0.9, 0.01), 4: seeds(0.5, 0.01), 12: seeds(0.301, 0.01), 32: seeds(0.3, 0.01)}
    assert fewest_sufficient_iterations(iterations_curve(falling)).iterations == 12
    assert (
        fewest_sufficient_iterations(
            iterations_curve({count: seeds(mean[1][0], 0.5) for count, mean in falling.items()})
        ).iterations
        == 4
    )
    assert (
        fewest_sufficient_iterations(iterations_curve({1: [(0.5, 1.0)], 2: [(0.4, 2.0)], 4: [(0.45, 4.0)]})).iterations
        == 2
    )  # no spread known
    with pytest.raises(SoundStormError, match="no point"):
        fewest_sufficient_iterations([])
