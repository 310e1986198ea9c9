"""What a report lets one hear and see: a few clips of each class from every source, and the training log."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cluster import storage
from jobs.clips import Clip
from soundstorm.audio import SAMPLE_RATE, encode_audio, from_pcm16
from soundstorm.categories import normalized
from soundstorm.report import Example
from soundstorm.schemas import Source

MAX_CLASSES = 50
"""Classes with players in one page, so that it stays below some tens of megabytes."""


def choose_examples(
    real: Sequence[Clip],
    generated: Sequence[Clip],
    per_class: int,
    load: Callable[[str], np.ndarray],
    resynthesize: Callable[[np.ndarray], np.ndarray],
) -> list[Example]:
    """The first `per_class` clips of each class, real, through the codec and generated; classes with generated clips first.

    Args:
        real: real clips.
        generated: generated clips.
        per_class: clips of each class and source.
        load: URI to int16 (N,) at 24 kHz.
        resynthesize: int16 (N,) through the codec.
    """
    have_generated = {normalized(clip.category) for clip in generated}
    names = {normalized(clip.category): clip.category for clip in (*real, *generated)}
    order = sorted(names, key=lambda key: (key not in have_generated, key))[:MAX_CLASSES]
    examples = []
    for key in order:
        for clip in [clip for clip in real if normalized(clip.category) == key][:per_class]:
            pcm = load(clip.uri)
            examples.append(_example(names[key], Source.REAL, clip.clip_id, pcm))
            examples.append(_example(names[key], Source.RESYNTHESIZED, clip.clip_id, resynthesize(pcm)))
        for clip in [clip for clip in generated if normalized(clip.category) == key][:per_class]:
            examples.append(_example(names[key], Source.GENERATED, clip.clip_id, load(clip.uri)))
    return examples


def _example(category: str, source: Source, clip_id: str, pcm: np.ndarray) -> Example:
    waveform = from_pcm16(pcm)
    return Example(
        category=category,
        source=source,
        clip_id=clip_id,
        duration_s=len(pcm) / SAMPLE_RATE,
        audio_bytes=encode_audio(waveform, SAMPLE_RATE, "flac"),
        waveform=waveform,
        sample_rate=SAMPLE_RATE,
    )


def read_log(uri: str | None) -> list[dict[str, Any]]:
    """Rows of a log.csv, [] where there is none to read."""
    if uri is None:
        return []
    return list(csv.DictReader(io.StringIO(storage.read_bytes(uri).decode())))
