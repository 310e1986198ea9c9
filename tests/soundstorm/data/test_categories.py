"""Names of classes as people, folders and tables spell them."""

import pytest

from soundstorm.data.categories import find_category, normalized
from soundstorm.errors import SoundStormError

ESC = ["dog", "crying_baby", "sea_waves", "clock_tick", "vacuum_cleaner", "engine", "chainsaw", "mouse_click"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Dog", "dog"),
        ("sea waves", "sea_waves"),
        ("Sea-Waves", "sea_waves"),
        ("SEAWAVES", "sea_waves"),
        (" crying  baby ", "crying_baby"),
        ("clock_tick", "clock_tick"),
        ("ClockTick", "clock_tick"),
    ],
)
def test_a_class_is_found_whatever_its_case_and_what_stands_between_its_words(typed: str, meant: str) -> None:
    assert ESC[find_category(typed, ESC, "--class", "the checkpoint")] == meant


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("dog_bark", "'dog'"),
        ("vacum cleaner", "'vacuum_cleaner'"),
        ("engine idling", "'engine'"),
        ("chain saws", "'chainsaw'"),
        ("baby", "'crying_baby'"),
        ("mouseclik", "'mouse_click'"),
    ],
)
def test_a_class_that_is_not_there_is_answered_with_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(SoundStormError) as refused:
        find_category(typed, ESC, "--class", "the checkpoint")
    assert str(refused.value) == f"--class is '{typed}': did you mean {nearest}? the checkpoint has {', '.join(ESC)}"


def test_where_nothing_is_near_the_classes_alone_are_named() -> None:
    with pytest.raises(SoundStormError, match=r"^--class is 'zzz': the checkpoint has dog, crying_baby"):
        find_category("zzz", ESC, "--class", "the checkpoint")


def test_of_a_thousand_classes_not_all_are_named() -> None:
    with pytest.raises(SoundStormError, match=r"class 59 and 940 others$"):
        find_category("zzz", [f"class {number}" for number in range(1000)][:1000], "--class", "it")


def test_an_exact_name_wins_and_two_that_fit_alike_are_asked_about() -> None:
    both = ["Dog", "dog", "rain"]
    assert (find_category("dog", both, "--class", "it"), find_category("Dog", both, "--class", "it")) == (1, 0)
    with pytest.raises(SoundStormError, match="it has 'Dog' or 'dog', give one of them exactly"):
        find_category("DOG", both, "--class", "it")


def test_spellings_of_one_name_are_the_same_and_names_of_symbols_are_not() -> None:
    assert normalized("Crying Baby") == normalized("crying-baby") == normalized("crying_baby") == "crying_baby"
    assert normalized("Mo\u0308we") == normalized("M\u00f6we") == normalized("M\u00d6WE")
    assert normalized("\U0001f415") != normalized("\U0001f408") and normalized("\U0001f415 dog") != normalized(
        "\U0001f408 dog"
    )
    assert normalized("???") != normalized("!!!") and normalized("???")
