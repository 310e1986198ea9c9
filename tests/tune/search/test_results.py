"""What a study leaves: importances of its settings, and a table whose columns have one kind of value."""

from pathlib import Path

import pytest

from cluster import tables
from soundstorm.errors import SoundStormError
from tune.search.results import importances, write_trials
from tune.search.space import Choice, Range

SPACE = {
    "lr": Range(1e-4, 1e-2, is_log=True),
    "schedule": Choice("cosine", "onecycle"),
    "depth": Range(1, 4, is_whole=True),
}


def test_the_setting_that_a_figure_follows_is_the_important_one() -> None:
    points = [
        {"lr": 10 ** (-4 + 2 * number / 19), "schedule": ("cosine", "onecycle")[number % 2], "depth": 1 + number % 4}
        for number in range(20)
    ]
    found = importances(SPACE, [(point, float(point["depth"])) for point in points])  # type: ignore[arg-type]
    assert max(found, key=lambda name: found[name]) == "depth" and found["depth"] > 0.8
    assert found.keys() == SPACE.keys() and sum(found.values()) == pytest.approx(1)


def test_of_few_trials_or_equal_ones_nothing_is_said() -> None:
    points = [{"lr": 10 ** (-4 + number / 10), "schedule": "cosine", "depth": 2} for number in range(10)]
    assert importances(SPACE, [(point, float(number)) for number, point in enumerate(points[:4])]) == {}
    assert importances(SPACE, [(point, 1.0) for point in points]) == {}
    assert importances(SPACE, [(point, float("nan")) for point in points]) == {}


def test_a_column_of_numbers_and_texts_is_text(tmp_path: Path) -> None:
    rows = [
        {"trial": "a", "epochs": 3, "lr": 1, "sampler": "even", "flag": True, "none": None},
        {"trial": "b", "epochs": 2, "lr": 0.5, "sampler": 2, "flag": None, "none": None},
    ]
    write_trials(str(tmp_path), rows, {"study": "training"})
    assert tables.read_table(str(tmp_path / "trials.parquet"))[0].to_pylist() == [
        {"trial": "a", "epochs": 3, "lr": 1.0, "sampler": "even", "flag": True, "none": None},
        {"trial": "b", "epochs": 2, "lr": 0.5, "sampler": "2", "flag": None, "none": None},
    ]
    assert (tmp_path / "trials.csv").read_text().splitlines()[2] == "b,2,0.5,2,,"
    with pytest.raises(SoundStormError, match="has no trial"):
        write_trials(str(tmp_path), [], {})
