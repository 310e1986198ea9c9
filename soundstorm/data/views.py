"""Augmented views of a recording, fixed variations of it that are tokenized in advance and added to the training data.

A view is played a little faster or slower, starts elsewhere, is louder or quieter, and some views are mixed with
another recording of the same class. All random choices depend only on the clip's id and the number of the view, so a
view is the same wherever it is computed.

Legend: N samples.
"""

import bisect
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soundstorm.audio.files import from_pcm16, to_pcm16

ORIGINAL = 0
"""Number of the view that is the original recording."""
SPEED_PERCENT = (93, 107)
"""Slowest and fastest speed in whole per cent. Whole per cents, steps of a sixth of a semitone, keep the resampler's
filters short."""
SPEED_ZERO_CROSSINGS, SPEED_ROLLOFF = 6, 0.99
"""The resampling filter's zero crossings per side, and its cut-off frequency (-6 dB) as a fraction of the band."""
GAIN_DB = (-4.0, 4.0)
MIX_SHARE = 0.2
"""Fraction of views that are mixed with a partner, another recording of the same class and fold."""
MIX_DB = (-5.0, 5.0)
"""RMS of the partner relative to the recording, in dB."""
PEAK = 0.999
"""A view with a higher peak is scaled down as a whole."""


@dataclass(kw_only=True, frozen=True)
class ViewSettings:
    """Augmentation settings of a view."""

    speed_percent: int
    """Speed in per cent of the original; the pitch changes with it."""
    start: float
    """Start of the view, as a fraction of the recording's length; the recording is looped."""
    gain_db: float
    is_mixed: bool
    """Whether a partner is mixed in."""
    partner: float
    """Which partner, as a fraction of the number of candidates."""
    partner_start: float
    partner_db: float


def view_settings(clip_id: str, view: int) -> ViewSettings:
    """The settings of view 1, 2, ... of a clip."""
    rng = np.random.default_rng([int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:16]), view])
    return ViewSettings(
        speed_percent=int(rng.integers(SPEED_PERCENT[0], SPEED_PERCENT[1] + 1)),
        start=rng.random(),
        gain_db=rng.uniform(*GAIN_DB),
        is_mixed=rng.random() < MIX_SHARE,
        partner=rng.random(),
        partner_start=rng.random(),
        partner_db=rng.uniform(*MIX_DB),
    )


def choose_partner(clip_id: str, view: int, group: Sequence[str]) -> str | None:
    """The clip that is mixed into view `view` of `clip_id`.

    Args:
        clip_id: the clip.
        view: number of the view.
        group: ids of all clips of the same class and fold, sorted, including the clip itself.

    Returns:
        One of the others in `group`; None if the view is not mixed, such as view 0, or there is no other clip.
    """
    position = partner_position(clip_id, view, group)
    return None if position is None else group[position]


def partner_position(clip_id: str, view: int, group: Sequence[str]) -> int | None:
    """Position in `group` of the clip that `choose_partner` returns; None if it returns None."""
    num_others = len(group) - 1
    if view == ORIGINAL or num_others < 1:
        return None
    settings = view_settings(clip_id, view)
    if not settings.is_mixed:
        return None
    position = int(settings.partner * num_others)
    return position + (position >= bisect.bisect_left(group, clip_id))


def make_view(waveform_N: np.ndarray, clip_id: str, view: int, partner: np.ndarray | None = None) -> np.ndarray:
    """View `view` of a recording, of the same length, rounded to 16 bits; view 0 is the recording itself.

    Digital silence stays digital silence, and mixing keeps the level (root mean square) of the recording.

    Args:
        waveform_N: float32 in [-1, 1].
        clip_id: of the recording.
        view: number of the view.
        partner: waveform, of any length, of the clip that `choose_partner` returns; without it, or if it is silent, the
            view contains the recording alone.
    """
    if view == ORIGINAL:
        return waveform_N
    settings = view_settings(clip_id, view)
    view_N = _looped(_at_speed(waveform_N, settings.speed_percent), settings.start, len(waveform_N))
    if partner is not None and settings.is_mixed:
        view_N = _mixed(view_N, _looped(partner, settings.partner_start, len(waveform_N)), settings.partner_db)
    view_N = view_N * 10 ** (settings.gain_db / 20)
    return from_pcm16(to_pcm16(view_N / max(1.0, float(np.abs(view_N).max()) / PEAK)))


def _at_speed(waveform_N: np.ndarray, speed_percent: int) -> np.ndarray:
    """The recording at another speed, and so at another pitch, resampled with a gentle low-pass filter: a sinc with six
    zero crossings per side under a Hann window.

    Slowing down leaves the top of the band empty; with a gentle filter, its images fill that gap. A steep filter would
    leave the gap, which no recording has, and a codec would encode it as a different sound: observed on rain with an
    earlier codec.
    """
    from scipy.signal import resample_poly  # imported only here: it takes 60 MB

    common = math.gcd(speed_percent, 100)
    down, up = speed_percent // common, 100 // common
    cutoff = SPEED_ROLLOFF * min(down, up)
    half = math.ceil(SPEED_ZERO_CROSSINGS * up * down / cutoff)
    crossings = np.clip(np.arange(-half, half + 1) * cutoff / (up * down), -SPEED_ZERO_CROSSINGS, SPEED_ZERO_CROSSINGS)
    window = np.cos(crossings * np.pi / SPEED_ZERO_CROSSINGS / 2) ** 2
    return resample_poly(waveform_N, up, down, window=np.sinc(crossings) * window * cutoff / (down * up)).astype(
        np.float32
    )


def _looped(waveform: np.ndarray, start: float, length: int) -> np.ndarray:
    """`length` samples of the looped waveform, from `start`, a fraction of its length."""
    first = int(start * len(waveform))
    return np.take(waveform, np.arange(first, first + length), mode="wrap")


def _mixed(waveform_N: np.ndarray, partner_N: np.ndarray, partner_db: float) -> np.ndarray:
    """The sum of both at the level of the waveform; the partner is `partner_db` louder than the waveform."""
    level, partner_level = _rms(waveform_N), _rms(partner_N)
    if level == 0 or partner_level == 0:
        return waveform_N
    sum_N = waveform_N + partner_N * (level / partner_level * 10 ** (partner_db / 20))
    return sum_N * (level / max(_rms(sum_N), 1e-9))


def _rms(waveform_N: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform_N, dtype=np.float64))))
