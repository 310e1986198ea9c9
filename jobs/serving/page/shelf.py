"""Sounds that the visitors of the page made or brought, for a while and within bounds, each visitor's apart."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.serving.page.pictures import Picture
from soundstorm.errors import SoundStormError

MAX_SOUNDS = 48
"""Of a visitor."""
MAX_BYTES = 512 << 20
"""Of all visitors together."""
LIFETIME_S = 24 * 3600.0
"""After a visitor's last look."""


def _new_id() -> str:
    return secrets.token_urlsafe(16)


@dataclass(kw_only=True, frozen=True)
class ShelvedSound:
    """A sound, and what the page shows of it."""

    category: str | None
    """None: a recording whose class nobody has said."""
    kind: str
    """What was done, in words: `New sound`, `Recording`, `Mended 1.2-2.0 s`."""
    audio: bytes
    """A 16-bit mono FLAC file at the codec's rate."""
    picture: Picture
    name: str = ""
    """File name of a recording."""
    upload: bytes | None = None
    """The recording's own file, from which edits are made; None: `audio`."""
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    seconds: float | None = None
    """It took to make."""
    loop: bool = False
    kept: bool = False
    place: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))
    """When it was asked for, and which of those asked for then it is: the highest stands first."""
    id: str = field(default_factory=_new_id)
    """Cannot be guessed."""

    @property
    def source(self) -> bytes:
        """The file that an edit of this sound begins with."""
        return self.audio if self.upload is None else self.upload

    @property
    def num_bytes(self) -> int:
        """In memory."""
        return len(self.audio) + len(self.upload or b"") + len(self.picture.spectrogram_png)


class Shelf:
    """The sounds of all visitors. What is over a bound goes, the oldest first and the kept ones last; so does what
    belongs to a visitor who has not looked for `lifetime_s`. Used from one thread, that of the event loop."""

    def __init__(
        self,
        max_sounds: int = MAX_SOUNDS,
        max_bytes: int = MAX_BYTES,
        lifetime_s: float = LIFETIME_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_sounds, self.max_bytes, self.lifetime_s, self._clock_s = max_sounds, max_bytes, lifetime_s, clock_s
        self._sounds: OrderedDict[str, dict[str, ShelvedSound]] = OrderedDict()
        self._looked_s: dict[str, float] = {}
        self.num_bytes = 0

    def put(self, visitor: str, sound: ShelvedSound) -> None:
        """Add a sound of a visitor."""
        self._sounds.setdefault(visitor, {})[sound.id] = sound
        self._look(visitor)
        self.num_bytes += sound.num_bytes
        if len(self._sounds[visitor]) > self.max_sounds:
            self._drop_oldest(visitor)
        while self.num_bytes > self.max_bytes:
            self._drop_oldest(next(iter(self._sounds)))

    def of(self, visitor: str) -> list[ShelvedSound]:
        """A visitor's sounds, the newest first."""
        self._look(visitor)
        return sorted(self._sounds.get(visitor, {}).values(), key=lambda sound: sound.place, reverse=True)

    def get(self, visitor: str, sound_id: str | None) -> ShelvedSound:
        """One of a visitor's sounds.

        Raises:
            SoundStormError: the visitor has none of that name.
        """
        self._look(visitor)
        found = self._sounds.get(visitor, {}).get(sound_id or "")
        if found is None:
            raise SoundStormError("This sound is no longer here: make or upload it again.")
        return found

    def keep(self, visitor: str, sound_id: str, kept: bool) -> None:
        """Mark a sound as one to keep, or no longer.

        Raises:
            SoundStormError: as of `get`.
        """
        self._sounds[visitor][sound_id] = replace(self.get(visitor, sound_id), kept=kept)

    def remove(self, visitor: str, sound_id: str) -> None:
        """Take a sound away.

        Raises:
            SoundStormError: as of `get`.
        """
        self._drop(visitor, self.get(visitor, sound_id))

    def sweep(self) -> None:
        """Take away the sounds of visitors who have not looked for long."""
        gone_s = self._clock_s() - self.lifetime_s
        for visitor in [each for each, looked_s in self._looked_s.items() if looked_s < gone_s]:
            for sound in list(self._sounds[visitor].values()):
                self._drop(visitor, sound)

    def _look(self, visitor: str) -> None:
        """Sweep, and note that a visitor, if it has a sound, is here."""
        if visitor in self._sounds:
            self._sounds.move_to_end(visitor)
            self._looked_s[visitor] = self._clock_s()
        self.sweep()

    def _drop_oldest(self, visitor: str) -> None:
        sounds = self._sounds[visitor].values()
        self._drop(visitor, next((sound for sound in sounds if not sound.kept), next(iter(sounds))))

    def _drop(self, visitor: str, sound: ShelvedSound) -> None:
        self.num_bytes -= sound.num_bytes
        del self._sounds[visitor][sound.id]
        if not self._sounds[visitor]:
            del self._sounds[visitor], self._looked_s[visitor]
