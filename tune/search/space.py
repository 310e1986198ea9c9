"""What a study searches: names of settings and the values of each, in plain Python.

A file for `--space` defines SPACE:

    from tune.space import Choice, Range

    SPACE = {
        "lr": Range(1e-4, 1e-2, is_log=True),
        "schedule": Choice("cosine", "onecycle"),
        "depth": Range(2, 6, is_whole=True),
    }
"""

import difflib
import itertools
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.sample import Domain

from soundstorm.errors import SoundStormError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    is_log: bool = False
    """Whether values are distributed uniformly in the logarithm."""
    is_whole: bool = False
    """Whole numbers only."""

    def problem(self) -> str | None:
        """Why the range is invalid; None if it is valid."""
        ends = (self.low, self.high)
        if not all(
            isinstance(end, int | float) and not isinstance(end, bool) and abs(end) <= sys.float_info.max
            for end in ends
        ):
            return f"runs from {self.low!r} to {self.high!r}: give two finite numbers"
        if not self.low < self.high or (self.is_log and self.low <= 0):
            return f"runs from {self.low} to {self.high}: give two numbers, the lower first, above 0 if logarithmic"
        if self.is_whole and not all(float(end).is_integer() for end in ends):
            return f"runs from {self.low} to {self.high} in whole numbers: give two whole numbers"
        return None

    def samples(self) -> Sequence[Any]:
        """Values to check: its ends."""
        return [int(end) if self.is_whole else float(end) for end in (self.low, self.high)]

    def domain(self) -> Domain:
        """The range as a domain of Ray Tune."""
        if self.is_whole:
            return (tune.lograndint if self.is_log else tune.randint)(int(self.low), int(self.high) + 1)
        return (tune.loguniform if self.is_log else tune.uniform)(self.low, self.high)


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values: numbers, texts or truth values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def problem(self) -> str | None:
        """Why the choice is invalid; None if it is valid."""
        if len(self.values) < 2:
            return f"has the values {list(self.values)}: give at least two, as Choice(1, 2)"
        odd = [value for value in self.values if not (value is None or isinstance(value, bool | int | float | str))]
        if odd:
            return f"has the value {odd[0]!r}: give numbers, texts or truth values"
        if len(set(self.values)) < len(self.values):
            return f"has the values {list(self.values)}: give different ones"
        return None

    def samples(self) -> Sequence[Any]:
        """All values."""
        return self.values

    def domain(self) -> Domain:
        """The choice as a domain of Ray Tune."""
        return tune.choice(list(self.values))


Space = Mapping[str, Range | Choice]
GROUPS = (("width", "heads"), ("schedule", "warmup_share", "cooldown_share"))
"""Groups of settings in which the value of one restricts the values of the others."""


def load_space(path: str | None, default: Space, option: str = "--space") -> Space:
    """The space defined by the Python file at `path`, the value of `option`; `default` if that is None.

    Raises:
        SoundStormError: the file is missing, fails, or defines no space.
    """
    if path is None:
        return default
    where = f"{option} {path}"
    if not Path(path).is_file():
        raise SoundStormError(
            f"{where}: there is no such file; give a Python file of this machine that defines SPACE = {{'lr': "
            "Range(1e-4, 1e-2)}"
        )
    try:
        found = runpy.run_path(path).get("SPACE")
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        line = (
            traceback.extract_tb(error.__traceback__)[-1].lineno if not isinstance(error, SyntaxError) else error.lineno
        )
        raise SoundStormError(f"{where} fails in line {line} with {type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or not found:
        raise SoundStormError(
            f"{where}: it must define SPACE, a dictionary of names with Range(low, high) or Choice(value, value)"
        )
    return found


def describe_space(space: Space) -> dict[str, str]:
    """A space in the form of a record."""
    return {name: repr(span) for name, span in space.items()}


def check_space(space: Space, allowed: Sequence[str], apply: Callable[[dict[str, Any]], object]) -> None:
    """Raise SoundStormError for a name that is not a setting, an empty range, or a value that is invalid whatever the
    other settings are.

    Combinations that are invalid are not detected in advance: such a trial fails, and the study continues.

    Args:
        allowed: names of settings that may be searched.
        apply: builds the settings of a trial; raises SoundStormError for invalid values.
    """
    for name, span in space.items():
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise SoundStormError(
                f"search space: '{name}' is not a setting that can be searched; {hint}There are {', '.join(allowed)}"
            )
        if not isinstance(span, Range | Choice):
            raise SoundStormError(f"search space: {name} is {span!r}: give Range(low, high) or Choice(value, value)")
        problem = span.problem()
        if problem is not None:
            raise SoundStormError(f"search space: {name} {problem}")
    for name, span in space.items():
        for value in span.samples():
            problem = _problem_of(name, value, space, apply)
            if problem is not None:
                raise SoundStormError(f"search space: {problem}")


def _problem_of(name: str, value: Any, space: Space, apply: Callable[[dict[str, Any]], object]) -> str | None:
    """Why a value is invalid with the preset's values of the other settings and with all of the space's; None if it is
    valid."""
    first: str | None = None
    company = [other for group in GROUPS if name in group for other in group if other != name and other in space]
    for values in [(), *itertools.product(*(space[other].samples() for other in company))]:
        try:
            apply({name: value, **dict(zip(company, values, strict=False))})
        except SoundStormError as error:
            first = first or str(error)
        else:
            return None
    return first
