"""The files that `ray job submit --working-dir .` sends: all in a folder that no .gitignore and no .rayignore in it
lists."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, get_excludes_from_ignore_files

logger = logging.getLogger(__name__)

MUCH_BYTES = 20 * 10**6
"""Size above which a note is shown; the code alone is far smaller."""
MAX_LISTED = 3
LIMIT_S = 5.0
"""Time limit for listing a folder; one that takes longer is far too large to be sent."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The files that would be sent."""

    num_bytes: int
    """Uncompressed size."""
    largest: list[tuple[str, int]]
    """Files and folders (with a slash) directly in the folder, with their sizes; largest first."""
    is_whole: bool
    """False: listing was aborted at the time limit."""

    def __str__(self) -> str:
        amount = f"{'' if self.is_whole else 'more than '}{_size(self.num_bytes)}"
        if self.num_bytes < MUCH_BYTES and self.is_whole:
            return f"`ray job submit --working-dir .` from here sends {amount}"
        named = ", ".join(f"{name} ({_size(num_bytes)})" for name, num_bytes in self.largest[:MAX_LISTED])
        refused = (
            f", and Ray refuses more than {_size(GCS_STORAGE_MAX_SIZE)}"
            if self.num_bytes > GCS_STORAGE_MAX_SIZE
            else ""
        )
        first = self.largest[0][0] if self.largest else "folder/"
        return (
            f"`ray job submit --working-dir .` from here would send {amount}{refused}: {named}; list what the job "
            f"does not need in .rayignore, as in .gitignore (`/{first}`), or put it elsewhere"
        )

    @property
    def is_much(self) -> bool:
        """Whether it is so much that a note is shown."""
        return self.num_bytes >= MUCH_BYTES or not self.is_whole


def what_is_sent(folder: Path, limit_s: float = LIMIT_S) -> Sent:
    """List `folder` as Ray does, for at most `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    sizes: dict[str, int] = {}
    todo: list[tuple[Path, str, list[Callable[[Path], bool]]]] = [(folder.absolute(), "", [])]
    while todo and time.monotonic() < deadline:
        here, top, excludes = todo.pop()
        excludes = [*excludes, *get_excludes_from_ignore_files(here, include_gitignore=True, logger=logger)]
        for entry in os.scandir(here):
            path = here / entry.name
            is_folder = entry.is_dir()
            # Ray looks into a folder that `name/` ignores, and then leaves out every file in it.
            if any(excluded(path) or (is_folder and excluded(path / "-")) for excluded in excludes):
                continue
            name = top or f"{entry.name}{'/' if is_folder else ''}"
            if is_folder:
                todo.append((path, name, excludes))
            elif entry.is_file():
                sizes[name] = sizes.get(name, 0) + entry.stat().st_size
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])
    return Sent(sum(sizes.values()), largest, not todo)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.0f} kB"
