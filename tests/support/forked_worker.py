"""Runs in place of Ray's `default_worker.py`: has `tests.support.forked_workers` fork the worker, and lives as long.

Without such a server it becomes an ordinary worker. Only modules that load at once are imported.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

ADDRESS = "SOUNDSTORM_TESTS_FORKED_WORKERS"
"""Variable with the server's socket, and the worker that is run, separated by a line break."""


def main() -> None:
    address, _, worker = os.environ[ADDRESS].partition("\n")
    arguments = [worker, *sys.argv[1:]]
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
        body = json.dumps(asked).encode()
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(body)
        pid = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
    except OSError:
        pid = 0
    if pid == 0:
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    sys.exit(int.from_bytes(connection.recv(8, socket.MSG_WAITALL) or b"\x01", "big"))


if __name__ == "__main__":
    main()
