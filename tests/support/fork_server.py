"""Workers of the Rays that tests start are forks of one process that has imported PyTorch and Ray.

Ray starts a Python for each actor. Of the four seconds of a core that this costs, most are imports of PyTorch, Ray and
others, in several hundred processes of a run of all tests. Here one process for each pytest worker has imported
PyTorch and others. A fork of it for each raylet has imported Ray, whose library reads variables of the raylet and of
its job, and forks when the raylet starts a worker (`tests.support.fork_client`). Else it is as in any Ray: a process
for each worker, of which the raylet knows the pid, with the worker's own arguments, variables, folder and streams. Only
the order of sets of texts is the same in all of them: processes that tests start by themselves have others.

Run as a program, this is the server: its arguments are the path of its socket and the pid of its parent.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

SEARCHED = sys.path[1:]
ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.support.fork_client import SERVER, read_at_start  # noqa: E402

IMPORTED = (
    *("torch", "scipy.ndimage", "scipy.signal", "pandas", "pyarrow.compute", "pyarrow.fs", "pyarrow.parquet", "boto3"),
    *("attr", "fsspec", "google.protobuf.message", "jsonschema", "pydantic", "requests", "rich", "tyro", "yaml"),
    *("click", "filelock", "msgpack", "rich.progress", "optuna"),
    *("torch._dynamo", "torch.utils.tensorboard"),  # the first comes with the first step of any optimizer
    *("soundstorm.classification.cnn", "soundstorm.evaluation.features", "soundstorm.editing.edits"),
    *("soundstorm.model.checkpoints", "soundstorm.training.step", "soundstorm.codec.fitting"),
    *("soundstorm.classification.token_classifier", "soundstorm.data.datasets", "cluster.storage"),
)
"""What takes a worker longest to import, but for Ray."""
IMPORTED_OF_RAY = ("ray", "ray.data", "ray.train.torch", "ray.util.queue", "ray.util.state")
SET_BY_IMPORTS: dict[str, str] = {}
"""Variables that importing Ray sets."""
START_S = 120.0
ANSWER_S = 10.0
"""Longest wait for a client's message."""
OFF = "SOUNDSTORM_TESTS_NO_FORKS"
"""Variable that, if set, leaves Ray's way of starting workers as it is."""
_WORKER_PATH = 8
"""Position of the argument `worker_path` of Ray's `start_raylet`; `setup_worker_path` comes after it."""


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Within the context, raylets that this process starts have their workers forked. The server starts with the first
    of them."""
    if OFF in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    from ray._private import services

    os.environ.pop(SERVER, None)  # that of a parent, which forks for its own Rays only
    start_raylet = services.start_raylet
    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Any:
            if SERVER not in os.environ:
                stack.enter_context(_server(arguments[_WORKER_PATH]))
            ours = [str(Path(__file__).with_name(name)) for name in ("fork_client.py", "fork_setup_worker.py")]
            return start_raylet(*arguments[:_WORKER_PATH], *ours, *arguments[_WORKER_PATH + 2 :], **options)

        services.start_raylet = start
        try:
            yield
        finally:
            services.start_raylet = start_raylet


@contextlib.contextmanager
def _server(worker: str) -> Iterator[None]:
    """A server, whose address is in the environment."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-fork-") as folder:
        address = Path(folder) / "socket"
        command = [sys.executable, __file__, str(address), str(os.getpid())]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while not address.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            about = {"address": str(address), "worker": worker, "variables": read_at_start()}
            os.environ[SERVER] = json.dumps(about)
            yield
        finally:
            os.environ.pop(SERVER, None)
            process.kill()
            process.wait()


# ---- the server


