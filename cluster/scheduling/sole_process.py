"""One process at a time in an output folder, local or remote: the second gets an error that names the first.

The process writes `NAME.at-work.json` and rewrites it every few seconds. The operating system tells whether a process
on this machine is alive; a process on another machine counts as alive if it rewrites its file within a time limit. A
killed process blocks others no longer than that.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import storage
from cluster.errors import ClusterError, NotFoundError

BEAT_S = 10.0
HEARD_S = 2.5 * BEAT_S
"""Time limit in seconds after which a process of another machine that has not rewritten its file counts as dead."""
POLL_S = 1.0


@contextlib.contextmanager
def sole_process(output_uri: str, name: str) -> Iterator[None]:
    """Context manager: no other process runs `name` in the folder `output_uri`.

    Raises:
        ClusterError: another process does.
    """
    uri = storage.join(output_uri, f"{name}.at-work.json")
    me = {
        "machine": _machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "token": secrets.token_hex(8),
    }
    while not storage.create_bytes(uri, _content(me, 0)):
        other = _read(uri)
        if other and _is_at_work(uri, other):
            raise ClusterError(
                f"{output_uri}: another `{name}` is running there (process {other.get('pid')} on "
                f"{other.get('host')}); wait until it ends, or "
                "stop it and run again, or give another --output-dir"
            )
        storage.delete(uri)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, me, ended), name="at work", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.delete(uri)


def _beat(uri: str, me: dict[str, object], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        with contextlib.suppress(ClusterError):  # if storage is gone, the work itself raises the error
            storage.write_bytes(uri, _content(me, beat))


def _is_at_work(uri: str, other: dict[str, object]) -> bool:
    """Whether the process that wrote `other` is alive."""
    if other.get("machine") == _machine() and isinstance(other.get("pid"), int):
        return _born(int(str(other["pid"]))) == other.get("born")
    deadline = time.monotonic() + HEARD_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        now = _read(uri)
        if now != other:
            return now is not None
    return False


def _content(me: dict[str, object], beat: int) -> bytes:
    return (json.dumps(me | {"beat": beat}) + "\n").encode()


def _read(uri: str) -> dict[str, object] | None:
    """The content of the file at `uri`; None if it does not exist or was not written by this module."""
    try:
        found = json.loads(storage.read_bytes(uri))
    except (NotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _machine() -> str:
    """Identifies this machine, and this container on it: the scope in which process ids are valid."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()


def _born(pid: int) -> str:
    """Start time of the process in system ticks; "" if it does not exist or has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass  # it belongs to another user
        return "lives"
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
