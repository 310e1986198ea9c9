"""Connecting starts and ends a Ray of its own, or joins one and leaves it running; an address that leads nowhere is
told soon.

Each case runs in a process of its own, so that the Ray of the other tests is not touched.
"""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.runtime.connect import connect
from cluster.runtime.local_ray import make_private_token
from tests.conftest import free_port, server_process

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 120

LOCAL = """
import os, ray, signal, time
from cluster.runtime.connect import connect

def answer(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, answer)

class Probe:
    def look(self):
        import cluster
        print("what a worker prints")
        names = ("OMP_NUM_THREADS", "AWS_ENDPOINT_URL")
        waiting = "/".join(os.environ.get(name, "") for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
        return cluster.__file__, *(os.environ[name] for name in names), waiting, os.nice(0)

try:
    with connect(num_cpus=2) as cluster_info:
        assert (cluster_info.num_cpus, cluster_info.nodes, cluster_info.started_here) == (2, 1, True), cluster_info
        probe = ray.remote(Probe).options(num_cpus=2).remote()
        file, threads, endpoint, waiting, niceness = ray.get(probe.look.remote(), timeout=60)
        assert file == os.environ["EXPECTED_FILE"], file
        assert (threads, endpoint) == ("2", "http://127.0.0.1:1"), (threads, endpoint)
        assert waiting == os.environ["EXPECTED_WAITING"], waiting
        assert niceness == int(os.environ["EXPECTED_NICENESS"]), niceness
        with connect() as again:  # used as it is, and left running
            assert again.started_here
        assert ray.is_initialized()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
assert not ray.is_initialized()
"""

JOIN = """
import os, ray
from cluster.runtime.connect import connect
from cluster.errors import ClusterError

address = os.environ.pop("TEST_ADDRESS")

class Probe:
    def look(self):
        import cluster
        return cluster.__file__, os.environ.get("AWS_ENDPOINT_URL")

def start_and_look():
    return ray.get(ray.remote(Probe).options(num_cpus=1).remote().look.remote(), timeout=60)

with connect(address) as joined:
    assert (joined.num_cpus, joined.nodes, joined.started_here) == (3, 1, False), joined
    file, endpoint = start_and_look()
    assert "runtime_resources" in file, file  # our packages travelled to the cluster
    assert endpoint == "http://127.0.0.1:1", endpoint
    assert "hunter2" not in str(ray.get_runtime_context().runtime_env)
assert not ray.is_initialized()

os.environ["RAY_ADDRESS"] = address
try:
    with connect(num_cpus=2):
        raise AssertionError("number of CPUs accepted")
except ClusterError as error:
    assert "--num-cpus 2 is for a new local Ray" in str(error), error

environment = '{"env_vars": {"AWS_ENDPOINT_URL": "set by the job"}}'
os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = '{"runtime_env": ' + environment + ', "metadata": {}}'
with connect() as joined:  # as `ray job submit` starts it
    assert (joined.num_cpus, joined.started_here) == (3, False), joined
    assert start_and_look()[1] == "set by the job"
"""


GROW = """
import ray
import cluster.runtime.connect as module
from cluster.runtime.connect import MAX_GPUS, connect
from cluster.errors import ClusterError

ray.init(address="local", num_cpus=2, resources={MAX_GPUS: 3}, include_dashboard=False)
with connect(await_gpu=False) as grows:
    assert (grows.num_gpus, grows.nodes) == (3, 1) and grows.scale_up_s == module.SCALE_UP_TIMEOUT_S, grows
module.SCALE_UP_TIMEOUT_S = module.SCALE_UP_POLL_S = 1.0
try:
    with connect():
        raise AssertionError("not waited for a GPU")
except ClusterError as error:
    print(error)
"""


INTERRUPTED_AS_RAY_STARTS = """
import os, signal, time
import ray
from cluster.runtime.connect import connect

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background with it ignored
swallowed = ray.init

def init(**options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        pass  # as in a callback of Ray's core
    return swallowed(**options)

ray.init = init
try:
    with connect(num_cpus=1):
        print("began")
except KeyboardInterrupt:
    print("interrupted", ray.is_initialized())
"""


