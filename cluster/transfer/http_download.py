"""HTTP downloads: a file appears complete and verified, or not at all; an interrupted download is resumed.

The checksum, the size, or the length that the server states is verified, as far as it is known. If nothing is known,
the file ends with the response.

Received bytes are stored beside the destination as `NAME.part`; `NAME.part.etag` has the version of the source that
they belong to.
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
from cluster.storage.retry import backoff_s
from cluster.storage.uris import without_login
from cluster.transfer.http_answer import (
    SLOWEST_BYTES,
    TRANSIENT_STATUSES,
    BrokenDownloadError,
    body_chunks,
    content_range,
    total_bytes,
    version_of,
)
from cluster.transfer.lock import one_at_a_time

MAX_WAIT_S = 30.0
"""Longest wait between two attempts."""

OnProgress = Callable[[int, int | None], None]
"""Called with the received and the total number of bytes; the total is None if the server does not state it."""


@dataclass(kw_only=True, frozen=True)
class Patience:
    """How long a download is tried."""

    retries: int = 5
    """Maximum number of consecutive retries without progress."""
    timeout_s: float = 30.0
    """Longest time in which the server may send nothing."""
    first_backoff_s: float = 1.0
    """Wait before the first retry; each further one is twice as long, up to 30 s."""


@dataclass(kw_only=True, frozen=True)
class _Transfer:
    """What all attempts to download one file have in common."""

    url: str
    destination: Path
    size: int | None
    trusted: bool
    """A checksum will be verified: a download may be resumed even if the server states no version."""
    patience: Patience
    on_progress: OnProgress

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def version_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.etag")

    def discard(self) -> None:
        """Delete the received bytes."""
        self.part.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    patience: Patience = Patience(),
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """Download `url` to `destination`, unless the file exists and passes the checks.

    An interrupted download is resumed with `Range` if the server supports it and its file is unchanged, else it starts
    again. Attempts are repeated with exponential back-off until `patience` ends; a host that never answers is tried
    twice. If several processes want the same file, one downloads it and the others wait.

    Args:
        url: http or https address; messages leave out its credentials and query.
        destination: path of the file; its folder is created.
        sha256, md5, size: checks of the file, in hexadecimal digits and bytes.
        patience: how long it is tried.
        on_progress: see `OnProgress`; `progress_bar` creates one.

    Raises:
        ClusterError: there is no network, the server refuses, two downloads fail the checks, the disk is full,
            `destination` is another file, or another process that downloads it hangs.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        shown = without_login(url).partition("?")[0]
        raise ClusterError(f"{shown} is not an address to download from: give one that starts with https://")
    transfer = _Transfer(
        url=url,
        destination=destination,
        size=size,
        trusted=bool(sha256 or md5),
        patience=patience,
        on_progress=on_progress,
    )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(destination, progress=transfer.part):
            if destination.exists():
                problem = _mismatch(destination, sha256, md5, size)
                if problem:
                    raise ClusterError(
                        f"{destination} is not the file of {without_login(url)}: {problem}; delete it, or put the "
                        "right one there"
                    )
                return destination
            for last_chance in (False, True):
                _download(transfer)
                problem = _mismatch(transfer.part, sha256, md5, size)
                if problem is None:
                    transfer.part.replace(destination)
                    transfer.discard()
                    return destination
                transfer.discard()
                if last_chance:
                    raise ClusterError(
                        f"{without_login(url)}: two downloads failed the check: {problem}; {_remedy(destination)}"
                    )
    except OSError as error:
        raise file_error(str(destination), error) from error
    raise AssertionError("unreachable")


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A progress bar on standard error with amount, speed and remaining time; yields the `on_progress` of `fetch`."""
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


def _download(transfer: _Transfer) -> None:
    """Repeat attempts until the part file has its full length."""
    failures, patience = 0, transfer.patience
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
        if failures > (patience.retries if answered else min(patience.retries, 1)):
            raise ClusterError(
                f"{without_login(transfer.url)} cannot be downloaded: {broken}; {_remedy(transfer.destination)}"
            ) from broken
        pause = backoff_s(failures - 1, patience.first_backoff_s, MAX_WAIT_S)
        time.sleep(max(pause, min(broken.wait_s, MAX_WAIT_S)))


def _attempt(transfer: _Transfer) -> None:
    """One request, for the whole file or for its missing end."""
    offset, version = _resume_point(transfer)
    if transfer.size is not None and offset == transfer.size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "soundstorm"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version and not version.startswith("W/"):
            headers["If-Range"] = version
    try:
        with requests.get(transfer.url, headers=headers, stream=True, timeout=transfer.patience.timeout_s) as response:
            _require_kept_secure(transfer, response)
            accepted = _accepted_offset(transfer, response, offset, version)
            if accepted is not None:
                _receive(transfer, response, accepted)
    except requests.RequestException as error:
        raise _as_broken(error, transfer) from error


def _resume_point(transfer: _Transfer) -> tuple[int, str]:
    """Number of received bytes, and the version of the source that they belong to; bytes that cannot be trusted are
    deleted."""
    version = transfer.version_file.read_text(encoding="utf-8") if transfer.version_file.exists() else ""
    offset = _size_of(transfer.part)
    if offset and ((not version and not transfer.trusted) or (transfer.size is not None and offset > transfer.size)):
        transfer.discard()
        return 0, ""
    return offset, version


def _accepted_offset(transfer: _Transfer, response: requests.Response, offset: int, version: str) -> int | None:
    """Offset in the file at which the body of `response` begins; None if the file is complete.

    Raises:
        BrokenDownloadError: another attempt may succeed.
        ClusterError: the server refuses.
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
    if status in TRANSIENT_STATUSES:
        wait = response.headers.get("Retry-After", "")
        raise BrokenDownloadError(answer, wait_s=float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0)
    raise ClusterError(f"{without_login(transfer.url)} cannot be downloaded: {answer}; {_remedy(transfer.destination)}")


