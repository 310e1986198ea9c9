"""Start of a local Ray for this process: its settings, its token and its output."""

import contextlib
import os
import secrets
import site
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from cluster.runtime.ray_init import init_ray

ROOT = Path(__file__).resolve().parents[2]
"""Folder that contains the packages."""
DEFAULT_VARIABLES = {"GOMP_SPINCOUNT": "5000", "RAY_worker_niceness": "0"}
"""Defaults of variables for a local Ray: threads that wait for each other spin briefly, then sleep, and workers have
the priority of other processes."""


def start_local(num_cpus: int | None, log_to_driver: bool) -> None:
    """Start Ray on this machine. Its workers inherit the environment, with the AWS variables, and import the same
    packages."""
    make_private_token()
    # Ray's core would print warnings among the job's progress lines
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name, value in DEFAULT_VARIABLES.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:  # the policy that the user chose
            os.environ.setdefault(name, value)
    with _workers_find_packages(), _quiet_core():
        init_ray(
            "Ray could not start on this machine (it needs a writable home folder and /tmp; RAY_TMPDIR names another "
            "/tmp; if the machine is overloaded, try again)",
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=log_to_driver,
        )


class _StderrByThread:
    """Stands for `sys.stderr` while file descriptor 2 is redirected: what other threads print goes to `fd`."""

    def __init__(self, stream: TextIO, fd: int) -> None:
        self.stream, self.fd = stream, fd
        self.lock, self._redirected = threading.Lock(), threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._redirected:
            return self.stream.write(text)
        with self.lock:
            os.write(self.fd, text.encode(self.stream.encoding, "backslashreplace"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """Hold back what Ray writes to standard error while it starts; show it if the start fails. What other threads print
    is shown."""
    stream = sys.stderr
    stream.flush()
    kept = os.dup(2)
    by_thread = _StderrByThread(stream, kept)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        if _is_standard_error(stream):
            sys.stderr = cast(TextIO, by_thread)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            sys.stderr = stream
            with by_thread.lock:  # whoever keeps it, such as a handler of logging, writes on
                os.dup2(kept, 2)
                os.close(kept)
                by_thread.fd = 2


def _is_standard_error(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except OSError:  # a stream in memory
        return False


def make_private_token() -> None:
    """Write the token of local clusters, readable by this user alone: Ray would make it readable by all users."""
    if (
        os.environ.get("RAY_AUTH_MODE", "token") != "token"
        or os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
    ):
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # the token exists, or Ray reports what is wrong
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix="auth_token."
        ) as file:  # readable by this user alone
            token = secrets.token_hex(32)
            file.write(token)
            file.flush()
            try:
                os.link(file.name, path)  # atomic: another Ray that starts now must not read a part
            except OSError:  # the token exists, which the next line refuses, or there are no hard links
                path.touch(mode=0o600, exist_ok=False)
                path.write_text(token)


@contextlib.contextmanager
def _workers_find_packages() -> Iterator[None]:
    """Let workers that start meanwhile import our packages from this checkout, unless they are installed."""
    before = os.environ.get("PYTHONPATH")
    if str(ROOT) not in [*site.getsitepackages(), site.getusersitepackages()]:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before
