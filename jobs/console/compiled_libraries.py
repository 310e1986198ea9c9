"""Checks that the compiled libraries can be imported together.

    python -m jobs.console.compiled_libraries

They are imported in a subprocess, and this module itself imports only the standard library, so that it works even if
nothing else does.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARTNERS = {
    "numpy": None,
    "scipy": "numpy",
    "pyarrow": "numpy",
    "torch": "numpy",
    "torchaudio": "torch",
    "soundfile": "numpy",
    "soxr": "numpy",
}
"""Libraries with what each is compiled against, in the order in which they are loaded."""
PACKAGE = "soundstorm-env"
TESTED = Path(__file__).resolve().parents[2] / "constraints.txt"
"""Versions that were tested together, where this is a checkout."""
LIMIT_S = 300.0
MAX_CHARACTERS = 200
LOAD = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name, "begun"]), flush=True)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name == name
        print(json.dumps([name, "missing" if missing else f"{type(error).__name__}: {error}"]), flush=True)
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        print(json.dumps([name, f"{type(error).__name__}: " + lines[0]]), flush=True)
    else:
        print(json.dumps([name, ""]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A library that does not load."""

    library: str
    reason: str
    """The error; "missing" if it is not installed."""

    def __str__(self) -> str:
        partner = PARTNERS.get(self.library)
        name = f"{self.library} {_version(self.library)}".strip()
        if self.reason == "missing":
            return f"{self.library} is not installed: {_remedy([self.library])}"
        if partner is None:
            return f"{name} does not load ({self.reason}): {_remedy([self.library])}"
        return (
            f"{name} does not load beside {partner} {_version(partner)} ({self.reason}): "
            f"{_remedy([partner, self.library])}"
        )


def misfits(libraries: Sequence[str] = tuple(PARTNERS)) -> list[str]:
    """A sentence for each of `libraries` that cannot be imported; libraries that only fail because of another one are
    not reported."""
    found = {library: reason for library, reason in _load(libraries).items() if reason}
    return [str(Misfit(library, reason)) for library, reason in found.items() if PARTNERS.get(library) not in found]


def versions() -> str:
    """The installed libraries with their versions."""
    return ", ".join(f"{library} {found}" for library in PARTNERS if (found := _version(library)))


def _load(libraries: Sequence[str]) -> dict[str, str]:
    """The error of each library, "" if there is none. If a library crashes the process, the others are imported without
    it."""
    reasons: dict[str, str] = {}
    while todo := [library for library in libraries if library not in reasons]:
        try:
            done = subprocess.run(
                [sys.executable, "-c", LOAD, *todo],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
            output, ended = done.stdout, f"its process ended with {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output, ended = (error.stdout or b"").decode(errors="replace"), f"nothing happened for {LIMIT_S:g} s"
        messages = [json.loads(line) for line in output.splitlines() if re.match(r'^\["\w+", ".*"\]$', line)]
        reasons |= {name: reason[:MAX_CHARACTERS] for name, reason in messages if reason != "begun"}
        if not messages or messages[-1][1] == "begun":
            reasons[messages[-1][0] if messages else todo[0]] = ended
    return reasons


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _remedy(libraries: Sequence[str]) -> str:
    """The command that installs tested versions of `libraries`, or versions that the package allows."""
    start = f"run `{Path(sys.executable).name} -m pip install --force-reinstall"
    if TESTED.is_file():
        return f"{start} --constraint {TESTED} {' '.join(libraries)}`"
    try:
        needed = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
    ranges = {
        re.split(r"[^\w-]", line, maxsplit=1)[0]: line.partition(";")[0].strip()
        for line in needed
        if "extra ==" not in line
    }
    return f"{start} {' '.join(repr(ranges.get(library, library)) for library in libraries)}`"


def main() -> int:
    """Print the errors; returns the exit code."""
    found = misfits()
    if found:
        sys.stderr.write("".join(f"error: {sentence}\n" for sentence in found))
        return 1
    sys.stdout.write(f"{versions()}: all can be imported together\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
