"""The driver of `generate` is killed at a random moment and the command given again: only what is missing is made, and
the result is the same.

    python tests/chaos/generate_driver_kills.py --times 10

Each time 300 clips of one second in parts of 5, on a disk; SIGKILL comes up to a second after a number of parts is
there, drawn by the seed from none to all. The actors of the dead driver are not waited for. Ends with an error unless
the samples are those of the undisturbed run, each there once, with no file beside them, and every part that was there
when the second run began is untouched after it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

from tests.chaos.generate_setup import make_model, nodes, part_times, result_of
from tests.conftest import ROOT

LIMIT_S = 600.0
CLIPS, SHARD_SIZE = 300, 5


def driver(address: str, model: tuple[str, str], output: str, log: Path) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    checkpoint, codec = model
    settings = {
        "num-samples": CLIPS,
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


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the command to end well."""
    if process.wait(LIMIT_S) != 0:
        sys.exit(f"the command ended with {process.returncode}:\n{log.read_text()}")


def wait_for_parts(output: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many parts are there, or the command has ended."""
    deadline = time.monotonic() + LIMIT_S
    while len(part_times(output)) < count and process.poll() is None:
        if time.monotonic() > deadline:
            sys.exit(f"there are no {count} parts after {LIMIT_S:g} s")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=10, help="how many drivers are killed")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name, nodes(2) as cluster:
        model = make_model(Path(name, "model"))
        log = Path(name, "log")
        finish(driver(cluster.address, model, f"{name}/undisturbed", log), log)
        expected = result_of(f"{name}/undisturbed", CLIPS)
        assert not expected.problems, expected.problems
        num_parts, missed = len(part_times(f"{name}/undisturbed")), 0
        for number in range(given.times):
            output = f"{name}/{number}"
            killed = driver(cluster.address, model, output, log)
            wait_for_parts(output, draw.randrange(num_parts + 1), killed)
            time.sleep(draw.random())
            killed.send_signal(signal.SIGKILL)
            killed.wait(LIMIT_S)
            before = part_times(output)
            finish(driver(cluster.address, model, output, log), log)
            after, found = part_times(output), result_of(output, CLIPS)
            untouched = all(after[part] == when for part, when in before.items())
            same = found.sha256 == expected.sha256
            missed += bool(found.problems) or not same or not untouched
            said = {
                "parts_before": len(before),
                "parts_made_after": len(after) - len(before),
                "of": num_parts,
                "untouched": untouched,
            }
            sys.stdout.write(json.dumps({"kill": number, **said, "same": same, "problems": found.problems}) + "\n")
            sys.stdout.flush()
    if missed:
        sys.exit(f"{missed} of {given.times} runs did not end as the undisturbed one")


if __name__ == "__main__":
    main()
