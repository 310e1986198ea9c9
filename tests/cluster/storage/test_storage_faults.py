"""Storage through a network that resets, delays and truncates, and a server that is busy: nothing is lost, and nothing
is seen in part."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError, NotFoundError, StorageUnavailableError
from cluster.storage import retry as retries
from cluster.storage import s3_client
from tests.conftest import S3Server, use_server
from tests.support.flaky_proxy import PASSING, Fault, FlakyProxy

THREADS = 8
NAMES = 48
VERSIONS = 2
METADATA = {"codec_name": "tiny"}

Proxied = tuple[str, FlakyProxy]


@pytest.fixture(params=["moto", "rclone"])
def proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxied]:
    """An empty prefix, and the proxy through which this process sees it; it spoils nothing yet."""
    server: S3Server = request.getfixturevalue("s3" if request.param == "moto" else "rclone_s3")
    use_server(monkeypatch, server)
    bucket = server.make_bucket()
    with FlakyProxy(server.endpoint, rate=0.0, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield f"{bucket}/some/prefix", proxy


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits as short as a test can wait for."""
    monkeypatch.setattr(retries, "RETRY_BUDGET_S", 1.5)
    monkeypatch.setattr(retries, "SHORT_RETRY_BUDGET_S", 0.5)
    monkeypatch.setattr("cluster.storage.s3_objects.RETRY_BUDGET_S", 1.5)
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1)


def content_of(name: str, version: int) -> bytes:
    chance = random.Random(f"{name}/{version}")
    return chance.randbytes(chance.choice([0, 1, 100, 30_000, 300_000]))


def table_of(number: int) -> pa.Table:
    return pa.table(
        {
            "clip_id": [f"clip-{number}-{row}" for row in range(50)],
            "codes": [list(range(number, number + row)) for row in range(50)],
        }
    )


def use(root: str, number: int) -> None:
    """What a job does to storage: write, replace, look, read, list, write and read a table, delete."""
    name = f"{number:03d}"
    uri, table = storage.join(root, "kept", f"{name}.bin"), storage.join(root, "tables", f"part-{number:05d}.parquet")
    assert not storage.exists(uri)
    for version in range(VERSIONS):
        storage.write_bytes(uri, content_of(name, version))
        assert storage.read_bytes(uri) == content_of(name, version)
    passing = storage.join(root, "passing", name)
    storage.write_bytes(passing, b"for a while")
    assert uri in [entry.uri for entry in storage.list_objects(storage.join(root, "kept"))]
    storage.delete(passing)
    with pytest.raises(NotFoundError):
        storage.read_bytes(passing)
    tables.write_table(table, table_of(number), METADATA)
    assert tables.read_table(table)[0].equals(table_of(number))


def watch(root: str, done: threading.Event) -> list[str]:
    """Names under which something was seen that is no whole version, until `done`."""
    odd = []
    while not done.wait(0.05):
        for entry in storage.list_objects(storage.join(root, "kept")):
            name = entry.uri[-7:-4]
            if storage.read_bytes(entry.uri) not in [content_of(name, version) for version in range(VERSIONS)]:
                odd.append(entry.uri)
    return odd


@pytest.mark.parametrize(("proxied", "rate"), [("moto", 0.1), ("rclone", 0.1), ("moto", 0.3)], indirect=["proxied"])
def test_hundreds_of_calls_lose_nothing_and_nothing_is_seen_half_written(proxied: Proxied, rate: float) -> None:
    root, proxy = proxied
    proxy.rate = rate
    done = threading.Event()
    with ThreadPoolExecutor(THREADS + 1) as pool:
        watching = pool.submit(watch, root, done)
        try:
            list(pool.map(lambda number: use(root, number), range(NAMES)))
        finally:
            done.set()
        assert watching.result() == []
    listed = {entry.uri: entry.size for entry in storage.list_objects(root)}
    proxy.rate = 0.0
    kept = {
        storage.join(root, "kept", f"{number:03d}.bin"): content_of(f"{number:03d}", VERSIONS - 1)
        for number in range(NAMES)
    }
    for uri, content in kept.items():
        assert storage.read_bytes(uri) == content
    table, metadata = tables.read_table(storage.join(root, "tables"))
    assert table.equals(pa.concat_tables(table_of(number) for number in range(NAMES))) and metadata == METADATA
    assert listed == {entry.uri: entry.size for entry in storage.list_objects(root)}
    assert len(listed) == 2 * NAMES and {uri: listed[uri] for uri in kept} == {
        uri: len(content) for uri, content in kept.items()
    }
    assert proxy.requests > 10 * NAMES and min(proxy.injected[fault] for fault in PASSING) > 0


def test_large_objects_travel_through_faults(proxied: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, proxy = proxied
    monkeypatch.setattr("cluster.storage.s3_objects.PART_BYTES", 5 * 2**20)
    content = os.urandom(11 * 2**20)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "large").write_bytes(content)
    proxy.rate = 0.3
    storage.copy_from_local(tmp_path / "here", root)
    assert storage.read_bytes(f"{root}/large") == content
    proxy.rate, proxy.faults = 0.7, (Fault.TRUNCATED,)
    assert hashlib.sha256(storage.read_bytes(f"{root}/large")).digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("proxied", ["moto"], indirect=True)
