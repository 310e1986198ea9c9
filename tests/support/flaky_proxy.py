"""A proxy before an S3 server that spoils a share of the requests, as networks and busy servers do; which, follows from
a seed.

with FlakyProxy(server.endpoint, rate=0.1, seed=1) as proxy:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    ...
    assert proxy.injected[Fault.TRUNCATED] > 0
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from urllib.parse import urlsplit

BUSY_ANSWER = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
TRICKLE = (1024, 0.05)  # bytes at a time, and seconds between them


class Fault(StrEnum):
    """What can happen to a request."""

    BUSY = "busy"  # 503 SlowDown; the server sees nothing
    RESET = "reset"  # the connection is reset; the server sees nothing
    CUT_UPLOAD = "cut upload"  # the server gets a part of the request, then both connections are cut
    LOST = "lost"  # the server does it all, and its answer is lost
    TRUNCATED = "truncated"  # the answer ends early, be it in its head or its body
    SLOW_UPLOAD = "slow upload"  # the body of the request goes through at some 4 MB a second
    SLOW = "slow"  # the answer comes late and in pieces
    SILENT = "silent"  # no answer ever
    TRICKLE = "trickle"  # the body of the answer comes at a few KB a second


PASSING = (Fault.BUSY, Fault.RESET, Fault.CUT_UPLOAD, Fault.LOST, Fault.TRUNCATED, Fault.SLOW)


class FlakyProxy:
    """Serves on a port of 127.0.0.1, in a thread of its own, within its `with` block.

    Args:
        upstream: http://HOST:PORT of the server.
        rate: share of the requests that are spoiled; may be changed at any time.
        seed: decides which, in order of arrival.
        faults: what happens to those, one of these each; may be changed at any time.
    """

    def __init__(self, upstream: str, rate: float, seed: int, faults: Sequence[Fault] = PASSING) -> None:
        address = urlsplit(upstream)
        self._host, self._port = address.hostname, address.port
        self.rate, self.faults = rate, tuple(faults)
        self.requests = 0
        self.injected: Counter[Fault] = Counter()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.endpoint = ""

    def __enter__(self) -> "FlakyProxy":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20), self._loop
        ).result(60)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        fields = _fields(head)
        self.requests += 1
        fault = self._random.choice(self.faults) if self._random.random() < self.rate else None
        cut = self._random.random()
        if fault is not None:
            self.injected[fault] += 1
        if fault is Fault.BUSY:
            await reader.readexactly(0 if b"expect" in fields else int(fields.get(b"content-length", 0)))
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                % (len(BUSY_ANSWER), BUSY_ANSWER)
            )
            await writer.drain()
            return False
        if fault is Fault.RESET:
            return _reset(writer)
        if b"expect" in fields:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        left, body = int(fields.get(b"content-length", 0)), b""
        while left > len(body):
            body += await reader.readexactly(min(2**17 if fault is Fault.SLOW_UPLOAD else 2**24, left - len(body)))
            await asyncio.sleep(1 / 32 if fault is Fault.SLOW_UPLOAD else 0)
        if fault is Fault.SILENT:
            await asyncio.sleep(3600)
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        try:
            if fault is Fault.CUT_UPLOAD:
                request = head + body
                up_writer.write(request[: int(cut * len(request))])
                await up_writer.drain()
                _reset(up_writer)
                return _reset(writer)
            up_writer.write(head + body)
            await up_writer.drain()
            answer_head, answer_body = await _answer(up_reader, head.startswith(b"HEAD "))
        finally:
            up_writer.close()
        return await self._reply(writer, answer_head, answer_body, fault, cut)

    async def _reply(
        self, writer: asyncio.StreamWriter, head: bytes, body: bytes, fault: Fault | None, cut: float
    ) -> bool:
        if fault is Fault.LOST:
            return _reset(writer)
        if fault is Fault.TRUNCATED:
            writer.write(head + body[: int(cut * len(body))] if body else head[: int(cut * len(head))])
            await writer.drain()
            return False
        if fault is Fault.TRICKLE:
            writer.write(head)
            for start in range(0, len(body), TRICKLE[0]):
                writer.write(body[start : start + TRICKLE[0]])
                await writer.drain()
                await asyncio.sleep(TRICKLE[1])
            return False
        if fault is Fault.SLOW:
            writer.write(head)
            for start in range(0, len(body), 1 + len(body) // 3):
                await asyncio.sleep(0.1 * cut)
                writer.write(body[start : start + 1 + len(body) // 3])
                await writer.drain()
            return _goes_on(head)
        writer.write(head + body)
        await writer.drain()
        return _goes_on(head)


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The fields of the head of a request or an answer, with names in lower case."""
    pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _goes_on(head: bytes) -> bool:
    return _fields(head).get(b"connection", b"").lower() != b"close" and b"content-length" in _fields(head)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Cut the connection so that the other side gets an error and not an end; False: it does not go on."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _answer(reader: asyncio.StreamReader, to_head: bool) -> tuple[bytes, bytes]:
    """Head and body of the server's answer; a body in chunks comes as one with its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = _fields(head)
    status = head.split(b" ", 2)[1]
    if to_head or status in (b"204", b"304"):
        return head, b""
    if b"content-length" in fields:
        return head, await reader.readexactly(int(fields[b"content-length"]))
    body = await (_chunks(reader) if fields.get(b"transfer-encoding") == b"chunked" else reader.read())
    kept = [line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")]
    return b"\r\n".join([*kept, b"Content-Length: %d" % len(body), b"", b""]), body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int(await reader.readline(), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(pieces)
