"""The HTTP response of a download: metadata from its headers, and its body in chunks."""

import re
import time
from collections.abc import Iterator

import requests
import urllib3

CHUNK_BYTES = 1 << 16

SLOWEST_BYTES = 1024
"""A response that sends fewer bytes within the time-out is aborted, and an attempt that received fewer counts as
without progress."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which a retry may succeed."""


class BrokenDownloadError(Exception):
    """A failed attempt that may be retried. `wait_s`: the wait that the server asks for; `unreachable`: there was no
    response at all."""

    def __init__(self, cause: str, wait_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(cause)
        self.wait_s = wait_s
        self.unreachable = unreachable


def body_chunks(response: requests.Response, timeout_s: float) -> Iterator[bytes]:
    """The body in chunks, as it arrives.

    Raises:
        BrokenDownloadError: too few bytes arrive.
        requests.RequestException: the connection broke.
    """
    since, arrived = time.monotonic(), 0
    while True:
        try:
            chunk = response.raw.read1(CHUNK_BYTES, decode_content=True)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        if not chunk:
            return
        yield chunk
        arrived += len(chunk)
        passed_s = time.monotonic() - since
        if passed_s > timeout_s:
            if arrived < SLOWEST_BYTES:
                raise BrokenDownloadError(f"the server sent only {arrived} bytes in {passed_s:.0f} s")
            since, arrived = time.monotonic(), 0


def total_bytes(response: requests.Response) -> int | None:
    """Size of the whole file, None if `response` does not state it; the length of a compressed body is not the size."""
    if response.status_code == 206:
        return content_range(response)[1]
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def version_of(response: requests.Response) -> str:
    """Identifier of the version of the source."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the file in a `Content-Range` header."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    begin, total = match.groups()
    return int(begin) if begin else None, int(total) if total != "*" else None
