"""Workers of the Rays that tests start are forks of one process that has imported PyTorch.

Ray starts a Python for each actor. Of the three seconds of a core that this costs, most are imports of PyTorch, SciPy
and others, in several hundred processes of a run of all tests. Here one process for each pytest worker has imported
them, and forks when a raylet starts a worker (`tests.support.forked_worker`). All else is as in any Ray: a process for
each worker, of which the raylet knows the pid, with the worker's own arguments, variables, folder and streams.

Run as a program, this is the server: its argument is the path of its socket.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.support.forked_worker import ADDRESS  # noqa: E402

IMPORTED = (
    *("torch", "scipy.ndimage", "scipy.signal", "pandas", "pyarrow.compute", "pyarrow.fs", "pyarrow.parquet", "boto3"),
    *("attr", "fsspec", "google.protobuf.message", "jsonschema", "pydantic", "requests", "rich", "tyro", "yaml"),
    *("soundstorm.classification.cnn", "soundstorm.evaluation.acoustic", "soundstorm.generation.edits"),
    *("soundstorm.model.checkpoints", "soundstorm.training.step"),
)
"""What takes a worker longest to import, but for Ray, whose library reads variables that each worker has of its own."""
START_S = 120.0
OFF = "SOUNDSTORM_TESTS_NO_FORKS"
"""Variable that, if set, leaves Ray's way of starting workers as it is."""


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Within the context, raylets that this process starts have their workers forked. The server starts with the first
    of them."""
    if OFF in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    from ray._private import services

    start_raylet = services.start_raylet
    with contextlib.ExitStack() as stack:
        variables: list[dict[str, str]] = []

        def start(*arguments: Any, **options: Any) -> Any:
            if not variables:
                variables.append(_read_at_import())
                stack.enter_context(_server(arguments[_WORKER_PATH]))
            if _read_at_import() != variables[0]:
                return start_raylet(*arguments, **options)
            path = str(Path(__file__).with_name("forked_worker.py"))
            return start_raylet(*arguments[:_WORKER_PATH], path, *arguments[_WORKER_PATH + 1 :], **options)

        services.start_raylet = start
        try:
            yield
        finally:
            services.start_raylet = start_raylet


_WORKER_PATH = 8
"""Position of the argument `worker_path` of Ray's `start_raylet`."""


def _read_at_import() -> dict[str, str]:
    """Variables that Python and Ray read as they start: a raylet that is given others starts its own workers."""
    return {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "PYTHON", "OMP_", "MKL_"))}


@contextlib.contextmanager
def _server(worker: str) -> Iterator[None]:
    """A server, whose address is in the environment."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-workers-") as folder:
        address = str(Path(folder) / "socket")
        process = subprocess.Popen([sys.executable, __file__, address], start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while not Path(address).exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            os.environ[ADDRESS] = f"{address}\n{worker}"
            yield
        finally:
            os.environ.pop(ADDRESS, None)
            process.kill()
            process.wait()


# ---- the server


def serve(address: str) -> None:
    """Fork a worker for each connection, and tell its exit status when it has ended. Ends with the parent."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    parent, clients = os.getppid(), dict[int, socket.socket]()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address + ".new")
    listener.listen(64)
    Path(address + ".new").rename(address)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector.register(read_end, selectors.EVENT_READ)
    while os.getppid() == parent:
        for key, _ in selector.select(timeout=1.0):
            if key.fileobj is listener:
                connection = listener.accept()[0]
                with contextlib.suppress(OSError, ValueError):
                    pid = _fork(connection, [listener, *clients.values()], [read_end, write_end, selector.fileno()])
                    clients[pid] = connection
                    connection.sendall(pid.to_bytes(8, "big"))
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(read_end, 4096)
        _reap(clients)


def _reap(clients: dict[int, socket.socket]) -> None:
    """Tell the clients of workers that have ended."""
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        with clients.pop(pid) as connection, contextlib.suppress(OSError):
            connection.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))


def _fork(connection: socket.socket, sockets: list[socket.socket], descriptors: list[int]) -> int:
    """Fork the worker that a client asks for; returns its pid. Never returns in the worker."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    body = b""
    while len(body) < int.from_bytes(head, "big"):
        body += connection.recv(1 << 20)
    asked = json.loads(body)
    pid = os.fork()
    if pid:
        for stream in streams:
            os.close(stream)
        return pid
    status = 1
    try:
        os.setpgrp()  # as Ray does for each worker: it ends the group of a worker that has ended
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for open_socket in (connection, *sockets):
            open_socket.close()
        for descriptor in descriptors:
            os.close(descriptor)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = asked["arguments"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        random.seed()
        sys.modules["numpy"].random.seed()
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
