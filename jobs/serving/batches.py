"""Requests that wait are made together, those of one group as one batch.

`serve.batch` of Ray Serve collects whatever comes within a time, of any kind, and it closes its batches while an
earlier one is still made. Here a batch holds one group alone, and it is closed when its turn has come, so that all who
came meanwhile are in it. Who went away is left out; a batch that nobody waits for any more is given up.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"
    since_s: float = field(default_factory=time.monotonic)


class Batches(Generic[Item, Result]):
    """One batch at a time, in a thread of its own, for an event loop.

    Args:
        make: makes the items of a batch, in their order; the event is set when nobody waits for any of them any more.
        at_once: how many like an item may be made as one batch.
        wait_s: seconds that a request waits for others where no batch is being made.
    """

    def __init__(
        self,
        make: Callable[[list[Item], threading.Event], list[Result]],
        at_once: Callable[[Item], int],
        wait_s: float,
    ) -> None:
        self._make, self._at_once, self._wait_s = make, at_once, wait_s
        self._groups: dict[str, deque[_Request[Item, Result]]] = {}
        self._work: asyncio.Task[None] | None = None

    async def result(self, group: str, item: Item) -> Result:
        """What `make` makes of an item, together with others of its group. Whatever it raises, all of its batch get."""
        request: _Request[Item, Result] = _Request(item, asyncio.get_running_loop().create_future())
        self._groups.setdefault(group, deque()).append(request)
        if self._work is None:
            self._work = asyncio.create_task(self._work_off())
        return await request.future

    async def _work_off(self) -> None:
        while self._groups:
            group = min(self._groups, key=lambda name: self._groups[name][0].since_s)
            waiting = self._groups[group]
            at_once = max(1, self._at_once(waiting[0].item))
            remaining_s = waiting[0].since_s + self._wait_s - time.monotonic()
            if len(waiting) < at_once and remaining_s > 0:
                await asyncio.sleep(remaining_s)
            batch: list[_Request[Item, Result]] = []
            while waiting and len(batch) < at_once:
                request = waiting.popleft()
                if not request.future.done():
                    batch.append(request)
            if not waiting:
                del self._groups[group]
            if batch:
                await self._make_one(batch)
        self._work = None

    async def _make_one(self, batch: list[_Request[Item, Result]]) -> None:
        nobody_waits = threading.Event()

        def someone_left(_: "asyncio.Future[Result]") -> None:
            if all(request.future.done() for request in batch):
                nobody_waits.set()

        for request in batch:
            request.future.add_done_callback(someone_left)
        try:
            results = await asyncio.to_thread(self._make, [request.item for request in batch], nobody_waits)
        except Exception as error:  # noqa: BLE001 - each of those who wait gets it
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
            return
        for request, result in zip(batch, results, strict=True):
            if not request.future.done():
                request.future.set_result(result)
