"""How a command ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from jobs.console.command import run_command
from tests.conftest import ROOT


@dataclass
class NoOptions:
    """A command without any."""


GIVEN_UP = """
import atexit, dataclasses, threading
from cluster.scheduling.attempt_tracker import start_tracker
from cluster.runtime.connect import connect
from cluster.scheduling.limits import Limits
from cluster.scheduling.watchdog import Watchdog, run_with_watchdog
from jobs.console.command import exit_process, run_command

@dataclasses.dataclass
class Options:
    pass

def run(options):
    with connect("local", num_cpus=1):
        limits = Limits(stall_timeout_s=0.5, start_timeout_s=600.0, quiet_s=0.1)
        tracker = start_tracker()
        watchdog = Watchdog(tracker=tracker, worker={"GPU": 1.0}, storage_uri=".", limits=limits)
        run_with_watchdog(threading.Event().wait, watchdog)

atexit.register(print, "tidied up")
exit_process(run_command(Options, run, []))
"""


@pytest.mark.timeout(300)
def test_a_run_that_is_given_up_ends_with_its_sentence_though_its_thread_still_waits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_UP], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "cannot hold 1 with 1 GPU each" in done.stderr and "Fatal" not in done.stderr
    assert "tidied up" not in done.stdout


def test_a_run_that_leaves_no_thread_behind_ends_in_the_usual_way() -> None:
    code = (
        "import atexit, jobs.console.command\natexit.register(print, 'tidied up')\njobs.console.command.exit_process(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 3 and done.stdout == "tidied up\n"


WORDS = r"""
import dataclasses
from jobs.console.command import console, exit_process, run_command

@dataclasses.dataclass
class Options:
    pass

def run(options):
    console.print("o13\xfc \u2501 \u9ce5")
    return {"message": "10 clips in o13\xfc, \udce4"}

exit_process(run_command(Options, run, []))
"""


def test_a_character_that_a_stream_cannot_show_is_written_as_an_escape() -> None:
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", WORDS],
        cwd=ROOT,
        env=ascii_only,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "10 clips in o13\\xfc, \\xdce4\n"), done.stderr
    assert done.stderr == "o13\\xfc \\u2501 \\u9ce5\n"


def test_a_log_level_that_is_none_is_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOUNDSTORM_LOG", "chatty")
    assert run_command(NoOptions, lambda _: {"message": "done"}, []) == 1
    assert (
        capsys.readouterr().err
        == "error: SOUNDSTORM_LOG is 'chatty': give one of DEBUG, INFO, WARNING, ERROR, CRITICAL, or unset it\n"
    )
    monkeypatch.setenv("SOUNDSTORM_LOG", "info")
    assert run_command(NoOptions, lambda _: {"message": "done"}, []) == 0 and capsys.readouterr().out == "done\n"


def test_the_usage_of_a_module_names_the_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("jobs.train", None))
    with pytest.raises(SystemExit) as ended:
        run_command(NoOptions, lambda _: {"message": "done"}, ["--help"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: python -m jobs.train ")


def test_help_is_shown_where_output_is_ascii() -> None:
    command = [sys.executable, "-m", "jobs.doctor", "--help"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0 and "--output-dir" in done.stdout, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process has loaded is told by /proc")
@pytest.mark.parametrize(
    ("number", "library"), [(signal.SIGINT, "_raylet"), (signal.SIGTERM, "_raylet"), (signal.SIGINT, "libtorch_cpu")]
)
def test_a_command_that_is_stopped_while_its_libraries_load_says_so_in_one_sentence(
    number: signal.Signals, library: str
) -> None:
    def usual_signals() -> None:
        signal.signal(number, signal.SIG_DFL)

    command = [sys.executable, "-m", "jobs.train", "--tokens", "nowhere"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=usual_signals
    )
    deadline = time.monotonic() + 120
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted: nothing was started\n")


def test_a_process_that_only_imports_the_jobs_answers_signals_as_before() -> None:
    loads = "import signal, sys\nimport jobs.console.starting\n"
    code = loads + "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sys.excepthook is sys.__excepthook__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True True\n"