def _receive(transfer: _Transfer, response: requests.Response, offset: int) -> None:
    """Write the body of `response` after the first `offset` bytes of the part file."""
    total = total_bytes(response)
    if total is not None and transfer.size is not None and total != transfer.size:
        transfer.discard()
        raise ClusterError(
            f"{without_login(transfer.url)} offers {total:,} bytes, but the file must have {transfer.size:,}: give "
            "another source"
        )
    expected = transfer.size if total is None else total
    free = shutil.disk_usage(transfer.part.parent).free
    if expected is not None and expected - offset > free:
        raise ClusterError(
            f"{transfer.part.parent} has {free:,} bytes free, but {without_login(transfer.url)} needs "
            f"{expected - offset:,}: make room"
        )
    transfer.version_file.write_text(version_of(response), encoding="utf-8")
    done = offset
    with transfer.part.open("ab") as file:
        file.truncate(offset)
        for chunk in body_chunks(response, transfer.patience.timeout_s):
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
    """Raise ClusterError if an https:// address redirects to an insecure one, whose content anyone could have
    replaced."""
    steps = [step.url for step in (*response.history, response)]
    insecure = [url for url in steps if not url.startswith("https://")]
    if steps[0].startswith("https://") and insecure and not transfer.trusted:
        raise ClusterError(
            f"{without_login(transfer.url)} leads to {without_login(insecure[0])}, which is not secure (no https://); "
            f"{_remedy(transfer.destination)}"
        )


def _as_broken(error: requests.RequestException, transfer: _Transfer) -> Exception:
    """The error to raise for an error of requests."""
    if isinstance(
        error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema | requests.TooManyRedirects
    ):
        return ClusterError(f"{without_login(transfer.url)} is not a valid address ({type(error).__name__}): check it")
    if isinstance(error, requests.exceptions.SSLError):
        return BrokenDownloadError("no secure connection (TLS) can be made to the host", unreachable=True)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return BrokenDownloadError(
            f"the host does not answer within {transfer.patience.timeout_s:g} s", unreachable=True
        )
    cause = error.args[0] if error.args else None  # urllib3's own error
    if isinstance(error, requests.Timeout) or _is_timeout(cause):
        return BrokenDownloadError(f"the server sent nothing for {transfer.patience.timeout_s:g} s")
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return BrokenDownloadError("the host cannot be reached; is there a network?", unreachable=True)
    return BrokenDownloadError(f"the connection broke after {_size_of(transfer.part):,} bytes")


def _is_timeout(cause: object) -> bool:
    """Whether urllib3 received nothing for too long."""
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return any(isinstance(under, TimeoutError) for under in cause.args)
    return isinstance(cause, urllib3.exceptions.ReadTimeoutError)


def _mismatch(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str | None:
    """How the file fails the checks; None if it passes them."""
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


def _remedy(destination: Path) -> str:
    return f"put the file at {destination} by other means, or give a mirror with --url"
