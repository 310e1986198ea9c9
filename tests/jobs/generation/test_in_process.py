"""`generate` of a few clips: the command makes them itself, without a Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster import tables
from jobs import generate
from tests.jobs.conftest import generate_options

ROOT = Path(__file__).parents[3]

FEW = ("--num-samples", "3", "--duration", "1", "--iterations", "2", "--seed", "5")
LONG = ("--num-samples", "8", "--duration", "600", "--iterations", "64")


def started(checkpoint: str, output: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a process that knows of no Ray; a Ray of its own would write to the folder `ray` beside the
    output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(output.parent / "ray")}
    command = [sys.executable, "-m", "jobs.generate", "--checkpoint", checkpoint, "--output-dir", str(output)]
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def sha256_of(output: Path) -> list[str]:
    return list(tables.read_table(str(output / "samples.parquet"))[0]["sha256"].to_pylist())


def test_they_are_those_of_an_actor_and_need_no_ray(checkpoint: str, tmp_path: Path, ray_session: None) -> None:
    process = started(checkpoint, tmp_path / "here", *FEW)
    generate.run(
        generate_options(checkpoint, str(tmp_path / "actor"), num_samples=3, iterations=(2,), seed=5, num_actors=1)
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and out.startswith("3 clips of 1 s in "), err
    assert sha256_of(tmp_path / "here") == sha256_of(tmp_path / "actor")
    assert not (tmp_path / "ray").exists()
    process = started(checkpoint, tmp_path / "here", *FEW)
    out, err = process.communicate(timeout=240)
    assert out.startswith("already done: "), err


def test_an_interrupt_ends_it_at_once_and_it_begins_again(checkpoint: str, tmp_path: Path) -> None:
    process = started(checkpoint, tmp_path / "out", *LONG)
    deadline = time.monotonic() + 200
    while not (tmp_path / "out" / "generate.started.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "interrupted: what is finished is kept" in err, err
    assert not (tmp_path / "ray").exists() and not list((tmp_path / "out").rglob("*.flac"))
