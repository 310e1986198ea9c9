"""Objects in S3 and in servers that speak its protocol. Used by `storage` alone; errors are `ClusterError`s without secrets.

Endpoint, region and credentials come from the standard AWS variables and files, never from code. Calls retry with exponential back-off and
jitter, and end within two minutes. Nothing here relies on conditional writes or folder markers, which not all servers have.
"""

import contextlib
import functools
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import pyarrow.fs
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as aws
from botocore.config import Config

from cluster.errors import ClusterError
from cluster.storage_errors import CONTROL_CHARACTERS, file_error, s3_error

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
MAX_ATTEMPTS = 5  # five tries of at most 20 s and the pauses between them stay under two minutes
MAX_CONNECTIONS = 16
CHUNK_BYTES = 2**20
MULTIPART_BYTES = 64 * 2**20  # larger objects go up in parts; a single PUT ends at 5 GB
DELETE_BATCH = 1000  # most keys in one DeleteObjects request
MAX_PRESIGN_S = 7 * 24 * 3600  # longest life of a signed link
TRANSFER = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=16 * 2**20, max_concurrency=4)

_BROKEN_BODY = (aws.ResponseStreamingError, aws.IncompleteReadError, aws.ReadTimeoutError)
_client_lock = threading.Lock()
T = TypeVar("T")


def split(uri: str | Path) -> tuple[str, str]:
    """Bucket and key (no leading or trailing slash) of an s3:// URI."""
    text = str(uri)
    bucket, _, key = text[len("s3://") :].partition("/")
    if not bucket or CONTROL_CHARACTERS.search(text):
        raise ClusterError(f"{text!r} names no bucket; an S3 address is s3://bucket/prefix, without control characters")
    return bucket, key.strip("/")


def endpoint_url() -> str | None:
    """Where the S3 server is, if it is not AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _identity() -> int:
    """Another number in a forked process, or once the AWS variables have changed: then clients must be made anew."""
    return hash((os.getpid(), *sorted((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))))


def client() -> Any:
    """This process's S3 client for the AWS variables as they are now."""
    with _client_lock:
        return _new_client(_identity())


@functools.lru_cache(maxsize=4)
def _new_client(_identity: int) -> Any:
    options: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},  # also for 503 SlowDown
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "signature_version": "s3v4",
        "max_pool_connections": MAX_CONNECTIONS,
    }
    if endpoint_url() is not None:  # servers other than AWS may not know the newer checksum headers
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            options[name] = os.environ.get(f"AWS_{name.upper()}", "when_required")
    try:
        return boto3.session.Session().client("s3", config=Config(**options))
    except ValueError:  # boto3's word for a malformed endpoint
        raise ClusterError("AWS_ENDPOINT_URL is not an address such as https://storage.example.org:9000; correct it or unset it") from None


@contextlib.contextmanager
def errors(uri: str | Path) -> Iterator[None]:
    """Turn what boto3 raises into a ClusterError about `uri`."""
    try:
        yield
    except (aws.ClientError, aws.BotoCoreError, Boto3Error) as error:
        raise s3_error(str(uri), error) from None  # the chain may quote addresses with credentials in them
    except OSError as error:  # the local side of a transfer
        raise file_error(error.filename or str(uri), error) from error


def head(uri: str | Path) -> dict[str, Any] | None:
    """What the server says of the object `uri`; None if there is none."""
    bucket, key = split(uri)
    with errors(uri):
        try:
            return dict(client().head_object(Bucket=bucket, Key=key))
        except aws.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise


def walk(uri: str | Path) -> Iterator[tuple[str, int]]:
    """Every object below `uri`, at any depth, as its URI and size in bytes. Folder markers of other tools are left out."""
    bucket, key = split(uri)
    with errors(uri):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/" if key else ""):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield f"s3://{bucket}/{item['Key']}", int(item["Size"])


def read(uri: str | Path) -> bytes:
    """The whole object."""
    bucket, key = split(uri)
    with errors(uri):
        return _unbroken(lambda: bytes(client().get_object(Bucket=bucket, Key=key)["Body"].read()))


