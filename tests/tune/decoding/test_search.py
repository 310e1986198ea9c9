"""What the trials of a decoding study come to: the front, of the curve and the search together, and the rows that lie
on it."""

from typing import Any

from tune.decoding.search import LEVEL_0, summarize_trials
from tune.decoding.trial import COST
from tune.search.trial_journal import TrialResult


def ended(trial: str, quality: float, cost: float, **point: Any) -> TrialResult:
    return TrialResult(trial=trial, point=point, state="finished", rows=[{"epoch": 1, "quality": quality, COST: cost}])


def test_the_seeds_of_a_point_of_the_curve_that_nothing_beats_are_on_the_front_and_one_is_the_best() -> None:
    curve = [
        ended("c1", 0.50, 1.0, **{LEVEL_0: 2, "seed": 0}),
        ended("c2", 0.52, 1.0, **{LEVEL_0: 2, "seed": 1}),
        ended("c3", 0.10, 3.0, **{LEVEL_0: 8, "seed": 0}),
        ended("c4", 0.13, 3.0, **{LEVEL_0: 8, "seed": 1}),
        ended("c5", 0.20, 5.0, **{LEVEL_0: 16, "seed": 0}),
        ended("c6", 0.20, 5.0, **{LEVEL_0: 16, "seed": 1}),
    ]
    search = [ended("s1", 0.30, 2.0, **{LEVEL_0: 4}), ended("s2", 0.40, 4.0, **{LEVEL_0: 5})]
    found = summarize_trials(curve, search, [LEVEL_0], ["its name"])
    assert [(entry["trial"], entry["point"][LEVEL_0]) for entry in found.front] == [
        ("curve", 2),
        ("s1", 4),
        ("curve", 8),
    ]
    assert {row["trial"] for row in found.rows if row["on_front"]} == {"c1", "c2", "s1", "c3", "c4"}
    assert found.best["point"] == {LEVEL_0: 8} and found.best_row in ("c3", "c4")


def test_the_best_of_a_search_is_its_own_row() -> None:
    search = [
        ended("s1", 0.30, 2.0, **{LEVEL_0: 4, "checkpoint": "b"}),
        ended("s2", 0.40, 4.0, **{LEVEL_0: 5, "checkpoint": "a"}),
    ]
    found = summarize_trials([], search, [LEVEL_0, "checkpoint"], ["a", "b"])
    assert found.best_row == "s1" and [row["on_front"] for row in found.rows] == [True, False]


def test_points_of_the_curve_are_told_apart_by_checkpoint() -> None:
    curve = [
        ended("a2", 0.5, 1.0, **{LEVEL_0: 2, "seed": 0, "checkpoint": "a"}),
        ended("b2", 0.6, 1.5, **{LEVEL_0: 2, "seed": 0, "checkpoint": "b"}),
    ]
    found = summarize_trials(curve, [], [], ["a", "b"])
    assert found.best_row == "a2" and {row["trial"]: row["on_front"] for row in found.rows} == {"a2": True, "b2": False}
