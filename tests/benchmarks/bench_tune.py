"""What early stopping saves, and what it costs: a training study, and then every trial of it that was stopped early run
to its end.

    python tests/benchmarks/bench_tune.py --tokens runs/tokens --output-dir /tmp/bench-tune

Prints the epochs that the study ran of those that all full runs have, and its lowest loss beside that of the full runs.
Both can be called again and go on.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import tyro
from rich.console import Console

from cluster.runtime.connect import connect
from jobs.training.generator_recipe import GeneratorSettings
from jobs.training.ray_trainer import use_threads
from tune.search.trial_journal import Journal, TrialConfig, point_name
from tune.training.beginning import TRIALS, Options, Start, prepare
from tune.training.trial import Base, run_trial
from tune.training_study import run


@dataclass(kw_only=True)
class ReferenceSet:
    """What to run."""

    tokens: str
    """Output folder of `tokenize`."""
    output_dir: Path
    """Of the study; full/ below it has the losses of the full runs."""
    preset: str = "tiny"
    """What the search starts from."""
    num_trials: int = 12
    """Of the study."""
    epochs: int | None = None
    """Of a trial; default: the preset's."""
    space: str | None = None
    """Default: the study's."""
    full: bool = True
    """Whether to run all trials to their end for comparison."""


@ray.remote(num_cpus=1)
def full_run(point: TrialConfig, begin: Start, folder: Path) -> list[dict[str, Any]]:
    """All epochs of a trial, on one core as in the study; what it reports is written to `folder` too."""
    use_threads(1)
    rows: list[dict[str, Any]] = []
    settings = GeneratorSettings.of(begin.tokens, begin.model, begin.training, begin.sampler)
    base = Base(generator=settings, folder=str(folder))
    run_trial(point, *begin.tokens.split(), base, rows.append)
    file(folder, point).write_text(json.dumps(rows))
    return rows


def file(folder: Path, point: TrialConfig) -> Path:
    """Where the full run of a point is written to."""
    return folder / f"{point_name(point)}.json"


def main() -> None:
    """Study, full runs, figures."""
    bench, console = tyro.cli(ReferenceSet), Console(soft_wrap=True)
    settings: dict[str, Any] = {
        name: getattr(bench, name) for name in ("tokens", "preset", "num_trials", "epochs", "space")
    }
    options = Options(output_dir=str(bench.output_dir), **settings)
    began = time.monotonic()
    found = run(options)
    begin = prepare(options)
    everything = begin.training.epochs * bench.num_trials
    console.print(
        f"study: {time.monotonic() - began:.0f} s, {found['epochs']} of {everything} epochs "
        f"({found['epochs'] / everything:.0%})"
    )
    if not bench.full:
        return
    folder = bench.output_dir.absolute() / "full"
    folder.mkdir(exist_ok=True)
    trials = Journal(str(bench.output_dir / TRIALS / "journal")).ended()
    began = time.monotonic()
    with connect():
        shared = ray.put(begin)
        missing = [
            ended.point for ended in trials if ended.state == "stopped" and not file(folder, ended.point).exists()
        ]
        ray.get([full_run.remote(point, shared, folder) for point in missing])
    console.print(f"full runs of the {len(missing)} that were stopped: {time.monotonic() - began:.0f} s")
    losses = []
    for ended in trials:
        rows = json.loads(file(folder, ended.point).read_text()) if ended.state == "stopped" else ended.rows
        losses.append(rows[-1]["val_loss"] if rows else float("inf"))
        console.print(
            f"{ended.state:9} {ended.last.get('val_loss', float('nan')):.4f}  full {losses[-1]:.4f}  {ended.point}"
        )
    best = min(losses)
    console.print(
        f"lowest loss: study {found['val_loss']:.4f}, full runs {best:.4f}: {found['val_loss'] / best - 1:+.2%}"
    )


if __name__ == "__main__":
    main()
