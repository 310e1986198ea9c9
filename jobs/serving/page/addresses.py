"""Addresses of a visitor's sounds: what plays, shows and downloads them. Each belongs to the visitor who made it; for
anybody else it is not there."""

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
from jobs.serving.page.shelf import Shelf, ShelvedSound
from jobs.serving.page.visitors import COOKIE, visitor_in
from soundstorm.errors import SoundStormError

AUDIO, PICTURE, RECIPE = "audio/flac", "image/png", "application/json"
OWN = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
"""A sound never changes; no shared cache may have it."""
Visitor = Annotated[str, Cookie(alias=COOKIE)]


def address_of(sound: ShelvedSound, part: str = "") -> str:
    """Where the file of a sound is, or its `/picture` or `/recipe`."""
    return f"studio/sounds/{sound.id}{part}"


def file_name(sound: ShelvedSound, suffix: str) -> str:
    """Name under which a sound, or its recipe, is downloaded."""
    seed = "" if sound.seed is None else f"-{sound.seed}"
    return f"{file_stem(sound.category or sound.name.rpartition('.')[0] or 'sound')}{seed}{suffix}"


def add_addresses(app: FastAPI, shelf: Shelf) -> None:
    """Add the addresses of the sounds of `shelf` to `app`."""

    def found(visitor: str, sound_id: str) -> ShelvedSound:
        return shelf.get(visitor_in({COOKIE: visitor}) or "", sound_id)

    @app.get("/studio/sounds.zip", include_in_schema=False)
    async def archive(visitor: Visitor = "", kept: bool = False) -> Response:
        sounds = [sound for sound in shelf.of(visitor_in({COOKIE: visitor}) or "") if sound.kept or not kept]
        if not sounds:
            return _not_there("There are no sounds to download: make one first.")
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
            return _not_there(str(error))
        headers = OWN | (_download(file_name(sound, ".flac")) if download else {})
        return _part(sound.audio, range, headers)

    @app.get("/studio/sounds/{sound_id}/picture", include_in_schema=False)
    async def picture(sound_id: str, visitor: Visitor = "") -> Response:
        try:
            return Response(found(visitor, sound_id).picture.spectrogram_png, media_type=PICTURE, headers=OWN)
        except SoundStormError as error:
            return _not_there(str(error))

    @app.get("/studio/sounds/{sound_id}/recipe", include_in_schema=False)
    async def recipe(sound_id: str, visitor: Visitor = "") -> Response:
        try:
            sound = found(visitor, sound_id)
        except SoundStormError as error:
            return _not_there(str(error))
        if sound.recipe is None:
            return _not_there("A recording has no recipe.")
        return Response(_json(sound), media_type=RECIPE, headers=OWN | _download(file_name(sound, ".json")))


def _json(sound: ShelvedSound) -> bytes:
    return json.dumps(sound.recipe, sort_keys=True, ensure_ascii=False).encode()


def _zip(sounds: Sequence[ShelvedSound]) -> bytes:
    """An archive of the sounds, numbered in the order in which they were made, each with its recipe."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, sound in enumerate(sounds, 1):
            archive.writestr(f"{number:02d}-{file_name(sound, '.flac')}", sound.audio)
            if sound.recipe is not None:
                archive.writestr(f"{number:02d}-{file_name(sound, '.json')}", _json(sound))
    return file.getvalue()


def _part(data: bytes, wanted: str, headers: dict[str, str]) -> Response:
    """`data`, or the one range of its bytes that is wanted: players ask for it to begin anywhere (RFC 9110, 14)."""
    headers = headers | {"Accept-Ranges": "bytes"}
    unit, _, text = wanted.partition("=")
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


def _not_there(sentence: str) -> Response:
    return PlainTextResponse(sentence, status_code=404)
