"""The sounds of the page's visitors: apart, bounded, and gone after a while; and what they look like."""

import io

import numpy as np
import pytest
from PIL import Image

from jobs.serving.page.cards import card_of, groups_of
from jobs.serving.page.pictures import MAX_WIDTH, Picture, picture_of
from jobs.serving.page.shelf import Shelf, ShelvedSound
from jobs.serving.page.times import Times
from jobs.serving.page.visitors import new_visitor, set_cookie, visitor_of_header
from soundstorm.data.categories import GROUPS
from soundstorm.errors import SoundStormError

PICTURE = Picture(duration_s=1.0, peaks=[-1, 1], spectrogram_png=b"png")
RATE = 24_000


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def sound(size: int = 100, **changes: object) -> ShelvedSound:
    return ShelvedSound(category="rain", kind="New sound", audio=bytes(size), picture=PICTURE, **changes)  # type: ignore[arg-type]


def test_the_newest_sound_stands_first_and_nobody_sees_those_of_another() -> None:
    shelf = Shelf()
    mine, later, other = sound(), sound(), sound()
    shelf.put("me", mine)
    shelf.put("me", later)
    shelf.put("you", other)
    assert shelf.of("me") == [later, mine] and shelf.of("you") == [other] and shelf.of("nobody") == []
    with pytest.raises(SoundStormError, match="no longer here"):
        shelf.get("you", mine.id)
    with pytest.raises(SoundStormError, match="no longer here"):
        shelf.remove("you", mine.id)
    assert shelf.get("me", mine.id) == mine


def test_over_its_number_a_visitor_loses_the_oldest_sound_that_is_not_kept() -> None:
    shelf = Shelf(max_sounds=3)
    sounds = [sound() for _ in range(4)]
    for each in sounds[:3]:
        shelf.put("me", each)
    shelf.keep("me", sounds[0].id, True)
    shelf.put("me", sounds[3])
    assert [each.id for each in shelf.of("me")] == [sounds[3].id, sounds[2].id, sounds[0].id]
    assert [each.kept for each in shelf.of("me")] == [False, False, True]


def test_over_its_bytes_the_visitor_who_looked_longest_ago_loses_first() -> None:
    shelf = Shelf(max_bytes=350)
    mine, other = [sound(97), sound(97)], [sound(97), sound(97)]
    for each in mine:
        shelf.put("me", each)
    shelf.put("you", other[0])
    shelf.of("me")
    shelf.put("me", other[1])
    assert shelf.of("you") == [] and len(shelf.of("me")) == 3 and shelf.num_bytes == 300


def test_sounds_go_when_their_visitor_has_not_looked_for_a_day_and_stay_while_he_looks() -> None:
    clock = Clock()
    shelf = Shelf(lifetime_s=86_400, clock_s=clock)
    shelf.put("me", sound())
    shelf.put("you", sound())
    clock.now_s = 80_000
    assert len(shelf.of("me")) == 1
    clock.now_s = 90_000
    assert len(shelf.of("me")) == 1 and shelf.of("you") == [] and shelf.num_bytes == 103
    clock.now_s = 90_000 + 86_401
    shelf.sweep()
    assert shelf.of("me") == [] and shelf.num_bytes == 0


def test_an_id_and_a_visitor_cannot_be_guessed_and_a_foreign_cookie_is_none() -> None:
    assert len({sound().id for _ in range(100)}) == 100 and len(sound().id) >= 22
    visitor = new_visitor()
    header = set_cookie(visitor, is_secure=True)
    assert "HttpOnly" in header and "SameSite=Lax" in header and "Secure" in header
    assert visitor_of_header(header.split(";")[0]) == visitor
    assert visitor_of_header("soundstorm_visitor=../../etc") is None and visitor_of_header("a=b; c") is None


def test_a_tone_is_bright_where_its_frequency_is_and_only_while_it_lasts() -> None:
    time_s = np.arange(RATE) / RATE
    tone_N = np.where(time_s < 0.5, 16_384 * np.sin(2 * np.pi * 1000 * time_s), 0).astype(np.int16)
    picture = picture_of(tone_N, RATE)
    assert picture.duration_s == 1.0
    assert max(picture.peaks[:300]) == 50 and min(picture.peaks[:300]) == -50 and set(picture.peaks[330:]) == {0}
    shades = np.asarray(Image.open(io.BytesIO(picture.spectrogram_png)))
    mel = 1 - np.log10(1 + 1000 / 700) / np.log10(1 + 12_000 / 700)  # share of the height above 1 kHz
    assert abs(shades[:, 20].argmax() - mel * len(shades)) <= 2
    assert shades[:, 20].max() > 240 and shades[:, -10:].max() == 0


def test_a_long_sound_has_no_larger_picture_and_silence_is_dark() -> None:
    picture = picture_of(np.zeros(60 * RATE, np.int16), RATE)
    image = Image.open(io.BytesIO(picture.spectrogram_png))
    assert image.width == MAX_WIDTH and np.asarray(image).max() == 0
    assert len(picture_of(np.zeros(1, np.int16), RATE).peaks) == 2


def test_classes_are_sorted_by_title_into_the_groups_of_esc50() -> None:
    every = " ".join(GROUPS.values()).split()
    groups = groups_of(every)
    assert list(groups) == ["all", *GROUPS] and {len(members) for members in list(groups.values())[1:]} == {10}
    assert groups["animals"][0] == ("Cat", "cat") and ("Sea waves", "sea_waves") in groups["nature and water"]
    assert list(groups_of(["zither", "rain"])) == ["all", "nature and water", "others"]
    assert groups_of(["zither"]) == {"all": [("Zither", "zither")]}


def test_a_card_says_what_a_sound_is() -> None:
    card = card_of(sound(seed=7, seconds=3.21, loop=True, recipe={"seed": 7}))
    assert (card["title"], card["facts"]) == ("Rain", "New sound · 1.0 s · loop · seed 7 · made in 3.2 s")
    assert card["recipe"].endswith("/recipe") and card_of(sound())["recipe"] is None


def test_what_sounds_cost_is_what_the_last_ones_took() -> None:
    times = Times()
    assert "not known" in times.sentence and "Nobody waits" in times.sentence
    times.add(5.0, 2.0)
    times.add(5.0, 4.0)
    times.in_the_making = 2
    assert "each of the last 2 sounds took 3 s, or 0.6 s for each second of sound" in times.sentence
    assert "2 sounds are in the making" in times.sentence
