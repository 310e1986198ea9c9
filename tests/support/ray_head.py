"""A Ray head for one test or experiment: own ports, folder and token, ended by its processes' ids. Other Rays of the
machine are let be."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 120.0
MODULES_WAIT = "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT"
"""Variable: how long a dashboard waits for its processes before it ends itself; 30 s can be too short here."""
END_S = 5.0
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    """HOST:PORT for `--address`."""
    client_address: str
    """The same as ray://HOST:PORT."""
    dashboard: str
    """URL of the dashboard and of the job server."""
    folder: Path
    """Its sockets, sessions and logs."""
    token_file: Path
    """The token, readable for this user alone."""

    def environment(self) -> dict[str, str]:
        """The variables of somebody who may get in, and none of another Ray."""
        return outsider() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
        }


def outsider() -> dict[str, str]:
    """This process's variables without what leads to a Ray or to a storage."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_AUTH_", "RAY_ADDRESS", "RAY_API_SERVER", "AWS_"))
    }


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on, outside the range that Ray gives its workers."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports += [port] if not 10002 <= (port := int(probe.getsockname()[1])) <= 19999 else []
        return ports


@contextlib.contextmanager
def ray_head(
    *options: str, port: int | None = None, dashboard: bool = True, environment: dict[str, str] | None = None
) -> Iterator[Head]:
    """A head until the end of the block; `options` are further ones of `ray start --head`, `environment` further
    variables of its processes."""
    folder = Path(tempfile.mkdtemp(prefix="ray-test-", dir="/tmp"))  # Ray's sockets need a short path
    token_file = folder / "token"
    with os.fdopen(os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    free, client_port, dashboard_port, agent_port, metrics_port = free_ports(5)
    port = port or free
    head = Head(
        f"127.0.0.1:{port}", f"ray://127.0.0.1:{client_port}", f"http://127.0.0.1:{dashboard_port}", folder, token_file
    )
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "ray-client-server-port": client_port,
        "include-dashboard": str(dashboard).lower(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": agent_port,
        "metrics-export-port": metrics_port,
        "object-store-memory": 200_000_000,
        "temp-dir": folder / "ray",
    }
    command = [
        *RAY,
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        *(f"--{name}={value}" for name, value in flags.items()),
        *options,
    ]
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # a job's `python` is the one of its head
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=head.environment() | {"PATH": path, MODULES_WAIT: str(START_S)} | (environment or {}),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        job_server = [
            head.dashboard.removeprefix("http://"),
            f"127.0.0.1:{agent_port}",
        ]  # without its agent it refuses jobs
        for address in [head.address, *(job_server if dashboard else [])]:
            _await(address, process, folder / "log")
        yield head
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_S)
        end_processes_of(folder)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the Ray head did not start: {log.read_text()[-3000:]}") from None
            time.sleep(0.2)


def end_processes_of(folder: Path) -> None:
    """End the processes that name `folder` on their command line or in their variables, and no others."""
    name = str(folder).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and (
                name in (entry / "cmdline").read_bytes() or name in (entry / "environ").read_bytes()
            ):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile, or is not ours to look into
            continue
