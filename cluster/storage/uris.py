"""URIs: how they are split, which characters they may hold, and how they are shown without secrets."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ClusterError

# Control characters, and characters that UTF-8 or XML (the format of S3 listings) cannot encode.
BAD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// URI."""
    return uri[len("s3://") :].partition("/")[0]


def without_login(address: str) -> str:
    """`address` without secrets: without the `user:password@` of a URL, and without the query, such as the signature of
    a link."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+:/+)(.*)", address, re.DOTALL)
    if match is None:
        return address
    shown = match[2].partition("?")[0]
    host = shown.partition("/")[0]
    return match[1] + (shown.rpartition("@")[2] if "@" in host or ":" in host else shown)  # a password may hold a slash


def has_login(address: str) -> bool:
    """Whether the URL `address` holds a user or a password."""
    return "@" in urlsplit(address).netloc


MAX_KEY_BYTES = 1024


def split(uri: str | Path) -> tuple[str, str]:
    """Bucket and key (no leading or trailing slash) of an s3:// URI."""
    text = str(uri)
    bucket, _, key = text[len("s3://") :].partition("/")
    if "@" in bucket or ":" in bucket:
        raise ClusterError(
            "an s3:// address with a user, a password or a port; give s3://bucket/prefix, and the credentials in AWS_* "
            "variables"
        )
    if not bucket or BAD_CHARACTERS.search(text):
        raise ClusterError(f"{text!r}: not an S3 address; give s3://bucket/prefix, without control characters")
    key = key.strip("/")
    if any(name in ("", ".", "..") for name in key.split("/")) and key:
        raise ClusterError(
            f"{text!r}: an S3 address must not have empty names ('//') or '.' or '..' between its slashes; correct it"
        )
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ClusterError(
            f"{text[:100]!r}...: the name is longer than the {MAX_KEY_BYTES} bytes that S3 allows; choose a shorter one"
        )
    return bucket, key
