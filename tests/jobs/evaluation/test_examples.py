"""Players by link: relative on a disk, signed and ending in object storage, and each plays its clip."""

import io
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import soundfile

from cluster import storage
from jobs.evaluation.examples import MAX_CLASSES, choose_examples, link_examples
from jobs.inputs.clips import Clip
from soundstorm.audio.files import RejectedAudio
from soundstorm.reports.listening_section import Example
from soundstorm.schemas import Reason, Source

NOW = datetime(2026, 3, 30, 12, 5, tzinfo=UTC)
LEVELS = {"rain/../../x": 1000, "dog\n": 2000}


def examples() -> list[Example]:
    """A clip of each category; what it is called must not matter to where its file lies."""
    clips = [Clip(name, name, name, 1, "", "") for name in LEVELS]
    return choose_examples(
        clips,
        [],
        1,
        lambda clip: np.full(2400, LEVELS[clip.uri], np.int16),
        lambda clips: [pcm // 2 for pcm in clips],
    )


def played(audio: bytes) -> int:
    samples, _ = soundfile.read(io.BytesIO(audio), dtype="int16")
    assert len(samples) == 2400
    return int(samples[0])


def test_of_a_long_clip_a_page_plays_the_beginning() -> None:
    clip = Clip("long", "long", "rain", 1, "", "")
    found = choose_examples([clip], [], 1, lambda _: np.arange(60 * 24_000, dtype=np.int16), lambda clips: clips)
    assert [(example.duration_s, len(example.waveform)) for example in found] == [(10.0, 240_000)] * 2
    assert found[0].waveform[1] == 1 / 32768


def test_a_clip_that_cannot_be_read_leaves_its_place_to_the_next() -> None:
    names = [f"class {number:03d}" for number in range(MAX_CLASSES + 2)]
    real = [Clip(f"{name} {number}", f"{name} {number}", name, 1, "", "") for name in names for number in range(3)]
    made = [replace(clip, uri=f"made of {clip.uri}") for clip in real if clip.category != names[4]]
    lost = {f"{names[0]} 0", f"made of {names[0]} 0"}
    lost |= {f"{start}{names[1]} {number}" for start in ("", "made of ") for number in range(3)}

    def load(clip: Clip) -> np.ndarray:
        if clip.uri in lost:
            raise RejectedAudio(Reason.UNREADABLE_FILE, "no sound")
        return np.ones(240, np.int16)

    found = choose_examples(real, made, 2, load, lambda clips: clips)
    by_class = {name: [example for example in found if example.category == name] for name in names}
    assert [(example.clip_id[-1], example.source) for example in by_class[names[0]]] == [
        (number, source) for number in "12" for source in (Source.REAL, Source.RESYNTHESIZED)
    ] + [(number, Source.GENERATED) for number in "12"]
    assert by_class[names[1]] == [] and len(by_class[names[2]]) == 6
    assert by_class[names[4]] == [], "classes with generated clips come first"
    assert len({example.category for example in found}) == MAX_CLASSES
    assert choose_examples([], [], 2, load, lambda clips: clips) == []


def test_a_page_on_a_disk_finds_its_players_beside_it(tmp_path: Path) -> None:
    inside = examples()
    linked, notes = link_examples(inside, str(tmp_path), 7, NOW)
    assert notes == []
    assert [example.audio_src for example in linked] == [
        f"players/{n:04d}-{example.source.value}.flac" for n, example in enumerate(inside, 1)
    ]
    assert [(tmp_path / str(example.audio_src)).read_bytes() for example in linked] == [
        example.audio_bytes for example in inside
    ]


@pytest.mark.parametrize("storage_root", ["moto", "rclone"], indirect=True)
def test_a_page_in_object_storage_has_links_that_play_and_says_when_they_end(storage_root: str) -> None:
    inside = examples()
    linked, notes = link_examples(inside, storage_root, 2, NOW)
    answers = [urllib.request.urlopen(str(example.audio_src), timeout=30) for example in linked]
    assert sorted(played(answer.read()) for answer in answers) == [500, 1000, 1000, 2000]
    assert {answer.headers["Content-Type"] for answer in answers} == {"audio/flac"}
    queries = [parse_qs(urlsplit(str(example.audio_src)).query) for example in linked]
    assert {query["X-Amz-Expires"][0] for query in queries} == {str(2 * 24 * 3600)}
    assert "until 1 April 2026, 12:05 UTC" in notes[0] and f"{storage_root}/players" in notes[0]
    assert len(storage.list_objects(storage_root)) == len(inside)
    assert "X-Amz" not in notes[0]


@pytest.mark.parametrize("storage_root", ["rclone"], indirect=True)
def test_a_link_opens_its_own_object_alone(storage_root: str) -> None:
    first, second = (str(example.audio_src) for example in link_examples(examples(), storage_root, 1, NOW)[0][:2])
    forged = first.replace(urlsplit(first).path, urlsplit(second).path)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(forged, timeout=30)
