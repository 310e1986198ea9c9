"""Who gets in, with how much, and what never gets out: the outermost layer of the endpoint.

1. A token, where one is asked for: `Authorization: Bearer TOKEN`, or the cookie that the page sets when it is opened as
   `/?token=TOKEN`. Where none is asked for, only requests to this machine by its own name are answered, and no page of
   another site may send any: a browser cannot be made to ask for somebody else.
2. No more bytes than are allowed, no more requests that bring some than may wait, and none that takes for ever to.
3. Whatever fails inside is written to the log, and answered with a sentence.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/healthz",)
"""Answered without a token."""
COOKIE = "soundstorm"
SMALL_BODY = 1 << 16
"""Bytes of a request that brings no recording, and of what stands around a recording."""
UPLOAD_S = 120.0
"""Within which a request has come as a whole."""
FAILED = "something failed here; it is in the log of the endpoint"
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
logger = logging.getLogger(__name__)


def answer(status: int, sentence: str, **headers: str) -> list[Message]:
    """Messages of a whole response that says `sentence`."""
    body = error_body(sentence)
    head = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    return [
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in head.items()],
        },
        {"type": "http.response.body", "body": body},
    ]


def error_body(sentence: str) -> bytes:
    """The JSON that every error has, in ASCII."""
    return json.dumps({"error": sentence}).encode()


class AccessControl:
    """Wraps the application.

    Args:
        app: what is inside.
        token: that is asked for; None: none.
        upload_bytes: of the largest recording.
        waiting: requests for sound that may be inside.
        retry_after_s: says after how many seconds one that is too many may come again.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        upload_bytes: int,
        waiting: int,
        retry_after_s: Callable[[], int] = lambda: 1,
    ) -> None:
        self._app, self._token = app, token
        self._waiting, self._retry_after_s, self._inside_now = waiting, retry_after_s, 0
        self._most = upload_bytes + SMALL_BODY
        self._cookie = None if token is None else hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._welcome(scope, headers) or self._refusal(scope, headers)
        if refusal:
            for message in refusal:
                await send(message)
            return
        if scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self._inside(scope, receive, send)
            return
        self._inside_now += 1
        try:
            if self._inside_now <= self._waiting:
                await self._inside(scope, receive, send)
                return
            sentence = f"{self._waiting} requests are made or wait, and no more may: try again in some seconds"
            for message in answer(429, sentence, retry_after=str(self._retry_after_s())):
                await send(message)
        finally:
            self._inside_now -= 1

    def _welcome(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> list[Message]:
        """The cookie for who opens the page with the token in its address, and the address without it."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if self._token is None or scope["path"] != "/" or not given or not _same(given[0], self._token):
            return []
        cookie = f"{COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
        return answer(303, "the page is at /", location="/", set_cookie=cookie)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> list[Message]:
        """The answer to who does not get in; nothing for others."""
        path = scope["path"]
        if self._token is None:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name not in OWN_NAMES:
                return answer(403, f"host is '{host[:100]}': without a token only {', '.join(OWN_NAMES)} are answered")
            if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
                return answer(403, "a page of another site may not ask for sound")
        elif path not in OPEN_PATHS and not self._knows(headers):
            sentence = "a token is needed: send the header 'Authorization: Bearer TOKEN'"
            return answer(401, sentence, www_authenticate="Bearer")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._most_at(path):
            return answer(413, f"the request has {length[:20]} bytes: give at most {self._most_at(path)}")
        return []

    def _knows(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), str(self._token)):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, str(self._cookie))

    def _most_at(self, path: str) -> int:
        return SMALL_BODY if path == "/v1/generate" else self._most

    async def _inside(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let the application answer, with no more bytes than are allowed, and without what it raises."""
        most, deadline_s = self._most_at(scope["path"]), time.monotonic() + UPLOAD_S
        num_bytes, is_whole, has_begun = 0, False, False
        refusal: list[Message] = []

        async def counted() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(deadline_s - time.monotonic(), 0.0))
            except TimeoutError:
                refusal[:] = answer(408, f"the request has not come within {UPLOAD_S:g} s: send it again")
                return {"type": "http.disconnect"}
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > most:
                refusal[:] = answer(413, f"the request has more than {most} bytes: give fewer", connection="close")
                return {"type": "http.disconnect"}
            return message

        async def guarded(message: Message) -> None:
            nonlocal has_begun
            if message.get("status") == 500 and not refusal:  # in whatever words
                refusal[:] = answer(500, FAILED)
            messages = refusal if refusal else [message]
            if not (refusal and has_begun):
                has_begun = True
                for each in messages:
                    await send(each)

        try:
            await self._app(scope, counted, guarded)
        except Exception:  # the outermost handler: nothing of it gets out
            refusal[:] = refusal or answer(500, FAILED)
            if refusal[0]["status"] == 500:
                logger.exception("a request failed")
        if refusal and not has_begun:
            await guarded(refusal[0])


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
