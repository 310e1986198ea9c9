"""`soundstorm serve`: the endpoint and the page, on a Ray that starts here or on a cluster that runs."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated, Any

import ray
from annotated_types import Ge, Le

from cluster.runtime.connect import connect
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.options import Allowed, Count
from jobs.serving.settings import EndpointSettings
from soundstorm.errors import SoundStormError

EXTRA = ("fastapi", "multipart")
"""Import names of the libraries of the extra `serve`, without which there is no endpoint."""
PORT = 8000


@dataclass(kw_only=True)
class Options(EndpointSettings):
    """Serve sound on demand: an endpoint (POST /v1/generate and others) and a page, on Ray Serve, until Ctrl-C."""

    host: str = "127.0.0.1"
    """Address that is listened on; any but this machine's own needs a token in the variable SOUNDSTORM_TOKEN."""
    port: Annotated[int, Ge(1), Le(65535), Allowed("1 to 65535")] = PORT
    """Port that is listened on."""
    address: str | None = None
    """Address of the Ray cluster to join; default: start Ray on this machine."""
    num_cpus: Count | None = None
    """Cores of a Ray that starts here; default: all."""


def run(options: Options) -> dict[str, Any]:
    """Serve until the process is interrupted.

    Raises:
        SoundStormError: something is missing, or the endpoint cannot start.
        ClusterError: the cluster cannot be joined, or the model cannot be read.
    """
    with served(options) as url:
        console.print(f"sound at {url}/v1/generate, the page at {url}/ ; Ctrl-C ends it", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print_note("the endpoint ends")
    return {"message": f"{url} has ended"}


@contextmanager
def served(options: Options) -> Iterator[str]:
    """The endpoint until the end of the block, as its URL."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise SoundStormError(
            f"`soundstorm serve` needs {' and '.join(missing)}, not installed here: "
            "run `pip install 'soundstorm-env[cluster,serve]'`"
        )
    from ray import serve

    from jobs.serving.application import NAME, TOKEN_VARIABLE, application, given_token

    token = given_token()
    if token is None and not _is_own(options.host):
        raise SoundStormError(
            f"--host is {options.host}, where others reach it: put a token into the variable {TOKEN_VARIABLE}, such as "
            "that of `openssl rand -hex 32`; requests bring it in the header `Authorization: Bearer TOKEN`"
        )
    if options.page and find_spec("gradio") is None:
        print_note("Gradio is not installed: the endpoint has no page")
    is_own = not ray.is_initialized()
    with connect(options.address, options.num_cpus) as info:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        was_there = _listens_on()
        if was_there is not None and was_there != (options.host, options.port):
            raise SoundStormError(
                f"Ray Serve runs on this cluster and listens on {was_there[0]}:{was_there[1]}: give that as --host and "
                "--port, or end it first"
            )
        app = application(options, token)
        try:
            serve.start(http_options={"host": options.host, "port": options.port})
            serve.run(app, name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError, ValueError) as error:
            why = _why(error)
            _end(was_there is None)
            raise SoundStormError(f"the endpoint did not start: {why}") from error
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            yield f"http://{host}:{options.port}"
        finally:
            if not (is_own and info.started_here):  # a Ray of its own ends as a whole
                _end(was_there is None)


def _end(all_of_it: bool) -> None:
    """Take the application away, and Ray Serve too where it was started for it."""
    from ray import serve

    from jobs.serving.application import NAME

    if all_of_it:
        serve.shutdown()
    else:
        serve.delete(NAME)


def _listens_on() -> tuple[str | None, int] | None:
    """Host and port of the Ray Serve that runs on this cluster; None where none does."""
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        http = _get_global_client().http_config
    except RayServeException:
        return None
    return http.host, http.port


def _is_own(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _why(error: Exception) -> str:
    """The last line of what Serve says of the deployment that failed, or else of the error."""
    from ray import serve

    from jobs.serving.application import NAME

    told = str(error)
    found = serve.status().applications.get(NAME)
    for deployment in () if found is None else found.deployments.values():
        told = deployment.message or told
    return ([line.strip() for line in told.splitlines() if line.strip()] or ["no reason given"])[-1]


if __name__ == "__main__":
    exit_process(run_command(Options, run))
