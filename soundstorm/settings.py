"""The base of all settings: pydantic checks the type and range of every field, and an error names the field, its value
and what is allowed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import reduce
from numbers import Integral
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import pydantic
from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ArgsKwargs, ErrorDetails

from soundstorm.errors import SoundStormError

NOT_OF_ITS_TYPE = ("_type", "finite_number")
"""Ends of pydantic's names of errors that no bound is about."""
WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}


@dataclass(frozen=True)
class Allowed:
    """Text of an error in place of the bounds: `1 to 4096 clips`."""

    text: str


Count = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0), Allowed("0 or more")]
Seed = Annotated[int, Interval(ge=0, lt=2**63), Allowed("0 to 2**63 - 1")]
Positive = Annotated[float, Gt(0)]
Amount = Annotated[float, Ge(0), Allowed("0 or more")]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareAbove0 = Annotated[float, Interval(gt=0, le=1)]
ShareBelow1 = Annotated[float, Interval(ge=0, lt=1)]
Betas = Annotated[tuple[ShareBelow1, ShareBelow1], Allowed("two numbers, each at least 0 and below 1")]


def bounds_of(hint: Any) -> Iterator[Any]:
    """The metadata of an `Annotated` type, or of the alternatives of a union: `Annotated[int, Ge(1)] | None`."""
    for annotated in (hint,) if get_origin(hint) is Annotated else get_args(hint):
        if get_origin(annotated) is Annotated:
            yield from annotated.__metadata__


def allowed(hint: Any) -> str:
    """What the bounds in a type allow: `1 to 64`, `above 0`, `left or right`; empty for a type without bounds."""
    if get_origin(hint) is Literal:
        *others, last = map(str, get_args(hint))
        return f"{', '.join(others)} or {last}"
    bounds = list(bounds_of(hint))
    for bound in bounds:
        if isinstance(bound, Allowed):
            return bound.text
    limits = {key: getattr(bound, key) for key in WORDS for bound in bounds if getattr(bound, key, None) is not None}
    words = [f"{WORDS[key]} {limit}" for key, limit in limits.items()]
    if {"ge", "le"} <= limits.keys():
        words[:2] = [f"{limits['ge']} to {limits['le']}"]
    return " and ".join(words)


def _as_int(value: object) -> object:
    """A whole number of another library, such as NumPy, as an int; any other value as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, int) else value


@pydantic.dataclasses.dataclass(
    kw_only=True, frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
)
class Settings:
    """Base of the settings below: raises SoundStormError for a missing, unknown or malformed setting."""

    NAMED: ClassVar[str] = "{name}"
    """How errors call a setting; also with `{option}`, its name on a command line."""
    REMEDY: ClassVar[str] = "it must be"
    ADDED_LATER: ClassVar[tuple[str, ...]] = ()
    """Settings that earlier versions did not have, and whose default is what those did."""

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        given = {name: _as_int(value) for name, value in (values.kwargs or {}).items()}
        try:
            return make(ArgsKwargs(values.args, given))
        except ValidationError as error:
            raise cls._refusal(given, error.errors()) from None

    @classmethod
    def _refusal(cls, values: Mapping[str, Any], errors: list[ErrorDetails]) -> SoundStormError:
        known = [field.name for field in fields(cls)]
        name = min((str(error["loc"][0]) for error in errors), key=known.__contains__)
        if name not in known:
            return SoundStormError(f"unknown setting '{name}'; it has {', '.join(known)}")
        if name not in values:
            return SoundStormError(f"setting '{name}' is missing")
        hint = get_type_hints(cls, include_extras=True)[name]
        is_of_its_type = any(
            error["loc"][0] == name and not error["type"].endswith(NOT_OF_ITS_TYPE) for error in errors
        )
        if is_of_its_type and allowed(hint):
            or_none = ", or none" if type(None) in get_args(hint) else ""
            return cls._refused(name, values[name], allowed(hint) + or_none)
        kind = get_type_hints(cls)[name]
        kind = reduce(or_, get_args(kind)) if get_origin(kind) is Union else kind  # `int | None`, not `Optional[int]`
        kind = kind.__name__ if isinstance(kind, type) else kind
        return SoundStormError(f"{cls._named(name)} is {values[name]!r}, expected {kind}")

    @classmethod
    def _named(cls, name: str) -> str:
        return cls.NAMED.format(name=name, option=name.replace("_", "-"))

    @classmethod
    def _refused(cls, name: str, value: object, allowed: str) -> SoundStormError:
        return SoundStormError(f"{cls._named(name)} is {value!r}: {cls.REMEDY} {allowed}")

    def check(self, condition: bool, name: str, allowed: str) -> None:
        """Raise SoundStormError for the setting `name` unless `condition`, which concerns several settings, holds."""
        if not condition:
            raise self._refused(name, getattr(self, name), allowed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those of ADDED_LATER that are the default: records stay as they were."""
        usual = {field.name: field.default for field in fields(self) if field.name in self.ADDED_LATER}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    @classmethod
    def from_dict(cls, values: object, where: str) -> Self:
        """The inverse of `to_dict`; `where` names the file and section in errors."""
        if not isinstance(values, dict):
            raise SoundStormError(f"{where} is not a table of settings but {type(values).__name__}")
        plain = {str(name): tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        try:
            return cls(**plain)
        except SoundStormError as error:
            raise SoundStormError(f"{where}: {error}") from error