def test_an_answer_cut_short_is_never_taken_for_the_whole(proxied: Proxied, tmp_path: Path, hurried: None) -> None:
    root, proxy = proxied
    uri = storage.join(root, "folder", "part-00000.parquet")
    tables.write_table(uri, table_of(3), METADATA)
    proxy.rate, proxy.faults = 1.0, (Fault.TRUNCATED,)
    actions: list[Callable[[], object]] = [
        lambda: storage.read_bytes(uri),
        lambda: storage.list_objects(root),
        lambda: storage.exists(root),
        lambda: storage.delete(root),
        lambda: tables.read_table(uri),
    ]
    for action in actions:
        with pytest.raises(StorageUnavailableError, match="prefix"):
            action()
    proxy.rate = 0.0
    assert tables.read_table(uri)[0].equals(table_of(3))


def test_an_upload_cut_short_changes_nothing(proxied: Proxied, hurried: None) -> None:
    root, proxy = proxied
    storage.write_bytes(f"{root}/old", b"old")
    proxy.rate, proxy.faults = 1.0, (Fault.CUT_UPLOAD,)
    for name in ("old", "new"):
        with pytest.raises(StorageUnavailableError, match=rf"{name}: the S3 server .* tried \d+ times in"):
            storage.write_bytes(f"{root}/{name}", os.urandom(200_000))
    proxy.rate = 0.0
    assert [entry.uri for entry in storage.list_objects(root)] == [f"{root}/old"]
    assert storage.read_bytes(f"{root}/old") == b"old"


@pytest.mark.parametrize("proxied", ["moto"], indirect=True)
@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.SILENT])
def test_storage_that_is_gone_is_told_in_time_with_what_to_do(proxied: Proxied, fault: Fault, hurried: None) -> None:
    root, proxy = proxied
    storage.write_bytes(f"{root}/file", bytes(100_000))
    proxy.rate, proxy.faults = 1.0, (fault,)
    actions: list[Callable[[], object]] = [
        lambda: storage.read_bytes(f"{root}/file"),
        lambda: storage.write_bytes(f"{root}/file", b"new"),
        lambda: storage.exists(f"{root}/file"),
        lambda: storage.create_bytes(f"{root}/other", b"new"),
        lambda: storage.delete(f"{root}/file"),
        lambda: storage.check_writable(root),
    ]
    for action in actions:
        before, began = proxy.requests, time.monotonic()
        with pytest.raises(StorageUnavailableError, match=r"prefix.*: the S3 server .*, then run again") as error:
            action()
        assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
        assert time.monotonic() - began < 60
        assert proxy.requests > before
    proxy.rate = 0.0
    assert storage.read_bytes(f"{root}/file") == bytes(100_000)


@pytest.mark.parametrize("proxied", ["moto"], indirect=True)
def test_an_answer_that_hardly_moves_is_broken_off(proxied: Proxied, hurried: None) -> None:
    root, proxy = proxied
    storage.write_bytes(f"{root}/file", bytes(2**20))
    proxy.rate, proxy.faults = 1.0, (Fault.TRICKLE,)
    began = time.monotonic()
    with pytest.raises(StorageUnavailableError, match=r"file: the S3 server .* cut off its responses"):
        storage.read_bytes(f"{root}/file")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("storage_root", ["moto"], indirect=True)
def test_a_fault_of_our_own_is_not_told_as_the_server_s(storage_root: str) -> None:
    calls: list[Any] = []

    def call(client: Any) -> None:
        calls.append(client)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        s3_client.with_retries(f"{storage_root}/file", call)
    assert len(calls) == 1


def test_an_answer_that_makes_no_sense_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.send_header("Last-Modified", "the day after tomorrow")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use_server(monkeypatch, S3Server(f"http://127.0.0.1:{server.server_port}", "key", "secret"))
        with pytest.raises(StorageUnavailableError, match=r"cut off its responses \(MeaninglessAnswerError, tried"):
            storage.require_file("s3://bucket/file")
        server.shutdown()
    assert len(asked) > 1


def test_all_limits_together_stay_under_two_minutes() -> None:
    attempt_s = s3_client.CONNECT_TIMEOUT_S + s3_client.READ_TIMEOUT_S
    assert retries.RETRY_BUDGET_S + attempt_s + retries.SHORT_RETRY_BUDGET_S + attempt_s < 120


@pytest.mark.parametrize("proxied", ["moto"], indirect=True)
def test_of_many_copies_that_fail_none_is_begun_after_the_first_failure(
    proxied: Proxied, tmp_path: Path, hurried: None
) -> None:
    root, proxy = proxied
    for number in range(100):
        storage.write_bytes(tmp_path / f"{number}", b"x")
    proxy.rate, proxy.faults = 1.0, (Fault.RESET,)
    began = time.monotonic()
    with pytest.raises(StorageUnavailableError):
        storage.copy_from_local(tmp_path, root)
    assert time.monotonic() - began < 30
    assert proxy.requests < 100


@pytest.mark.parametrize("proxied", ["moto"], indirect=True)
def test_an_object_replaced_while_it_is_read_is_told(proxied: Proxied) -> None:
    root, _ = proxied
    uri = f"{root}/file"
    storage.write_bytes(uri, bytes(3 * 2**20))
    filesystem, path = storage.filesystem(uri)
    with filesystem.open_input_file(path) as file:
        assert file.read(10) == bytes(10)
        storage.write_bytes(uri, os.urandom(3 * 2**20))
        with pytest.raises(ClusterError, match="was replaced while it was read"):
            file.read_at(10, 2 * 2**20)
