r"""How a checkpoint's sampler settings show in the measures: one row for each candidate, against real clips of the
folds trained on.

python tests/benchmarks/sampling/sampler_sweep.py --dataset esc10 --data-dir PATH/esc50 \
    --candidates docs/sampler_candidates.json --output docs/sampler_sweep.csv

The test fold is left out, so that what is chosen here can be measured there. Rows are written as they are made, and a
candidate that has its row already is not run again.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from measured_clips import figures, generate, in_words, measure, real_clips
from rich.console import Console

from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions
from soundstorm.classification.cnn import load_classifier


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Generate with each candidate and measure."""

    candidates: Path
    """JSON file: a list of sampler settings, each a table of what differs from the checkpoint's."""
    output: Path
    """CSV file to write or go on with."""
    checkpoint: str | None = None
    """Default: the one in the package."""
    classifier: Path | None = None
    """Default: the one in the package."""
    test_fold: int = 5
    """Left out of the real clips."""
    per_class: int = 6
    """Clips of each class to generate for a candidate."""
    real_per_class: int = 32
    """Real clips of each class to compare with."""
    duration: float = 5.0
    """Seconds of each clip."""
    seed: int = 1
    """Of the samples; not the one that final figures are made with."""
    threads: int = 2
    """CPU threads."""


def main() -> None:
    """Run the candidates that have no row yet."""
    options, console = tyro.cli(Options), Console()
    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(checkpoint_files(options.checkpoint))
    _, codec = choose_codec(None, checkpoint.fingerprint, options.checkpoint or "the checkpoint in the package")
    classifier = load_classifier(options.classifier)
    real = real_clips(options.dataset, options.location, options.test_fold, options.real_per_class, classifier)
    done = {row["settings"] for row in csv.DictReader(options.output.open())} if options.output.exists() else set()
    for candidate in json.loads(options.candidates.read_text()):
        changes = {name: tuple(value) if isinstance(value, list) else value for name, value in candidate.items()}
        settings = replace(checkpoint.sampler, **changes)
        name = json.dumps(settings.to_dict())
        if name in done:
            continue
        pcms, labels, seconds = generate(
            checkpoint.model,
            codec,
            checkpoint.categories,
            settings,
            per_class=options.per_class,
            duration_s=options.duration,
            seed=options.seed,
        )
        found = figures(real, measure(pcms, labels, classifier))
        row = {"settings": name, "clips": len(pcms), "seconds_per_clip": f"{seconds / len(pcms):.2f}"}
        row |= {key: f"{value:.3f}" for key, value in found.items()}
        with options.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        console.print(
            json.dumps(candidate), in_words(found), f"| {seconds:.0f} s", markup=False, highlight=False, soft_wrap=True
        )


if __name__ == "__main__":
    main()
