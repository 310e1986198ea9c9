"""What `ray job submit --working-dir .` takes along from a folder: all that no .gitignore and no .rayignore in it
names."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, get_excludes_from_ignore_files

logger = logging.getLogger(__name__)

MUCH_BYTES = 20 * 10**6
"""The code alone is far smaller."""
MAX_LISTED = 3
LIMIT_S = 5.0
"""A folder that takes longer to look through is far too large to be sent."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What would be sent."""

    num_bytes: int
    """Before they are packed."""
    largest: list[tuple[str, int]]
    """Names of files and folders right in the folder, with a slash after those of folders, and their bytes; the largest
    first."""
    is_whole: bool
    """False: it was too much to look through."""

    def __str__(self) -> str:
        amount = f"{'' if self.is_whole else 'more than '}{_size(self.num_bytes)}"
        if self.num_bytes < MUCH_BYTES and self.is_whole:
            return f"`ray job submit --working-dir .` from here takes along {amount}"
        named = ", ".join(f"{name} ({_size(num_bytes)})" for name, num_bytes in self.largest[:MAX_LISTED])
        refused = (
            f", and Ray refuses more than {_size(GCS_STORAGE_MAX_SIZE)}"
            if self.num_bytes > GCS_STORAGE_MAX_SIZE
            else ""
        )
        first = self.largest[0][0] if self.largest else "folder/"
        return (
            f"`ray job submit --working-dir .` from here would take along {amount}{refused}: {named}; name what the "
            "job does not need in .rayignore, "
            f"a line each as in .gitignore (`/{first}`), or put it elsewhere"
        )

    @property
    def is_much(self) -> bool:
        """Whether somebody should look at it."""
        return self.num_bytes >= MUCH_BYTES or not self.is_whole


def what_is_sent(folder: Path, limit_s: float = LIMIT_S) -> Sent:
    """Look through `folder` as Ray does, for `limit_s` seconds at most."""
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
