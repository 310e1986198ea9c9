"""Objects in S3 and in servers that speak its protocol. Errors are `ClusterError`s without secrets.

Requests are repeated and limited in time by `s3_client`. Nothing here relies on conditional writes or folder markers,
which not all servers have.
"""

import contextlib
import functools
import io
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from botocore import exceptions as aws

from cluster.errors import ClusterError
from cluster.storage.retry import RETRY_BUDGET_S
from cluster.storage.s3_client import chunks, client, errors, require_field, with_retries
from cluster.storage.s3_errors import SERVER_ERRORS, code_of, is_transient, status_of
from cluster.storage.uris import split

CHUNK_BYTES = 16 * 1024
SLOWEST_BYTES = 256 * 1024  # a download that receives less within RETRY_BUDGET_S is aborted
PART_BYTES = 16 * 2**20  # larger objects are uploaded in parts; a single PUT allows 5 GB
MAX_PARTS = 10_000
UPLOADS = 3  # attempts at a multipart upload that the server forgets
PAGE = 1000  # most keys in an answer to ListObjectsV2 or in a DeleteObjects request
MAX_PRESIGN_S = 7 * 24 * 3600  # longest life of a signed link
CONTENT_TYPES = {  # types that a browser opens instead of saving
    ".csv": "text/csv",
    ".flac": "audio/flac",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
}


def head(uri: str | Path) -> dict[str, Any] | None:
    """The server's HeadObject response for `uri`; None if there is no such object."""
    bucket, key = split(uri)

    def ask(s3: Any) -> dict[str, Any] | None:
        try:
            answer = dict(s3.head_object(Bucket=bucket, Key=key))
        except aws.ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        require_field(answer, "ContentLength")
        return answer

    return with_retries(uri, ask)


def list_objects(uri: str | Path, page: int = PAGE) -> Iterator[tuple[str, int]]:
    """URI and size in bytes of every object below `uri`, at any depth, requested `page` at a time. Folder markers of
    other tools are left out."""
    bucket, _ = split(uri)
    for answer in pages(uri, {"MaxKeys": page}):
        for item in answer.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", int(item["Size"])


def pages(uri: str | Path, how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The server's ListObjectsV2 responses for what is below `uri`; `how` has further parameters of the request."""
    bucket, key = split(uri)
    where = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **how}
    while True:
        answer = with_retries(uri, functools.partial(_list_page, where))
        yield answer
        if not answer["IsTruncated"]:
            return
        where["ContinuationToken"] = answer["NextContinuationToken"]


def _list_page(where: dict[str, Any], s3: Any) -> dict[str, Any]:
    answer = dict(s3.list_objects_v2(**where))
    if require_field(answer, "IsTruncated"):
        require_field(answer, "NextContinuationToken")
    return answer


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """Size and ETag of the object that was read."""

    size: int
    """Size of the whole object in bytes."""
    etag: str | None
    """Identifies the content."""


def read(uri: str | Path) -> bytes:
    """The whole object."""
    taken: list[bytes] = []
    _fetch(uri, taken.append, restart=taken.clear)
    return b"".join(taken)


def read_range(
    uri: str | Path, start: int, length: int, expected: ObjectVersion | None = None
) -> tuple[bytes, ObjectVersion]:
    """At most `length` bytes from `start`, and the version of the object. Raises ClusterError if the version is not
    `expected`, where one is given."""
    taken: list[bytes] = []
    found = _fetch(uri, taken.append, start, length, expected)
    return b"".join(taken), found


