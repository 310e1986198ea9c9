"""Bandwidths of both sides of an evaluation, estimated from some of their clips."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.tables import tar_shards as tars
from jobs.console.command import print_note
from jobs.inputs.audio_files import load_clip_recording
from jobs.inputs.clips import Clip, draw_per_category
from soundstorm.audio.bands import Band, Bands, band_of
from soundstorm.audio.files import MAX_DURATION_S, RejectedAudio, to_pcm16
from soundstorm.data.categories import normalized

MAX_CLIPS = 100
"""Maximum number of clips of each side that are analysed; of each, the first 30 s."""


def find_bands(real: Sequence[Clip], generated: Sequence[Clip], seed: int) -> Bands:
    """The bands of both sides, of the classes that they have in common, where there are any; clips that cannot be read
    are left out.

    Args:
        real: real clips.
        generated: what they are compared with.
        seed: random seed of the sample of clips.
    """
    common = {normalized(clip.category) for clip in real} & {normalized(clip.category) for clip in generated}
    sides = [
        [clip for clip in clips if not common or normalized(clip.category) in common] for clips in (real, generated)
    ]
    return Bands(real=_band(sides[0], seed), generated=_band(sides[1], seed))


def common_bands(real: Sequence[Clip], generated: Sequence[Clip], seed: int) -> Bands:
    """The bandwidths, with the common cutoff frequency if one side reaches higher."""
    bands = find_bands(real, generated, seed)
    if bands.lowest_hz is None:
        print_note("--common-band: both sides have the full bandwidth, no low-pass is applied")
    return replace(bands, common_band_hz=bands.lowest_hz)


def _band(clips: Sequence[Clip], seed: int) -> Band:
    reader = tars.TarMemberReader()
    bands_hz, rates = [], []
    for clip in _some(clips, seed):
        try:
            recording = load_clip_recording(clip.uri, reader, MAX_DURATION_S, clip.dataset)
        except RejectedAudio:
            continue
        bands_hz.append(band_of(to_pcm16(recording.waveform)))
        rates.append(recording.original_rate)
    return Band.of(bands_hz, rates)


def _some(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """At most MOST_CLIPS, of all classes alike."""
    per_class = max(1, MAX_CLIPS // max(1, len({clip.category for clip in clips})))
    return draw_per_category(clips, per_class, seed)[:MAX_CLIPS]
