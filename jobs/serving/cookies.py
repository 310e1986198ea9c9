"""Reading of cookies from the `Cookie` header of a request."""

from http.cookies import CookieError, SimpleCookie


def read_cookie(header: str, name: str) -> str | None:
    """The value of a cookie; None if the header does not have it, or is malformed."""
    try:
        cookie = SimpleCookie(header).get(name)
    except CookieError:
        return None
    return None if cookie is None else cookie.value
