"""Errors of reading a damaged file, as one sentence that names the file and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from soundstorm.errors import SoundStormError

DAMAGED = (
    *(SoundStormError, ValueError, LookupError, TypeError, AttributeError),
    *(RuntimeError, ArithmeticError, OSError, SafetensorError),
)
"""Exceptions that reading a damaged or foreign file may raise."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """The text of an error of a library on one line, cut to `longest` characters."""
    return " ".join(str(error).split())[:longest]


@contextmanager
def refusing_damaged(where: str, what: str, remedy: str) -> Iterator[None]:
    """Turn an exception of DAMAGED, raised within, into `WHERE: not WHAT (CAUSE): REMEDY`.

    Raises:
        SoundStormError: the file is damaged or of another kind.
    """
    try:
        yield
    except DAMAGED as error:
        raise SoundStormError(f"{where}: not {what} ({one_line(error)}): {remedy}") from error
