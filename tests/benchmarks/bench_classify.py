"""Memory of the driver of `classify` over 1,000 and over 10,000 short files, and its rate beside a plain loop over the
same files.

`python tests/benchmarks/bench_classify.py`: noise of 0.5 s, WAV at 44.1 kHz; the classifier in the package. --files,
--duration and --checkpoint take others. One actor and the loop have one and the same core, Ray and the driver another,
as where a cluster is larger than one actor; with --shared all have one core, and what Ray costs by being there counts
too. Measured is the work itself: from the moment the actor has finished a first part to the end; starting Ray and
loading weights are left out. The loop decodes and names as many files at a time as a part has; it runs before and
after, and the mean of both counts. Where others use the machine too, the seconds of CPU that a file costs tell more
than rates: those of the actor, the driver and all of Ray together. The memory is the most that a driver process had.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import numpy as np
import pyarrow as pa
import torch

from cluster import tables
from jobs.inputs.classifiers import classifier_files, open_classifier_files
from soundstorm.audio.files import encode_audio, read_audio, to_pcm16

ROOT = Path(__file__).resolve().parents[2]
FEW = 1_000
SHARD_SIZE = 1024
FILE_RATE = 44_100
DRIVER = """
import json, resource, sys
from cluster.runtime.connect import connect
from jobs import classify
with connect("local", num_cpus=1):
    classify.run(classify.Options(**json.loads(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_files(folder: Path, count: int, duration_s: float) -> list[str]:
    """Files of noise, each another, spread over sub-folders."""
    paths = [folder / f"{number % 100:02d}" / f"{number:06d}.wav" for number in range(count)]
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(60 * FILE_RATE))
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = np.roll(noise, -number * 97)[: round(duration_s * FILE_RATE)]
        path.write_bytes(encode_audio(waveform, FILE_RATE, "wav"))
    return [str(path) for path in paths]


class CpuWatch:
    """Notes every half second how many seconds of CPU a process and all below it have used, and keeps the actor on the
    first of two cores and all others on the second."""

    def __init__(self, pid: int, cores: tuple[int, int]) -> None:
        self.pid, self.cores, self.seen = pid, cores, [(time.time(), 0.0)]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.5):
            used = tree_cpu_s(self.pid)
            self.seen.append((time.time(), sum(used.values())))
            for process in used:
                place(process, self.cores)

    def between(self, begin_s: float, end_s: float) -> float:
        """Seconds of CPU between two points of time."""
        self.ended.set()
        self.thread.join()
        when, used = zip(*self.seen, strict=True)
        return float(np.interp(end_s, when, used) - np.interp(begin_s, when, used))


def place(process: int, cores: tuple[int, int]) -> None:
    """Put all threads of a process on its core."""
    with contextlib.suppress(OSError):  # it may have ended
        folder = Path(f"/proc/{process}")
        core = cores[0] if b"ClassifierActor" in (folder / "cmdline").read_bytes() else cores[1]
        for thread in (folder / "task").iterdir():
            os.sched_setaffinity(int(thread.name), [core])


def tree_cpu_s(root: int) -> dict[int, float]:
    """Seconds of CPU, by process, of a process and its descendants, and of those that they have seen end."""
    parent, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parent[int(folder.name)] = int(fields[1])
                used[int(folder.name)] = sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def is_below(pid: int) -> bool:
        while pid not in (root, 0):
            pid = parent.get(pid, 0)
        return pid == root

    return {pid: seconds for pid, seconds in used.items() if is_below(pid)}


def drive(
    output: Path, sources: list[str], table: str | None, checkpoint: str | None, cores: tuple[int, int]
) -> tuple[float, float, float]:
    """One run of the job: the most memory that the driver had, in MB; files per second, and seconds of CPU per file, at
    work."""
    options = {
        "files": sources,
        "list": table,
        "output_dir": str(output),
        "checkpoint": checkpoint,
        "shard_size": SHARD_SIZE,
        "num_actors": 1,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(options)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    watch = CpuWatch(process.pid, cores)
    printed, _ = process.communicate()
    finished_s = sorted(path.stat().st_mtime for path in (output / "parts" / "classified").rglob("part-*.parquet"))
    if process.returncode:
        sys.exit(f"the driver ended with {process.returncode}")
    files = (len(finished_s) - 2) * SHARD_SIZE  # the last part is smaller
    begin_s, end_s = finished_s[0], finished_s[max(0, len(finished_s) - 2)]
    cpu_s = watch.between(begin_s, end_s)
    rates = (files / (end_s - begin_s), cpu_s / files) if files > 0 else (0.0, 0.0)
    return float(printed.splitlines()[-1]), *rates


def loop(paths: list[str], checkpoint: str | None) -> tuple[float, float]:
    """Files per second, and seconds of CPU per file, of decoding and naming in this process."""
    classifier = open_classifier_files(classifier_files(checkpoint))
    began = (0.0, 0.0)
    for start in range(0, len(paths), SHARD_SIZE):
        if start == SHARD_SIZE:
            began = time.perf_counter(), time.process_time()
        classifier.predict(
            [to_pcm16(read_audio(Path(path).read_bytes()).waveform) for path in paths[start : start + SHARD_SIZE]]
        )
    files = len(paths) - SHARD_SIZE
    return files / (time.perf_counter() - began[0]), (time.process_time() - began[1]) / files


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000, help="files to name")
    parser.add_argument("--duration", type=float, default=0.5, help="seconds of each")
    parser.add_argument("--checkpoint", help="the classifier; default: the network in the package")
    parser.add_argument("--shared", action="store_true", help="one core for all")
    given = parser.parse_args()
    if given.files < max(FEW, 5 * SHARD_SIZE):
        sys.exit(f"--files is {given.files}: give at least {max(FEW, 5 * SHARD_SIZE)}")
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    cores = (first, first if given.shared else last)
    os.sched_setaffinity(0, [first])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name:
        paths = write_files(Path(name, "files"), given.files, given.duration)
        tables.write_table(f"{name}/few.parquet", pa.table({"uri": paths[:FEW]}), {})
        few_mb, _, _ = drive(Path(name, "few"), [], f"{name}/few.parquet", given.checkpoint, cores)
        before = loop(paths, given.checkpoint)
        all_mb, rate, cpu_s = drive(Path(name, "all"), [f"{name}/files"], None, given.checkpoint, cores)
        after = loop(paths, given.checkpoint)
    plain, plain_cpu_s = (sum(pair) / 2 for pair in zip(before, after, strict=True))
    figures = {
        "driver_mb_few": few_mb,
        "driver_mb_all": all_mb,
        "driver_mb_more": all_mb - few_mb,
        "classify_files_per_s": rate,
        "loop_files_per_s": plain,
        "rate_against_loop": rate / plain,
        "classify_cpu_ms_per_file": 1000 * cpu_s,
        "loop_cpu_ms_per_file": 1000 * plain_cpu_s,
        "cpu_against_loop": cpu_s / plain_cpu_s,
    }
    sys.stdout.write(json.dumps({key: round(value, 3) for key, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
