"""Clip length of published datasets, whichever release of a dataset is used."""

from dataclasses import replace

import numpy as np

from soundstorm.audio.files import SAMPLE_RATE, Recording, to_pcm16
from soundstorm.data.datasets import DATASETS


def clip_length_s(dataset: str) -> float | None:
    """Duration in seconds of every clip of a published dataset; None: clips have their own durations."""
    return DATASETS[dataset].clip_s if dataset in DATASETS else None


def at_published_length(
    recording: Recording, dataset: str, max_duration_s: float, sample_rate: int = SAMPLE_RATE
) -> Recording:
    """Cut or zero-pad a recording to the clip length of its published dataset.

    ESC-50 was first released with recordings of 3.6 to 7.2 s, and later with the same recordings cut or padded to 5 s;
    published results use the latter.

    Args:
        recording: a whole clip.
        dataset: its dataset; if that has no fixed clip length, the recording is returned unchanged.
        max_duration_s: maximum duration; if shorter than the published length, the clip gets this length.
        sample_rate: of the recording's waveform.
    """
    clip_s = clip_length_s(dataset)
    if clip_s is None:
        return recording
    length = max(1, round(min(clip_s, max_duration_s) * sample_rate))
    kept = recording.waveform[:length]
    waveform = np.pad(kept, (0, length - len(kept)))
    return replace(recording, waveform=waveform, is_silent=not to_pcm16(waveform).any())
