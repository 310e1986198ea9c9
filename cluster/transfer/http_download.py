"""Downloading over HTTP: a file appears whole and verified, or not at all, and a broken download goes on where it
broke.

What is verified is what is known of the file: its checksum, its size, or the length that the server tells. Of a file of
which nothing is known, the end of the answer is the end.

What has arrived lies beside the destination as `NAME.part`, with `NAME.part.etag` telling which version of the source
it belongs to.
"""

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cluster.errors import ClusterError
from cluster.storage.os_errors import file_error
from cluster.storage.retry import pause_s
from cluster.transfer.http_answer import (
    PASSING_STATUSES,
    SLOWEST_BYTES,
    BrokenDownloadError,
    body_chunks,
    content_range,
    total_bytes,
    version_of,
)
from cluster.transfer.lock import one_at_a_time

MAX_WAIT_S = 30.0
"""The longest pause between two attempts."""

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes in all, None where the server does not say."""


@dataclass(kw_only=True, frozen=True)
class _Transfer:
    """What stays the same over all attempts to get one file."""

    url: str
    destination: Path
    size: int | None
    trusted: bool
    """The checksum will be verified, so that a rest may be asked for even where the server names no version."""
    timeout_s: float
    on_progress: OnProgress

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def version_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.etag")

    def discard(self) -> None:
        """Forget what has arrived."""
        self.part.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    retries: int = 5,
    timeout_s: float = 30.0,
    backoff_s: float = 1.0,
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """Makes sure that `destination` is the file behind `url`; nothing is downloaded if it is there already and
    verifies.

    Broken connections are resumed with `Range` where the server allows it and its file is still the same, else begun
    anew. Attempts are repeated with growing pauses until `retries` of them in a row brought nothing new; a host that
    never answers is tried twice. Of several processes that want one file, one downloads and the others wait for it.

    Args:
        url: http or https; credentials and query are left out of messages.
        destination: where the file shall be; its folder is made.
        sha256, md5, size: what the file must have, in hexadecimal digits and bytes.
        retries: repeated attempts in a row without progress.
        timeout_s: the longest silence of the server.
        backoff_s: the first pause; each further one is twice as long, up to 30 s.
        on_progress: see `OnProgress`; `progress_bar` makes one.

    Raises:
        ClusterError: there is no network, the server refuses, what came fails the checks twice, the disk is full,
            `destination` holds another file, or another process that downloads it hangs.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ClusterError(f"{_public(url)} is not an address to download from: give one that starts with https://")
    transfer = _Transfer(
        url=url,
        destination=destination,
        size=size,
        trusted=bool(sha256 or md5),
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(destination, progress=transfer.part):
            if destination.exists():
                problem = _mismatch(destination, sha256, md5, size)
                if problem:
                    raise ClusterError(
                        f"{destination} is not the file of {_public(url)}: {problem}; delete it, or put the right one "
                        "there"
                    )
                return destination
            for last_chance in (False, True):
                _download(transfer, retries, backoff_s)
                problem = _mismatch(transfer.part, sha256, md5, size)
                if problem is None:
                    transfer.part.replace(destination)
                    transfer.discard()
                    return destination
                transfer.discard()
                if last_chance:
                    raise ClusterError(
                        f"{_public(url)} came twice with wrong content: {problem}; {_remedy(destination)}"
                    )
    except OSError as error:
        raise file_error(str(destination), error) from error
    raise AssertionError("unreachable")


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar on standard error with amount, speed and time left; gives the `on_progress` of `fetch`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _download(transfer: _Transfer, retries: int, backoff_s: float) -> None:
    """Repeats attempts until the part file is complete, as far as its length tells."""
    failures = 0
    furthest = _size_of(transfer.part)
    answered = furthest > 0
    while True:
        try:
            _attempt(transfer)
            return
        except BrokenDownloadError as error:
            broken = error
        answered = answered or not broken.unreachable
        arrived = _size_of(transfer.part)
        failures = 1 if arrived >= furthest + SLOWEST_BYTES else failures + 1
        furthest = max(furthest, arrived)
        if failures > (retries if answered else min(retries, 1)):
            raise ClusterError(
                f"{_public(transfer.url)} cannot be downloaded: {broken}; {_remedy(transfer.destination)}"
            ) from broken
        time.sleep(max(pause_s(failures - 1, backoff_s, MAX_WAIT_S), min(broken.wait_s, MAX_WAIT_S)))


def _attempt(transfer: _Transfer) -> None:
    """One request, for the whole file or for the rest of it."""
    offset, version = _resume_point(transfer)
    if transfer.size is not None and offset == transfer.size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "soundstorm"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version and not version.startswith("W/"):
            headers["If-Range"] = version
    try:
        with requests.get(transfer.url, headers=headers, stream=True, timeout=transfer.timeout_s) as response:
            _require_kept_secure(transfer, response)
            accepted = _accepted_offset(transfer, response, offset, version)
            if accepted is not None:
                _receive(transfer, response, accepted)
    except requests.RequestException as error:
        raise _as_broken(error, transfer) from error


def _resume_point(transfer: _Transfer) -> tuple[int, str]:
    """How many bytes are here, and the version of the source that they belong to; starts anew where they cannot be
    trusted."""
    version = transfer.version_file.read_text(encoding="utf-8") if transfer.version_file.exists() else ""
    offset = _size_of(transfer.part)
    if offset and ((not version and not transfer.trusted) or (transfer.size is not None and offset > transfer.size)):
        transfer.discard()
        return 0, ""
    return offset, version


def _accepted_offset(transfer: _Transfer, response: requests.Response, offset: int, version: str) -> int | None:
    """Where the body of `response` begins in the file; None if everything is here already.

    Raises:
        BrokenDownloadError: another attempt may succeed.
        ClusterError: the server refuses for good.
    """
    status = response.status_code
    if status == 200:
        return 0
    if status in (206, 416):
        begin, total = content_range(response)
        if status == 416 and offset and total == offset:
            return None
        if status == 206 and begin == offset and version_of(response) == version:
            return offset
        transfer.discard()
        raise BrokenDownloadError("the file changed at its source during the download")
    answer = f"the server answers {status} {response.reason}"
    if status in PASSING_STATUSES:
        wait = response.headers.get("Retry-After", "")
        raise BrokenDownloadError(answer, wait_s=float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0)
    raise ClusterError(f"{_public(transfer.url)} cannot be downloaded: {answer}; {_remedy(transfer.destination)}")


def _receive(transfer: _Transfer, response: requests.Response, offset: int) -> None:
    """Writes the body behind the first `offset` bytes of the part file."""
    total = total_bytes(response)
    if total is not None and transfer.size is not None and total != transfer.size:
        transfer.discard()
        raise ClusterError(
            f"{_public(transfer.url)} offers {total:,} bytes, but the file must have {transfer.size:,}: give another "
            "source"
        )
    expected = transfer.size if total is None else total
    free = shutil.disk_usage(transfer.part.parent).free
    if expected is not None and expected - offset > free:
        raise ClusterError(
            f"{transfer.part.parent} has {free:,} bytes free, but {_public(transfer.url)} needs "
            f"{expected - offset:,}: make room"
        )
    transfer.version_file.write_text(version_of(response), encoding="utf-8")
    done = offset
    with transfer.part.open("ab") as file:
        file.truncate(offset)
        for chunk in body_chunks(response, transfer.timeout_s):
            file.write(chunk)
            done += len(chunk)
            transfer.on_progress(done, expected)
            if expected is not None and done > expected:
                break
        file.flush()
        os.fsync(file.fileno())
    if expected is not None and done > expected:
        transfer.discard()
        raise BrokenDownloadError(f"the server sent more than the {expected:,} bytes it announced")
    if expected is not None and done < expected:
        raise BrokenDownloadError(f"the connection ended after {done:,} of {expected:,} bytes")


def _require_kept_secure(transfer: _Transfer, response: requests.Response) -> None:
    """Raise ClusterError where an address that begins with https:// led to one that does not: what comes from there may
    be anybody's."""
    steps = [step.url for step in (*response.history, response)]
    insecure = [url for url in steps if not url.startswith("https://")]
    if steps[0].startswith("https://") and insecure and not transfer.trusted:
        raise ClusterError(
            f"{_public(transfer.url)} leads to {_public(insecure[0])}, which is not secure (no https://); "
            f"{_remedy(transfer.destination)}"
        )


def _as_broken(error: requests.RequestException, transfer: _Transfer) -> Exception:
    """What a failure within requests means for the user."""
    if isinstance(
        error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema | requests.TooManyRedirects
    ):
        return ClusterError(f"{_public(transfer.url)} is no usable address ({type(error).__name__}): check it")
    if isinstance(error, requests.exceptions.SSLError):
        return BrokenDownloadError("no secure connection (TLS) can be made to the host", unreachable=True)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return BrokenDownloadError(f"the host does not answer within {transfer.timeout_s:g} s", unreachable=True)
    cause = error.args[0] if error.args else None  # urllib3's own error
    if isinstance(error, requests.Timeout) or _is_timeout(cause):
        return BrokenDownloadError(f"the server sent nothing for {transfer.timeout_s:g} s")
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return BrokenDownloadError("the host cannot be reached; is there a network?", unreachable=True)
    return BrokenDownloadError(f"the connection broke after {_size_of(transfer.part):,} bytes")


def _is_timeout(cause: object) -> bool:
    """Whether nothing came for too long, while urllib3 waited for an answer or read it."""
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return any(isinstance(under, TimeoutError) for under in cause.args)
    return isinstance(cause, urllib3.exceptions.ReadTimeoutError)


def _mismatch(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str | None:
    """How the file differs from what is expected of it; None if it does not."""
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        return f"it has {found_size:,} bytes, not {size:,}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if found != expected.lower():
                return f"its {name.upper()} is {found}, not {expected.lower()}"
    return None


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _public(url: str) -> str:
    """The address without user name, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _remedy(destination: Path) -> str:
    return f"put the file at {destination} by other means, or name a mirror with --url"
