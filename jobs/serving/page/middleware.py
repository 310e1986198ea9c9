"""ASGI middleware in front of Gradio: sets the visitor cookie, allows only the paths of the page, restricts uploaded
files to their visitor, and sets a content security policy."""

import json
from collections import OrderedDict
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.page.visitors import new_visitor, set_cookie, visitor_of_header

API = "/gradio_api/"
UPLOAD, FILE = f"{API}upload", f"{API}file="
ALLOWED_PREFIXES = (
    "/assets/", "/static/", "/svelte/", "/theme.css", "/config", "/favicon.ico", "/manifest.json", "/pwa_icon",
    "/robots.txt", f"{API}info", f"{API}queue/", f"{API}run/predict", f"{API}cancel", f"{API}reset", f"{API}heartbeat/",
    f"{API}upload", f"{API}app_id", f"{API}startup-events", f"{API}theme.css", FILE,
)  # fmt: skip
"""Prefixes of the allowed paths, in addition to `/`."""
MAX_CALL_BYTES = 1 << 20
"""Maximum size of an event; recordings are uploaded separately."""
MAX_UPLOADS = 10_000
"""Maximum number of uploads whose visitor is stored."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Gradio's components compile their templates, hence 'unsafe-eval'."""


class PageMiddleware:
    """Middleware in front of Gradio's application.

    Args:
        app: Gradio's application.
        upload_bytes: maximum size of a recording.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self.app, self.upload_bytes = app, upload_bytes
        self._uploads: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = Headers(scope=scope)
        visitor = visitor_of_header(headers.get("cookie", ""))
        most = self.upload_bytes + MAX_CALL_BYTES if path.startswith(UPLOAD) else MAX_CALL_BYTES
        if path != "/" and not path.startswith(ALLOWED_PREFIXES):
            refusal = PlainTextResponse("There is nothing at this address.", 404)
        elif path.startswith(FILE) and (unquote(path[len(FILE) :]), visitor) not in self._uploads:
            refusal = PlainTextResponse("This file does not exist, or belongs to another visitor.", 404)
        elif int(headers.get("content-length") or 0) > most:
            refusal = PlainTextResponse(f"Give at most {self.upload_bytes / 1e6:g} MB.", 413)
        else:
            return await self._call_app(scope, _limited(receive, most), send, path, visitor)
        return await refusal(scope, receive, send)

    async def _call_app(self, scope: Scope, receive: Receive, send: Send, path: str, visitor: str | None) -> None:
        body = bytearray()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(scope, message, path, visitor)
            elif path == UPLOAD and visitor is not None and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self._store_uploads(bytes(body), visitor)
            await send(message)

        await self.app(scope, receive, answer)

    def _add_headers(self, scope: Scope, message: Message, path: str, visitor: str | None) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        if path.startswith("/assets/"):  # their names contain a hash of the content
            headers["Cache-Control"] = "public, max-age=31536000, immutable"
        if path == "/":
            headers["Content-Security-Policy"] = POLICY
            if visitor is None:
                headers.append("Set-Cookie", set_cookie(new_visitor(), is_secure=scope.get("scheme") == "https"))

    def _store_uploads(self, answer: bytes, visitor: str) -> None:
        """Store the visitor of uploaded files, whose paths are in Gradio's response."""
        try:
            paths: Any = json.loads(answer)
        except ValueError:
            return
        for path in paths if isinstance(paths, list) else []:
            self._uploads[str(path), visitor] = None
            self._uploads.move_to_end((str(path), visitor))
        while len(self._uploads) > MAX_UPLOADS:
            self._uploads.popitem(last=False)


def _limited(receive: Receive, most: int) -> Receive:
    """Wrap `receive` so that it reports a disconnect after `most` bytes."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return limited
