r"""Where a generator loses: true codes of the first N levels of recordings, the rest by the generator, or by noise,
heard by a classifier.

python tests/benchmarks/substitution.py --checkpoint runs/train --dataset esc50 --data-dir PATH/esc50 --fold 4 \
    --classifier runs/classifier/classifier.safetensors

Works for any codec and checkpoint. "Noise" are codes drawn by how often each occurs at its level, in the true codes of
the clips that are heard; "left out" is what the codec makes of the first N levels alone. N = all is the codec itself, N
= 0 of the generator is all its own work. For each: the share of clips that the classifier names as the recording's
class, and the log-mel distance from the recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from cluster import storage
from jobs.inputs.audio_files import load_clip
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.clips import Clip, draw_per_category
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions, open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.classification.cnn import load_classifier
from soundstorm.generation.substitution import KEPT_LEVELS, Outcome, Substitution, cases

LONGEST_S = 5.0


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Replace the codes of recordings from a level on, and let a classifier hear what is left."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder; default: the one in the package."""
    codec: str | None = None
    """Weights of its codec; default: from the package or the cache."""
    classifier: str | None = None
    """File of `train-classifier`; default: the one in the package, for the classes of ESC-10."""
    fold: int = 4
    """Recordings of this fold."""
    per_class: int = 2
    """Recordings of each class."""
    levels: tuple[int, ...] = KEPT_LEVELS
    """N to try; those above the codec's levels are left out, and all levels are always tried."""
    seed: int = 0
    """Of the recordings and the samples."""
    threads: int = 1
    """CPU threads."""


def substitute(
    substitution: Substitution,
    pcms: Sequence[np.ndarray],
    labels: Sequence[int],
    categories: Sequence[str],
    *,
    levels: Sequence[int] = KEPT_LEVELS,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """The table for clips (int16) with these labels of the network and names of classes."""
    found = []
    num_levels, generated = substitution.codec.fingerprint.num_levels, substitution.model.config.num_levels
    for case in cases(num_levels, generated, levels):
        found.append(substitution.outcome(case, pcms, labels, categories))
        if on_outcome is not None:
            on_outcome(found[-1])
    return found


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """For the terminal."""
    table = Table("true levels", "the rest", "named rightly", "log-mel distance", "clips")
    for line in outcomes:
        named = "-" if line.named is None else f"{line.named:.3f}"
        table.add_row(str(line.case.kept), line.case.rest, named, f"{line.log_mel:.3f}", str(line.clips))
    return table


def main() -> None:
    """Substitute and print."""
    options, console = tyro.cli(Options), Console()
    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(checkpoint_files(options.checkpoint), uri=options.checkpoint)
    _, codec = choose_codec(
        options.codec, checkpoint.fingerprint, options.checkpoint or "the checkpoint in the package"
    )
    classifier = load_classifier(None if options.classifier is None else storage.read_bytes(options.classifier))
    rows = rows_of_folds(open_dataset(options.dataset, options.location).clips, {options.fold}).to_pylist()
    clips = [
        Clip(row["clip_id"], row["uri"], row["category"], row["fold"])
        for row in rows
        if row["category"] in checkpoint.categories
    ]
    chosen = draw_per_category(clips, options.per_class, options.seed)
    pcms = [load_clip(clip.uri)[: round(LONGEST_S * SAMPLE_RATE)] for clip in chosen]
    names = [clip.category for clip in chosen]
    labels = [checkpoint.categories.index(name) for name in names]
    substitution = Substitution(
        model=checkpoint.model, settings=checkpoint.sampler, codec=codec, classifier=classifier, seed=options.seed
    )
    found = substitute(
        substitution,
        pcms,
        labels,
        names,
        levels=options.levels,
        on_outcome=lambda line: console.print(line, highlight=False),
    )
    console.print(as_table(found))


if __name__ == "__main__":
    main()
