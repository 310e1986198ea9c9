"""Bandwidth of clips: a sound that was recorded or stored at a low sample rate has no energy above half of that rate,
even after it is resampled to a higher one.

At a common sample rate such clips still differ from others in everything that depends on high frequencies: centroid,
roll-off, zero crossings, entropy, and distances between embeddings. `low_passed` removes from the other clips the
frequencies that these cannot have.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, kaiserord, oaconvolve

from soundstorm.audio.files import SAMPLE_RATE, to_pcm16

ENERGY_SHARE = 0.9999
"""The bandwidth of a clip is the frequency below which this fraction of its energy lies."""
CLIPS_SHARE = 0.9
"""The bandwidth of a set is this quantile of the bandwidths of its clips: quiet or dull clips say nothing about the
others. For 150 clips of ESC-50 it is 11.4 kHz; for the same clips stored at 22.05 kHz 10.4, at 16 kHz 7.6."""
APART = 0.93
"""Two sets are reported as different if the ratio of their bandwidths is below this factor."""
STOP_DB, PASSED = 80.0, 0.92
"""The low-pass filter's attenuation above the band, and the fraction of the band that it leaves unchanged."""
_FRAME = 2048


@dataclass(kw_only=True, frozen=True, slots=True)
class Band:
    """Bandwidth of a set of clips."""

    clips: int
    """Number of clips that were analysed and are not silent."""
    sample_rates_hz: dict[int, int]
    """Number of files per sample rate, most frequent rate first."""
    band_hz: float | None
    """None if all clips are silent."""

    @classmethod
    def of(cls, bands_hz: Sequence[float], sample_rates_hz: Sequence[int]) -> "Band":
        """The bandwidth of a set from the bandwidths of its clips and the sample rates of their files."""
        audible = [band_hz for band_hz in bands_hz if band_hz > 0]
        band_hz = float(np.quantile(audible, CLIPS_SHARE, method="inverted_cdf")) if audible else None
        return cls(clips=len(audible), sample_rates_hz=dict(Counter(sample_rates_hz).most_common()), band_hz=band_hz)


@dataclass(kw_only=True, frozen=True, slots=True)
class Bands:
    """Bandwidths of the real and the generated clips of a comparison."""

    real: Band
    generated: Band
    common_band_hz: float | None = None
    """Cut-off frequency if both sets were low-pass filtered before they were measured; None if not."""

    @property
    def lowest_hz(self) -> float | None:
        """The bandwidth that both sets have; None if one set is silent or if both reach up to the Nyquist frequency."""
        if self.real.band_hz is None or self.generated.band_hz is None:
            return None
        lowest = min(self.real.band_hz, self.generated.band_hz)
        return lowest if lowest < APART * SAMPLE_RATE / 2 else None

    @property
    def differ(self) -> bool:
        """Whether one set has a clearly smaller bandwidth than the other."""
        if self.real.band_hz is None or self.generated.band_hz is None:
            return False
        return min(self.real.band_hz, self.generated.band_hz) < APART * max(self.real.band_hz, self.generated.band_hz)

    @property
    def note(self) -> str | None:
        """A sentence on which set lacks high frequencies and what follows from it; None if the bandwidths agree and
        nothing was filtered."""
        if self.common_band_hz is not None:
            return (
                f"Both sides were low-passed to their common band, {_khz(self.common_band_hz)}, before they were "
                "measured."
            )
        if not self.differ or self.real.band_hz is None or self.generated.band_hz is None:
            return None
        low, high = ("generated", "real") if self.generated.band_hz < self.real.band_hz else ("real", "generated")
        sides = {"real": self.real, "generated": self.generated}
        return (
            f"The {low} clips have next to nothing above {_khz(sides[low].band_hz)} ({_rates(sides[low])}), the "
            f"{high} ones reach to "
            f"{_khz(sides[high].band_hz)} ({_rates(sides[high])}): differences of centroid, roll-off, zero crossings "
            "and entropy, and the distances, "
            "come from that too. --common-band compares both below what they have in common."
        )

    @property
    def verdict(self) -> str | None:
        """`note` in a few words."""
        if self.common_band_hz is not None:
            return f"both sides below {_khz(self.common_band_hz)}"
        sides = f"real to {_khz(self.real.band_hz)}, generated to {_khz(self.generated.band_hz)}"
        return f"of unequal bands ({sides}; see --common-band)" if self.differ else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"note": self.note}


def band_of(pcm: NDArray[np.int16]) -> float:
    """Bandwidth in Hz of a clip, int16 (N,) at 24 kHz: the frequency below which ENERGY_SHARE of its energy lies; 0 for
    silence."""
    samples = pcm.astype(np.float64)
    samples = np.pad(samples, (_FRAME // 2, -len(samples) % (_FRAME // 2) + _FRAME // 2))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[:: _FRAME // 2] * np.hanning(_FRAME)
    running = np.cumsum(np.square(np.abs(np.fft.rfft(frames))).sum(axis=0))
    if not running[-1]:
        return 0.0
    return float(np.searchsorted(running, ENERGY_SHARE * running[-1]) * SAMPLE_RATE / _FRAME)


def low_passed(pcm: NDArray[np.int16], band_hz: float) -> NDArray[np.int16]:
    """A clip, int16 (N,) at 24 kHz, low-pass filtered at `band_hz` without delay; unchanged up to 0.92 of `band_hz`."""
    taps = _low_pass(band_hz)
    half = len(taps) // 2
    return to_pcm16(oaconvolve(pcm.astype(np.float64), taps, mode="full")[half : half + len(pcm)] / 32768)


@lru_cache(maxsize=4)
def _low_pass(band_hz: float) -> NDArray[np.float64]:
    num_taps, beta = kaiserord(STOP_DB, (1 - PASSED) * band_hz / (SAMPLE_RATE / 2))
    return firwin(num_taps | 1, (1 + PASSED) / 2 * band_hz, window=("kaiser", beta), fs=SAMPLE_RATE)


def _khz(frequency_hz: float | None) -> str:
    return "silence" if frequency_hz is None else f"{frequency_hz / 1000:.1f} kHz"


def _rates(band: Band) -> str:
    """The sample rates of the files as a phrase."""
    rates = [f"{rate:,} Hz" for rate in band.sample_rates_hz]
    return f"files at {', '.join(rates[:3])}{' and others' if len(rates) > 3 else ''}"
