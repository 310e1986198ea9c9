"""The five groups of ESC-50, against the dataset's own numbering: ten targets a group."""

import csv
from pathlib import Path

from soundstorm.data.categories import GROUPS, by_group, group_of


def test_each_group_has_the_ten_classes_that_the_data_set_numbers_in_a_row(esc50: Path) -> None:
    with (esc50 / "meta" / "esc50.csv").open(newline="") as file:
        targets = {row["category"]: int(row["target"]) for row in csv.DictReader(file)}
    assert len(targets) == 50
    assert {name: group_of(name) for name in targets} == {
        name: list(GROUPS)[target // 10] for name, target in targets.items()
    }


def test_names_are_known_however_they_are_spelt_and_others_have_no_group() -> None:
    assert group_of("Sea Waves") == group_of("sea-waves") == "nature and water"
    assert group_of("street music") is None
    assert by_group(["siren", "dog", "street_music", "Rain", "cat"]) == {
        "animals": ["dog", "cat"],
        "nature and water": ["Rain"],
        "exterior": ["siren"],
    }
