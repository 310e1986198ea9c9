"""Runs in place of Ray's `default_worker.py`: has `tests.support.fork_server` fork the worker, and lives as long.

Without the server, or if Python is to begin with other variables than the server did, this process becomes the worker
itself. Only modules that load at once are imported.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

SERVER = "SOUNDSTORM_TESTS_FORK_SERVER"
"""Variable with a JSON object: the server's `address`, the `worker` to run, and the server's own `variables`."""


def read_at_start() -> dict[str, str]:
    """Variables that Python and its libraries read as they start."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "OMP_", "GOMP_", "MKL_"))}


def main() -> None:
    server = json.loads(os.environ[SERVER])
    arguments = [server["worker"], *sys.argv[1:]]
    pid = 0

    def pass_on(number: int, _: object) -> None:
        if pid == 0:
            sys.exit(128 + number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if server["variables"] == read_at_start():
            connection.connect(server["address"])
            asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
            body = json.dumps(asked).encode()
            socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(body)
            pid = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
    except OSError:
        pid = 0
    if pid == 0:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.exit(int.from_bytes(connection.recv(8, socket.MSG_WAITALL) or b"\x01", "big"))


if __name__ == "__main__":
    main()
