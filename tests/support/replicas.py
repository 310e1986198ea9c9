"""Processes of the replicas that a Ray of this process's own has, to be ended by their ids."""

import os
from pathlib import Path

NAME = "ray::ServeReplica:soundstorm:Generator"


def makers() -> list[int]:
    """Process ids of the replicas of the generator below this process's Ray."""
    processes = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in processes if _command_of(pid).startswith(NAME) and os.getpid() in _ancestors(pid)]


def _ancestors(pid: int) -> list[int]:
    """The process's parent, its parent, and so on."""
    parent = _parent_of(pid)
    return [parent, *_ancestors(parent)] if parent else []


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
