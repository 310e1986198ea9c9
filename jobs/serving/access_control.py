"""Access control of the endpoint, the outermost ASGI layer.

1. A token, if one is set: `Authorization: Bearer TOKEN`, or the cookie that the page sets when it is opened as
   `/?token=TOKEN`. Without a token, only requests to a loopback host name are answered, and cross-site requests that
   change something are rejected, so that no other website can use the endpoint through a browser.
2. Limits of the size, the duration and the number of requests with a body.
3. Internal errors are logged, and answered with a general sentence.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from jobs.serving.cookies import read_cookie

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/healthz",)
"""Paths that need no token."""
COOKIE = "soundstorm"
SMALL_BODY = 1 << 16
"""Maximum size of a request without a recording, and of a request beside its recording, in bytes."""
UPLOAD_S = 120.0
"""Time limit for receiving a request."""
INTERNAL_ERROR = "internal error: see the log of the endpoint"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
logger = logging.getLogger(__name__)


def error_response(status: int, sentence: str, **headers: str) -> list[Message]:
    """ASGI messages of a JSON response with the error `sentence`."""
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
    """JSON body of an error, in ASCII."""
    return json.dumps({"error": sentence}).encode()


class AccessControl:
    """ASGI middleware around the application.

    Args:
        app: the application.
        token: the token of requests; None: none is needed.
        upload_bytes: maximum size of a recording.
        waiting: maximum number of concurrent requests for sound.
        retry_after_s: value of Retry-After for a request above this number.
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
        self._max_active, self._retry_after_s, self._num_active = waiting, retry_after_s, 0
        self._max_bytes = upload_bytes + SMALL_BODY
        self._cookie = None if token is None else hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        rejection = self._login_redirect(scope, headers) or self._rejection(scope, headers)
        if rejection:
            for message in rejection:
                await send(message)
            return
        if scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self._call_app(scope, receive, send)
            return
        self._num_active += 1
        try:
            if self._num_active <= self._max_active:
                await self._call_app(scope, receive, send)
                return
            sentence = f"all {self._max_active} places for requests are taken: try again in some seconds"
            for message in error_response(429, sentence, retry_after=str(self._retry_after_s())):
                await send(message)
        finally:
            self._num_active -= 1

    def _login_redirect(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> list[Message]:
        """If the page is opened with the token in its address: a redirect that sets the cookie; else nothing."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if self._token is None or scope["path"] != "/" or not given or not _equal(given[0], self._token):
            return []
        cookie = f"{COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
        return error_response(303, "the page is at /", location="/", set_cookie=cookie)

    def _rejection(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> list[Message]:
        """The error response for a request that is rejected; else nothing."""
        path = scope["path"]
        if self._token is None:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name not in LOOPBACK_NAMES:
                return error_response(
                    403, f"host is '{host[:100]}': without a token only {', '.join(LOOPBACK_NAMES)} are answered"
                )
            if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
                return error_response(
                    403, "cross-site requests are not allowed: send the request from the page of this endpoint"
                )
        elif path not in OPEN_PATHS and not self._is_authenticated(headers):
            sentence = "a token is needed: send the header 'Authorization: Bearer TOKEN'"
            return error_response(401, sentence, www_authenticate="Bearer")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._body_limit(path):
            return error_response(413, f"the request has {length[:20]} bytes: give at most {self._body_limit(path)}")
        return []

    def _is_authenticated(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), str(self._token)):
            return True
        cookie = read_cookie(headers.get("cookie", ""), COOKIE)
        return cookie is not None and _equal(cookie, str(self._cookie))

    def _body_limit(self, path: str) -> int:
        return SMALL_BODY if path == "/v1/generate" else self._max_bytes

    async def _call_app(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Call the application with a limit of bytes, and without letting its exceptions out."""
        most, deadline_s = self._body_limit(scope["path"]), time.monotonic() + UPLOAD_S
        num_bytes, is_whole, has_started = 0, False, False
        rejection: list[Message] = []

        async def limited_receive() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(deadline_s - time.monotonic(), 0.0))
            except TimeoutError:
                rejection[:] = error_response(408, f"the request was not complete within {UPLOAD_S:g} s: send it again")
                return {"type": "http.disconnect"}
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > most:
                rejection[:] = error_response(
                    413, f"the request has more than {most} bytes: give fewer", connection="close"
                )
                return {"type": "http.disconnect"}
            return message

        async def guarded_send(message: Message) -> None:
            nonlocal has_started
            if message.get("status") == 500 and not rejection:
                rejection[:] = error_response(500, INTERNAL_ERROR)
            messages = rejection if rejection else [message]
            if not (rejection and has_started):
                has_started = True
                for each in messages:
                    await send(each)

        try:
            await self._app(scope, limited_receive, guarded_send)
        except Exception:  # the outermost handler
            rejection[:] = rejection or error_response(500, INTERNAL_ERROR)
            if rejection[0]["status"] == 500:
                logger.exception("a request failed")
        if rejection and not has_started:
            await guarded_send(rejection[0])


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