def run_python(code: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        **environment,
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_AUTH_", "AWS_", "RAY_worker", "OMP_WAIT", "GOMP_")) and name != "OMP_NUM_THREADS"
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head in processes of its own, with its own folder, ports and token: its address and the variables a client
    needs."""
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")  # Ray's sockets need a short path
    port, client_port = free_ports(2)
    login = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    options = [
        "--head",
        "--block",
        f"--port={port}",
        f"--ray-client-server-port={client_port}",
        "--num-cpus=3",
        "--include-dashboard=false",
    ]
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        *options,
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, **login},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}", login
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def end_processes_of(folder: str) -> None:
    """End what the head left behind: the processes that name its own folder on their command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                os.kill(int(entry.parent.name), 9)
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    ("given", "waiting", "niceness"),
    [
        ({}, "/5000", str(os.nice(0))),
        ({"OMP_WAIT_POLICY": "active", "RAY_worker_niceness": str(os.nice(0) + 5)}, "active/", str(os.nice(0) + 5)),
    ],
    ids=["", "with what the user set"],
)
def test_a_local_ray_starts_quietly_with_considerate_workers_knows_our_packages_and_ends_with_its_block_by_sigterm_too(
    given: dict[str, str], waiting: str, niceness: str, tmp_path: Path
) -> None:
    expected = {
        "EXPECTED_FILE": str(ROOT / "cluster" / "__init__.py"),
        "EXPECTED_WAITING": waiting,
        "EXPECTED_NICENESS": niceness,
    }
    done = run_python(LOCAL, tmp_path, HOME=str(tmp_path), **expected, **given)
    assert done.stdout == "interrupted\n" and "SIGTERM" not in done.stderr  # as before Ray was started
    assert "what a worker prints" not in done.stderr
    assert "oken" not in done.stdout + done.stderr
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0 and len(token.read_text()) >= 32


OTHER_THREAD = """
import logging, os, sys, threading, warnings
import ray
import cluster.runtime.local_ray as module

def say():
    print("a line of another thread", file=sys.stderr)
    kept.append(logging.StreamHandler())

def init(failure, **options):
    os.write(2, b"what Ray's core says\\n")
    warnings.warn("what Ray says in Python")
    thread = threading.Thread(target=say)
    thread.start()
    thread.join()

kept, before, module.init_ray = [], sys.stderr, init
module.start_local(1, False)
assert sys.stderr is before
kept[0].emit(logging.makeLogRecord({"msg": "a line of its handler"}))
"""


def test_what_other_threads_print_while_a_local_ray_starts_is_shown_and_what_ray_prints_is_not(tmp_path: Path) -> None:
    done = run_python(OTHER_THREAD, tmp_path, HOME=str(tmp_path))
    assert done.stderr == "a line of another thread\na line of its handler\n"


def test_the_token_of_a_local_ray_is_never_seen_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / ".ray" / "auth_token", []

    def make(num_bytes: int) -> str:
        seen.append(path.exists())
        return "ab" * num_bytes

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr("secrets.token_hex", make)
    make_private_token()
    assert seen == [False] and path.read_text() == "ab" * 32 and path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("secrets.token_hex", lambda _: "another")
    make_private_token()
    assert path.read_text() == "ab" * 32 and list(path.parent.iterdir()) == [path]


def test_the_token_of_a_local_ray_is_private_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr("os.link", refuse)
    make_private_token()
    path = tmp_path / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]
    make_private_token()
    assert path.read_text() == token


