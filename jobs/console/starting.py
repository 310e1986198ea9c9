"""What a command says while its libraries are loaded, which takes seconds: stopped then, or a library that does not
load, it says so in one sentence.

Nothing is imported here that is not Python's own. `jobs.console.command.run_command` takes over.
"""

import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPT = "soundstorm"
EXIT_INTERRUPTED = 130
OF_THE_EXTRA = {
    "annotated_types", "boto3", "botocore", "optuna", "ray", "requests", "rich", "sklearn", "tensorboard", "tyro",
    "urllib3",
}  # fmt: skip
"""What the extra `cluster` installs, by the names that are imported."""
STOPPED = "interrupted: nothing was begun\n"


def begin() -> None:
    """To be called as a command's process begins; does nothing in one that only imports the package."""
    if sys.argv[:1] != ["-m"] and Path(sys.argv[0] if sys.argv else "").name != SCRIPT:
        return
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:  # what is ignored stays ignored
            signal.signal(number, _stop)
    sys.excepthook = _tell


def end() -> None:
    """The libraries are loaded: put back what `begin` changed."""
    if signal.getsignal(signal.SIGINT) == _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) == _stop:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.excepthook == _tell:
        sys.excepthook = sys.__excepthook__


def _stop(number: int, frame: Any) -> None:
    os.write(2, STOPPED.encode())
    os._exit(EXIT_INTERRUPTED)  # a library that is half loaded may take an exception for something else


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if os.environ.get("SOUNDSTORM_DEBUG"):
        sys.__excepthook__(kind, error, traceback)
        return
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in OF_THE_EXTRA:
        sys.stderr.write(
            f"error: {missing} is not installed, which the commands need: run `{Path(sys.executable).name} -m pip "
            "install 'soundstorm-env[cluster]'` (the package alone is the library)\n"
        )
        return
    if isinstance(error, Exception):
        from jobs.console.compiled_libraries import misfits

        found = misfits()
        if found:
            sys.stderr.write(f"error: {'; '.join(found)}\n")
            return
    sys.__excepthook__(kind, error, traceback)
