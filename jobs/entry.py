"""How every command starts and ends: options in, one summary line out, problems told as a sentence."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from cluster.errors import ClusterError
from soundstorm.errors import SoundStormError

Options = TypeVar("Options")

console = Console(stderr=True, soft_wrap=True)
"""Where people read: progress, warnings and errors. What a program may read goes to standard output."""

EXIT_PROBLEM = 1
EXIT_INTERRUPTED = 130


def start(
    options_type: type[Options], run: Callable[[Options], dict[str, Any]], arguments: list[str] | None = None, program: str | None = None
) -> int:
    """Parse the command line into `options_type`, run the job, say where its output is; returns the exit code.

    A problem that the user can mend (`SoundStormError`, `ClusterError`) is one message without a traceback. Set
    SOUNDSTORM_DEBUG=1 to see the traceback all the same.
    """
    logging.basicConfig(level=os.environ.get("SOUNDSTORM_LOG", "WARNING").upper(), format="%(levelname)s %(name)s: %(message)s")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # as schedulers send it
    try:
        options = tyro.cli(options_type, args=arguments, prog=program)
        summary = run(options)
    except (SoundStormError, ClusterError) as error:
        if os.environ.get("SOUNDSTORM_DEBUG"):
            raise
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        return EXIT_PROBLEM
    except KeyboardInterrupt:
        console.print("[bold]interrupted[/]: what is finished is kept; run the same command again (without --overwrite) to go on", highlight=False)
        return EXIT_INTERRUPTED
    sys.stdout.write(summary["message"] + "\n")
    return 0


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
