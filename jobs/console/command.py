"""Start and end of every command: it parses options, prints one summary line, and reports problems as a sentence."""

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from cluster.errors import ClusterError
from cluster.scheduling.abandonable import has_abandoned_thread
from jobs.console import starting
from soundstorm.errors import SoundStormError

Options = TypeVar("Options")

console = Console(stderr=True, soft_wrap=True, highlight=False)
"""Console on standard error for people: progress, warnings and errors. Results for programs go to standard output."""

EXIT_PROBLEM = 1
EXIT_INTERRUPTED = starting.EXIT_INTERRUPTED
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_CHARACTERS = 2000
"""Longest message."""


def run_command(
    options_type: type[Options],
    run: Callable[[Options], dict[str, Any]],
    arguments: list[str] | None = None,
    program: str | None = None,
) -> int:
    """Parse the command line into `options_type`, run the job and print its summary; returns the exit code.

    A problem that the user can fix (`SoundStormError`, `ClusterError`) is shown as one message without a traceback. So
    is a fault of the program; its traceback is written to a file. With SOUNDSTORM_DEBUG=1 the traceback is shown.
    """
    show_every_character()
    try:
        if threading.current_thread() is threading.main_thread():
            starting.end()
            signal.signal(signal.SIGTERM, _interrupt)  # sent by schedulers
        logging.basicConfig(level=_log_level(), format="%(levelname)s %(name)s: %(message)s")
        options = tyro.cli(options_type, args=arguments, prog=program or _module())
        summary = run(options)
    except (SoundStormError, ClusterError) as error:
        if os.environ.get("SOUNDSTORM_DEBUG"):
            raise
        _say_error(str(error))
        return EXIT_PROBLEM
    except KeyboardInterrupt:
        console.print(
            "[bold]interrupted[/]: what is finished is kept; run the same command again (without --overwrite) to resume"
        )
        return EXIT_INTERRUPTED
    except Exception as error:  # the outermost handler
        if os.environ.get("SOUNDSTORM_DEBUG"):
            raise
        with tempfile.NamedTemporaryFile(
            "w", prefix="soundstorm-traceback-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            traceback.print_exc(file=file)
        _say_error(
            f"unexpected {type(error).__name__}: {error}. This is a fault of the program: please report it with "
            f"{file.name}"
        )
        return EXIT_PROBLEM
    sys.stdout.write(printable(summary["message"]) + "\n")
    return 0


def _module() -> str | None:
    """`python -m MODULE` if this program was started so, else None."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else f"python -m {spec.name}"


def _log_level() -> str:
    level = os.environ.get("SOUNDSTORM_LOG", "WARNING").upper()
    if level not in LOG_LEVELS:
        raise SoundStormError(
            f"SOUNDSTORM_LOG is '{os.environ['SOUNDSTORM_LOG']}': give one of {', '.join(LOG_LEVELS)}, or unset it"
        )
    return level


def show_every_character() -> None:
    """Make both streams write characters that their encoding lacks as escapes: such a text must not fail a finished
    job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed
                stream.reconfigure(errors="backslashreplace")


def exit_process(code: int) -> NoReturn:
    """End the process with the exit code of `run_command`. If an abandoned thread still works or waits, skip the
    clean-up of Python, which would wait for it or crash."""
    if has_abandoned_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_note(text: str) -> None:
    """Print a note."""
    console.print(f"[yellow]note:[/] {escape(text)}")


def print_warning(text: str) -> None:
    """Print a warning about something that is probably not intended."""
    console.print(f"[yellow]warning:[/] {escape(text)}")


def printable(text: str) -> str:
    """`text` on one line, with control characters escaped, and cut to MAX_CHARACTERS."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in line)
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[:MAX_CHARACTERS]} ..."


def _say_error(text: str) -> None:
    console.print(f"[bold red]error:[/] {escape(printable(text))}")


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
