"""Clips per second of `tokenize` with one codec actor and with two, in one run, and their ratio.

`python tests/benchmarks/bench_tokenize_scaling.py --data-dir DIR`, with the folder of ESC-10 or, for another dataset,
its name in --dataset. Each actor has one thread and one core: the process is bound to as many cores as there are
actors, so that the only actor of the first measurement is not helped by cores that it was not given (--free leaves the
cores alone). What is measured is the work itself, from the moment all actors have finished a first part to the end;
starting Ray and loading weights are left out.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from cluster.runtime.connect import connect
from jobs import tokenize

SHARD_SIZE = 8


def clips_per_s(num_actors: int, data_dir: str, dataset: str, codec: str | None) -> float:
    """Tokenizes the whole dataset once; the rate after each of the actors has finished one part."""
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as folder:
        options = tokenize.Options(
            dataset=dataset,
            data_dir=data_dir,
            output_dir=f"{folder}/out",
            codec=codec,
            num_actors=num_actors,
            shard_size=SHARD_SIZE,
            max_rejected=1.0,
        )
        with connect("local", num_cpus=num_actors):
            began_s = time.perf_counter()
            counts = tokenize.run(options)
            total_s = time.perf_counter() - began_s
        finished_s = sorted(path.stat().st_mtime for path in Path(options.output_dir, "tokens").glob("*.parquet"))
    if len(finished_s) < 4 * num_actors:
        sys.exit(
            f"{len(finished_s)} parts of {SHARD_SIZE} clips are too few to measure {num_actors} actors: give a larger "
            "dataset"
        )
    clips = counts["clips"] - num_actors * SHARD_SIZE
    rate = clips / (finished_s[-1] - finished_s[num_actors - 1])
    sys.stdout.write(
        f"{num_actors} actors: {rate:.2f} clips/s at work, {counts['clips']} clips in {total_s:.1f} s with the start\n"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of the dataset")
    parser.add_argument("--dataset", default="esc10", help="its name")
    parser.add_argument("--codec", help="weights of the codec; default: as in `tokenize`")
    parser.add_argument(
        "--free", action="store_true", help="do not bind the process to as many cores as there are actors"
    )
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two actors need two cores, and this process may use one")
    rates = []
    for num_actors in (1, 2):
        if not given.free:
            os.sched_setaffinity(0, cores[:num_actors])
        rates.append(clips_per_s(num_actors, given.data_dir, given.dataset, given.codec))
    sys.stdout.write(f"two actors are {rates[1] / rates[0]:.2f} times as fast as one\n")


if __name__ == "__main__":
    main()
