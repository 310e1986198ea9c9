"""A trial of a decoding study: clips drawn with the settings of a point, how unlike real clips they are, and what one
costs.

The processes that Ray Tune keeps for trials are few; each opens a checkpoint and the codec once, from the object store,
and holds them.
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
from jobs.actors.generator import Generator, sample_seed
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip
from soundstorm.audio.files import RejectedAudio, to_pcm16
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from tune.decoding.objective import FIGURES, Measured, unlikeness
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY
from tune.search.trial_journal import Point

BATCH = 10
"""Clips drawn at once."""
PASSES = "iterations_level_"
"""Begin of the names of the passes at each level: iterations_level_0, ..."""
SAMPLER_NAMES = tuple(field.name for field in fields(SamplerSettings) if field.name != "iterations")
COST = "seconds_per_clip"
TRIAL_FIGURES = (*FIGURES, "seconds")


@dataclass(kw_only=True, frozen=True)
class ReferenceSet:
    """What all trials share."""

    models: dict[str, ray.ObjectRef]
    """By the name of the checkpoint: its files, the codec's weights and the classifier that chooses among draws, or
    None."""
    samplers: dict[str, SamplerSettings]
    """Of each checkpoint, which points change."""
    labels: list[int]
    """Classes to draw, which real clips have too."""
    real: Measured
    num_levels: int
    clips_per_class: int
    duration_s: float
    seed: int
    """Of clips, where the point gives none."""


_open: dict[str, Generator] = {}
"""The checkpoints that this process holds."""


def setting_names(num_levels: int) -> list[str]:
    """What a decoding study may search."""
    return [*(f"{PASSES}{level}" for level in range(num_levels)), *SAMPLER_NAMES]


def sampler_of(point: Point, base: SamplerSettings, num_levels: int) -> SamplerSettings:
    """`base` changed by a point; raises SoundStormError for values that are not allowed."""
    passes = list(base.iterations_per_level(num_levels))
    for level in range(num_levels):
        passes[level] = point.get(f"{PASSES}{level}", passes[level])
    changes = {name: value for name, value in point.items() if name in SAMPLER_NAMES}
    return SamplerSettings.from_dict(base.to_dict() | changes | {"iterations": passes}, "the sampler")


def trial(point: Point, reference_set: ReferenceSet) -> None:
    """The trial as Ray Tune runs it."""
    run_trial(dict(point), reference_set, tune.report)


def run_trial(point: Point, reference_set: ReferenceSet, report: Callable[[dict[str, Any]], None]) -> None:
    """Draw, measure and report once; one that cannot reports why."""
    try:
        name = str(point.get("checkpoint", next(iter(reference_set.models))))
        sampler = sampler_of(point, reference_set.samplers[name], reference_set.num_levels)
        clips, seconds = draw(
            _generator(name, reference_set), sampler, reference_set, int(point.get("seed", reference_set.seed))
        )
        found = unlikeness(reference_set.real, Measured.of(clips, _generator(name, reference_set).codec))
        if not math.isfinite(found["quality"]):
            raise SoundStormError("the distance from real clips is not finite")
        report({"epoch": 1, COST: seconds / len(clips), "seconds": seconds} | found)
    except Exception as error:
        problem = failure_reason(error)
        if problem is None:
            raise
        report({"quality": PENALTY, COST: PENALTY, "problem": problem, "state": "failed"})


def draw(
    generator: Generator, sampler: SamplerSettings, reference_set: ReferenceSet, seed: int
) -> tuple[list[Any], float]:
    """Clips (int16), as many of each class, and the seconds it took: of processor time, which other work on the machine
    does not lengthen, or with a GPU of the clock."""
    work = [(label, index) for index in range(reference_set.clips_per_class) for label in reference_set.labels]
    num_samples = round(reference_set.duration_s * generator.codec.sample_rate)
    generator.editor = replace(generator.editor, settings=sampler)
    clock = time.process_time if generator.codec.device.type == "cpu" else time.perf_counter
    began = clock()
    clips = []
    for first in range(0, len(work), BATCH):
        batch = work[first : first + BATCH]
        waves = generator.waveforms(
            [label for label, _ in batch], [sample_seed(seed, label, index) for label, index in batch], num_samples
        )
        clips += [to_pcm16(playable(wave, num_samples, first + position)) for position, wave in enumerate(waves)]
    return clips, clock() - began


def _generator(name: str, reference_set: ReferenceSet) -> Generator:
    """A checkpoint at work, opened by the first trial of this process that wants it."""
    reference = reference_set.models[name]
    if reference.hex() not in _open:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _open[reference.hex()] = Generator([reference], reference_set.samplers[name], None, {}, device)
    return _open[reference.hex()]


@ray.remote(num_cpus=1)
def measure_real(weights: bytes, clips: Sequence[Clip]) -> tuple[Measured | None, list[str]]:
    """Measure recordings; returns also the names of those that cannot be used."""
    torch.set_num_threads(1)
    sound, rejected = [], []
    for clip in clips:
        try:
            sound.append(load_clip(clip.uri, dataset=clip.dataset))
        except RejectedAudio:
            rejected.append(clip.clip_id)
    return (Measured.of(sound, load_codec(weights)) if sound else None), rejected
