"""What a visitor fills in: the job that it makes, or a sentence that names the field, the value and the remedy."""

from typing import Any

import pytest

from jobs.generation.options import Options
from jobs.serving.limits import Limits
from jobs.serving.page.forms import FormParser, Takes, regions_in
from jobs.serving.page.pictures import Picture
from jobs.serving.page.sound_store import StoredSound
from jobs.serving.sound_request import ModelInfo
from jobs.serving.sound_service import SoundService
from soundstorm.editing.regions import Region
from soundstorm.errors import SoundStormError

SOUND = StoredSound(
    category="rain", kind="New sound", audio=b"", picture=Picture(duration_s=3.0, peaks=[], spectrogram_png=b"")
)


@pytest.fixture(scope="module")
def forms() -> FormParser:
    model_info = ModelInfo(categories=("dog", "rain"), sample_rate=24_000, hop=320, num_levels=8, checkpoint_sha256="")
    return FormParser(SoundService(None, model_info, Limits(longest_s=20.0), Options()))  # type: ignore[arg-type]  nothing is made here


def takes(count: Any = 2, seed: Any = 5, is_new: bool = False) -> Takes:
    return Takes(count=count, seed=seed, is_new=is_new)


def test_sounds_have_seeds_from_the_given_one_on_or_from_one_that_is_drawn() -> None:
    assert takes(count=3.0, seed=5).seeds == range(5, 8)
    drawn = {takes(is_new=True, seed=None).seeds.start for _ in range(20)}
    assert len(drawn) > 15


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": None}, "How many is empty: give a number."),
        ({"count": 9}, "How many is 9: give 1 to 8."),
        ({"count": 1.5}, "How many is 1.5: give a whole number."),
        ({"seed": None}, "Seed is empty: give a number."),
        ({"seed": -1}, "Seed is -1: give a whole number of 0 or more."),
    ],
)
def test_takes_that_are_none_are_named(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoundStormError) as refused:
        assert takes(**given).seeds
    assert str(refused.value) == sentence


def test_a_wish_says_what_is_done(forms: FormParser) -> None:
    new = forms.new("rain", 5.0, takes(), loop=True)
    assert (new.category, new.seeds, new.kind, new.loop) == ("rain", range(5, 7), "New loop", True)
    assert forms.inpainted(SOUND, "dog", regions_in("2-2.5, 0.5-1; 0.9-1.2"), takes()).kind == (
        "Rain, replaced at 0.5-1.2, 2-2.5 s"
    )
    assert forms.varied(SOUND, "dog", 0.25, 1, takes()).kind == "Rain, varied by 0.25"
    assert forms.continued(SOUND, "dog", 1, 8, takes()).kind == "Rain, continued after 1 s"
    assert forms.looped(SOUND, "dog", takes()).loop


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda forms: forms.new(None, 5.0, takes(), loop=False), "Choose a class first."),
        (lambda forms: forms.new("rain", None, takes(), loop=False), "Length is empty: give a number."),
        (lambda forms: forms.new("rain", 21, takes(), loop=False), "Length is 21 s: give 0.05 to 20 seconds."),
        (
            lambda forms: forms.inpainted(SOUND, "rain", [], takes()),
            "Mark the regions to replace: drag over the picture, or type seconds such as 1.2-2.0.",
        ),
        (
            lambda forms: forms.inpainted(SOUND, "rain", [Region(1, 4)], takes()),
            "1-4 s reaches beyond the sound, which has 3.00 s: give less.",
        ),
        (
            lambda forms: forms.continued(SOUND, "rain", 5, 5, takes()),
            "Seconds to keep is 5: give more than 0 and less than 5.",
        ),
        (lambda forms: forms.varied(SOUND, None, 0.5, 1, takes()), "Choose a class first."),
    ],
)
def test_what_cannot_be_made_is_a_sentence(forms: FormParser, ask: Any, sentence: str) -> None:
    with pytest.raises(SoundStormError) as refused:
        ask(forms)
    assert str(refused.value) == sentence


def test_typed_stretches_are_read_as_people_write_them() -> None:
    assert regions_in(" 1.2-2.0,3–3.5\n4 - 4.5 s ;") == [Region(1.2, 2.0), Region(3.0, 3.5), Region(4.0, 4.5)]
    assert regions_in("") == []
    with pytest.raises(SoundStormError, match=r"'1\.2-' is not valid"):
        regions_in("1.2-")
