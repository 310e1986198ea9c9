"""Who waits is made together with their like, in turn, and who goes away is left out."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from jobs.serving.dynamic_batcher import DynamicBatcher

WAIT_S = 0.05


class Kitchen:
    """Makes upper-case letters of small ones, slowly, and remembers its batches."""

    def __init__(self, at_once: Callable[[str], int] = lambda item: 3, seconds: float = 0.0) -> None:
        self.made: list[list[str]] = []
        self.given_up: list[list[str]] = []
        self.seconds = seconds
        self.batches: DynamicBatcher[str, str] = DynamicBatcher(self._make, at_once, WAIT_S)

    def _make(self, items: list[str], nobody_waits: threading.Event) -> list[str]:
        self.made.append(items)
        if nobody_waits.wait(self.seconds):
            self.given_up.append(items)
        if "!" in items:
            raise ValueError("no such letter")
        return [item.upper() for item in items]

    async def ask(self, *items: str) -> list[Any]:
        """All at once, of groups that their first letters name."""
        return await asyncio.gather(*(self.batches.result(item[0], item) for item in items), return_exceptions=True)


def test_those_who_come_at_once_are_made_together_by_group_and_no_more_than_may_be() -> None:
    kitchen = Kitchen()
    assert asyncio.run(kitchen.ask("a1", "b1", "a2", "a3", "a4")) == ["A1", "B1", "A2", "A3", "A4"]
    assert kitchen.made == [["a1", "a2", "a3"], ["b1"], ["a4"]]


def test_how_many_are_made_at_once_may_depend_on_what_they_are() -> None:
    kitchen = Kitchen(at_once=lambda item: 1 if item[0] == "a" else 9)
    asyncio.run(kitchen.ask("a1", "a2", "b1", "b2"))
    assert kitchen.made == [["a1"], ["a2"], ["b1", "b2"]]


def test_those_who_come_while_a_batch_is_made_are_the_next_one() -> None:
    kitchen = Kitchen(seconds=0.3)

    async def come_one_by_one() -> list[Any]:
        first = asyncio.create_task(kitchen.ask("a1"))
        await asyncio.sleep(2 * WAIT_S)
        later = []
        for item in ("a2", "a3"):
            later.append(asyncio.create_task(kitchen.ask(item)))
            await asyncio.sleep(WAIT_S)  # longer than anybody waits where nothing is being made
        return [await first, *[await each for each in later]]

    assert asyncio.run(come_one_by_one()) == [["A1"], ["A2"], ["A3"]]
    assert kitchen.made == [["a1"], ["a2", "a3"]]


def test_the_group_that_has_waited_longest_is_made_next_however_many_others_come() -> None:
    kitchen = Kitchen(seconds=0.1)

    async def crowd() -> None:
        asked = [asyncio.create_task(kitchen.ask(item)) for item in ("a1", "b1", "a2", "a3", "a4", "a5", "a6")]
        await asyncio.gather(*asked)

    asyncio.run(crowd())
    assert kitchen.made[1] == ["b1"]


def test_who_goes_away_before_their_turn_is_not_made() -> None:
    kitchen = Kitchen(seconds=0.2)

    async def leave() -> list[Any]:
        first = asyncio.create_task(kitchen.ask("a1"))
        await asyncio.sleep(2 * WAIT_S)
        gone, stays = (asyncio.create_task(kitchen.batches.result("a", item)) for item in ("a2", "a3"))
        await asyncio.sleep(0)
        gone.cancel()
        return [await first, await stays]

    assert asyncio.run(leave()) == [["A1"], "A3"]
    assert kitchen.made == [["a1"], ["a3"]] and kitchen.given_up == []


def test_a_batch_is_given_up_once_all_of_it_have_gone_and_the_next_is_made() -> None:
    kitchen = Kitchen(seconds=20.0)

    async def leave() -> str:
        gone = [asyncio.create_task(kitchen.batches.result("a", item)) for item in ("a1", "a2")]
        await asyncio.sleep(3 * WAIT_S)
        assert kitchen.made == [["a1", "a2"]]
        gone[0].cancel()
        await asyncio.sleep(WAIT_S)
        assert kitchen.given_up == []  # somebody waits still
        gone[1].cancel()
        kitchen.seconds = 0.0
        return await kitchen.batches.result("b", "b1")

    began_s = time.monotonic()
    assert asyncio.run(leave()) == "B1"
    assert kitchen.given_up == [["a1", "a2"]] and time.monotonic() - began_s < 10


def test_what_goes_wrong_with_a_batch_all_of_it_are_told_and_nobody_else() -> None:
    kitchen = Kitchen()
    first, second, third = asyncio.run(kitchen.ask("!", "!", "a1"))
    assert third == "A1"
    for error in (first, second):
        with pytest.raises(ValueError, match="no such letter"):
            raise error
