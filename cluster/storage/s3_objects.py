"""Objects in S3 and in servers that speak its protocol. Errors are `ClusterError`s without secrets.

Requests are repeated and limited in time by `s3_client`. Nothing here relies on conditional writes or folder markers,
which not all servers have.
"""

import contextlib
import functools
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from botocore import exceptions as aws

from cluster.errors import ClusterError
from cluster.storage.retry import PATIENCE_S
from cluster.storage.s3_client import client, errors, persist, pieces, told
from cluster.storage.s3_errors import SERVER_ERRORS, code_of, may_pass, status_of
from cluster.storage.uris import split

PIECE_BYTES = 16 * 1024
SLOWEST_BYTES = 256 * 1024  # a download that brings less within PATIENCE_S is broken off
PART_BYTES = 16 * 2**20  # larger objects go up in parts; a single PUT ends at 5 GB
MAX_PARTS = 10_000
UPLOADS = 3  # times an upload in parts is made anew after the server has lost it
PAGE = 1000  # most keys in an answer to ListObjectsV2 or in a DeleteObjects request
MAX_PRESIGN_S = 7 * 24 * 3600  # longest life of a signed link
CONTENT_TYPES = {  # what a browser opens from a link, rather than saving it
    ".csv": "text/csv",
    ".flac": "audio/flac",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
}


def head(uri: str | Path) -> dict[str, Any] | None:
    """What the server says of the object `uri`; None if there is none."""
    bucket, key = split(uri)

    def ask(s3: Any) -> dict[str, Any] | None:
        try:
            answer = dict(s3.head_object(Bucket=bucket, Key=key))
        except aws.ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        told(answer, "ContentLength")
        return answer

    return persist(uri, ask)


def walk(uri: str | Path, page: int = PAGE) -> Iterator[tuple[str, int]]:
    """Every object below `uri`, at any depth, as its URI and size in bytes; asks for `page` at a time. Leaves out
    folder markers of other tools."""
    bucket, _ = split(uri)
    for answer in pages(uri, {"MaxKeys": page}):
        for item in answer.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", int(item["Size"])


