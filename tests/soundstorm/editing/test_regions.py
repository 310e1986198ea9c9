"""Regions: what is understood, merged and refused."""

import pytest

from soundstorm.editing.regions import Region, merged, parse_region, sample_spans
from soundstorm.errors import SoundStormError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.2-2.0", (1.2, 2.0)), (" 0 - .5s", (0.0, 0.5)), ("3.-4", (3.0, 4.0)), ("2-2.01", (2.0, 2.01))],
)
def test_a_region_is_named_by_start_and_end_in_seconds(text: str, expected: tuple[float, float]) -> None:
    assert parse_region(text) == Region(*expected)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rain", "region 'rain' is not valid: give START-END in seconds, such as 1.2-2.0"),
        ("1.2", "region '1.2' is not valid"),
        ("1,2-2,0", "region '1,2-2,0' is not valid"),
        ("-1-2", "region '-1-2' is not valid"),
        ("nan-2", "region 'nan-2' is not valid"),
        ("2.0-1.2", "region 2-1.2 does not end after its start"),
        ("1-1", "region 1-1 does not end after its start"),
        ("1-1.001", "region 1-1.001 is too short: give at least 0.01 s"),
    ],
)
def test_what_is_no_region_is_refused_by_its_text(text: str, told: str) -> None:
    with pytest.raises(SoundStormError) as refused:
        parse_region(text)
    assert str(refused.value).startswith(told)


def test_regions_that_overlap_or_touch_are_one_and_all_are_in_order() -> None:
    regions = [Region(3, 4), Region(0.5, 1), Region(1, 1.5), Region(3.5, 3.6)]
    assert merged(regions) == [Region(0.5, 1.5), Region(3, 4)]
    assert sample_spans(regions, 100_000, 24_000) == [(12_000, 36_000), (72_000, 96_000)]


def test_a_region_ends_where_the_recording_does_and_not_beyond() -> None:
    assert sample_spans([Region(1, 5)], 120_000, 24_000) == [(24_000, 120_000)]
    with pytest.raises(SoundStormError, match=r"region 1-5\.5 reaches beyond the end of the recording at 5\.000 s"):
        sample_spans([Region(1, 5.5)], 120_000, 24_000)
    with pytest.raises(SoundStormError, match="no region"):
        sample_spans([], 120_000, 24_000)
