"""`soundstorm serve`: the endpoint and the page, on a local Ray or on a running cluster."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated, Any

import ray
from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from cluster.runtime.connect import connect
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.options import Allowed, Count
from jobs.serving.settings import EndpointSettings
from soundstorm.errors import SoundStormError

EXTRA = ("fastapi", "multipart")
"""Import names of the libraries of the extra `serve`, which the endpoint needs."""
PORT = 8000


@dataclass(kw_only=True, frozen=True)
class Options(EndpointSettings):
    """Serve sound on demand: an endpoint (POST /v1/generate and others) and a page, on Ray Serve, until Ctrl-C."""

    host: str = "127.0.0.1"
    """Address to listen on; any but the loopback addresses needs a token in the variable SOUNDSTORM_TOKEN."""
    port: Annotated[int, Ge(1), Le(65535), Allowed("1 to 65535")] = PORT
    """Port to listen on."""
    address: str | None = None
    """Address of the Ray cluster to join; default: start Ray on this machine."""
    num_cpus: Count | None = None
    """CPUs of a local Ray; default: all."""


def run(options: Options) -> dict[str, Any]:
    """Serve until the process is interrupted.

    Raises:
        SoundStormError: a library, setting or file is missing, or the endpoint cannot start.
        ClusterError: the cluster cannot be joined, or the model cannot be read.
    """
    with served(options) as url:
        console.print(f"endpoint at {url}/v1/generate, page at {url}/ ; press Ctrl-C to stop", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print_note("stopping the endpoint")
    return {"message": f"{url} has stopped"}


@contextmanager
def served(options: Options) -> Iterator[str]:
    """Run the endpoint until the end of the block; yields its URL."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise SoundStormError(
            f"`soundstorm serve` needs {' and '.join(missing)}, which are not installed: "
            "run `pip install 'soundstorm-env[cluster,serve]'`"
        )
    from ray import serve

    from jobs.serving.application import NAME, TOKEN_VARIABLE, application, read_token

    token = read_token()
    if token is None and not _is_loopback(options.host):
        raise SoundStormError(
            f"--host is {options.host}, which other machines can reach: set the variable {TOKEN_VARIABLE} to a token, "
            "such as "
            "that of `openssl rand -hex 32`; requests send it in the header `Authorization: Bearer TOKEN`"
        )
    if options.page and find_spec("gradio") is None:
        print_note("Gradio is not installed: the endpoint has no page")
    is_own = not ray.is_initialized()
    with connect(options.address, options.num_cpus) as info:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        running = _running_serve()
        if running is not None and running != (options.host, options.port):
            raise SoundStormError(
                f"Ray Serve runs on this cluster and listens on {running[0]}:{running[1]}: give these as --host and "
                "--port, or stop it first"
            )
        app = application(options, token)
        try:
            serve.start(http_options={"host": options.host, "port": options.port})
            serve.run(app, name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError, ValueError) as error:
            why = _reason(error)
            _stop(running is None)
            raise SoundStormError(f"the endpoint did not start: {why}") from error
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            yield f"http://{host}:{options.port}"
        finally:
            if not (is_own and info.started_here):  # a local Ray is stopped as a whole
                _stop(running is None)


def _stop(serve_too: bool) -> None:
    """Remove the application, and stop Ray Serve if it was started for it."""
    from ray import serve

    from jobs.serving.application import NAME

    if serve_too:
        serve.shutdown()
    else:
        serve.delete(NAME)


def _running_serve() -> tuple[str | None, int] | None:
    """Host and port of the Ray Serve that runs on this cluster; None if there is none."""
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        http = _get_global_client().http_config
    except RayServeException:
        return None
    return http.host, http.port


def _is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    """The last line of the message of the failed deployment, or else of the error."""
    from ray import serve

    from jobs.serving.application import NAME

    message = str(error)
    found = serve.status().applications.get(NAME)
    for deployment in () if found is None else found.deployments.values():
        message = deployment.message or message
    return ([line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"])[-1]


if __name__ == "__main__":
    exit_process(run_command(Options, run))
