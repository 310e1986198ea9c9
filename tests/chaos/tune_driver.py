"""A training study whose driver is killed half-way goes on: no finished trial runs again, and the table is complete. A
trial's process is killed too.

    python tests/chaos/tune_driver.py --tokens runs/tokens --output-dir /tmp/chaos-tune

Runs `python -m jobs.tune training` on its own Ray of this machine; every wait has a limit. Ends with an error if a bar
is missed.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cluster.tables import read_table
from tests.chaos.drivers import finish, kill, last_line, wait_until


@dataclass(kw_only=True)
class Options:
    """What to run."""

    tokens: str
    """Output folder of `tokenize`."""
    output_dir: Path
    """Deleted first."""
    num_trials: int = 6
    """Trials of the study."""
    epochs: int = 6
    """Of each trial."""
    kill_after: int = 3
    """Trials that have ended when the driver is killed."""


def study(options: Options, log: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the study; what it says goes to `log`."""
    command = [
        sys.executable,
        "-m",
        "jobs.tune",
        "training",
        "--tokens",
        options.tokens,
        "--output-dir",
        str(options.output_dir),
        "--preset",
        "tiny",
    ]
    with log.open("ab") as file:
        settings = ("--num-trials", str(options.num_trials), "--epochs", str(options.epochs), *more)
        return subprocess.Popen([*command, *settings], cwd=ROOT, stdout=file, stderr=file)


def ended(options: Options) -> dict[str, int]:
    """When the record of each trial that ended was written."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in (options.output_dir / "trials" / "journal" / "ended").glob("*.json")
    }


def trial_processes(driver: int) -> list[int]:
    """Processes of trials that descend from `driver`."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def descends(pid: int) -> bool:
        return pid == driver or (pid in parents and parents[pid] > 1 and descends(parents[pid]))

    return [
        pid
        for pid, title in titles.items()
        if "ray::ImplicitFunc" in title and "__init__" not in title and descends(pid)
    ]


def main() -> None:
    """Kill, go on, compare."""
    options, console = tyro.cli(Options), Console()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    options.output_dir.parent.mkdir(parents=True, exist_ok=True)
    log = options.output_dir.parent / f"{options.output_dir.name}.log"
    log.unlink(missing_ok=True)
    first, killed = study(options, log), []
    wait_until(lambda: bool(ended(options)), "no trial ends", first)
    wait_until(lambda: bool(trial_processes(first.pid)), "no trial is at work", first)
    killed = [pid for pid in trial_processes(first.pid)[:1] if kill(pid)]
    wait_until(lambda: len(ended(options)) >= options.kill_after, "too few trials end", first)
    if first.poll() is not None:
        sys.exit(f"the study ended before it could be killed: {last_line(log)}")
    kill(first.pid)
    first.wait()
    before = ended(options)
    console.print(
        f"driver killed with {len(before)} of {options.num_trials} trials ended, and before it {len(killed)} process "
        "of a trial"
    )
    seconds = finish(study(options, log, "--resume"), log)
    after, rows = ended(options), read_table(str(options.output_dir / "trials.parquet"))[0].to_pylist()
    again = [name for name in before if after.get(name) != before[name]]
    best = json.loads((options.output_dir / "best.json").read_text())["val_loss"]
    states = sorted(row["state"] for row in rows)
    console.print(
        f"went on for {seconds:.0f} s: {len(rows)} rows, {len(again)} trials that had ended ran again, "
        f"{', '.join(states)}; best {best:.4f}"
    )
    if again or len({row["trial"] for row in rows}) != options.num_trials or not killed or "failed" in states:
        sys.exit("a bar is missed")


if __name__ == "__main__":
    main()
