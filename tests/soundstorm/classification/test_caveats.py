"""When an accuracy says little, and how that is told."""

import pytest
from scipy.stats import binomtest

from soundstorm.classification.caveats import accuracy_caveats, wilson_interval, with_caveats

MANY = {"dog": 40, "rain": 40}


def test_an_accuracy_of_many_clips_of_all_classes_has_no_caveat() -> None:
    assert accuracy_caveats(["dog", "rain"], 70, MANY, MANY) == accuracy_caveats(["dog", "rain"], 70, MANY) == []
    assert with_caveats("70 of 80", []) == "70 of 80"


def test_a_single_class_is_said_to_be_always_right() -> None:
    assert accuracy_caveats(["dog"], 40, {"dog": 40}) == ["'dog' is the only class, so that every answer is right"]


def test_classes_without_clips_are_named_for_training_and_test() -> None:
    found = accuracy_caveats(["dog", "rain", "siren"], 40, {"dog": 40}, {"dog": 10, "siren": 3})
    assert found == [
        "1 of 3 classes ('rain') had no clip to train on",
        "2 of 3 classes ('rain', 'siren') had no clip to test with",
    ]
    many = [f"c{number}" for number in range(50)]
    assert accuracy_caveats(many, 40, {"c0": 40}) == [
        "49 of 50 classes ('c1', 'c2', 'c3' and 46 others) had no clip to test with"
    ]


def test_few_clips_come_with_the_interval_of_the_share() -> None:
    [told] = accuracy_caveats(["dog", "rain"], 6, {"dog": 3, "rain": 3})
    assert told == "6 clips leave it anywhere from 61% to 100% (95% confidence)"
    assert with_caveats("6 of 6 (100.0%)", [told]) == f"6 of 6 (100.0%), which says little: {told}"
    assert accuracy_caveats(["dog", "rain"], 0, {"dog": 1}, None)[1].startswith(
        "1 clip leaves it anywhere from 0% to 79%"
    )


@pytest.mark.parametrize(("right", "clips"), [(0, 1), (1, 1), (6, 6), (3, 20), (75, 80)])
def test_the_interval_is_wilsons(right: int, clips: int) -> None:
    expected = binomtest(right, clips).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, clips) == pytest.approx((expected.low, expected.high), abs=1e-5)
