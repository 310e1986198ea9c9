"""A set of clips as the scripts beside this file compare it with another: the six metrics, how it changes in time, what
it is taken for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.actors.generator import sample_seed
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip, draw_per_category
from jobs.inputs.datasets import open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, to_pcm16
from soundstorm.classification.cnn import TrainedClassifier, load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.editing.editor import Editor
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.evaluation.distances import within_class_distance
from soundstorm.evaluation.metric_info import METRIC_NAMES
from soundstorm.evaluation.summary import compare
from soundstorm.evaluation.temporal import modulation_energy, spectral_flux
from soundstorm.generation.reranking import PACKAGED_RERANKER
from soundstorm.model.config import SamplerSettings
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.serialization.bundled import bundled_file

BATCH = 10


@dataclass(frozen=True)
class Measured:
    """N clips and what the measures say of each."""

    labels: list[str]
    """Class of each clip: its own, or the one it was generated for."""
    metrics: np.ndarray
    """(N, 6), in the order of METRIC_NAMES."""
    flux: np.ndarray
    modulation: np.ndarray
    embedding: np.ndarray
    named: list[str]
    """What the classifier takes each clip for."""


def measure(pcms: Sequence[np.ndarray], labels: list[str], classifier: TrainedClassifier) -> Measured:
    """Measure clips (int16 at 24 kHz)."""
    metrics = np.array([list(clip_metrics(pcm, SAMPLE_RATE).values()) for pcm in pcms])
    flux = np.array([spectral_flux(pcm, SAMPLE_RATE) for pcm in pcms])
    modulation = np.array([modulation_energy(pcm, SAMPLE_RATE) for pcm in pcms])
    named = [classifier.categories[index] for index in classifier.predict(pcms).argmax(1)]
    return Measured(labels, metrics, flux, modulation, classifier.embed(pcms), named)


def real_clips(dataset: str, location: str, test_fold: int, per_class: int, classifier: TrainedClassifier) -> Measured:
    """Clips of all folds but the test fold, drawn by seed 0."""
    clips_table = open_dataset(dataset, location).clips
    rows = rows_of_folds(clips_table, set(clips_table["fold"].to_pylist()) - {test_fold}).to_pylist()
    clips = draw_per_category(
        [Clip(row["clip_id"], row["uri"], row["category"], row["fold"]) for row in rows], per_class, 0
    )
    return measure([load_clip(clip.uri) for clip in clips], [clip.category for clip in clips], classifier)


def generate(
    model: SoundStorm,
    codec: Codec,
    categories: list[str],
    settings: SamplerSettings,
    *,
    per_class: int,
    duration_s: float,
    seed: int,
    with_class: bool = True,
    model_frames: int = 0,
) -> tuple[list[np.ndarray], list[str], float]:
    """Clips (int16), the classes they were asked for, and the seconds it took.

    Args:
        with_class: tell the model the class; otherwise it draws from all of them.
        model_frames: draw at least as many frames, and keep the first: for a model trained on filled-up clips.
    """
    began = time.monotonic()
    editor = Editor(
        model=model,
        codec=codec,
        settings=settings,
        filled_frames=model_frames,
        takes_class=with_class,
        reranker=load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes()),
        categories=categories,
    )
    work = [(label, index) for index in range(per_class) for label in range(len(categories))]
    pcms = []
    for first in range(0, len(work), BATCH):
        batch = work[first : first + BATCH]
        seeds = [sample_seed(seed, label, index) for label, index in batch]
        waveforms = editor.new([label for label, _ in batch], seeds, round(duration_s * SAMPLE_RATE))
        pcms += [to_pcm16(waveform_N) for waveform_N in waveforms]
    return pcms, [categories[label] for label, _ in work], time.monotonic() - began


def figures(real: Measured, made: Measured) -> dict[str, float]:
    """One row of figures; ratios are generated over real."""
    row: dict[str, float] = {}
    for column, name in enumerate(METRIC_NAMES):
        result = compare(real.metrics[:, column], made.metrics[:, column])
        row |= {f"ks_{name}": result.ks, f"difference_percent_{name}": result.difference_percent or 0.0}
    distances = [row[f"ks_{name}"] for name in METRIC_NAMES]
    row |= {"ks_mean": float(np.mean(distances)), "ks_max": max(distances)}
    row["agreement"] = float(np.mean([a == b for a, b in zip(made.named, made.labels, strict=True)]))
    row["diversity_ratio"] = (within_class_distance(made.embedding, made.labels) or 0.0) / (
        within_class_distance(real.embedding, real.labels) or 1.0
    )
    row["flux_ratio"] = float(made.flux.mean() / real.flux.mean())
    row["modulation_ratio"] = float(made.modulation.mean() / real.modulation.mean())
    return row


def in_words(row: dict[str, float]) -> str:
    """The row on one line."""
    distances = " ".join(f"{row[f'ks_{name}']:.2f}" for name in METRIC_NAMES)
    percent = " ".join(f"{row[f'difference_percent_{name}']:+.0f}" for name in METRIC_NAMES)
    rest = " ".join(
        f"{key} {row[key]:.2f}" for key in ("ks_mean", "agreement", "diversity_ratio", "flux_ratio", "modulation_ratio")
    )
    return f"KS {distances} | % {percent} | {rest}"
