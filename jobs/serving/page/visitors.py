"""Visitors of the page: a browser session, identified by a random session cookie."""

import re
import secrets
from collections.abc import Mapping

from jobs.serving.cookies import read_cookie

COOKIE = "soundstorm_visitor"
_NAME = re.compile(r"[\w-]{32}")


def new_visitor() -> str:
    """A new random id."""
    return secrets.token_urlsafe(24)


def visitor_in(cookies: Mapping[str, str]) -> str | None:
    """The visitor id in the cookies; None if there is none."""
    name = cookies.get(COOKIE, "")
    return name if _NAME.fullmatch(name) else None


def visitor_of_header(header: str) -> str | None:
    """The visitor of a `Cookie` header; None if there is none."""
    return visitor_in({COOKIE: read_cookie(header, COOKIE) or ""})


def set_cookie(visitor: str, *, is_secure: bool) -> str:
    """Value of the `Set-Cookie` header; the cookie is hidden from scripts and other sites."""
    return f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")
