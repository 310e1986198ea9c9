"""One process at a time makes a file; the others wait while it gets on, and no longer."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.transfer.lock import one_at_a_time

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from cluster.transfer.lock import one_at_a_time
with one_at_a_time(*map(Path, sys.argv[1:])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_process_that_hangs_is_not_waited_for_and_one_that_died_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.transfer.lock.STILL_S", 0.5)
    files = tmp_path / "data.bin", tmp_path / "data.bin.part"
    hangs = pytest.raises(ClusterError, match=r"data\.bin: another process .*it holds data\.bin\.lock")
    command = [sys.executable, "-c", HOLD, *map(str, files)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with hangs, one_at_a_time(*files):
                pytest.fail("two at a time")
        finally:
            holder.kill()
    with one_at_a_time(*files):
        assert [path.name for path in tmp_path.iterdir()] == ["data.bin.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_gets_on_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.transfer.lock.STILL_S", 3.0)
    destination, progress = tmp_path / "data.bin", tmp_path / "data.bin.part"
    ended = threading.Event()

    def make() -> None:
        with one_at_a_time(destination, progress):
            began.set()
            for _ in range(25):  # longer than the other waits for one that stands still
                with progress.open("ab") as file:
                    file.write(b"x")
                time.sleep(0.2)
            ended.set()

    began = threading.Event()
    threading.Thread(target=make, daemon=True).start()
    assert began.wait(30)
    with one_at_a_time(destination, progress):
        assert ended.is_set()
