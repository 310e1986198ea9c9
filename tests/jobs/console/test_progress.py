"""What a run tells while it goes on: lines in its log, and numbers that the node offers to Prometheus."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import requests

from cluster.scheduling.shards import Progress
from jobs.console import progress as progress_module
from jobs.console.progress import duration, progress
from jobs.training.training_log import Row, TrainingLog
from tests.conftest import ROOT

PATIENCE_S = 120.0
SAMPLE = re.compile(r"^ray_soundstorm_(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_run_says_at_once_that_it_began_and_at_its_end_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("generate", 600, finished=100) as counter:
        assert lines_of(capsys) == ["generate: 100/600 clips (17%)"]
        counter.advance(500)
    [last] = lines_of(capsys)
    assert re.fullmatch(r"generate: 600/600 clips in \d+ s \(\d+\.\d\d/s\)", last)


def test_a_line_comes_from_time_to_time_also_while_nothing_gets_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "FIRST_LOG_S", 0.05)
    monkeypatch.setattr(progress_module, "LOG_INTERVAL_S", 0.1)
    found: list[str] = []
    deadline = time.monotonic() + 30
    with progress("tokenize", 100) as counter:
        counter.advance(10, rejected=3)
        while len(found) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
            found += lines_of(capsys)
    assert found[0] == "tokenize: 0/100 clips (0%)"
    assert all(
        re.fullmatch(r"tokenize: 10/100 clips \(10%\), \d+\.\d\d/s, ETA [\d:]+ \w+; 3 rejected", line)
        for line in found[1:4]
    )


def test_a_run_that_breaks_off_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress("evaluate", 20) as counter:
        counter.advance(5)
        raise KeyboardInterrupt
    assert lines_of(capsys)[-1].startswith("evaluate: 5/20 clips in ")


def test_what_goes_wrong_stands_in_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("generate", 40) as counter:
        counter.update_shards(Progress(done=1, retries=1, ready=2), 5)
        assert counter.line() == "generate: 0/40 clips (0%); 1 retry"
        counter.update_shards(Progress(done=2, retries=7, replaced=1, failed=2, ready=2), 5)
        assert counter.line() == "generate: 0/40 clips (0%); 7 retries, 1 actor replaced, 2 failed shards"


def test_the_time_left_follows_from_the_recent_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    counter = progress_module.ProgressCounter("generate", 10_000, 0)
    for _ in range(20):  # a fast start, then 1 clip a second
        now[0] += 60
        counter.advance(60)
        line = counter.line()
    assert line == "generate: 1200/10000 clips (12%), 1.00/s, ETA 2:26:40 h"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3723, "1:02:03 h")]
)
def test_a_duration_is_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def offered() -> dict[tuple[str, str, str], float]:
    """What this node offers now: name, stage or column, and the process that told it -> value."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    text = requests.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30).text
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if "column" in tags and tags["stage"] != "train":  # of an earlier test
            continue
        found[name, tags.get("column", tags["stage"]), tags["WorkerId"]] = float(value)
    return found


def told_once(names: set[tuple[str, str]], known: set[str], ours: bool) -> dict[tuple[str, str], float]:
    """What this process (`ours`), or others than `known`, offer of the stages in `names`, once `names` are among it.

    Numbers of earlier tests may come late: they are of this process, or of processes that are known.
    """
    here = ray.get_runtime_context().get_worker_id()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        told = {key[:2]: value for key, value in offered().items() if key[2] not in known and (key[2] == here) == ours}
        if told.keys() >= names:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(1)


@pytest.mark.timeout(4 * PATIENCE_S)
def test_a_job_tells_prometheus_what_it_did(ray_session: None, checkpoint: str, tmp_path: Path) -> None:
    known = {worker for _, _, worker in offered()} - {ray.get_runtime_context().get_worker_id()}
    address = ray.get_runtime_context().gcs_address
    command = [
        "--address",
        address,
        "--checkpoint",
        checkpoint,
        "--num-samples",
        "6",
        "--duration",
        "0.2",
        "--shard-size",
        "2",
        "--num-actors",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.generate", *command, "--output-dir", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"RAY_DEDUP_LOGS": "0"},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("generate: ")]
    assert said[0] == "generate: 0/6 clips (0%)" and said[-1].startswith("generate: 6/6 clips in ")
    row: Row = {"epoch": 91, "step": 77, "train_loss": 6.5, "val_loss": None, "lr": 0.25, "seconds": 2.0}
    with TrainingLog(str(tmp_path / "train"), "epoch", "train", clips=50) as log, progress("tally", 40) as counter:
        log.update([row])
        counter.update_shards(Progress(done=1, retries=3, ready=2), 20)
        told = told_once(
            {("training", "train_loss"), ("actors_ready", "tally"), ("retries_total", "tally")}, known, ours=True
        )
    assert (told["actors_ready", "tally"], told["shards_waiting", "tally"], told["retries_total", "tally"]) == (
        2,
        17,
        3,
    )
    training = {column: value for (name, column), value in told.items() if name == "training"}
    assert training == {"epoch": 91, "step": 77, "train_loss": 6.5, "lr": 0.25, "seconds": 2.0, "clips_per_s": 25.0}
    told = told_once({("clips_done_total", "generate")}, known, ours=False)
    assert told["clips_done_total", "generate"] == 6 and ("retries_total", "generate") not in told
