"""The sounds of the page's visitors: apart, bounded, and gone after a while; and what they look like."""

import io

import numpy as np
import pytest
from PIL import Image

from jobs.serving.page.cards import card_of, groups_of
from jobs.serving.page.generation_times import GenerationTimes
from jobs.serving.page.pictures import MAX_WIDTH, Picture, picture_of
from jobs.serving.page.sound_store import SoundStore, StoredSound
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


def sound(size: int = 100, **changes: object) -> StoredSound:
    return StoredSound(category="rain", kind="New sound", audio=bytes(size), picture=PICTURE, **changes)  # type: ignore[arg-type]


def test_the_newest_sound_stands_first_and_nobody_sees_those_of_another() -> None:
    store = SoundStore()
    mine, later, other = sound(), sound(), sound()
    store.put("me", mine)
    store.put("me", later)
    store.put("you", other)
    assert store.of("me") == [later, mine] and store.of("you") == [other] and store.of("nobody") == []
    with pytest.raises(SoundStormError, match="no longer exists"):
        store.get("you", mine.id)
    with pytest.raises(SoundStormError, match="no longer exists"):
        store.remove("you", mine.id)
    assert store.get("me", mine.id) == mine


def test_over_its_number_a_visitor_loses_the_oldest_sound_that_is_not_kept() -> None:
    store = SoundStore(max_sounds=3)
    sounds = [sound() for _ in range(4)]
    for each in sounds[:3]:
        store.put("me", each)
    store.keep("me", sounds[0].id, True)
    store.put("me", sounds[3])
    assert [each.id for each in store.of("me")] == [sounds[3].id, sounds[2].id, sounds[0].id]
    assert [each.kept for each in store.of("me")] == [False, False, True]


def test_over_its_bytes_the_visitor_who_looked_longest_ago_loses_first() -> None:
    store = SoundStore(max_bytes=350)
    mine, other = [sound(97), sound(97)], [sound(97), sound(97)]
    for each in mine:
        store.put("me", each)
    store.put("you", other[0])
    store.of("me")
    store.put("me", other[1])
    assert store.of("you") == [] and len(store.of("me")) == 3 and store.num_bytes == 300


def test_sounds_go_when_their_visitor_has_not_looked_for_a_day_and_stay_while_he_looks() -> None:
    clock = Clock()
    store = SoundStore(lifetime_s=86_400, clock_s=clock)
    store.put("me", sound())
    store.put("you", sound())
    clock.now_s = 80_000
    assert len(store.of("me")) == 1
    clock.now_s = 90_000
    assert len(store.of("me")) == 1 and store.of("you") == [] and store.num_bytes == 103
    clock.now_s = 90_000 + 86_401
    store.expire()
    assert store.of("me") == [] and store.num_bytes == 0


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
    times = GenerationTimes()
    assert "unknown" in times.sentence and "No sound is pending" in times.sentence
    times.add(5.0, 2.0)
    times.add(5.0, 4.0)
    times.num_pending = 2
    assert "each of the last 2 sounds took 3 s, or 0.6 s for each second of sound" in times.sentence
    assert "2 sounds are pending" in times.sentence
