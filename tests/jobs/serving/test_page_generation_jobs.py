"""Several sounds of one job: shelved as they come, in the order of their seeds, and given up together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from jobs.serving.page.generation_jobs import SERVER_ERROR, GenerationJob, Progress, run_job
from jobs.serving.page.generation_times import GenerationTimes
from jobs.serving.page.sound_store import SoundStore
from jobs.serving.sound import BusyError, Sound

RATE = 24_000


def sound(seed: int) -> Sound:
    samples_N = np.full(RATE, seed, np.int16)
    return Sound(audio=bytes([seed]), samples_N=samples_N, sample_rate=RATE, recipe={"seed": seed}, seconds=0.1)


def job(generate: Callable[[int], Awaitable[Sound]], count: int = 3) -> GenerationJob:
    return GenerationJob(generate=generate, seeds=range(5, 5 + count), category="rain", kind="New sound")


async def all_of(
    job: GenerationJob, store: SoundStore, times: GenerationTimes, stop: asyncio.Event | None = None
) -> list[Progress]:
    return [each async for each in run_job(job, "me", store, times, stop or asyncio.Event())]


def test_sounds_are_shelved_as_they_come_and_stand_in_the_order_of_their_seeds() -> None:
    store, times = SoundStore(), GenerationTimes()

    async def generate(seed: int) -> Sound:
        await asyncio.sleep(0.05 * (8 - seed))
        while len(store.of("me")) < 7 - seed:  # the last one comes first
            await asyncio.sleep(0.02)
        return sound(seed)

    steps = asyncio.run(all_of(job(generate), store, times))
    assert [step.made for step in steps] == [1, 2, 3] and [step.is_over for step in steps] == [False, False, True]
    assert [each.seed for each in store.of("me")] == [5, 6, 7]
    assert store.of("me")[0].audio == b"\x05" and store.of("me")[0].recipe == {"seed": 5}
    assert steps[-1].sentence.startswith("3 sounds generated in ") and times.num_pending == 0
    assert "each of the last 3 sounds took 0.1 s" in times.sentence


def test_what_cannot_be_made_is_told_and_the_others_stay() -> None:
    store = SoundStore()

    async def generate(seed: int) -> Sound:
        if seed == 6:
            raise BusyError("all 64 places for requests are taken: try again in some seconds", 3)
        return sound(seed)

    last = asyncio.run(all_of(job(generate), store, GenerationTimes()))[-1]
    assert last.made == 2 and len(store.of("me")) == 2
    assert last.error == "All 64 places for requests are taken: try again in some seconds."


def test_a_fault_of_the_server_is_one_sentence_without_its_details(caplog: Any) -> None:
    async def generate(seed: int) -> Sound:
        raise RuntimeError("/secret/path")

    last = asyncio.run(all_of(job(generate), SoundStore(), GenerationTimes()))[-1]
    assert last.error == SERVER_ERROR and "/secret/path" in caplog.text


def first_at_once(given_up: list[int]) -> Callable[[int], Awaitable[Sound]]:
    """Makes the sound of seed 5 at once, and the others so late that they are given up: their seeds are added."""

    async def generate(seed: int) -> Sound:
        try:
            await asyncio.sleep(0 if seed == 5 else 600)
        except asyncio.CancelledError:
            given_up.append(seed)
            raise
        return sound(seed)

    return generate


def test_stop_gives_up_what_is_not_made() -> None:
    store, times, given_up = SoundStore(), GenerationTimes(), []

    async def run() -> list[Progress]:
        stop, steps = asyncio.Event(), []
        async for step in run_job(job(first_at_once(given_up)), "me", store, times, stop):
            steps.append(step)
            stop.set()
        return steps

    last = asyncio.run(run())[-1]
    assert last.sentence == "Stopped: 1 of 3 generated." and sorted(given_up) == [6, 7]
    assert len(store.of("me")) == 1 and times.num_pending == 0


def test_a_reader_that_leaves_gives_up_what_is_not_made() -> None:
    times, given_up = GenerationTimes(), []

    async def run() -> None:
        steps = run_job(job(first_at_once(given_up)), "me", SoundStore(), times, asyncio.Event())
        assert (await anext(steps)).made == 1
        await steps.aclose()  # type: ignore[attr-defined]  it is a generator
        assert sorted(given_up) == [6, 7] and times.num_pending == 0

    asyncio.run(run())