def download(uri: str | Path, target: Path) -> None:
    """Write the object into the local file `target`, piece by piece."""
    bucket, key = split(uri)

    def fetch() -> None:
        with target.open("wb") as file:
            for chunk in client().get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    with errors(uri):
        _unbroken(fetch)


def write(uri: str | Path, content: bytes | memoryview | Path) -> None:
    """Make the object hold `content` (bytes, or those of a local file); it becomes visible whole."""
    bucket, key = split(uri)
    with errors(uri):
        if isinstance(content, Path):
            client().upload_file(str(content), bucket, key, Config=TRANSFER)
        elif len(content) <= MULTIPART_BYTES:
            client().put_object(Bucket=bucket, Key=key, Body=bytes(content))
        else:
            client().upload_fileobj(io.BytesIO(content), bucket, key, Config=TRANSFER)


def create(uri: str | Path, content: bytes) -> bool:
    """Like `write`, but only if there is nothing yet; False if there is. See `storage.create_bytes` for servers without conditional writes."""
    if head(uri) is not None:
        return False
    bucket, key = split(uri)
    with errors(uri):
        try:
            client().put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except aws.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                return False
            if code not in ("NotImplemented", "501"):
                raise
            client().put_object(Bucket=bucket, Key=key, Body=content)
    return True


def delete(uri: str | Path) -> None:
    """Remove the object and all below it; fine if there are none. Refuses a whole bucket."""
    bucket, key = split(uri)
    if not key:
        raise ClusterError(f"{uri} is a whole bucket: name a prefix below it, or empty the bucket yourself")
    keys = [found[len(f"s3://{bucket}/") :] for found, _ in walk(uri)]
    if head(uri) is not None:  # some servers take the name of a folder amiss
        keys.append(key)
    with errors(uri):
        for start in range(0, len(keys), DELETE_BATCH):
            batch = [{"Key": name} for name in keys[start : start + DELETE_BATCH]]
            failed = client().delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True}).get("Errors")
            if failed:
                raise ClusterError(f"s3://{bucket}/{failed[0].get('Key')} could not be deleted ({failed[0].get('Code')}); check the permissions")


def presign(uri: str | Path, expires_s: int) -> str:
    """A link to the object for anyone who has it, valid for `expires_s` seconds."""
    if not 1 <= expires_s <= MAX_PRESIGN_S:
        raise ClusterError(f"a signed link for {uri} cannot live {expires_s} s; choose 1 to {MAX_PRESIGN_S}")
    bucket, key = split(uri)
    with errors(uri):
        return str(client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s))


def filesystem(uri: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system for `uri` and the path in it. It can be pickled, and carries no credentials: each process finds its own."""
    bucket, key = split(uri)
    with errors(uri):
        return _new_filesystem(_identity(), bucket), f"{bucket}/{key}" if key else bucket


@functools.lru_cache(maxsize=16)
def _new_filesystem(_identity: int, bucket: str) -> pyarrow.fs.FileSystem:
    region = client().meta.region_name
    options: dict[str, Any] = {}
    endpoint = endpoint_url()
    if endpoint is not None:
        parts = urlsplit(endpoint)
        options = {"endpoint_override": parts.netloc.rpartition("@")[2], "scheme": parts.scheme}
        region = region if region and not region.startswith("aws-") else "us-east-1"
    else:
        with contextlib.suppress(OSError):  # a bucket that hides its region is reached through the configured one
            region = pyarrow.fs.resolve_s3_region(bucket)
    return pyarrow.fs.S3FileSystem(
        region=region,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        **options,
    )


def _unbroken(fetch: Callable[[], T]) -> T:
    """`fetch()`, tried again when a body breaks off half-way, which boto3 itself does not."""
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return fetch()
        except _BROKEN_BODY:
            time.sleep(random.uniform(0.5, 1.0) * 0.2 * 2**attempt)
    return fetch()
