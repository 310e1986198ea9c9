"""Storage at its real limits, for longer than a test suite can wait: `python tests/chaos/storage_faults.py [SEEDS]`,
about five minutes for 5 seeds.

Prints: how long each operation takes to give up a server that is gone, in each way of being gone (at most 120 s);
whether an upload over a slow line arrives; and for each seed how many calls with how many faults went through 30%
faults, with every object as it was written. Exits with 1 if anything is not as it should be.
"""

import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa

from cluster import storage, tables
from cluster.errors import StorageUnavailableError
from tests.conftest import S3Server, free_port, server_process, use_server
from tests.support.flaky_proxy import Fault, FlakyProxy

LIMIT_S = 120.0
CALLS = 400
THREADS = 8


def gone(server: S3Server, patch: pytest.MonkeyPatch, fault: Fault) -> bool:
    """Whether every operation gives up in time, on a server that goes away, by `fault`, after it has answered."""
    root = f"{server.make_bucket()}/prefix"
    with (
        FlakyProxy(server.endpoint, rate=0.0, seed=0, faults=[fault]) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        tables.write_table(f"{root}/table.parquet", pa.table({"clip_id": ["a"]}), {})
        storage.write_bytes(f"{root}/file", bytes(100_000))
        for number in range(50):
            Path(folder, f"{number}").write_bytes(b"x")
        actions: dict[str, Callable[[], object]] = {
            "read": lambda: storage.read_bytes(f"{root}/file"),
            "write": lambda: storage.write_bytes(f"{root}/file", b"new"),
            "list": lambda: storage.list_objects(root),
            "exists": lambda: storage.exists(root),
            "create": lambda: storage.create_bytes(f"{root}/new", b"new"),
            "delete": lambda: storage.delete(root),
            "read table": lambda: tables.read_table(f"{root}/table.parquet"),
            "copy 50 files": lambda: storage.copy_from_local(Path(folder), f"{root}/copy"),
        }
        proxy.rate = 1.0
        with ThreadPoolExecutor(len(actions)) as pool:
            took = dict(zip(actions, pool.map(seconds_to_give_up, actions.values()), strict=True))
    again_s = seconds_to_give_up(lambda: storage.read_bytes(f"{root}/file"))
    print(
        f"gone ({fault}): {', '.join(f'{name} {seconds:.0f} s' for name, seconds in took.items())}; one more read "
        f"{again_s:.0f} s"
    )
    return max(*took.values(), again_s) <= LIMIT_S


def seconds_to_give_up(action: Callable[[], object]) -> float:
    began = time.monotonic()
    try:
        action()
    except StorageUnavailableError:
        return time.monotonic() - began
    return float("inf")


def slow_line(server: S3Server, patch: pytest.MonkeyPatch) -> bool:
    """Whether an upload arrives that lasts longer than the time-outs of its connection."""
    content = os.urandom(40 * 2**20)
    uri = f"{server.make_bucket()}/large"
    with FlakyProxy(server.endpoint, rate=1.0, seed=0, faults=[Fault.SLOW_UPLOAD]) as proxy, patch.context() as limits:
        limits.setattr("cluster.storage.s3_objects.PART_BYTES", 2**26)
        limits.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        began = time.monotonic()
        storage.write_bytes(uri, content)
        requests, took = proxy.requests, time.monotonic() - began
        proxy.rate = 0.0
        fine = storage.read_bytes(uri) == content and requests == 1
    print(f"slow line: 40 MiB in one request of {took:.0f} s; {requests} requests")
    return fine


def faults(server: S3Server, patch: pytest.MonkeyPatch, seed: int) -> bool:
    """Whether all objects are as they were last written, after calls with 30% faults."""
    root = f"{server.make_bucket()}/prefix"
    expected: dict[str, bytes] = {}
    lock = threading.Lock()
    with FlakyProxy(server.endpoint, rate=0.3, seed=seed) as proxy:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

        def call(number: int) -> bool:
            chance = random.Random(f"{seed}/{number}")
            uri, content = f"{root}/{number:04d}", chance.randbytes(int(10 ** chance.uniform(0, 6)))
            storage.write_bytes(uri, content)
            same = storage.read_bytes(uri) == content
            if chance.random() < 0.3:
                storage.delete(uri)
                return same and not storage.exists(uri)
            with lock:
                expected[uri] = hashlib.sha256(content).digest()
            return same

        with ThreadPoolExecutor(THREADS) as pool:
            fine = all(pool.map(call, range(CALLS)))
        fine &= [entry.uri for entry in storage.list_objects(root)] == sorted(expected)
        requests, injected = proxy.requests, sum(proxy.injected.values())
    patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    fine &= all(hashlib.sha256(storage.read_bytes(uri)).digest() == digest for uri, digest in expected.items())
    print(
        f"seed {seed}: {requests} requests, {injected} spoiled, {len(expected)} objects "
        f"{'as written' if fine else 'WRONG'}"
    )
    return fine


def main() -> int:
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "test-key", "test-secret")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with tempfile.TemporaryFile() as log, server_process(command, port, log), pytest.MonkeyPatch.context() as patch:
        use_server(patch, server)
        seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
        ways = (Fault.BUSY, Fault.RESET, Fault.SILENT)
        checks = [
            *(gone(server, patch, way) for way in ways),
            slow_line(server, patch),
            *(faults(server, patch, seed) for seed in range(seeds)),
        ]
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
