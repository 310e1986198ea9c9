"""The seconds in which a command imports its libraries: an interrupt, or a library that does not load, is reported in
one sentence.

This module imports only Python's standard library. Afterwards `jobs.console.command.run_command` takes over.
"""

import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPT = "soundstorm"
EXIT_INTERRUPTED = 130
EXTRA_LIBRARIES = {
    "annotated_types", "boto3", "botocore", "filelock", "optuna", "ray", "requests", "rich", "sklearn", "tensorboard",
    "tyro", "urllib3",
}  # fmt: skip
"""Import names of the libraries of the extra `cluster`."""
STOPPED = "interrupted: nothing was started\n"


def begin() -> None:
    """Call it when the process of a command starts; does nothing in a process that only imports the package."""
    if sys.argv[:1] != ["-m"] and Path(sys.argv[0] if sys.argv else "").name != SCRIPT:
        return
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:  # ignored signals stay ignored
            signal.signal(number, _stop)
    sys.excepthook = _report


def end() -> None:
    """The libraries are loaded: restore what `begin` changed."""
    if signal.getsignal(signal.SIGINT) == _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) == _stop:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.excepthook == _report:
        sys.excepthook = sys.__excepthook__


def _stop(number: int, frame: Any) -> None:
    os.write(2, STOPPED.encode())
    os._exit(EXIT_INTERRUPTED)  # a library that is being imported may handle an exception wrongly


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if os.environ.get("SOUNDSTORM_DEBUG"):
        sys.__excepthook__(kind, error, traceback)
        return
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in EXTRA_LIBRARIES:
        sys.stderr.write(
            f"error: the commands need {missing}, which is not installed: run `{Path(sys.executable).name} -m pip "
            "install 'soundstorm-env[cluster]'` (without the extra, only the library is installed)\n"
        )
        return
    if isinstance(error, Exception):
        from jobs.console.compiled_libraries import misfits

        found = misfits()
        if found:
            sys.stderr.write(f"error: {'; '.join(found)}\n")
            return
    sys.__excepthook__(kind, error, traceback)
