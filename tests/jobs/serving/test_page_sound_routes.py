"""Addresses of the page, without a browser: a visitor's sounds are that visitor's alone, and nothing else is open."""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jobs.generation.options import Options
from jobs.serving.limits import Limits
from jobs.serving.page.pictures import picture_of
from jobs.serving.page.sound_store import SoundStore, StoredSound
from jobs.serving.page.visitors import COOKIE
from jobs.serving.sound_request import ModelInfo
from jobs.serving.sound_service import SoundService
from soundstorm.audio.files import encode_audio, from_pcm16
from tests.jobs.conftest import noise, wav

fastapi = pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("gradio", reason="the extra 'serve' is not installed")

RATE, UPLOAD_BYTES = 24_000, 100_000


@pytest.fixture(scope="module")
def store() -> SoundStore:
    return SoundStore()


@pytest.fixture(scope="module")
def client(store: SoundStore) -> Iterator[Any]:
    """Speaks to the application with the page, of a model that makes nothing."""
    from fastapi.testclient import TestClient

    from jobs.serving.page.mounting import mount_page

    model_info = ModelInfo(categories=("dog", "rain"), sample_rate=RATE, hop=320, num_levels=8, checkpoint_sha256="")
    app = fastapi.FastAPI()
    mount_page(app, SoundService(None, model_info, Limits(upload_bytes=UPLOAD_BYTES), Options()), store)  # type: ignore[arg-type]
    with TestClient(app) as client:
        yield client


def visitor_of(client: Any) -> str:
    """A new visitor, which the client is then."""
    client.cookies.clear()
    client.get("/")
    return str(client.cookies[COOKIE])


def put(store: SoundStore, visitor: str, **changes: Any) -> StoredSound:
    samples_N = np.arange(-2000, 2000, dtype=np.int16)
    settings = {"category": "rain", "kind": "New sound", "seed": 3, "recipe": {"seed": 3, "category": "rain"}} | changes
    audio = encode_audio(from_pcm16(samples_N), RATE)
    sound = StoredSound(audio=audio, picture=picture_of(samples_N, RATE), **settings)
    store.put(visitor, sound)
    return sound


def test_a_browser_is_made_a_visitor_once_and_told_to_ask_nothing_of_other_servers(client: Any) -> None:
    client.cookies.clear()
    first = client.get("/")
    assert first.status_code == 200 and "HttpOnly" in first.headers["set-cookie"]
    policy = first.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert "set-cookie" not in client.get("/").headers


def test_a_sound_plays_shows_and_downloads_for_its_visitor_and_for_nobody_else(client: Any, store: SoundStore) -> None:
    sound = put(store, visitor_of(client))
    address = f"/studio/sounds/{sound.id}"
    played = client.get(address)
    assert played.content == sound.audio and played.headers["content-type"] == "audio/flac"
    assert "private" in played.headers["cache-control"]
    assert client.get(f"{address}?download=true").headers["content-disposition"].endswith("rain-3.flac")
    assert client.get(f"{address}/picture").content == sound.picture.spectrogram_png
    recipe = client.get(f"{address}/recipe")
    assert recipe.json() == sound.recipe and recipe.headers["content-disposition"].endswith("rain-3.json")
    visitor_of(client)
    for part in ("", "/picture", "/recipe"):
        refused = client.get(address + part)
        assert refused.status_code == 404 and refused.text.startswith("This sound no longer exists")
    client.cookies.clear()
    assert client.get(address).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [("bytes=0-", 0, None), ("bytes=10-19", 10, 20), ("bytes=-5", -5, None), ("bytes=5-999999", 5, None)],
)
def test_a_player_begins_anywhere(client: Any, store: SoundStore, wanted: str, first: int, end: int | None) -> None:
    sound = put(store, visitor_of(client))
    part = client.get(f"/studio/sounds/{sound.id}", headers={"Range": wanted})
    assert part.status_code == 206 and part.content == sound.audio[first:end]
    total = len(sound.audio)
    begin = first % total
    assert part.headers["content-range"] == f"bytes {begin}-{begin + len(part.content) - 1}/{total}"


def test_a_range_that_is_none_is_refused_or_passed_over(client: Any, store: SoundStore) -> None:
    sound = put(store, visitor_of(client))
    address = f"/studio/sounds/{sound.id}"
    assert client.get(address, headers={"Range": "bytes=999999-"}).status_code == 416
    for odd in ("bytes=1-2,4-5", "lines=1-2", "bytes=x-y", "bytes="):
        assert client.get(address, headers={"Range": odd}).content == sound.audio


def test_an_archive_holds_all_sounds_or_the_kept_ones_with_their_recipes(client: Any, store: SoundStore) -> None:
    visitor = visitor_of(client)
    assert client.get("/studio/sounds.zip").text == "There are no sounds to download: generate one first."
    first, second = put(store, visitor), put(store, visitor, category="sea_waves", seed=4)
    put(store, visitor, category=None, name="Möwe.mp3", seed=None, recipe=None)
    store.keep(visitor, second.id, True)
    with zipfile.ZipFile(io.BytesIO(client.get("/studio/sounds.zip").content)) as archive:
        assert archive.namelist() == [
            "01-rain-3.flac", "01-rain-3.json", "02-sea_waves-4.flac", "02-sea_waves-4.json", "03-Möwe.flac",
        ]  # fmt: skip
        assert archive.read("01-rain-3.flac") == first.audio
        assert json.loads(archive.read("01-rain-3.json")) == first.recipe
    with zipfile.ZipFile(io.BytesIO(client.get("/studio/sounds.zip?kept=true").content)) as archive:
        assert archive.namelist() == ["01-sea_waves-4.flac", "01-sea_waves-4.json"]


def test_an_upload_is_there_for_who_sent_it_alone(client: Any) -> None:
    visitor_of(client)
    [path] = client.post("/gradio_api/upload", files={"files": ("rain.wav", wav(noise(0.2)))}).json()
    assert client.get(f"/gradio_api/file={path}").content == wav(noise(0.2))
    visitor_of(client)
    assert client.get(f"/gradio_api/file={path}").status_code == 404


def test_more_than_the_limit_is_refused_with_a_sentence(client: Any) -> None:
    visitor_of(client)
    large = client.post("/gradio_api/upload", files={"files": ("rain.wav", bytes(UPLOAD_BYTES + (2 << 20)))})
    assert (large.status_code, large.text) == (413, "Give at most 0.1 MB.")
    refused = client.post("/gradio_api/queue/join", content=bytes(2 << 20))
    assert refused.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/monitoring", "/gradio_api/deep_link", "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/runs", "/login",
     "/gradio_api/mcp/", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/call/make"],
)  # fmt: skip
def test_what_the_page_does_not_ask_for_is_not_open(client: Any, path: str) -> None:
    visitor_of(client)
    assert client.get(path).status_code == 404