@pytest.mark.timeout(TIMEOUT_S)
def test_an_interrupt_that_is_lost_while_ray_starts_ends_the_start_all_the_same(tmp_path: Path) -> None:
    done = run_python(INTERRUPTED_AS_RAY_STARTS, tmp_path, HOME=str(tmp_path))
    assert done.stdout == "interrupted False\n", done.stderr


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_a_running_cluster_is_joined_with_our_packages_and_left_running(
    head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, login = head
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        except OSError:
            time.sleep(0.2)
    run_python(JOIN, tmp_path, TEST_ADDRESS=address, **login)


def test_gpus_that_a_cluster_may_add_count_and_the_first_is_awaited_for_a_limited_time(tmp_path: Path) -> None:
    done = run_python(GROW, tmp_path, HOME=str(tmp_path))
    assert "the cluster added no GPU within 0 minutes" in done.stdout and "max_gpus" in done.stdout
    assert "the cluster has no GPU yet and may add some: waiting for the first" in done.stderr


TELL = """
import json, os, sys, time
from cluster.runtime.connect import connect
from cluster.errors import ClusterError

for timeout_s, address, variable in json.loads(sys.argv[1]):
    os.environ.pop("RAY_ADDRESS", None)
    if variable:
        os.environ["RAY_ADDRESS"] = variable
    began = time.monotonic()
    try:
        with connect(address, timeout_s=timeout_s):
            print("connected")
    except ClusterError as error:
        print(json.dumps([str(error), time.monotonic() - began]))
"""
NOTHING = ("127.0.0.1:9", "[::1]:9", "no-such-host.invalid:6379")
MALFORMED = ("http://host:6379", "host:port", "host:99999", "a b")
STALE = {"127.0.0.1:9": "nothing answers at 127.0.0.1:9", "http://127.0.0.1:8265": "is not a Ray address"}
CLIENT = "ray://127.0.0.1:10001"


@dataclass(frozen=True)
class Told:
    """What addresses that lead to no Ray were told, in seconds each."""

    of_addresses: dict[str, tuple[str, float]]
    of_variables: dict[str, tuple[str, float]]
    """By the value of RAY_ADDRESS."""
    silent: str
    """Address of a server that accepts connections and says nothing."""
    web: str
    """Address of one that speaks HTTP."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder, port = tmp_path_factory.mktemp("told"), free_port()
    web = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with socket.socket() as server, (folder / "log").open("wb") as log, server_process(web, port, log):
        server.bind(("127.0.0.1", 0))
        server.listen()
        silent = f"127.0.0.1:{server.getsockname()[1]}"
        addresses = dict.fromkeys(NOTHING, 60.0) | dict.fromkeys((silent, *MALFORMED, CLIENT), 4.0)
        variables = [*STALE, f"127.0.0.1:{port}"]
        asked = [(timeout_s, address, "") for address, timeout_s in addresses.items()]
        asked += [(60.0, "", variable) for variable in variables]
        lines = run_python(TELL, folder, json.dumps(asked)).stdout.splitlines()
    answers = [(str(message), float(seconds)) for message, seconds in map(json.loads, lines)]
    of_addresses = dict(zip(addresses, answers[: len(addresses)], strict=True))
    return Told(of_addresses, dict(zip(variables, answers[len(addresses) :], strict=True)), silent, f"127.0.0.1:{port}")


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_an_address_where_nothing_answers_is_told_soon(told: Told) -> None:
    for address in NOTHING:
        assert told.of_addresses[address][0].startswith(f"--address '{address}': nothing answers at ")
    assert sum(told.of_addresses[address][1] for address in NOTHING) < 60


def test_a_server_that_is_no_ray_is_told_in_time(told: Told) -> None:
    message, _ = told.of_addresses[told.silent]
    assert message.startswith(f"--address '{told.silent}': no Ray cluster answered within 4 s")


def test_an_address_of_another_form_is_refused(told: Told) -> None:
    for address in MALFORMED:
        message, _ = told.of_addresses[address]
        assert message == f"--address '{address}' is not a Ray address; give auto, local or HOST:PORT"


def test_a_stale_address_of_the_environment_is_told_with_its_variable_and_the_way_out(told: Told) -> None:
    for address, problem in STALE.items():
        message, _ = told.of_variables[address]
        assert message.startswith(f"RAY_ADDRESS '{address}'") and problem in message
        assert "`unset RAY_ADDRESS`, or give --address local" in message and "--address '" not in message


def test_a_server_that_is_no_ray_is_told_without_a_status_of_an_rpc(told: Told) -> None:
    message, _ = told.of_variables[told.web]
    assert message.startswith(f"RAY_ADDRESS '{told.web}'") and "unset RAY_ADDRESS" in message
    assert "is not a Ray cluster" in message and "rpc" not in message.lower()


def test_a_ray_client_is_refused_with_another_way(told: Told) -> None:
    message, _ = told.of_addresses[CLIENT]
    assert (
        message.startswith(f"--address '{CLIENT}': Ray Data and Ray Train do not run through a Ray client")
        and "`ray job submit`" in message
    )


def test_a_local_ray_without_cpus_is_refused() -> None:
    with pytest.raises(ClusterError, match="--num-cpus 0"), connect(num_cpus=0):
        pass
