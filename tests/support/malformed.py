"""Running commands on broken files: how many, what a good answer is, and how many answers were good."""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

from jobs.console.command import run_command

EXAMPLES = int(os.environ.get("SOUNDSTORM_MALFORMED_EXAMPLES", "8"))
"""Broken versions of each kind of file; tests/chaos/malformed.py asks for many."""
SEED = os.environ.get("SOUNDSTORM_MALFORMED_SEED")
"""Without it, the same ones every time."""
PHASES = (Phase.generate,)
"""A failure is told as it was found: looking for a smaller one takes many runs of a job."""
Broken = Callable[[bytes, Path], st.SearchStrategy[bytes]]


@dataclass
class _NoOptions:
    """Nothing to choose."""


def command(module: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a job's command line."""
    return _started(module.Options, module.run, list(arguments))


def call(run: Callable[[], dict[str, Any]]) -> tuple[int, str, str]:
    """The same of a function that is run as a job is."""
    return _started(_NoOptions, lambda _: run(), [])


def _started(options: Any, run: Callable[[Any], dict[str, Any]], arguments: list[str]) -> tuple[int, str, str]:
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in ("strict", "backslashreplace")
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(options, run, arguments, "soundstorm")
    for stream in (out, err):
        stream.seek(0)
    return code, out.read(), err.read()


counted: Counter[str] = Counter()
"""Broken files by what became of them."""


def tell() -> None:
    """Print how many broken files there were, and begin anew."""
    print(f"\nmalformed files: {sum(counted.values())}, of them {dict(counted)}")  # for tests/chaos/malformed.py
    counted.clear()


def many(check: Callable[[], None], examples: int = EXAMPLES) -> Callable[[], None]:
    """`check` for that many broken versions."""
    health = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    run = settings(
        max_examples=examples,
        derandomize=SEED is None,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=health,
    )(check)
    return run if SEED is None else seed(int(SEED))(run)


def few(check: Callable[[], None]) -> Callable[[], None]:
    """The same for a quarter as many, where a run takes seconds."""
    return many(check, max(1, EXAMPLES // 4))


def message_of(result: tuple[int, str, str]) -> str:
    """The one error of a command that failed as it should."""
    code, out, err = result
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, out, len(errors)) == (1, "", 1), (code, out, err)
    assert "Traceback" not in err and "unexpected" not in err, err
    assert errors[0].isprintable()
    return errors[0]