def _fetch(
    uri: str | Path,
    sink: Callable[[bytes], object],
    start: int = 0,
    length: int | None = None,
    expected: ObjectVersion | None = None,
    restart: Callable[[], object] | None = None,
) -> ObjectVersion:
    """Pass the content to `sink`, chunk by chunk; returns the version of the object.

    An interrupted transfer is resumed where it stopped. If the object was replaced meanwhile, the transfer starts again
    after `restart()`; without `restart`, or if the version is not `expected`, ClusterError is raised.
    """
    bucket, key = split(uri)
    received = 0

    def start_again() -> NoReturn:
        nonlocal received, expected
        if restart is None:
            raise ClusterError(f"{uri} was replaced while it was read; run again")
        restart()
        received, expected = 0, None
        raise aws.ResponseStreamingError(error="another object")

    def resume(s3: Any) -> ObjectVersion:
        nonlocal received, expected
        byte_range = {}
        if start or received or length is not None:
            byte_range["Range"] = f"bytes={start + received}-{'' if length is None else start + length - 1}"
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, **byte_range)
        except aws.ClientError as error:
            if status_of(error) != 416:  # the object has no bytes at or after this position
                raise
            if start or received or expected:
                start_again()
            return ObjectVersion(0, None)
        with contextlib.closing(answer["Body"]) as body:
            require_field(answer, "ContentLength")  # from it boto3 knows whether the body is complete
            is_known, before, until = False, received, time.monotonic() + RETRY_BUDGET_S
            for chunk in chunks(body, CHUNK_BYTES):
                if not is_known:  # until a chunk has arrived, the headers may have been cut off
                    is_known, found = True, _version(uri, answer, start + received if byte_range else None)
                    if expected not in (None, found):
                        start_again()
                    expected = found
                sink(chunk)
                received += len(chunk)
                if time.monotonic() > until:
                    if received - before < SLOWEST_BYTES:
                        raise aws.ResponseStreamingError(error=f"{received - before} bytes in {RETRY_BUDGET_S} s")
                    before, until = received, time.monotonic() + RETRY_BUDGET_S
        return expected or ObjectVersion(0, None)

    return with_retries(uri, resume, lambda: received // SLOWEST_BYTES)


def _version(uri: str | Path, answer: dict[str, Any], start: int | None) -> ObjectVersion:
    """The version of the object from a response to a request for the bytes from `start`, or for all if it is None."""
    if start is None:
        return ObjectVersion(answer["ContentLength"], answer.get("ETag"))
    begins, _, total = answer.get("ContentRange", "").partition("/")
    if not begins.startswith(f"bytes {start}-") or not total.isdigit():
        raise ClusterError(f"{uri}: the S3 server cannot give a part of an object; use another server")
    return ObjectVersion(int(total), answer.get("ETag"))


def write(uri: str | Path, content: bytes | memoryview | Path) -> None:
    """Write `content` (bytes, or those of a local file) to the object, atomically."""
    bucket, key = split(uri)
    where = {"Bucket": bucket, "Key": key}
    made = {**where, "ContentType": _content_type(key)}
    with errors(uri):
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size <= PART_BYTES:
            with_retries(uri, lambda s3: s3.put_object(**made, Body=_part(content, 0, size)))
            return
        for _ in range(UPLOADS):
            if _write_in_parts(uri, content, size, where, made):
                return
    raise ClusterError(
        f"{uri}: the S3 server forgot {UPLOADS} multipart uploads before they were complete; use another server, "
        "or check its clean-up rules"
    )


def _write_in_parts(
    uri: str | Path, content: bytes | memoryview | Path, size: int, where: dict[str, Any], made: dict[str, Any]
) -> bool:
    """Write the object of `size` bytes by a multipart upload; False if the server has forgotten the upload."""
    upload = {
        **where,
        "UploadId": with_retries(uri, lambda s3: require_field(s3.create_multipart_upload(**made), "UploadId")),
    }
    step = max(PART_BYTES, -(-size // MAX_PARTS))
    try:
        parts = []
        for number, start in enumerate(range(0, size, step), 1):
            put = functools.partial(_put_part, upload, number, content, start, step)
            parts.append({"PartNumber": number, "ETag": with_retries(uri, put)})
        return with_retries(uri, functools.partial(_complete, upload, parts))
    except BaseException:
        with contextlib.suppress(*SERVER_ERRORS):  # the server cannot be reached
            client().abort_multipart_upload(**upload)
        raise


def _put_part(
    upload: dict[str, Any], number: int, content: bytes | memoryview | Path, start: int, size: int, s3: Any
) -> Any:
    etag = require_field(s3.upload_part(**upload, PartNumber=number, Body=_part(content, start, size)), "ETag")
    if etag.count('"') == 1:
        raise aws.ResponseStreamingError(error="half an ETag")
    return etag


def _complete(upload: dict[str, Any], parts: list[dict[str, Any]], s3: Any) -> bool:
    try:
        require_field(s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}), "ETag")
    except aws.ClientError as error:
        if code_of(error) == "NoSuchUpload":  # also if the response to a successful attempt was lost
            return False
        raise
    return True


def _part(content: bytes | memoryview | Path, start: int, size: int) -> io.BytesIO:
    """A part of `content` as a file object: http.client sends it block by block, with a time-out for each block."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size))
    return io.BytesIO(content[start : start + size])


def _content_type(key: str) -> str:
    return CONTENT_TYPES.get(Path(key).suffix.lower(), "application/octet-stream")


def create(uri: str | Path, content: bytes) -> bool:
    """Like `write`, but only if the object does not exist; returns False if it does. See `storage.create_bytes` for
    servers without conditional writes."""
    if head(uri) is not None:
        return False
    bucket, key = split(uri)

    def put(s3: Any) -> bool:
        made = {"Bucket": bucket, "Key": key, "ContentType": _content_type(key)}
        try:
            s3.put_object(**made, Body=_part(content, 0, len(content)), IfNoneMatch="*")
        except aws.ClientError as error:
            code = code_of(error)
            if code in ("PreconditionFailed", "412"):
                return False
            if code not in ("NotImplemented", "501"):
                raise
            s3.put_object(**made, Body=_part(content, 0, len(content)))
        return True

    return with_retries(uri, put)


def delete(uri: str | Path) -> None:
    """Delete the object and everything below it, if they exist. Refuses to delete a whole bucket."""
    bucket, key = split(uri)
    if not key:
        raise ClusterError(f"{uri} is a whole bucket: give a prefix in it, or empty the bucket yourself")
    keys = (found[len(f"s3://{bucket}/") :] for found, _ in list_objects(uri))
    while some := list(itertools.islice(keys, PAGE)):  # page by page: memory does not grow with the number of keys
        with_retries(uri, functools.partial(_delete_keys, bucket, some))
    delete_one(uri)


def delete_one(uri: str | Path) -> bool:
    """Delete the object, and nothing below it; returns False if it does not exist."""
    bucket, key = split(uri)
    if not key or head(uri) is None:  # some servers reject a key that names a prefix
        return False
    with_retries(uri, functools.partial(_delete_keys, bucket, [key]))
    return True


def _delete_keys(bucket: str, keys: list[str], s3: Any) -> None:
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    failed = answer.get("Errors", [])
    for item in failed:
        response: Any = {"Error": {"Code": item.get("Code")}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        problem = aws.ClientError(response, "DeleteObjects")
        if item.get("Code") not in ("InternalError", "ServiceUnavailable") and not is_transient(problem):
            raise ClusterError(
                f"s3://{bucket}/{item.get('Key')} could not be deleted ({item.get('Code')}); check the permissions"
            )
    if len(answer.get("Deleted", [])) < len(keys):
        raise aws.ResponseStreamingError(error=f"{len(answer.get('Deleted', []))} of {len(keys)} deletions")


def presign(uri: str | Path, expires_s: int) -> str:
    """A signed link to the object, valid for `expires_s` seconds for anyone who has it."""
    if not 1 <= expires_s <= MAX_PRESIGN_S:
        raise ClusterError(f"a signed link for {uri} cannot be valid for {expires_s} s; give 1 to {MAX_PRESIGN_S}")
    bucket, key = split(uri)
    with errors(uri):
        return str(
            client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s)
        )
