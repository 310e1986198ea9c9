"""The base of all settings: every field is checked when it is read back from a file, with its name, its value and what
is allowed."""

import sys
import types
import typing
from dataclasses import MISSING, asdict, fields
from typing import Any, Literal, Self

from soundstorm.errors import SoundStormError


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise SoundStormError(f"{name} is {value}: it must be {allowed}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON has the type of a field; lists stand for tuples, and whole numbers pass for float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        expected = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        return len(value) == len(expected) and all(
            _fits(item, kind) for item, kind in zip(value, expected, strict=True)
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


class Settings:
    """Base of the settings below: to a plain dictionary for JSON, and back with every key and type checked."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: object, where: str) -> Self:
        """The inverse of `to_dict`; `where` names the file and section in the SoundStormError for a missing, unknown or
        malformed key."""
        hints = typing.get_type_hints(cls)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if not isinstance(values, dict):
            raise SoundStormError(f"{where} is not a table of settings but {type(values).__name__}")
        for name in values:
            if name not in names:
                raise SoundStormError(f"{where}: unknown setting '{name}'; it has {', '.join(names)}")
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}  # type: ignore[arg-type]
        values = defaults | values  # a file written before a setting was there means its default
        for name in names:
            if name not in values:
                raise SoundStormError(f"{where}: setting '{name}' is missing")
            if not _fits(values[name], hints[name]):
                kind = getattr(hints[name], "__name__", None) or str(hints[name])
                raise SoundStormError(
                    f"{where}: {name} is {values[name]!r}, expected "
                    f"{kind if hints[name] in (int, float, str, bool) else hints[name]}"
                )
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except SoundStormError as error:
            raise SoundStormError(f"{where}: {error}") from error