def pages(uri: str | Path, how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the server lists below `uri`, answer by answer."""
    bucket, key = split(uri)
    where = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **how}
    while True:
        answer = persist(uri, functools.partial(_list_page, where))
        yield answer
        if not answer["IsTruncated"]:
            return
        where["ContinuationToken"] = answer["NextContinuationToken"]


def _list_page(where: dict[str, Any], s3: Any) -> dict[str, Any]:
    answer = dict(s3.list_objects_v2(**where))
    if told(answer, "IsTruncated"):
        told(answer, "NextContinuationToken")
    return answer


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to know of an object once some of it was read."""

    size: int
    """Bytes of all of it."""
    etag: str | None
    """The server's word for just this content."""


def read(uri: str | Path) -> bytes:
    """The whole object."""
    taken: list[bytes] = []
    _fetch(uri, taken.append, restart=taken.clear)
    return b"".join(taken)


def read_range(uri: str | Path, start: int, length: int, of: Found | None = None) -> tuple[bytes, Found]:
    """At most `length` bytes from `start`, and what they are from. Raises ClusterError if that is not `of`, where it is
    given."""
    taken: list[bytes] = []
    found = _fetch(uri, taken.append, start, length, of)
    return b"".join(taken), found


def download(uri: str | Path, target: Path) -> None:
    """Write the object into the local file `target`, piece by piece. Raises OSError if `target` does not take it."""
    with target.open("wb") as file:

        def write(piece: bytes) -> None:
            try:
                file.write(piece)
            except OSError as error:
                raise _LocalError(error) from error

        try:
            _fetch(uri, write, restart=lambda: file.truncate(file.seek(0)))
        except _LocalError as error:
            raise error.cause from None
        file.flush()
        os.fsync(file.fileno())


class _LocalError(Exception):
    """What the disk said to a part of an object: no fault of the object, which is asked for no more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def _fetch(
    uri: str | Path,
    take: Callable[[bytes], object],
    start: int = 0,
    length: int | None = None,
    of: Found | None = None,
    restart: Callable[[], object] | None = None,
) -> Found:
    """Hand the content to `take`, piece by piece; returns what it is from.

    A transfer that breaks off goes on where it was. Where the object was replaced meanwhile, it begins anew after
    `restart()`; if there is none, or the object is not `of`, that is a ClusterError.
    """
    bucket, key = split(uri)
    moved = 0

    def begin_anew() -> NoReturn:
        nonlocal moved, of
        if restart is None:
            raise ClusterError(f"{uri} was replaced while it was read; run again")
        restart()
        moved, of = 0, None
        raise aws.ResponseStreamingError(error="another object")

    def go_on(s3: Any) -> Found:
        nonlocal moved, of
        wanted = {}
        if start or moved or length is not None:
            wanted["Range"] = f"bytes={start + moved}-{'' if length is None else start + length - 1}"
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, **wanted)
        except aws.ClientError as error:
            if status_of(error) != 416:  # there is nothing at and after this place
                raise
            if start or moved or of:
                begin_anew()
            return Found(0, None)
        with contextlib.closing(answer["Body"]) as body:
            told(answer, "ContentLength")  # by which boto3 knows that the content is whole
            known, before, until = False, moved, time.monotonic() + PATIENCE_S
            for piece in pieces(body, PIECE_BYTES):
                if not known:  # the head of the answer may have been cut short as long as nothing came after it
                    known, found = True, _found(uri, answer, start + moved if wanted else None)
                    if of not in (None, found):
                        begin_anew()
                    of = found
                take(piece)
                moved += len(piece)
                if time.monotonic() > until:
                    if moved - before < SLOWEST_BYTES:
                        raise aws.ResponseStreamingError(error=f"{moved - before} bytes in {PATIENCE_S} s")
                    before, until = moved, time.monotonic() + PATIENCE_S
        return of or Found(0, None)

    return persist(uri, go_on, lambda: moved // SLOWEST_BYTES)


def _found(uri: str | Path, answer: dict[str, Any], start: int | None) -> Found:
    """What the answer is from; it is one to a request for what begins at `start`, or for all."""
    if start is None:
        return Found(answer["ContentLength"], answer.get("ETag"))
    begins, _, total = answer.get("ContentRange", "").partition("/")
    if not begins.startswith(f"bytes {start}-") or not total.isdigit():
        raise ClusterError(f"{uri}: the S3 server cannot give a part of an object; use another server")
    return Found(int(total), answer.get("ETag"))


def write(uri: str | Path, content: bytes | memoryview | Path) -> None:
    """Make the object hold `content` (bytes, or those of a local file); it becomes visible whole."""
    bucket, key = split(uri)
    where = {"Bucket": bucket, "Key": key}
    made = {**where, "ContentType": _content_type(key)}
    with errors(uri):
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size <= PART_BYTES:
            persist(uri, lambda s3: s3.put_object(**made, Body=_part(content, 0, size)))
            return
        for _ in range(UPLOADS):
            if _write_in_parts(uri, content, size, where, made):
                return
    raise ClusterError(
        f"{uri}: the S3 server forgot {UPLOADS} uploads in parts before their end; use another server, or check its "
        "clean-up rules"
    )


def _write_in_parts(
    uri: str | Path, content: bytes | memoryview | Path, size: int, where: dict[str, Any], made: dict[str, Any]
) -> bool:
    """Make the object of `size` bytes by an upload in parts; False if the server knows nothing of the upload any
    more."""
    upload = {**where, "UploadId": persist(uri, lambda s3: told(s3.create_multipart_upload(**made), "UploadId"))}
    step = max(PART_BYTES, -(-size // MAX_PARTS))
    try:
        parts = []
        for number, start in enumerate(range(0, size, step), 1):
            put = functools.partial(_put_part, upload, number, content, start, step)
            parts.append({"PartNumber": number, "ETag": persist(uri, put)})
        return persist(uri, functools.partial(_complete, upload, parts))
    except BaseException:
        with contextlib.suppress(*SERVER_ERRORS):  # what cannot be reached cannot be tidied up
            client().abort_multipart_upload(**upload)
        raise


def _put_part(
    upload: dict[str, Any], number: int, content: bytes | memoryview | Path, start: int, size: int, s3: Any
) -> Any:
    etag = told(s3.upload_part(**upload, PartNumber=number, Body=_part(content, start, size)), "ETag")
    if etag.count('"') == 1:
        raise aws.ResponseStreamingError(error="half an ETag")
    return etag


def _complete(upload: dict[str, Any], parts: list[dict[str, Any]], s3: Any) -> bool:
    try:
        told(s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}), "ETag")
    except aws.ClientError as error:
        if code_of(error) == "NoSuchUpload":  # also when the answer to an attempt that succeeded was lost
            return False
        raise
    return True


def _part(content: bytes | memoryview | Path, start: int, size: int) -> io.BytesIO:
    """A part of `content`, as a file: of these http.client sends block by block, each with the time-out that bytes have
    as a whole."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size))
    return io.BytesIO(content[start : start + size])


def _content_type(key: str) -> str:
    return CONTENT_TYPES.get(Path(key).suffix.lower(), "application/octet-stream")


def create(uri: str | Path, content: bytes) -> bool:
    """Like `write`, but only if there is nothing yet; False if there is. See `storage.create_bytes` for servers without
    conditional writes."""
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

    return persist(uri, put)


def delete(uri: str | Path) -> None:
    """Remove the object and all below it; fine if there are none. Refuses a whole bucket."""
    bucket, key = split(uri)
    if not key:
        raise ClusterError(f"{uri} is a whole bucket: name a prefix below it, or empty the bucket yourself")
    keys = (found[len(f"s3://{bucket}/") :] for found, _ in walk(uri))
    while some := list(
        itertools.islice(keys, PAGE)
    ):  # a page at a time, so that memory does not grow with their number
        persist(uri, functools.partial(_delete_keys, bucket, some))
    delete_one(uri)


def delete_one(uri: str | Path) -> bool:
    """Remove the object, and nothing below it; False if there is none."""
    bucket, key = split(uri)
    if not key or head(uri) is None:  # some servers take the name of a folder amiss
        return False
    persist(uri, functools.partial(_delete_keys, bucket, [key]))
    return True


def _delete_keys(bucket: str, keys: list[str], s3: Any) -> None:
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    failed = answer.get("Errors", [])
    for item in failed:
        problem = aws.ClientError(
            {"Error": {"Code": item.get("Code")}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "DeleteObjects"
        )
        if item.get("Code") not in ("InternalError", "ServiceUnavailable") and not may_pass(problem):
            raise ClusterError(
                f"s3://{bucket}/{item.get('Key')} could not be deleted ({item.get('Code')}); check the permissions"
            )
    if len(answer.get("Deleted", [])) < len(keys):
        raise aws.ResponseStreamingError(error=f"{len(answer.get('Deleted', []))} of {len(keys)} deletions")


def presign(uri: str | Path, expires_s: int) -> str:
    """A link to the object for anyone who has it, valid for `expires_s` seconds."""
    if not 1 <= expires_s <= MAX_PRESIGN_S:
        raise ClusterError(f"a signed link for {uri} cannot live {expires_s} s; choose 1 to {MAX_PRESIGN_S}")
    bucket, key = split(uri)
    with errors(uri):
        return str(
            client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s)
        )
