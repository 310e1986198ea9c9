"""Checks the input of the page's forms, with errors in the words of the page."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.generation.options import MIN_DURATION_S
from jobs.serving.page.cards import title_of
from jobs.serving.page.generation_jobs import GenerationJob
from jobs.serving.page.sound_store import StoredSound
from jobs.serving.sound_service import SoundService
from soundstorm.editing.regions import Region, merged, parse_region
from soundstorm.errors import SoundStormError

MAX_COUNT = 8
"""Maximum number of sounds per job."""
MAX_SEED = 2**53 - 1
"""Largest integer of a browser."""
NEW_SEEDS = 1_000_000
"""Range of random seeds: numbers that people can read out."""


@dataclass(kw_only=True, frozen=True)
class Takes:
    """Number of sounds and seed."""

    count: float | None
    seed: float | None
    is_new: bool
    """Whether to use a random seed instead of `seed`."""

    @property
    def seeds(self) -> range:
        """The seed of each sound.

        Raises:
            SoundStormError: the number or the seed is invalid.
        """
        count = _whole("How many", self.count)
        if not 1 <= count <= MAX_COUNT:
            raise SoundStormError(f"How many is {count}: give 1 to {MAX_COUNT}.")
        first = secrets.randbelow(NEW_SEEDS) if self.is_new else _whole("Seed", self.seed)
        if not 0 <= first <= MAX_SEED - count:
            raise SoundStormError(f"Seed is {first}: give a whole number of 0 or more.")
        return range(first, first + count)


@dataclass(frozen=True)
class FormParser:
    """Each method returns the job of a form, or raises SoundStormError with a sentence for the page."""

    service: SoundService

    def new(self, category: str | None, duration_s: float | None, takes: Takes, *, loop: bool) -> GenerationJob:
        """New sound of a class."""
        category, length_s = _category(category), self._length("Length", duration_s)
        return GenerationJob(
            generate=lambda seed: self.service.generate(category, duration_s=length_s, seed=seed, loop=loop),
            seeds=takes.seeds,
            category=category,
            kind="New loop" if loop else "New sound",
            loop=loop,
        )

    def inpainted(
        self, sound: StoredSound, category: str | None, regions: Sequence[Region], takes: Takes
    ) -> GenerationJob:
        """A sound with new sound in some regions."""
        category, spans = _category(category), merged(regions)
        if not spans:
            raise SoundStormError(
                "Mark the regions to replace: drag over the picture, or type seconds such as 1.2-2.0."
            )
        if spans[-1].end_s > sound.picture.duration_s:
            raise SoundStormError(
                f"{spans[-1]} s reaches beyond the sound, which has {sound.picture.duration_s:.2f} s: give less."
            )
        named = ", ".join(map(str, spans))
        pairs = [(span.start_s, span.end_s) for span in spans]
        return GenerationJob(
            generate=lambda seed: self.service.inpaint(sound.source, category, regions=pairs, seed=seed),
            seeds=takes.seeds,
            category=category,
            kind=f"{_name(sound)}, replaced at {named} s",
        )

    def varied(
        self, sound: StoredSound, category: str | None, strength: float, kept_levels: float | None, takes: Takes
    ) -> GenerationJob:
        """Variations of a sound."""
        category, levels = _category(category), _whole("Levels to keep", kept_levels)
        return GenerationJob(
            generate=lambda seed: self.service.vary(
                sound.source, category, strength=strength, kept_levels=levels, seed=seed
            ),
            seeds=takes.seeds,
            category=category,
            kind=f"{_name(sound)}, varied by {strength:g}",
        )

    def continued(
        self, sound: StoredSound, category: str | None, kept_s: float | None, duration_s: float | None, takes: Takes
    ) -> GenerationJob:
        """Continuations of the beginning of a sound."""
        category, length_s = _category(category), self._length("Length", duration_s)
        begin_s = _number("Seconds to keep", kept_s)
        if not 0 < begin_s < length_s:
            raise SoundStormError(f"Seconds to keep is {begin_s:g}: give more than 0 and less than {length_s:g}.")
        return GenerationJob(
            generate=lambda seed: self.service.continue_(
                sound.source, category, prompt_duration_s=begin_s, duration_s=length_s, seed=seed
            ),
            seeds=takes.seeds,
            category=category,
            kind=f"{_name(sound)}, continued after {begin_s:g} s",
        )

    def looped(self, sound: StoredSound, category: str | None, takes: Takes) -> GenerationJob:
        """A sound that is closed to a loop."""
        category = _category(category)
        return GenerationJob(
            generate=lambda seed: self.service.inpaint(sound.source, category, regions=[], seed=seed, loop=True),
            seeds=takes.seeds,
            category=category,
            kind=f"{_name(sound)}, as a loop",
            loop=True,
        )

    def _length(self, name: str, value: float | None) -> float:
        length_s, longest_s = _number(name, value), self.service.limits.longest_s
        if not MIN_DURATION_S <= length_s <= longest_s:
            raise SoundStormError(f"{name} is {length_s:g} s: give {MIN_DURATION_S:g} to {longest_s:g} seconds.")
        return length_s


def regions_in(text: str) -> list[Region]:
    """Parse regions that are separated by commas, semicolons or line breaks.

    Raises:
        SoundStormError: one of them is not valid.
    """
    parts = (part.strip() for part in text.replace(";", ",").replace("\n", ",").split(","))
    return [parse_region(part.replace("–", "-")) for part in parts if part]


def _name(sound: StoredSound) -> str:
    return sound.name or title_of(sound.category or "sound")


def _category(category: str | None) -> str:
    if not category:
        raise SoundStormError("Choose a class first.")
    return category


def _number(name: str, value: float | None) -> float:
    if value is None:
        raise SoundStormError(f"{name} is empty: give a number.")
    return float(value)


def _whole(name: str, value: float | None) -> int:
    number = _number(name, value)
    if number != int(number):
        raise SoundStormError(f"{name} is {number:g}: give a whole number.")
    return int(number)
