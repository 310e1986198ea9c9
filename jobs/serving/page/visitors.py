"""Who looks at the page: a browser, known by a random cookie until it is closed."""

import re
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

COOKIE = "soundstorm_visitor"
_NAME = re.compile(r"[\w-]{32}")


def new_visitor() -> str:
    """A name that cannot be guessed."""
    return secrets.token_urlsafe(24)


def visitor_in(cookies: Mapping[str, str]) -> str | None:
    """The visitor that cookies name; None: none of ours."""
    name = cookies.get(COOKIE, "")
    return name if _NAME.fullmatch(name) else None


def visitor_of_header(header: str) -> str | None:
    """The visitor that a `Cookie` header names."""
    try:
        return visitor_in({name: morsel.value for name, morsel in SimpleCookie(header).items()})
    except CookieError:
        return None


def set_cookie(visitor: str, *, is_secure: bool) -> str:
    """The header `Set-Cookie` that makes a browser this visitor; scripts cannot read it, other sites cannot use it."""
    return f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")
