"""Figures of a classification against numbers worked out by hand: accuracy by fold and class, confusions, calibration,
and two runs compared."""

import math
from typing import Any

import pyarrow as pa
import pytest

from soundstorm.classification.accuracy import Accuracy, classify_predictions, compare
from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS

CATEGORIES = ["dog", "rain", "siren"]


def table(rows: list[tuple[int, int, int, float]], **changes: Any) -> pa.Table:
    """Predictions from (fold, label, predicted, probability)."""
    columns = dict(zip(("fold", "label", "predicted", "probability"), zip(*rows, strict=True), strict=True))
    ids = [f"clip-{number}" for number in range(len(rows))]
    return pa.Table.from_pydict({"clip_id": ids, "model": ["cnn"] * len(rows)} | columns | changes, PREDICTIONS)


ROWS = [
    (1, 0, 0, 0.95),
    (1, 0, 0, 0.75),
    (1, 1, 0, 0.75),
    (1, 1, 1, 0.55),
    (2, 1, 0, 0.95),
    (2, 1, 1, 1.0),
    (2, 2, 1, 0.55),
    (2, 2, 1, 0.4),
]
"""Three of four are right in fold 1, one of four in fold 2."""


def test_accuracy_is_the_mean_over_folds_with_their_standard_deviation() -> None:
    result = classify_predictions(table(ROWS), CATEGORIES)
    assert result.folds == {1: Accuracy(clips=4, right=3), 2: Accuracy(clips=4, right=1)}
    assert result.mean == 0.5 and result.std == pytest.approx(math.sqrt(2) * 0.25)
    assert result.overall.share == 0.5


def test_folds_count_alike_however_many_clips_they_have() -> None:
    result = classify_predictions(table([(1, 0, 0, 0.9), (2, 0, 1, 0.9), (2, 0, 1, 0.9), (2, 0, 1, 0.9)]), CATEGORIES)
    assert (result.mean, result.overall.share) == (0.5, 0.25)


def test_one_fold_has_no_spread() -> None:
    assert classify_predictions(table(ROWS[:4]), CATEGORIES).std is None


def test_each_class_has_its_own_accuracy_and_one_without_clips_has_none() -> None:
    result = classify_predictions(table(ROWS), [*CATEGORIES, "crow"])
    shares = {name: accuracy.share for name, accuracy in result.classes.items()}
    assert shares == {"dog": 1.0, "rain": 0.5, "siren": 0.0, "crow": None}


def test_confusions_are_counted_and_the_most_frequent_come_first() -> None:
    result = classify_predictions(table(ROWS), CATEGORIES)
    assert result.confusion == [[2, 0, 0], [2, 2, 0], [0, 2, 0]]
    assert [(pair.category, pair.predicted, pair.clips, pair.share) for pair in result.pairs] == [
        ("rain", "dog", 2, 0.5),
        ("siren", "rain", 2, 1.0),
    ]


def test_calibration_compares_confidence_and_accuracy_in_ranges_that_hold_their_upper_edge() -> None:
    result = classify_predictions(table(ROWS), CATEGORIES)
    found = {round(each.high, 1): (each.clips, each.confidence, each.accuracy) for each in result.bins if each.clips}
    assert found == {
        0.4: (1, 0.4, 0.0),
        0.6: (2, 0.55, 0.5),
        0.8: (2, 0.75, 0.5),
        1.0: (3, pytest.approx(2.9 / 3), pytest.approx(2 / 3)),
    }
    assert result.calibration_error == pytest.approx((0.4 + 2 * 0.05 + 2 * 0.25 + 0.9) / 8)
    assert result.confidence == pytest.approx(5.9 / 8)
    assert [each.confidence for each in result.bins[:3]] == [None] * 3


def test_a_classifier_that_is_right_as_often_as_it_is_sure_has_no_calibration_error() -> None:
    rows = [(1, 0, int(number >= 8), 0.8) for number in range(10)]
    assert classify_predictions(table(rows), CATEGORIES).calibration_error == pytest.approx(0)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS[:2], {"clip_id": ["a", "a"]}, "a clip is in it twice"),
        ([(1, 0, 3, 0.5)], {}, "column 'predicted' has 3 to 3, but there are 3 categories"),
        ([(1, -1, 0, 0.5)], {}, "column 'label' has -1"),
        ([(1, 0, 0, 1.5)], {}, "not from 0 to 1"),
        ([(1, 0, 0, float("nan"))], {}, "not from 0 to 1"),
    ],
)
def test_a_table_that_cannot_be_measured_is_refused(
    rows: list[tuple[int, int, int, float]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SoundStormError, match=f"here: .*{message}"):
        classify_predictions(table(rows, **changes), CATEGORIES, "here")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(SoundStormError, match="not one prediction"):
        classify_predictions(PREDICTIONS.empty_table(), CATEGORIES)


# ---- two runs


def test_two_runs_are_compared_fold_by_fold_on_the_same_clips() -> None:
    better = [
        (fold, label, label, 0.9) if number in (2, 4, 5, 6) else (fold, label, guess, 0.9)
        for number, (fold, label, guess, _) in enumerate(ROWS)
    ]
    found = compare(table(better), table(ROWS), "other")
    assert found.folds == {1: (1.0, 0.75), 2: (0.75, 0.25)} and found.better_folds == 2
    assert found.difference == 0.375 and found.std == pytest.approx(math.sqrt(2) * 0.125)
    assert (found.only_this, found.only_other) == (3, 0) and found.p_value == pytest.approx(2 * 0.5**3)
    reach = 12.7062 * found.std / math.sqrt(2)  # Student's t of one degree of freedom at 0.975
    assert found.interval == (pytest.approx(0.375 - reach, abs=1e-4), pytest.approx(0.375 + reach, abs=1e-4))


def test_a_run_is_as_good_as_itself() -> None:
    found = compare(table(ROWS), table(ROWS), "other")
    assert (found.difference, found.std, found.better_folds, found.p_value) == (0.0, 0.0, 0, 1.0)


def test_only_common_folds_are_compared_and_a_single_one_has_no_interval() -> None:
    found = compare(table(ROWS), table(ROWS[:4]), "other")
    assert list(found.folds) == [1] and (found.std, found.interval) == (None, None)


def test_runs_of_other_folds_or_clips_are_not_compared() -> None:
    with pytest.raises(SoundStormError, match="other: it has no fold in common"):
        compare(table(ROWS[:4]), table([(3, 0, 0, 0.9)]), "other")
    with pytest.raises(SoundStormError, match="other: fold 1 has other clips or labels there"):
        compare(table(ROWS), table(ROWS[:3]), "other")
