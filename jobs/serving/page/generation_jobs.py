"""Generates the sounds of one press of a button in parallel; they are cancelled together if the visitor stops or
leaves."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.serving.page.generation_times import GenerationTimes, in_words
from jobs.serving.page.pictures import picture_of
from jobs.serving.page.sound_store import SoundStore, StoredSound
from jobs.serving.sound import Sound
from soundstorm.errors import SoundStormError

REPORT_S = 1.0
"""Interval of progress reports, at which a disconnected visitor is noticed."""
SERVER_ERROR = "The sound could not be generated because of a server error. Try again in a moment."
logger = logging.getLogger(__name__)

Generate = Callable[[int], Awaitable[Sound]]
"""Generates the sound of a seed."""


@dataclass(kw_only=True, frozen=True)
class GenerationJob:
    """A request of a visitor for one or more sounds."""

    generate: Generate
    seeds: range
    category: str
    kind: str
    """Display text of the operation."""
    loop: bool = False


@dataclass(kw_only=True, frozen=True)
class Progress:
    """Progress of a job."""

    made: int
    """Number of sounds that are finished."""
    wanted: int
    seconds: float
    error: str | None = None
    """Why the missing sounds failed."""
    is_over: bool = False
    was_stopped: bool = False

    @property
    def sentence(self) -> str:
        """Display text."""
        if not self.is_over:
            return f"{self.made} of {self.wanted} generated, {in_words(self.seconds)} so far."
        if self.was_stopped:
            return f"Stopped: {self.made} of {self.wanted} generated."
        sounds = "sound" if self.made == 1 else "sounds"
        return f"{self.made} {sounds} generated in {in_words(self.seconds)}."


async def run_job(
    job: GenerationJob, visitor: str, store: SoundStore, times: GenerationTimes, stop: asyncio.Event
) -> AsyncIterator[Progress]:
    """Generate the sounds of a job and put each into the store when it is finished. Yields the progress at least every
    REPORT_S. `stop`, or closing this generator, cancels the rest."""
    began_s = time.monotonic()
    tasks = [asyncio.create_task(_generate_one(job, number, began_s, times)) for number in range(len(job.seeds))]
    pending, stopping = set(tasks), asyncio.create_task(stop.wait())
    made, error = 0, None
    try:
        while pending:
            waited = {*pending, stopping}
            done, _ = await asyncio.wait(waited, timeout=REPORT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in pending & done:
                outcome = task.result()
                if isinstance(outcome, str):
                    error = error or outcome
                else:
                    store.put(visitor, outcome)
                    made += 1
            pending -= done
            if stopping in done:
                await _cancel(pending)
            seconds, is_over = time.monotonic() - began_s, stopping in done or not pending
            yield Progress(
                made=made, wanted=len(tasks), seconds=seconds, error=error, is_over=is_over,
                was_stopped=bool(pending) and is_over,
            )  # fmt: skip
            if is_over:
                return
    finally:
        await _cancel({*pending, stopping})


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _generate_one(job: GenerationJob, number: int, began_s: float, times: GenerationTimes) -> StoredSound | str:
    """Generate a sound of a job; returns an error as a sentence if that fails."""
    seed = job.seeds[number]
    times.num_pending += 1
    try:
        sound = await job.generate(seed)
        picture = await asyncio.to_thread(picture_of, np.asarray(sound.samples_N), sound.sample_rate)
    except SoundStormError as error:
        return sentence_of(error)
    except Exception:
        logger.exception("a sound of the page could not be generated")
        return SERVER_ERROR
    finally:
        times.num_pending -= 1
    times.add(picture.duration_s, sound.seconds)
    return StoredSound(
        category=job.category,
        kind=job.kind,
        audio=sound.audio,
        picture=picture,
        recipe=sound.recipe,
        seed=seed,
        seconds=sound.seconds,
        loop=job.loop,
        place=(began_s, -number),
    )


def sentence_of(error: SoundStormError) -> str:
    """An error as a sentence with a capital letter and a full stop."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
