"""`generate` says within two minutes that it cannot go on, and keeps what is done: when all nodes are gone, and when
the storage is.

    python tests/chaos/generate_without_hope.py

Three cases, each with a driver of its own on nodes of this machine: the node with CPUs is removed; the S3 server (moto,
behind a proxy) cuts every connection; it no longer answers. In each the driver must end by itself with exit code 1 and
one sentence. Then what it needs comes back, the command is given again, and must end well with every part that was
there untouched. Prints the seconds from the fault to the end.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

from cluster import storage
from tests.chaos.generate_setup import add_node, make_model, nodes, result_of
from tests.conftest import ROOT, S3Server, free_port, server_process
from tests.support.flaky_proxy import Fault, FlakyProxy

BAR_S = 120.0
LIMIT_S = 600.0
CLIPS, SHARD_SIZE = 1000, 5


def driver(address: str, model: tuple[str, str], output: str, clips: int, log: Path) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    checkpoint, codec = model
    settings = {
        "num-samples": clips,
        "duration": 1,
        "shard-size": SHARD_SIZE,
        "num-actors": 2,
        "checkpoint": checkpoint,
        "codec": codec,
    }
    settings |= {"output-dir": output, "address": address}
    command = [sys.executable, "-m", "jobs.generate", *(f"--{name}={value}" for name, value in settings.items())]
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file)


def parts(output: str) -> dict[str, bytes]:
    return {
        entry.uri: storage.read_bytes(entry.uri)
        for entry in storage.list_objects(storage.join(output, "parts"), ".parquet")
    }


def wait_for_parts(output: str, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(storage.list_objects(storage.join(output, "parts"), ".parquet")) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{output}: there are no {count} parts after {LIMIT_S:g} s")
        time.sleep(0.2)


def case(
    name: str,
    folder: Path,
    address: str,
    model: tuple[str, str],
    output: str,
    spoil: Callable[[], None],
    mend: Callable[[], None],
) -> bool:
    """One fault; whether the driver ended as it should, and the next one too."""
    log = folder / f"{name}.log"
    first = driver(address, model, output, CLIPS, log)
    wait_for_parts(output, 4)
    spoil()
    began = time.monotonic()
    code = first.wait(LIMIT_S)
    took_s = time.monotonic() - began
    mend()
    said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    kept = parts(output)
    code_again = driver(address, model, output, CLIPS, log).wait(LIMIT_S)
    after = parts(output)
    found = result_of(output, CLIPS)
    good = code == 1 and len(said) == 1 and took_s < BAR_S and code_again == 0 and not found.problems
    good = good and all(after[uri] == content for uri, content in kept.items())
    report = {
        "case": name,
        "exit_code": code,
        "seconds": round(took_s, 1),
        "parts_kept": len(kept),
        "of": len(after),
        "said": said,
        "good": good,
    }
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return good


@contextlib.contextmanager
def moto(folder: Path, port: int) -> Iterator[None]:
    with (
        (folder / "moto.log").open("ab") as log,
        server_process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log),
    ):
        yield


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    good = []
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        model = make_model(folder / "model")
        port = free_port()
        ends.enter_context(moto(folder, port))
        server = S3Server(f"http://127.0.0.1:{port}", "test", "test")
        proxy = ends.enter_context(FlakyProxy(server.endpoint, rate=0.0, seed=0))
        os.environ |= server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
        bucket = server.make_bucket()
        cluster = ends.enter_context(nodes(0, 2))

        def remove() -> None:
            [worker] = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
            cluster.remove_node(worker, allow_graceful=False)

        good.append(
            case(
                "no nodes",
                folder,
                cluster.address,
                model,
                str(folder / "no-nodes"),
                remove,
                lambda: add_node(cluster, 2),
            )
        )
        for fault in (Fault.RESET, Fault.SILENT):

            def spoil(fault: Fault = fault) -> None:
                proxy.faults, proxy.rate = (fault,), 1.0

            def mend() -> None:
                proxy.rate = 0.0

            good.append(case(f"storage: {fault}", folder, cluster.address, model, f"{bucket}/{fault}", spoil, mend))
    if not all(good):
        sys.exit("not every case ended as it should")


if __name__ == "__main__":
    main()
