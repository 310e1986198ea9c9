"""The S3 client and its requests: transient errors are retried, other errors become a sentence.

Endpoint, region and credentials come from the standard AWS variables and files, never from code, and are never shown.
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
from cluster.storage.retry import RetryState, ServerHealth
from cluster.storage.s3_errors import SERVER_ERRORS, MeaninglessAnswerError, is_transient, s3_error
from cluster.storage.uris import has_login, without_login

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
MAX_CONNECTIONS = 16

_LOGS_WITH_SECRETS = ("boto3", "botocore")  # at level DEBUG they show session tokens and signatures
_client_lock = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Server:
    """A client, which threads may share, and the health of its server."""

    client: Any
    health: ServerHealth


def endpoint_url() -> str | None:
    """Address of the S3 server; None: AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _identity() -> int:
    """A number that differs in a forked process and after the AWS variables have changed: then a new client is
    needed."""
    return hash((os.getpid(), *sorted((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))))


def client() -> Any:
    """This process's S3 client for the current AWS variables. It does not retry by itself."""
    return _server().client


def _server() -> _Server:
    with _client_lock:
        return _new_server(_identity())


def _renew_lock() -> None:
    """Runs in a forked process, where a thread that does not exist any more may hold the lock."""
    global _client_lock
    _client_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@functools.lru_cache(maxsize=4)
def _new_server(_identity: int) -> _Server:
    for name in _LOGS_WITH_SECRETS:
        logging.getLogger(name).setLevel(max(logging.getLogger(name).getEffectiveLevel(), logging.INFO))
    options: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},  # `with_retries` retries
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
    return _Server(_Client(made), ServerHealth())


class _Client:
    """boto3's client. boto3 raises ValueError for a malformed response, as our own code may for other reasons; this
    client raises MeaninglessAnswerError instead."""

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


def chunks(body: Any, size: int) -> Iterator[bytes]:
    """The body of a response, `size` bytes at a time."""
    body_chunks = body.iter_chunks(size)
    while (chunk := _sensible(next, body_chunks, None)) is not None:
        yield chunk


@contextlib.contextmanager
def errors(uri: str | Path) -> Iterator[None]:
    """Turn what boto3 raises into a ClusterError about `uri`."""
    try:
        yield
    except SERVER_ERRORS as error:
        raise s3_error(str(uri), error) from None  # the chain may quote addresses with credentials in them
    except OSError as error:  # the local side of a transfer
        raise file_error(error.filename or str(uri), error) from error


def with_retries(uri: str | Path, call: Callable[[Any], T], received: Callable[[], int] = lambda: 0) -> T:
    """Returns `call(client)`, retried while it fails with a transient error.

    Args:
        uri: named in errors.
        call: the request.
        received: returns how many bytes all attempts have received; see `RetryState.wait_before_retry`.

    Raises:
        ClusterError: the request was refused, or the retry budget ran out.
    """
    with errors(uri):
        server = _server()
        state = RetryState(server.health)
        while True:
            try:
                result = call(server.client)
            except SERVER_ERRORS as error:
                if not is_transient(error):
                    server.health.record_success()
                    raise
                if isinstance(error, aws.ClientError):
                    server.health.record_response()
                if not state.wait_before_retry(received()):
                    raise s3_error(
                        str(uri), error, state.summary(), without_login(server.client.meta.endpoint_url)
                    ) from None
            else:
                server.health.record_success()
                return result


def require_field(answer: dict[str, Any], field: str) -> Any:
    """The value of `field` in a response. Raises a transient error if it is missing: boto3 does not notice that a
    response was cut off."""
    if field not in answer:
        raise aws.ResponseStreamingError(error=f"no {field}")
    return answer[field]
