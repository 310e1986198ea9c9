"""HTTP routes for the audio, pictures, recipes and downloads of a visitor's sounds. Sounds of other visitors are not
found."""

import io
import json
import zipfile
from asyncio import to_thread
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from fastapi import Cookie, FastAPI, Header, Response
from fastapi.responses import PlainTextResponse

from jobs.actors.generator import file_stem
from jobs.serving.page.sound_store import SoundStore, StoredSound
from jobs.serving.page.visitors import COOKIE, visitor_in
from soundstorm.errors import SoundStormError

AUDIO, PICTURE, RECIPE = "audio/flac", "image/png", "application/json"
PRIVATE = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
"""Sounds never change, but shared caches must not store them."""
Visitor = Annotated[str, Cookie(alias=COOKIE)]


def url_of(sound: StoredSound, part: str = "") -> str:
    """URL of the audio of a sound, or of its `/picture` or `/recipe`."""
    return f"studio/sounds/{sound.id}{part}"


def file_name(sound: StoredSound, suffix: str) -> str:
    """File name for downloading a sound or its recipe."""
    seed = "" if sound.seed is None else f"-{sound.seed}"
    return f"{file_stem(sound.category or sound.name.rpartition('.')[0] or 'sound')}{seed}{suffix}"


def add_sound_routes(app: FastAPI, store: SoundStore) -> None:
    """Add the routes of the sounds in `store` to `app`."""

    def found(visitor: str, sound_id: str) -> StoredSound:
        return store.get(visitor_in({COOKIE: visitor}) or "", sound_id)

    @app.get("/studio/sounds.zip", include_in_schema=False)
    async def archive(visitor: Visitor = "", kept: bool = False) -> Response:
        sounds = [sound for sound in store.of(visitor_in({COOKIE: visitor}) or "") if sound.kept or not kept]
        if not sounds:
            return _not_found("There are no sounds to download: generate one first.")
        data = await to_thread(_zip, sounds[::-1])
        return Response(
            data, media_type="application/zip", headers=_download("sounds.zip") | {"Cache-Control": "no-store"}
        )

    @app.get("/studio/sounds/{sound_id}", include_in_schema=False)
    async def audio(
        sound_id: str, visitor: Visitor = "", download: bool = False, range: Annotated[str, Header()] = ""
    ) -> Response:
        try:
            sound = found(visitor, sound_id)
        except SoundStormError as error:
            return _not_found(str(error))
        headers = PRIVATE | (_download(file_name(sound, ".flac")) if download else {})
        return _byte_range(sound.audio, range, headers)

    @app.get("/studio/sounds/{sound_id}/picture", include_in_schema=False)
    async def picture(sound_id: str, visitor: Visitor = "") -> Response:
        try:
            return Response(found(visitor, sound_id).picture.spectrogram_png, media_type=PICTURE, headers=PRIVATE)
        except SoundStormError as error:
            return _not_found(str(error))

    @app.get("/studio/sounds/{sound_id}/recipe", include_in_schema=False)
    async def recipe(sound_id: str, visitor: Visitor = "") -> Response:
        try:
            sound = found(visitor, sound_id)
        except SoundStormError as error:
            return _not_found(str(error))
        if sound.recipe is None:
            return _not_found("A recording has no recipe.")
        return Response(_json(sound), media_type=RECIPE, headers=PRIVATE | _download(file_name(sound, ".json")))


def _json(sound: StoredSound) -> bytes:
    return json.dumps(sound.recipe, sort_keys=True, ensure_ascii=False).encode()


def _zip(sounds: Sequence[StoredSound]) -> bytes:
    """A zip archive of the sounds, numbered in order of creation, with their recipes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, sound in enumerate(sounds, 1):
            archive.writestr(f"{number:02d}-{file_name(sound, '.flac')}", sound.audio)
            if sound.recipe is not None:
                archive.writestr(f"{number:02d}-{file_name(sound, '.json')}", _json(sound))
    return file.getvalue()


def _byte_range(data: bytes, range_header: str, headers: dict[str, str]) -> Response:
    """`data`, or the requested byte range: players request ranges to seek (RFC 9110, 14)."""
    headers = headers | {"Accept-Ranges": "bytes"}
    unit, _, text = range_header.partition("=")
    first, _, last = text.partition("-")
    if unit.strip() != "bytes" or not (first.isdecimal() or last.isdecimal()) or "," in text:
        return Response(data, media_type=AUDIO, headers=headers)
    begin = int(first) if first.isdecimal() else max(0, len(data) - int(last))
    end = min(len(data), int(last) + 1 if first.isdecimal() and last.isdecimal() else len(data))
    if begin >= end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    content_range = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
    return Response(data[begin:end], 206, headers | content_range, AUDIO)


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}


def _not_found(sentence: str) -> Response:
    return PlainTextResponse(sentence, status_code=404)
