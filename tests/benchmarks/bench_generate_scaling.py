"""Clips per second of `generate` and `evaluate` with one actor and with two, and what Ray costs beside a plain loop
over the same clips.

`python tests/benchmarks/bench_generate_scaling.py`: the model in the package, 200 clips of 5 s; --checkpoint, --clips
and --duration take others. Each actor has one thread and one core: the process is bound to as many cores as there are
actors, so that the only actor of the first measurement is not helped by cores that it was not given. Measured is the
work itself: from the moment all actors have finished a first part to the end; starting Ray and loading weights are left
out. The plain loop makes the same parts with the same actor's class in this process.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import ray

from cluster.runtime.connect import connect
from jobs import evaluate, generate
from jobs.actors.generator import Generator
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from soundstorm.data.synthetic import write_dataset
from soundstorm.generation.reranking import PACKAGED_RERANKER
from soundstorm.serialization.bundled import bundled_file

SHARD_SIZE = 8


def rate_at_work(parts: Path, num_actors: int, run: Callable[[], Any]) -> float:
    """Clips per second of `run`, which makes the parts at `parts`, after each actor has finished one; all but the last
    have SHARD_SIZE clips."""
    run()
    finished_s = sorted(path.stat().st_mtime for path in parts.glob("*/part-*.parquet"))
    if len(finished_s) < 4 * num_actors:
        sys.exit(
            f"{len(finished_s)} parts of {SHARD_SIZE} clips are too few to measure {num_actors} actors: give more "
            "--clips"
        )
    return (len(finished_s) - num_actors) * SHARD_SIZE / (finished_s[-1] - finished_s[num_actors - 1])


def plain_loop(options: generate.Options) -> None:
    """The work of `generate` without Ray's scheduling: one actor's class, its parts one after the other."""
    files = checkpoint_files(options.checkpoint)
    checkpoint = open_checkpoint(files)
    weights, _ = choose_codec(options.codec, checkpoint.fingerprint, "the checkpoint")
    job = {
        "output_dir": options.output_dir,
        "layout": "files",
        "format": "flac",
        "duration_s": options.duration,
        "seed": 0,
        "settings": "",
    }
    listener = bundled_file(PACKAGED_RERANKER).read_bytes() if checkpoint.sampler.candidates > 1 else None
    maker = Generator([ray.put((files, weights, listener))], checkpoint.sampler, None, job, "cpu")
    for part in range(options.num_samples // SHARD_SIZE):
        numbers = range(part * SHARD_SIZE, (part + 1) * SHARD_SIZE)
        maker.generate_shard(
            (
                f"{part % 100:02d}/part-{part:07d}.parquet",
                [(number, number % len(checkpoint.categories)) for number in numbers],
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=200, help="clips to generate, and to measure")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of each")
    parser.add_argument("--checkpoint", help="default: the one in the package")
    parser.add_argument("--codec", help="its codec, if it is not in the package")
    given = parser.parse_args()
    clips = given.clips // SHARD_SIZE * SHARD_SIZE
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two actors need two cores, and this process may use one")
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name:
        write_dataset(Path(name, "real"), clips_per_class=5, seed=0, duration_s=given.duration)

        def generation(output: str) -> generate.Options:
            settings = {"num_samples": clips, "duration": given.duration, "shard_size": SHARD_SIZE}
            return generate.Options(checkpoint=given.checkpoint, codec=given.codec, output_dir=output, **settings)

        for num_actors in (1, 2):
            os.sched_setaffinity(0, cores[:num_actors])
            with connect("local", num_cpus=num_actors):
                generated, evaluated = f"{name}/generated-{num_actors}", f"{name}/evaluated-{num_actors}"
                made = generation(generated)
                made.num_actors = num_actors
                rates[f"generate_{num_actors}"] = rate_at_work(
                    Path(generated, "parts"), num_actors, lambda made=made: generate.run(made)
                )
                measured = evaluate.Options(
                    real_audio=f"{name}/real",
                    generated_audio=generated,
                    output_dir=evaluated,
                    metrics="acoustic",
                    examples_per_class=0,
                    shard_size=SHARD_SIZE,
                    num_actors=num_actors,
                    codec=given.codec,
                )
                folder = Path(evaluated, "parts", "metrics")
                rates[f"evaluate_{num_actors}"] = rate_at_work(
                    folder, num_actors, lambda measured=measured: evaluate.run(measured)
                )
                if num_actors == 1:
                    looped = generation(f"{name}/looped")
                    began_s = time.perf_counter()
                    rates["loop"] = rate_at_work(
                        Path(name, "looped", "parts"), 1, lambda looped=looped: plain_loop(looped)
                    )
                    sys.stdout.write(
                        f"plain loop: {clips} clips in {time.perf_counter() - began_s:.1f} s with loading\n"
                    )
    ratios = {job: rates[f"{job}_2"] / rates[f"{job}_1"] for job in ("generate", "evaluate")}
    figures = {f"{key}_clips_per_s": value for key, value in rates.items()}
    figures |= {f"{job}_two_against_one": ratio for job, ratio in ratios.items()} | {
        "ray_overhead": rates["loop"] / rates["generate_1"] - 1
    }
    sys.stdout.write(json.dumps({key: round(value, 3) for key, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
