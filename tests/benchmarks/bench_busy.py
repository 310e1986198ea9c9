"""Seconds an epoch of `train --preset tiny`, idle and beside a busy process, with what Ray and OpenMP bring and with
our settings.

`python tests/benchmarks/bench_busy.py --settings before after --repeats 3`: each repeat runs every setting idle and
loaded, one after the other, so that what else the machine does meets all of them alike; the figures are medians over
the epochs but the first. `--load N` has N busy processes.
"""

import argparse
import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0))
SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp does where nothing is said."""
SETTINGS: dict[str, dict[str, str]] = {
    "before": {**SPINNING, "RAY_worker_niceness": "15", "OMP_NUM_THREADS": str(CORES)},
    "nice": {**SPINNING, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": str(CORES)},
    "passive": {"OMP_WAIT_POLICY": "passive", "RAY_worker_niceness": "15", "OMP_NUM_THREADS": str(CORES)},
    "passive-nice": {"OMP_WAIT_POLICY": "passive", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": str(CORES)},
    **{
        f"spin-{count}": {"GOMP_SPINCOUNT": str(count), "RAY_worker_niceness": "0", "OMP_NUM_THREADS": str(CORES)}
        for count in (1000, 3000, 5000, 10000)
    },
    "fewer": {**SPINNING, "RAY_worker_niceness": "15", "OMP_NUM_THREADS": str(max(1, CORES - 1))},
    "fewer-nice": {**SPINNING, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": str(max(1, CORES - 1))},
    "passive-fewer-nice": {
        "OMP_WAIT_POLICY": "passive",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": str(max(1, CORES - 1)),
    },
    "after": {},
}
"""Variables of `train`, by name; `after` leaves all to the program."""
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_worker_niceness", "RAY_ADDRESS")
LIMIT_S = 1800.0


def run(module: str, *arguments: str, environment: dict[str, str]) -> None:
    """`python -m MODULE`, in an environment without the variables that are tried here."""
    variables = {name: value for name, value in os.environ.items() if name not in OWN} | {
        "PYTHONPATH": str(ROOT),
        "SOUNDSTORM_OFFLINE": "1",
    }
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, env=variables | environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{module} ended with {done.returncode}: {done.stderr[-2000:]}")


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """`count` processes that do nothing but be busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def seconds_an_epoch(tokens: str, epochs: int, environment: dict[str, str], count: int) -> float:
    """Median over the epochs but the first, with `count` busy processes beside."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-busy-") as folder, load(count):
        arguments = ("--tokens", tokens, "--preset", "tiny", "--epochs", str(epochs), "--output-dir", f"{folder}/train")
        run("jobs.train", *arguments, environment=environment)
        rows = list(csv.DictReader(Path(folder, "train", "log.csv").read_text().splitlines()))
    return statistics.median(float(row["seconds"]) for row in rows[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--settings", nargs="+", choices=list(SETTINGS), default=["before", "after"], help="which are measured"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, idle and loaded")
    parser.add_argument("--epochs", type=int, default=7, help="epochs of each run")
    parser.add_argument("--load", type=int, default=1, help="busy processes of the loaded runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soundstorm-busy-") as folder:
        code = f"from jobs.inputs.synthetic_dataset import make_synthetic; make_synthetic({folder + '/data'!r}, 10)"
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        tokens = f"{folder}/tokens"
        run(
            "jobs.tokenize",
            "--dataset",
            "synthetic",
            "--data-dir",
            f"{folder}/data",
            "--output-dir",
            tokens,
            environment={},
        )
        found: dict[tuple[str, int], list[float]] = {}
        for repeat in range(given.repeats):
            for name in given.settings:
                for count in (0, given.load):
                    seconds = seconds_an_epoch(tokens, given.epochs, SETTINGS[name], count)
                    found.setdefault((name, count), []).append(seconds)
                    where = f"beside {count} busy" if count else "idle"
                    sys.stdout.write(
                        f"repeat {repeat + 1}: {name}, {where}: {seconds:.2f} s an epoch (load average "
                        f"{os.getloadavg()[0]:.1f})\n"
                    )
                    sys.stdout.flush()
    for name in given.settings:
        idle, loaded = (statistics.median(found[name, count]) for count in (0, given.load))
        sys.stdout.write(
            f"{name}: {idle:.2f} s an epoch idle, {loaded:.2f} s beside {given.load} busy: {loaded / idle:.2f} times "
            "as long\n"
        )


if __name__ == "__main__":
    main()
