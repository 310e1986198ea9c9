"""The client of the S3 server, and the requests that it makes: tried again while they fail for a reason that may pass,
with errors as sentences.

Endpoint, region and credentials come from the standard AWS variables and files, never from code, and are shown nowhere.
"""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from cluster.errors import ClusterError
from cluster.storage.os_errors import file_error
from cluster.storage.retry import Effort, Trust
from cluster.storage.s3_errors import SERVER_ERRORS, MeaninglessAnswerError, may_pass, s3_error
from cluster.storage.uris import has_login, without_login

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
MAX_CONNECTIONS = 16

_LOGS_WITH_SECRETS = ("boto3", "botocore")  # at level DEBUG they show session tokens and signatures
_client_lock = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Server:
    """A client, which threads may share, and what is known of its server."""

    client: Any
    trust: Trust


def endpoint_url() -> str | None:
    """Where the S3 server is, if it is not AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _identity() -> int:
    """Another number in a forked process, or once the AWS variables have changed: then clients must be made anew."""
    return hash((os.getpid(), *sorted((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))))


def client() -> Any:
    """This process's S3 client for the AWS variables as they are now. It does not repeat what fails."""
    return _server().client


def _server() -> _Server:
    with _client_lock:
        return _new_server(_identity())


def _renew_lock() -> None:
    """In a forked process, where the lock may be held by a thread that is not there."""
    global _client_lock
    _client_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@functools.lru_cache(maxsize=4)
def _new_server(_identity: int) -> _Server:
    for name in _LOGS_WITH_SECRETS:
        logging.getLogger(name).setLevel(max(logging.getLogger(name).getEffectiveLevel(), logging.INFO))
    options: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},  # `persist` tries again
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "signature_version": "s3v4",
        "max_pool_connections": MAX_CONNECTIONS,
    }
    if endpoint_url() is not None:  # servers other than AWS may not know the newer checksum headers
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            options[name] = os.environ.get(f"AWS_{name.upper()}", "when_required")
    session = boto3.session.Session()  # not the one that boto3 shares between threads
    try:
        made = session.client("s3", config=Config(**options))
        if has_login(made.meta.endpoint_url):  # of no use to S3, and signed links would show it
            made = session.client("s3", config=Config(**options), endpoint_url=without_login(made.meta.endpoint_url))
    except ValueError:  # boto3's word for a malformed endpoint
        raise ClusterError(
            "AWS_ENDPOINT_URL is not an address such as https://storage.example.org:9000; correct it or unset it"
        ) from None
    return _Server(_Client(made), Trust())


class _Client:
    """boto3's client. Of an answer that makes no sense boto3 says ValueError, as our own code may: from here it is
    another error."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return functools.partial(_sensible, found) if callable(found) else found


def _sensible(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What `call` returns; where it raises ValueError, MeaninglessAnswerError instead."""
    try:
        return call(*arguments, **options)
    except aws.BotoCoreError:  # some of which are ValueErrors too
        raise
    except ValueError as error:
        raise MeaninglessAnswerError(error=str(error)[:100]) from None


def pieces(body: Any, size: int) -> Iterator[bytes]:
    """The content of an answer, `size` bytes at a time."""
    chunks = body.iter_chunks(size)
    while (piece := _sensible(next, chunks, None)) is not None:
        yield piece


@contextlib.contextmanager
def errors(uri: str | Path) -> Iterator[None]:
    """Turn what boto3 raises into a ClusterError about `uri`."""
    try:
        yield
    except SERVER_ERRORS as error:
        raise s3_error(str(uri), error) from None  # the chain may quote addresses with credentials in them
    except OSError as error:  # the local side of a transfer
        raise file_error(error.filename or str(uri), error) from error


def persist(uri: str | Path, call: Callable[[Any], T], moved: Callable[[], int] = lambda: 0) -> T:
    """`call(client)`, tried again while it fails for reasons that may pass. `moved` tells how many bytes all attempts
    have brought."""
    with errors(uri):
        server = _server()
        effort = Effort(server.trust)
        while True:
            try:
                result = call(server.client)
            except SERVER_ERRORS as error:
                if not may_pass(error):
                    server.trust.served()
                    raise
                if isinstance(error, aws.ClientError):
                    server.trust.heard()
                if not effort.again(moved()):
                    raise s3_error(
                        str(uri), error, effort.said(), without_login(server.client.meta.endpoint_url)
                    ) from None
            else:
                server.trust.served()
                return result


def told(answer: dict[str, Any], field: str) -> Any:
    """What the answer says of `field`; one without it was cut off, which boto3 takes for an answer that says
    nothing."""
    if field not in answer:
        raise aws.ResponseStreamingError(error=f"no {field}")
    return answer[field]
