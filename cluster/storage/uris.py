"""Addresses as text: what they may hold, and what of them may be shown."""

import re
from urllib.parse import urlsplit

# Characters that no name may hold: control characters, and what XML, in which servers list names, or UTF-8 cannot hold.
BAD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// URI."""
    return uri[len("s3://") :].partition("/")[0]


def without_login(address: str) -> str:
    """`address` as it may be shown: without the `user:password@` of a URL, and without what follows a `?`, such as the
    signature of a link."""
    scheme, rest = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+:/+)?(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    return scheme + rest.partition("?")[0].rpartition("@")[2] if scheme else address


def has_login(address: str) -> bool:
    """Whether the URL `address` holds a user or a password."""
    return "@" in urlsplit(address).netloc
