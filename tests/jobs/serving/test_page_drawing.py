"""Several sounds of one wish: shelved as they come, in the order of their seeds, and given up together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from jobs.serving.page.drawing import BROKEN, Progress, Wish, drawn
from jobs.serving.page.shelf import Shelf
from jobs.serving.page.times import Times
from jobs.serving.sound import BusyError, Sound

RATE = 24_000


def sound(seed: int) -> Sound:
    samples_N = np.full(RATE, seed, np.int16)
    return Sound(audio=bytes([seed]), samples_N=samples_N, sample_rate=RATE, recipe={"seed": seed}, seconds=0.1)


def wish(draw: Callable[[int], Awaitable[Sound]], count: int = 3) -> Wish:
    return Wish(draw=draw, seeds=range(5, 5 + count), category="rain", kind="New sound")


async def all_of(wish: Wish, shelf: Shelf, times: Times, stop: asyncio.Event | None = None) -> list[Progress]:
    return [each async for each in drawn(wish, "me", shelf, times, stop or asyncio.Event())]


def test_sounds_are_shelved_as_they_come_and_stand_in_the_order_of_their_seeds() -> None:
    shelf, times = Shelf(), Times()

    async def draw(seed: int) -> Sound:
        await asyncio.sleep(0.05 * (8 - seed))  # the last one comes first
        return sound(seed)

    steps = asyncio.run(all_of(wish(draw), shelf, times))
    assert [step.made for step in steps] == [1, 2, 3] and [step.is_over for step in steps] == [False, False, True]
    assert [each.seed for each in shelf.of("me")] == [5, 6, 7]
    assert shelf.of("me")[0].audio == b"\x05" and shelf.of("me")[0].recipe == {"seed": 5}
    assert steps[-1].sentence.startswith("3 sounds made in ") and times.in_the_making == 0
    assert "each of the last 3 sounds took 0.1 s" in times.sentence


def test_what_cannot_be_made_is_told_and_the_others_stay() -> None:
    shelf = Shelf()

    async def draw(seed: int) -> Sound:
        if seed == 6:
            raise BusyError("64 requests are being made or wait, and no more may: try again in some seconds", 3)
        return sound(seed)

    last = asyncio.run(all_of(wish(draw), shelf, Times()))[-1]
    assert last.made == 2 and len(shelf.of("me")) == 2
    assert last.error == "64 requests are being made or wait, and no more may: try again in some seconds."


def test_a_fault_of_the_server_is_one_sentence_without_its_details(caplog: Any) -> None:
    async def draw(seed: int) -> Sound:
        raise RuntimeError("/secret/path")

    last = asyncio.run(all_of(wish(draw), Shelf(), Times()))[-1]
    assert last.error == BROKEN and "/secret/path" in caplog.text


def test_stop_gives_up_what_is_not_made() -> None:
    shelf, times, given_up = Shelf(), Times(), []

    async def draw(seed: int) -> Sound:
        try:
            await asyncio.sleep(0 if seed == 5 else 600)
        except asyncio.CancelledError:
            given_up.append(seed)
            raise
        return sound(seed)

    async def run() -> list[Progress]:
        stop, steps = asyncio.Event(), []
        async for step in drawn(wish(draw), "me", shelf, times, stop):
            steps.append(step)
            stop.set()
        return steps

    last = asyncio.run(run())[-1]
    assert last.sentence == "Stopped: 1 of 3 made." and sorted(given_up) == [6, 7]
    assert len(shelf.of("me")) == 1 and times.in_the_making == 0


def test_a_reader_that_leaves_gives_up_what_is_not_made() -> None:
    times, given_up = Times(), []

    async def draw(seed: int) -> Sound:
        try:
            await asyncio.sleep(0 if seed == 5 else 600)
        except asyncio.CancelledError:
            given_up.append(seed)
            raise
        return sound(seed)

    async def run() -> None:
        steps = drawn(wish(draw), "me", Shelf(), times, asyncio.Event())
        assert (await anext(steps)).made == 1
        await steps.aclose()  # type: ignore[attr-defined]  it is a generator
        assert sorted(given_up) == [6, 7] and times.in_the_making == 0

    asyncio.run(run())
