"""Figures of a codec on one fold of a dataset: SI-SDR, log-mel distance, codes in use, and the six metrics real against resynthesized.

python tests/benchmarks/codec_report.py --data-dir PATH/esc50 --dataset esc10 --fold 5
"""

from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from jobs.clips import Clip
from jobs.datasets import DatasetOptions, open_dataset, rows_of_folds
from jobs.measurer import load_clip, resynthesize
from soundstorm.audio import SAMPLE_RATE, from_pcm16
from soundstorm.codec import load_codec
from soundstorm.codec_quality import measure_codec
from soundstorm.metrics import METRIC_NAMES, clip_metrics
from soundstorm.statistics import compare


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Measure a codec on one fold of a dataset."""

    fold: int = 5
    """Fold to measure on; the compact codec was not trained on fold 5 of ESC-10."""
    codec: str | None = None
    """Weights; default: the compact codec in the package."""


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    codec = load_codec(options.codec)
    rows = rows_of_folds(open_dataset(options.dataset, options.location).clips, {options.fold}).to_pylist()
    clips = [Clip(row["clip_id"], row["uri"], row["category"], row["fold"], dataset=row["dataset"]) for row in rows]
    real = [load_clip(clip.uri, dataset=clip.dataset) for clip in clips]
    decoded = resynthesize(codec, real)
    quality = measure_codec(codec, [from_pcm16(pcm) for pcm in real])
    out = Console()
    out.print(f"{codec.fingerprint.name} {codec.fingerprint.sha256[:12]}, {len(clips)} clips of fold {options.fold}")
    out.print(f"SI-SDR {quality.si_sdr_db} dB, log-mel distance {quality.log_mel_distance:.3f} nats")
    out.print("codes in use per level: " + ", ".join(f"{share:.0%}" for share in quality.codes_in_use))
    values = {name: [[clip_metrics(pcm, SAMPLE_RATE)[name] for pcm in pcms] for pcms in (real, decoded)] for name in METRIC_NAMES}
    table = Table("metric", "real", "resynthesized", "difference", "KS", "p")
    for name, (before, after) in values.items():
        result = compare(before, after)
        difference = f"{result.difference_percent:+.1f}%"
        table.add_row(name, f"{result.mean_real:.4g}", f"{result.mean_other:.4g}", difference, f"{result.ks:.3f}", f"{result.p_value:.2f}")
    out.print(table)
    by_class = Table("difference of means by class", *METRIC_NAMES)
    for category in sorted({clip.category for clip in clips}):
        chosen = [index for index, clip in enumerate(clips) if clip.category == category]
        means = [[float(np.mean([side[index] for index in chosen])) for side in values[name]] for name in METRIC_NAMES]
        by_class.add_row(category, *(f"{100 * (after / before - 1):+.0f}%" for before, after in means))
    out.print(by_class)


if __name__ == "__main__":
    main()
