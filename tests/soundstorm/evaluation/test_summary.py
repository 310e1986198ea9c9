"""Comparisons against known answers, and a summary that is always valid JSON."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.metric_info import METRIC_NAMES, PAIR_METRIC_NAMES
from soundstorm.evaluation.summary import compare, summarize
from soundstorm.schemas import METRICS, PAIRS


def metrics_table(rows: list[tuple[str, str, float]]) -> pa.Table:
    """One row for each (source, category, value); all six metrics have that value."""
    columns = {
        "clip_id": [f"clip-{i}" for i in range(len(rows))],
        "source": [source for source, _, _ in rows],
        "category": [category for _, category, _ in rows],
        "duration_s": [5.0] * len(rows),
    }
    return pa.table(columns | {name: [value for _, _, value in rows] for name in METRIC_NAMES}, schema=METRICS)


def pairs_table(convergence: list[float], distance: list[float]) -> pa.Table:
    ids = [str(i) for i in range(len(convergence))]
    return pa.table(dict(zip(PAIRS.names, (ids, ids, convergence, distance), strict=True)), schema=PAIRS)


def test_a_comparison_has_the_means_medians_and_the_gap_of_hand_worked_sets() -> None:
    found = compare([1, 2, 3, 6], [2, 4, 6, 12, 11])
    assert (found.n_real, found.n_other) == (4, 5)
    assert (found.mean_real, found.mean_other) == (3, 7)
    assert (found.median_real, found.median_other) == (2.5, 6)
    assert found.std_real == pytest.approx(math.sqrt(3.5))
    assert found.difference_percent == pytest.approx(400 / 3)
    assert found.ks == pytest.approx(3 / 4 - 1 / 5)  # at 3


def test_ks_is_the_largest_gap_of_the_cumulative_distributions() -> None:
    rng = np.random.default_rng(0)
    real, other = rng.normal(0, 1, 150), rng.normal(0.4, 1.3, 90)
    gap = max(abs(np.mean(real <= x) - np.mean(other <= x)) for x in np.concatenate([real, other]))
    assert compare(real, other).ks == pytest.approx(gap)


def test_disjoint_sets_have_ks_1_and_the_p_value_of_counting() -> None:
    found = compare(np.arange(10), np.arange(100, 110))
    assert found.ks == 1
    assert found.p_value == pytest.approx(2 / math.comb(20, 10))  # two of all orderings separate the sets


def test_equal_sets_have_no_difference() -> None:
    found = compare([3.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert (found.difference_percent, found.ks, found.p_value) == (0, 0, 1)


def test_p_is_even_for_samples_of_one_distribution_and_small_for_two() -> None:
    rng = np.random.default_rng(1)
    same = [compare(rng.normal(size=40), rng.normal(size=60)).p_value for _ in range(300)]
    assert np.mean(np.array(same) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert compare(rng.normal(size=40), rng.normal(1, 1, 60)).p_value < 0.01


def test_the_difference_is_signed_by_direction_even_when_the_real_mean_is_negative() -> None:
    assert compare([-10.0], [-5.0]).difference_percent == 50
    assert compare([10.0], [5.0]).difference_percent == -50


def test_a_real_mean_of_zero_leaves_the_difference_unsaid() -> None:
    assert compare([0.0, 0.0], [1.0]).difference_percent is None
    assert compare([0.0, 0.0], [0.0]).difference_percent == 0
    assert compare([5e-324], [1e300]).difference_percent is None


@pytest.mark.parametrize(
    ("real", "message"),
    [([], "real: there are no values"), ([1.0, math.nan, math.inf], "2 of 3 values are NaN or infinite")],
)
def test_sets_that_cannot_be_compared_are_refused(real: list[float], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        compare(real, [1.0])


def test_a_summary_has_three_columns_overall_and_per_category() -> None:
    summary = summarize(
        metrics_table(
            [
                ("real", "rain", 1.0),
                ("real", "dog", 3.0),
                ("resynthesized", "rain", 1.5),
                ("resynthesized", "dog", 2.5),
                ("generated", "rain", 3.0),
                ("generated", "rain", 5.0),
                ("generated", "dog", 4.0),
            ]
        ),
        pairs_table([0.5, 1.5, 1.0], [2.0, 4.0, 9.0]),
    ).to_dict()
    assert summary["overall"]["counts"] == {"real": 2, "resynthesized": 2, "generated": 3}
    rms = summary["overall"]["metrics"]["rms"]
    assert list(rms) == ["real", "resynthesized", "generated"]
    assert rms["real"] == {
        "n": 2,
        "mean": 2,
        "std": 1,
        "median": 2,
        "difference_percent": None,
        "ks": None,
        "p_value": None,
    }
    assert rms["resynthesized"]["difference_percent"] == 0
    assert rms["generated"]["difference_percent"] == 100
    assert rms["generated"]["ks"] == compare([1, 3], [3, 5, 4]).ks
    rain = summary["categories"]["rain"]
    assert rain["counts"] == {"real": 1, "resynthesized": 1, "generated": 2}
    assert rain["metrics"]["snr_db"]["generated"]["mean"] == 4
    assert rain["metrics"]["snr_db"]["generated"]["difference_percent"] == 300
    assert summary["pairs"]["spectral_convergence"] == {
        "n": 3,
        "mean": 1,
        "std": pytest.approx(math.sqrt(1 / 6)),
        "median": 1,
    }
    assert summary["pairs"]["log_spectral_distance"]["median"] == 4
    assert list(summary["pairs"]) == list(PAIR_METRIC_NAMES)


def test_a_source_or_category_without_clips_is_null_and_the_json_has_no_nan() -> None:
    summary = summarize(
        metrics_table([("real", "rain", 0.0), ("generated", "rain", 1.0), ("generated", "unheard", 2.0)])
    )
    read_back = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert read_back["overall"]["metrics"]["rms"]["resynthesized"] is None
    assert read_back["overall"]["metrics"]["rms"]["generated"]["difference_percent"] is None
    assert read_back["categories"]["unheard"]["metrics"]["rms"]["real"] is None
    assert read_back["categories"]["unheard"]["metrics"]["rms"]["generated"]["ks"] is None
    assert read_back["pairs"] == {}
    assert read_back == summary.to_dict()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (metrics_table([("generated", "rain", 1.0)]), "no clips of source 'real'"),
        (metrics_table([("real", "rain", 1.0), ("fake", "rain", 1.0)]), "source 'fake' is unknown"),
        (metrics_table([("real", "rain", 1.0), ("real", "rain", math.nan)]), "'snr_db' of 'clip-1' is nan"),
        (metrics_table([("real", "rain", 1.0)]).drop_columns("rms"), "column 'rms' is missing"),
    ],
)
def test_a_table_that_cannot_be_summarized_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        summarize(table)


def test_a_pair_that_is_not_finite_is_refused_by_name() -> None:
    with pytest.raises(SoundStormError, match="'log_spectral_distance' of '1' is inf"):
        summarize(metrics_table([("real", "rain", 1.0)]), pairs_table([1.0, 1.0], [1.0, math.inf]))
