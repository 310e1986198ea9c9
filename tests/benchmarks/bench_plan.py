"""Seconds and memory that the driver of `tokenize` needs for the index and the plan of many clips, and for the tables
at the end.

`python tests/benchmarks/bench_plan.py --clips 1000000`: makes that many empty files in the folders of 50 classes and a
table of labels beside them (`--layout folders`: no table), then indexes and plans them in a process of its own. Memory
is the highest resident size (VmHWM) less that after the imports, in MB of 10^6 bytes. `--end` also makes a table of
tokens for each shard and measures what a run does after its last shard.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def resident_mb(name: str) -> float:
    """VmRSS or VmHWM of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def reset_peak() -> None:
    """Let VmHWM start again at the resident size of now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(folder: Path, shard_size: int, has_end: bool) -> None:
    """Index and plan, in this process, and print what it took."""
    from jobs import tokenize
    from tests.support import many_clips

    options = tokenize.Options(
        dataset="folder",
        data_dir=str(folder / "recordings"),
        output_dir=str(folder / "tokens"),
        shard_size=shard_size,
        max_rejected=0.05,
    )
    reset_peak()
    imported_mb, began = resident_mb("VmRSS"), time.monotonic()
    index, planned = many_clips.plan(options)
    print(
        f"index and plan: {planned} clips, {index.rejected.num_rows} rejected, {index.ignored.num_rows} ignored: "
        f"{time.monotonic() - began:.1f} s, {resident_mb('VmHWM') - imported_mb:.0f} MB above imports "
        f"({imported_mb:.0f} MB)",
        flush=True,
    )
    if has_end:
        call = f"make_tokens({options.output_dir!r}, {planned}, {shard_size})"
        making = f"from tests.support.many_clips import make_tokens; {call}"
        subprocess.run([sys.executable, "-c", making], cwd=ROOT, check=True)
        reset_peak()
        began = time.monotonic()
        rejected = many_clips.end(options, index)
        print(
            f"end: {-(-planned // shard_size)} shards, {rejected} rejected: {time.monotonic() - began:.1f} s, "
            f"{resident_mb('VmHWM') - imported_mb:.0f} MB above imports"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--layout", choices=("table", "folders"), default="table")
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--end", action="store_true", help="also measure what a run does after its last shard")
    parser.add_argument("--folder", type=Path, help="of an earlier run of this benchmark: measure only")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.folder is not None:
        measure(options.folder, options.shard_size, options.end)
        return
    from tests.support.many_clips import make_recordings

    with tempfile.TemporaryDirectory(prefix="soundstorm-plan-") as name:
        began = time.monotonic()
        make_recordings(Path(name, "recordings"), options.clips, with_table=options.layout == "table")
        print(f"made in {time.monotonic() - began:.1f} s", flush=True)
        command = [sys.executable, __file__, "--folder", name, "--shard-size", str(options.shard_size)]
        subprocess.run([*command, *(["--end"] if options.end else [])], check=True)


if __name__ == "__main__":
    main()
