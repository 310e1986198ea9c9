"""Several sounds that a visitor asks for at once: made side by side, shown as they come, and given up together where
the visitor leaves or stops."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.serving.page.pictures import picture_of
from jobs.serving.page.shelf import Shelf, ShelvedSound
from jobs.serving.page.times import Times, in_words
from jobs.serving.sound import Sound
from soundstorm.errors import SoundStormError

LOOK_S = 1.0
"""Between two reports of how far it is, at which a visitor who left is noticed."""
BROKEN = "The sound could not be made: the server has trouble. Try again in a moment."
logger = logging.getLogger(__name__)

Draw = Callable[[int], Awaitable[Sound]]
"""Makes the sound of a seed."""


@dataclass(kw_only=True, frozen=True)
class Wish:
    """What a visitor asks for."""

    draw: Draw
    seeds: range
    category: str
    kind: str
    """What is done, in words, for the shelf."""
    loop: bool = False


@dataclass(kw_only=True, frozen=True)
class Progress:
    """How far a wish is."""

    made: int
    """Sounds that are on the shelf now."""
    wanted: int
    seconds: float
    error: str | None = None
    """Why what lacks at the end is not made."""
    is_over: bool = False
    was_stopped: bool = False

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.is_over:
            return f"{self.made} of {self.wanted} made, {in_words(self.seconds)} so far."
        if self.was_stopped:
            return f"Stopped: {self.made} of {self.wanted} made."
        sounds = "sound" if self.made == 1 else "sounds"
        return f"{self.made} {sounds} made in {in_words(self.seconds)}."


async def drawn(wish: Wish, visitor: str, shelf: Shelf, times: Times, stop: asyncio.Event) -> AsyncIterator[Progress]:
    """Make the sounds of a wish and shelve each when it is there; yields how far it is, at least every LOOK_S. `stop`,
    or a reader that closes this generator, gives up what is not made."""
    began_s = time.monotonic()
    tasks = [asyncio.create_task(_made(wish, number, began_s, times)) for number in range(len(wish.seeds))]
    pending, stopping = set(tasks), asyncio.create_task(stop.wait())
    made, error = 0, None
    try:
        while pending:
            waited = {*pending, stopping}
            done, _ = await asyncio.wait(waited, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in pending & done:
                outcome = task.result()
                if isinstance(outcome, str):
                    error = error or outcome
                else:
                    shelf.put(visitor, outcome)
                    made += 1
            pending -= done
            if stopping in done:
                await _give_up(pending)
            seconds, is_over = time.monotonic() - began_s, stopping in done or not pending
            yield Progress(
                made=made, wanted=len(tasks), seconds=seconds, error=error, is_over=is_over,
                was_stopped=bool(pending) and is_over,
            )  # fmt: skip
            if is_over:
                return
    finally:
        await _give_up({*pending, stopping})


async def _give_up(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _made(wish: Wish, number: int, began_s: float, times: Times) -> ShelvedSound | str:
    """A sound of a wish, or a sentence that says why it could not be made."""
    seed = wish.seeds[number]
    times.in_the_making += 1
    try:
        sound = await wish.draw(seed)
        picture = await asyncio.to_thread(picture_of, np.asarray(sound.samples_N), sound.sample_rate)
    except SoundStormError as error:
        return sentence_of(error)
    except Exception:
        logger.exception("a sound of the page could not be made")
        return BROKEN
    finally:
        times.in_the_making -= 1
    times.add(picture.duration_s, sound.seconds)
    return ShelvedSound(
        category=wish.category,
        kind=wish.kind,
        audio=sound.audio,
        picture=picture,
        recipe=sound.recipe,
        seed=seed,
        seconds=sound.seconds,
        loop=wish.loop,
        place=(began_s, -number),
    )


def sentence_of(error: SoundStormError) -> str:
    """An error as a sentence: with a capital and a full stop."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
