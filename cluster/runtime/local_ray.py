"""A Ray of its own for this process: what it is told before it starts, and what it may print."""

import contextlib
import os
import secrets
import site
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.runtime.ray_init import init_ray

ROOT = Path(__file__).resolve().parents[2]
"""The folder that the packages are in."""
CONSIDERATE = {"OMP_WAIT_POLICY": "passive", "RAY_worker_niceness": "0"}
"""Variables of a Ray started here, unless they are set: threads sleep while they wait, and workers are as important as
other processes."""


def start_local(num_cpus: int | None, log_to_driver: bool) -> None:
    """Start Ray on this machine. Its workers inherit the environment, AWS variables included, and import the packages
    from where we did."""
    make_private_token()
    # Ray's core would print warnings about its own actors into a job's progress
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name, value in CONSIDERATE.items():
        os.environ.setdefault(name, value)
    with _workers_find_packages(), _quiet_core():
        init_ray(
            "Ray could not start on this machine (it needs a writable home folder and /tmp; RAY_TMPDIR names another "
            "/tmp; where other work takes all of its time, try again)",
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=log_to_driver,
        )


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """Keep back what Ray's core writes to standard error while it starts (it announces its log level); show it if the
    start fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def make_private_token() -> None:
    """Ray would write the token of a new local cluster readable for all users of the machine; so write it first, for
    this user alone."""
    if (
        os.environ.get("RAY_AUTH_MODE", "token") != "token"
        or os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
    ):
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # there is one already, or Ray will say what is wrong
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="auth_token.") as file:  # for this user alone
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # whole: another Ray that starts now must not read half of it


@contextlib.contextmanager
def _workers_find_packages() -> Iterator[None]:
    """Have workers started meanwhile import our packages from this checkout, unless they are installed anyway."""
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
