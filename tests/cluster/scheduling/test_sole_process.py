"""Of two processes that do the same in one folder the second is told so; what a killed one left holds nobody up."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster import storage
from cluster.errors import ClusterError
from cluster.scheduling import sole_process as sole
from cluster.scheduling.sole_process import sole_process
from tests.conftest import ROOT

HOLD = """
import sys
from cluster.scheduling.sole_process import sole_process

with sole_process(sys.argv[1], "train"):
    print("at work", flush=True)
    sys.stdin.read()
"""


def holder(folder: str) -> subprocess.Popen[str]:
    """A process that runs in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


def test_the_second_process_is_told_who_is_at_work_and_may_begin_when_the_first_has_ended_or_was_killed(
    storage_root: str,
) -> None:
    for end in ("close", "kill"):
        process = holder(storage_root)
        try:
            with (
                pytest.raises(ClusterError, match=rf"another `train` is running there \(process {process.pid} on "),
                sole_process(storage_root, "train"),
            ):
                pass
            with sole_process(storage_root, "tokenize"):  # which is something else
                pass
        finally:
            process.kill() if end == "kill" else process.stdin.close()  # type: ignore[union-attr]
            process.wait(60)
        with sole_process(storage_root, "train"):
            pass
    assert storage.list_objects(storage_root) == []


def test_a_process_of_another_machine_is_heard_or_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole, "HEARD_S", 1.0)
    monkeypatch.setattr(sole, "POLL_S", 0.05)
    file, heard = tmp_path / "train.at-work.json", threading.Event()

    def beat() -> None:
        for number in range(10_000):
            storage.write_bytes(
                file, json.dumps({"machine": "another", "host": "far", "pid": 7, "beat": number}).encode()
            )
            if heard.wait(0.1):
                return

    far = threading.Thread(target=beat)
    far.start()
    try:
        while not file.exists():
            pass
        with pytest.raises(ClusterError, match=r"process 7 on far"), sole_process(str(tmp_path), "train"):
            pass
    finally:
        heard.set()
        far.join()
    with sole_process(str(tmp_path), "train"):  # it is silent now
        pass
    assert not file.exists()


def test_what_is_no_note_of_a_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "train.at-work.json").write_text("half a no")
    with sole_process(str(tmp_path), "train"):
        pass
