"""How a command ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GIVEN_UP = """
import atexit, dataclasses, threading
from cluster.attempts import open_ledger
from cluster.connect import connect
from cluster.giving_up import Limits
from cluster.vigil import Vigil, watch
from jobs.entry import leave, start

@dataclasses.dataclass
class Options:
    pass

def run(options):
    with connect("local", num_cpus=1):
        limits = Limits(stall_timeout_s=0.5, start_timeout_s=600.0, quiet_s=0.1)
        ledger = open_ledger()
        vigil = Vigil(ledger=ledger, worker={"GPU": 1.0}, storage_uri=".", limits=limits)
        watch(threading.Event().wait, vigil)

atexit.register(print, "tidied up")
leave(start(Options, run, []))
"""


@pytest.mark.timeout(300)
def test_a_run_that_is_given_up_ends_with_its_sentence_though_its_thread_still_waits(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_UP], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "cannot hold 1 with 1 GPU each" in done.stderr and "Fatal" not in done.stderr
    assert "tidied up" not in done.stdout


def test_a_run_that_leaves_no_thread_behind_ends_in_the_usual_way() -> None:
    code = "import atexit, jobs.entry\natexit.register(print, 'tidied up')\njobs.entry.leave(3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 3 and done.stdout == "tidied up\n"
