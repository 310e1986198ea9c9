"""How every command starts and ends: options in, one summary line out, problems told as a sentence."""

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
from cluster.scheduling.watchdog import has_abandoned_thread
from jobs.console import starting
from soundstorm.errors import SoundStormError

Options = TypeVar("Options")

console = Console(stderr=True, soft_wrap=True, highlight=False)
"""Where people read: progress, warnings and errors. What a program may read goes to standard output."""

EXIT_PROBLEM = 1
EXIT_INTERRUPTED = starting.EXIT_INTERRUPTED
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_CHARACTERS = 2000
"""Of a message."""


def run_command(
    options_type: type[Options],
    run: Callable[[Options], dict[str, Any]],
    arguments: list[str] | None = None,
    program: str | None = None,
) -> int:
    """Parse the command line into `options_type`, run the job, say where its output is; returns the exit code.

    A problem that the user can mend (`SoundStormError`, `ClusterError`) is one message without a traceback. So is a
    fault of the program, whose traceback goes into a file. Set SOUNDSTORM_DEBUG=1 to see the traceback all the same.
    """
    show_every_character()
    try:
        if threading.current_thread() is threading.main_thread():
            starting.end()
            signal.signal(signal.SIGTERM, _interrupt)  # as schedulers send it
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
            "[bold]interrupted[/]: what is finished is kept; run the same command again (without --overwrite) to go on"
        )
        return EXIT_INTERRUPTED
    except Exception as error:  # the last place where anything can be caught
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
    """How this program was called, where that was by the name of a module."""
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
    """From now on both streams write a character that their encoding lacks as an escape: no text ends a job that has
    done its work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed
                stream.reconfigure(errors="backslashreplace")


def exit_process(code: int) -> NoReturn:
    """End the process with what `start` returned; without tidying up where a thread was left behind that waits in Ray,
    which would crash it."""
    if has_abandoned_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_note(text: str) -> None:
    """Tell people what they should know."""
    console.print(f"[yellow]note:[/] {escape(text)}")


def print_warning(text: str) -> None:
    """Tell people what is probably not what they want."""
    console.print(f"[yellow]warning:[/] {escape(text)}")


def printable(text: str) -> str:
    """`text` on one line, without what a terminal would obey, and not too long to read."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in line)
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[:MAX_CHARACTERS]} ..."


def _say_error(text: str) -> None:
    console.print(f"[bold red]error:[/] {escape(printable(text))}")


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