class Server:
    """Hands each request for a worker on to the forker of its Ray, which it starts with the first of them."""

    def __init__(self, address: str) -> None:
        self.forkers: dict[frozenset[tuple[str, str]], socket.socket] = {}
        """The connection to each forker, by the variables that Ray reads as it is imported."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address + ".new")
        self.listener.listen(64)
        Path(address + ".new").rename(address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of forkers no status is kept

    def run(self, parent: int) -> None:
        """Serve until the process `parent` has ended."""
        while os.getppid() == parent:
            if select.select([self.listener], [], [], 1.0)[0]:
                self._accept()

    def _accept(self) -> None:
        streams: list[int] = []
        with self.listener.accept()[0] as connection:
            try:
                connection.settimeout(ANSWER_S)
                body, streams = _request(connection, 3)
                forker = self._forker(json.loads(body)["environment"])
                connection.settimeout(None)
                _send_request(forker, body, [connection.fileno(), *streams])
            except (OSError, ValueError):  # the client becomes the worker
                pass
            finally:
                for stream in streams:
                    os.close(stream)

    def _forker(self, environment: dict[str, str]) -> socket.socket:
        variables = {name: value for name, value in environment.items() if name.startswith("RAY_")}
        key = frozenset(variables.items())
        if key not in self.forkers:
            self.forkers[key], theirs = socket.socketpair()
            if os.fork() == 0:
                for open_socket in (self.listener, *self.forkers.values()):
                    open_socket.close()
                _fork_workers(theirs, variables)
            theirs.close()
        return self.forkers[key]


def _fork_workers(requests: socket.socket, variables: dict[str, str]) -> NoReturn:
    """Import Ray under its `variables`, fork the workers that are asked for, and end the process."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        searched, environment = list(sys.path), dict(os.environ)
        os.environ.update(variables)
        _import_ray()
        SEARCHED[:0] = [folder for folder in sys.path if folder not in searched]
        before = environment | variables
        SET_BY_IMPORTS.update({name: value for name, value in os.environ.items() if before.get(name) != value})
        gc.freeze()
        Forker(requests).run(int(variables["RAY_RAYLET_PID"]))
    except ConnectionResetError:  # the server has ended
        pass
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _import_ray() -> None:
    """Import Ray and leave its generator of random ids unused: else all forks would draw the same ids."""
    actor: Any = importlib.import_module("ray.actor")
    real = actor.ActorClassID
    actor.ActorClassID = SimpleNamespace(from_random=lambda: real(os.urandom(len(real.nil().binary()))))
    for module in IMPORTED_OF_RAY:
        importlib.import_module(module)
    actor.ActorClassID = real


class Forker:
    """Forks a worker for each request, tells its exit status when it has ended, and ends it if its client ends."""

    def __init__(self, requests: socket.socket) -> None:
        self.clients: dict[int, socket.socket] = {}
        """The connection of each worker, by pid."""
        self.requests = requests
        self.wakeup = os.pipe()
        for end in self.wakeup:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.wakeup[1])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.requests, selectors.EVENT_READ)
        self.selector.register(self.wakeup[0], selectors.EVENT_READ)

    def run(self, raylet: int) -> None:
        """Serve until the process `raylet` has ended and with it the workers. Raises OSError if the server ends."""
        while self.clients or Path(f"/proc/{raylet}").exists():
            for key, _ in self.selector.select(timeout=1.0):
                if key.fileobj is self.requests:
                    self._fork()
                elif key.data is not None:  # the client has ended: a client sends nothing more
                    self.selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wakeup[0], 4096)
            self._reap()

    def _fork(self) -> None:
        body, (descriptor, *streams) = _request(self.requests, 4)
        connection = socket.socket(fileno=descriptor)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(json.loads(body), connection, streams)
            self.clients[pid] = connection
            self.selector.register(connection, selectors.EVENT_READ, pid)
            with contextlib.suppress(OSError):  # its client has ended, which is seen next
                connection.sendall(pid.to_bytes(8, "big"))
        finally:
            for stream in streams:
                os.close(stream)

    def _reap(self) -> None:
        """Tell the clients of workers that have ended."""
        while self.clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            with self.clients.pop(pid) as connection:
                with contextlib.suppress(KeyError):  # its client has ended before
                    self.selector.unregister(connection)
                with contextlib.suppress(OSError):
                    connection.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))

    def _become_worker(self, asked: dict[str, Any], connection: socket.socket, streams: list[int]) -> None:
        """Run the worker in this process, a fork, and end it."""
        status = 1
        try:
            os.setpgrp()  # as Ray does for each worker: it ends the group of a worker that has ended
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for open_socket in (connection, self.requests, *self.clients.values()):
                open_socket.close()
            for descriptor in (*self.wakeup, self.selector.fileno()):
                os.close(descriptor)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.environ.clear()
            os.environ.update(SET_BY_IMPORTS | asked["environment"])
            os.chdir(asked["folder"])
            sys.argv = asked["arguments"]
            sys.path[:] = [str(Path(sys.argv[0]).parent), *SEARCHED]
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


def _request(connection: socket.socket, descriptors: int) -> tuple[bytes, list[int]]:
    """What a client asks for, and the open files that it sends along. Raises OSError if it ends before."""
    head, files, _, _ = socket.recv_fds(connection, 8, descriptors)
    try:
        if len(files) != descriptors:
            raise ConnectionResetError
        return _received(connection, int.from_bytes(head, "big")), files
    except OSError:
        for file in files:
            os.close(file)
        raise


def _send_request(connection: socket.socket, body: bytes, files: list[int]) -> None:
    socket.send_fds(connection, [len(body).to_bytes(8, "big")], files)
    connection.sendall(body)


def _received(connection: socket.socket, length: int) -> bytes:
    """`length` bytes from a client. Raises OSError if it ends before."""
    body = b""
    while len(body) < length:
        more = connection.recv(length - len(body))
        if not more:
            raise ConnectionResetError
        body += more
    return body


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    Server(sys.argv[1]).run(parent=int(sys.argv[2]))
