"""A trial of a decoding study: generates clips with the settings of the trial, and measures their distance from real
clips and the cost per clip.

Ray Tune reuses a few processes for all trials; each process loads a checkpoint and the codec from the object store once
and keeps them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import ray
import torch
from ray import tune

from jobs.actors.finishing import playable
from jobs.actors.generator import editor_of, sample_seed
from jobs.inputs.audio_files import load_clip
from jobs.inputs.checkpoints import open_checkpoint
from jobs.inputs.clips import Clip
from soundstorm.audio.files import RejectedAudio, to_pcm16
from soundstorm.codec.files import load_codec
from soundstorm.editing.editor import Editor
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.optimization.precision import Precision
from tune.decoding.objective import DISTANCE_NAMES, ClipStatistics, distribution_distances
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY
from tune.search.trial_journal import TrialConfig

BATCH = 10
"""Clips that are generated at once."""
PASSES = "iterations_level_"
"""Prefix of the names of the iterations per level: iterations_level_0, ..."""
SAMPLER_NAMES = tuple(field.name for field in fields(SamplerSettings) if field.name != "iterations")
COST = "seconds_per_clip"
TRIAL_FIGURES = (*DISTANCE_NAMES, "seconds")


@dataclass(kw_only=True, frozen=True)
class ReferenceSet:
    """What all trials of a study share."""

    models: dict[str, ray.ObjectRef]
    """Name of a checkpoint -> its files, the codec's weights, and the classifier for reranking or None."""
    samplers: dict[str, SamplerSettings]
    """Name of a checkpoint -> the settings that a trial changes."""
    labels: list[int]
    """Classes to generate, all of which have real clips."""
    real: ClipStatistics
    num_levels: int
    clips_per_class: int
    duration_s: float
    seed: int
    """Seed of the clips, unless a trial sets its own."""
    precision: Precision = "auto"
    """In which the networks compute."""


_open: dict[str, Editor] = {}
"""The checkpoints that this process has loaded."""


def setting_names(num_levels: int) -> list[str]:
    """The settings that a decoding study may search."""
    return [*(f"{PASSES}{level}" for level in range(num_levels)), *SAMPLER_NAMES]


def sampler_of(point: TrialConfig, base: SamplerSettings, num_levels: int) -> SamplerSettings:
    """`base` with the settings of a trial; raises SoundStormError for values that are not allowed."""
    passes = list(base.iterations_per_level(num_levels))
    for level in range(num_levels):
        passes[level] = point.get(f"{PASSES}{level}", passes[level])
    changes = {name: value for name, value in point.items() if name in SAMPLER_NAMES}
    return SamplerSettings.from_dict(base.to_dict() | changes | {"iterations": passes}, "the sampler")


def trial(point: TrialConfig, reference_set: ReferenceSet) -> None:
    """The trial as a function that Ray Tune runs."""
    run_trial(dict(point), reference_set, tune.report)


def run_trial(point: TrialConfig, reference_set: ReferenceSet, report: Callable[[dict[str, Any]], None]) -> None:
    """Generate, measure and report once; a trial that fails because of its settings reports the reason."""
    try:
        name = str(point.get("checkpoint", next(iter(reference_set.models))))
        sampler = sampler_of(point, reference_set.samplers[name], reference_set.num_levels)
        editor = replace(_editor(name, reference_set), settings=sampler)
        clips, seconds = draw(editor, reference_set, int(point.get("seed", reference_set.seed)))
        statistics = ClipStatistics.of(clips, editor.codec)
        distances = distribution_distances(reference_set.real, statistics)
        if not math.isfinite(distances["quality"]):
            raise SoundStormError("the distance from real clips is not finite")
        report({"epoch": 1, COST: seconds / len(clips), "seconds": seconds} | distances)
    except Exception as error:
        problem = failure_reason(error)
        if problem is None:
            raise
        report({"quality": PENALTY, COST: PENALTY, "problem": problem, "state": "failed"})


def draw(editor: Editor, reference_set: ReferenceSet, seed: int) -> tuple[list[Any], float]:
    """Clips (int16), equally many per class, and the time it took in seconds: processor time, which does not depend on
    other work on the machine, or with a GPU wall-clock time."""
    work = [(label, index) for index in range(reference_set.clips_per_class) for label in reference_set.labels]
    num_samples = round(reference_set.duration_s * editor.codec.sample_rate)
    clock = time.process_time if editor.codec.device.type == "cpu" else time.perf_counter
    began = clock()
    clips = []
    for first in range(0, len(work), BATCH):
        batch = work[first : first + BATCH]
        waves = editor.new(
            [label for label, _ in batch], [sample_seed(seed, label, index) for label, index in batch], num_samples
        )
        clips += [to_pcm16(playable(wave, num_samples, first + position)) for position, wave in enumerate(waves)]
    return clips, clock() - began


def _editor(name: str, reference_set: ReferenceSet) -> Editor:
    """What makes sound with a checkpoint; the first trial of this process that needs it loads it."""
    reference = reference_set.models[name]
    if reference.hex() not in _open:
        torch.set_num_threads(1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        files, codec, reranker = ray.get(reference)
        _open[reference.hex()] = editor_of(
            open_checkpoint(files, device),
            load_codec(codec, device),
            reference_set.samplers[name],
            reranker,
            device,
            precision=reference_set.precision,
        )
    return _open[reference.hex()]


@ray.remote(num_cpus=1)
def measure_real(weights: bytes, clips: Sequence[Clip]) -> tuple[ClipStatistics | None, list[str]]:
    """Compute the statistics of recordings; also returns the names of recordings that cannot be used."""
    torch.set_num_threads(1)
    sound, rejected = [], []
    for clip in clips:
        try:
            sound.append(load_clip(clip.uri, dataset=clip.dataset))
        except RejectedAudio:
            rejected.append(clip.clip_id)
    return (ClipStatistics.of(sound, load_codec(weights)) if sound else None), rejected
