"""The one length that the clips of a published data set have, whichever release of it lies there."""

from dataclasses import replace

import numpy as np

from soundstorm.audio.files import SAMPLE_RATE, Recording, to_pcm16
from soundstorm.data.datasets import DATASETS


def clip_length_s(dataset: str) -> float | None:
    """Seconds that every clip of a published data set lasts; None: as long as it is."""
    return DATASETS[dataset].clip_s if dataset in DATASETS else None


def at_published_length(
    recording: Recording, dataset: str, max_duration_s: float, sample_rate: int = SAMPLE_RATE
) -> Recording:
    """The recording cut, or filled with silence at its end, to the length that clips of its data set are published
    with.

    ESC-50 was first released as recordings of 3.6 to 7.2 s, and again as the same cut or filled to 5 s, which is what
    everybody compares with.

    Args:
        recording: a whole clip.
        dataset: its data set; one without a length leaves the recording as it is.
        max_duration_s: what the clip may last at most; shorter than the published length, it decides.
        sample_rate: of the recording's waveform.
    """
    clip_s = clip_length_s(dataset)
    if clip_s is None:
        return recording
    length = max(1, round(min(clip_s, max_duration_s) * sample_rate))
    kept = recording.waveform[:length]
    waveform = np.pad(kept, (0, length - len(kept)))
    return replace(recording, waveform=waveform, is_silent=not to_pcm16(waveform).any())
