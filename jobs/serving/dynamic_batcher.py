"""Dynamic batching: waiting requests of one group are processed as one batch.

`serve.batch` of Ray Serve mixes requests of any kind, and closes a batch while an earlier one is still processed. Here
a batch has requests of a single group and is closed when it is started, so it includes all that arrived meanwhile.
Cancelled requests are left out; a batch is aborted when all of its requests are cancelled.
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


class DynamicBatcher(Generic[Item, Result]):
    """Processes one batch at a time in a thread, for an asyncio event loop.

    Args:
        process: processes the items of a batch, in order; the event is set when all requests of the batch are
            cancelled.
        max_batch_size: maximum size of a batch of items like the given one.
        wait_s: seconds that a request waits for others if no batch is being processed.
    """

    def __init__(
        self,
        process: Callable[[list[Item], threading.Event], list[Result]],
        max_batch_size: Callable[[Item], int],
        wait_s: float,
    ) -> None:
        self._process, self._max_batch_size, self._wait_s = process, max_batch_size, wait_s
        self._groups: dict[str, deque[_Request[Item, Result]]] = {}
        self._work: asyncio.Task[None] | None = None

    async def result(self, group: str, item: Item) -> Result:
        """The result of `process` for an item, batched with others of its group. An exception is passed to all requests
        of the batch."""
        request: _Request[Item, Result] = _Request(item, asyncio.get_running_loop().create_future())
        self._groups.setdefault(group, deque()).append(request)
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        return await request.future

    async def _run(self) -> None:
        while self._groups:
            group = min(self._groups, key=lambda name: self._groups[name][0].since_s)
            waiting = self._groups[group]
            max_batch_size = max(1, self._max_batch_size(waiting[0].item))
            remaining_s = waiting[0].since_s + self._wait_s - time.monotonic()
            if len(waiting) < max_batch_size and remaining_s > 0:
                await asyncio.sleep(remaining_s)
            batch: list[_Request[Item, Result]] = []
            while waiting and len(batch) < max_batch_size:
                request = waiting.popleft()
                if not request.future.done():
                    batch.append(request)
            if not waiting:
                del self._groups[group]
            if batch:
                await self._process_batch(batch)
        self._work = None

    async def _process_batch(self, batch: list[_Request[Item, Result]]) -> None:
        cancelled = threading.Event()

        def on_done(_: "asyncio.Future[Result]") -> None:
            if all(request.future.done() for request in batch):
                cancelled.set()

        for request in batch:
            request.future.add_done_callback(on_done)
        try:
            results = await asyncio.to_thread(self._process, [request.item for request in batch], cancelled)
        except Exception as error:  # noqa: BLE001 - passed to all requests of the batch
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
            return
        for request, result in zip(batch, results, strict=True):
            if not request.future.done():
                request.future.set_result(result)
