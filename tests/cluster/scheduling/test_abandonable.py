"""Work in a thread: its result, its error, and that nobody waits for it in vain."""

import subprocess
import sys
import threading

import pytest

from cluster.scheduling.abandonable import has_abandoned_thread, start_abandonable
from tests.conftest import ROOT


def test_the_result_or_the_error_comes_when_it_is_asked_for() -> None:
    may_end = threading.Event()
    future = start_abandonable(lambda: may_end.wait(60) and 7)
    assert has_abandoned_thread() and not future.done()
    may_end.set()
    assert future.result(60) == 7

    def fail() -> None:
        raise SystemExit("not good")

    with pytest.raises(SystemExit, match="not good"):
        start_abandonable(fail).result(60)


ENDS = """
import threading
from cluster.scheduling.abandonable import start_abandonable
from jobs.console.command import exit_process
start_abandonable(threading.Event().wait)
print("said")
exit_process(3)
"""


def test_the_end_of_a_command_does_not_wait_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
