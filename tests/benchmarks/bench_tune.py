"""What early stopping saves, and what it costs: a training study, and then every trial of it that was stopped early run to its end.

    python tests/benchmarks/bench_tune.py --tokens runs/tokens --output-dir /tmp/bench-tune

Prints the epochs that the study ran of those that all full runs have, and its lowest loss beside that of the full runs. Both can be called
again and go on.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from soundstorm.presets import preset
from tune.journal import Journal, point_name
from tune.training_study import TRIALS, Options, prepare, run
from tune.training_trial import Base, run_trial


@dataclass(kw_only=True)
class Bench:
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


def main() -> None:
    """Study, full runs, figures."""
    bench, console = tyro.cli(Bench), Console(soft_wrap=True)
    settings: dict[str, Any] = {name: getattr(bench, name) for name in ("tokens", "preset", "num_trials", "epochs", "space")}
    options = Options(output_dir=str(bench.output_dir), **settings)
    began = time.monotonic()
    found = run(options)
    begin = prepare(options)
    everything = begin.training.epochs * bench.num_trials
    console.print(f"study: {time.monotonic() - began:.0f} s, {found['epochs']} of {everything} epochs ({found['epochs'] / everything:.0%})")
    if not bench.full:
        return
    base = Base.of(
        begin.tokens, model=begin.model, training=begin.training, sampler=preset(bench.preset).sampler, folder=str(bench.output_dir / "full")
    )
    losses = []
    for ended in Journal(str(bench.output_dir / TRIALS / "journal")).ended():
        file = bench.output_dir / "full" / f"{point_name(ended.point)}.json"
        if not file.exists():
            rows = list(ended.rows)
            if ended.state == "stopped":
                rows = []
                run_trial(ended.point, *begin.tokens.split(), base, rows.append)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rows))
        losses.append(json.loads(file.read_text())[-1]["val_loss"])
        console.print(f"{ended.state:9} {ended.last.get('val_loss', float('nan')):.4f}  full {losses[-1]:.4f}  {ended.point}")
    best = min(losses)
    console.print(f"lowest loss: study {found['val_loss']:.4f}, full runs {best:.4f}: {found['val_loss'] / best - 1:+.2%}")


if __name__ == "__main__":
    main()
