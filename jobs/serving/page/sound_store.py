"""In-memory store of the sounds of the page's visitors, with limits and an expiry time."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.serving.page.pictures import Picture
from soundstorm.errors import SoundStormError

MAX_SOUNDS = 48
"""Maximum number of sounds per visitor."""
MAX_BYTES = 512 << 20
"""Maximum memory of all visitors together."""
LIFETIME_S = 24 * 3600.0
"""Expiry time after the last request of a visitor."""


def _new_id() -> str:
    return secrets.token_urlsafe(16)


@dataclass(kw_only=True, frozen=True)
class StoredSound:
    """A sound with its metadata."""

    category: str | None
    """None: a recording of unknown class."""
    kind: str
    """Display text of the operation: `New sound`, `Recording`, `Rain, replaced at 1.2-2.0 s`."""
    audio: bytes
    """A 16-bit mono FLAC file at the codec's rate."""
    picture: Picture
    name: str = ""
    """File name of a recording."""
    upload: bytes | None = None
    """Content of the uploaded file, the source of edits; None: `audio`."""
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    seconds: float | None = None
    """Generation time."""
    loop: bool = False
    kept: bool = False
    place: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))
    """Sort key: time of the request, and index within it; highest first."""
    id: str = field(default_factory=_new_id)
    """Random."""

    @property
    def source(self) -> bytes:
        """The file to edit."""
        return self.audio if self.upload is None else self.upload

    @property
    def num_bytes(self) -> int:
        """Memory in bytes."""
        return len(self.audio) + len(self.upload or b"") + len(self.picture.spectrogram_png)


class SoundStore:
    """The sounds of all visitors. Above a limit, the oldest sounds are deleted, kept ones last; the sounds of a visitor
    without requests for `lifetime_s` expire. Not thread-safe: used from the event loop only."""

    def __init__(
        self,
        max_sounds: int = MAX_SOUNDS,
        max_bytes: int = MAX_BYTES,
        lifetime_s: float = LIFETIME_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_sounds, self.max_bytes, self.lifetime_s, self._clock_s = max_sounds, max_bytes, lifetime_s, clock_s
        self._sounds: OrderedDict[str, dict[str, StoredSound]] = OrderedDict()
        self._last_request_s: dict[str, float] = {}
        self.num_bytes = 0

    def put(self, visitor: str, sound: StoredSound) -> None:
        """Add a sound."""
        self._sounds.setdefault(visitor, {})[sound.id] = sound
        self._touch(visitor)
        self.num_bytes += sound.num_bytes
        if len(self._sounds[visitor]) > self.max_sounds:
            self._drop_oldest(visitor)
        while self.num_bytes > self.max_bytes:
            self._drop_oldest(next(iter(self._sounds)))

    def of(self, visitor: str) -> list[StoredSound]:
        """A visitor's sounds, the newest first."""
        self._touch(visitor)
        return sorted(self._sounds.get(visitor, {}).values(), key=lambda sound: sound.place, reverse=True)

    def get(self, visitor: str, sound_id: str | None) -> StoredSound:
        """A sound of a visitor.

        Raises:
            SoundStormError: the visitor has no such sound.
        """
        self._touch(visitor)
        found = self._sounds.get(visitor, {}).get(sound_id or "")
        if found is None:
            raise SoundStormError("This sound no longer exists: generate or upload it again.")
        return found

    def keep(self, visitor: str, sound_id: str, kept: bool) -> None:
        """Mark or unmark a sound as kept.

        Raises:
            SoundStormError: as `get`.
        """
        self._sounds[visitor][sound_id] = replace(self.get(visitor, sound_id), kept=kept)

    def remove(self, visitor: str, sound_id: str) -> None:
        """Delete a sound.

        Raises:
            SoundStormError: as `get`.
        """
        self._drop(visitor, self.get(visitor, sound_id))

    def expire(self) -> None:
        """Delete expired sounds."""
        expired_s = self._clock_s() - self.lifetime_s
        for visitor in [each for each, last_request_s in self._last_request_s.items() if last_request_s < expired_s]:
            for sound in list(self._sounds[visitor].values()):
                self._drop(visitor, sound)

    def _touch(self, visitor: str) -> None:
        """Delete expired sounds, and record a request of the visitor."""
        if visitor in self._sounds:
            self._sounds.move_to_end(visitor)
            self._last_request_s[visitor] = self._clock_s()
        self.expire()

    def _drop_oldest(self, visitor: str) -> None:
        sounds = self._sounds[visitor].values()
        self._drop(visitor, next((sound for sound in sounds if not sound.kept), next(iter(sounds))))

    def _drop(self, visitor: str, sound: StoredSound) -> None:
        self.num_bytes -= sound.num_bytes
        del self._sounds[visitor][sound.id]
        if not self._sounds[visitor]:
            del self._sounds[visitor], self._last_request_s[visitor]
