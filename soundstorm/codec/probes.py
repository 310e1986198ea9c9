"""Probes of a codec with sounds whose correct output is known (sines, clicks, digital silence), and measures of how
peaked a sound is in frequency and in time.

Legend: N samples, W windows, F frequency bins.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import to_pcm16
from soundstorm.codec.codec import Codec

SINE_DB = -20.0
"""Root mean square level of the sines, relative to full scale."""
SINE_S, CLICKS_S, EDGE_S = 3.0, 2.0, 0.25
"""Durations of the probes, and what is cut off at both ends of a sine before it is measured."""
CLICKS_PER_S, CLICK_PEAK, FIRST_CLICK_S = 5, 0.8, 0.04
AROUND_HZ = 300.0
"""Power further than this from the frequency of a sine counts as distortion."""
TONAL_WINDOW, CLICK_WINDOW, CLICK_PART = 4096, 1024, 64
"""Window lengths in samples: of `tonal_crest_db`, of `click_crest_db`, and of the parts into which the latter divides a
window."""
OCTAVE_PARTS = 3
LOWEST_HZ = 60.0
SILENT_POWER = 1e-9
"""Windows with a lower mean square are left out."""


@dataclass(kw_only=True, frozen=True)
class SineProbe:
    """Result of passing a sine through a codec."""

    hz: float
    level_db: float
    """Level of the output relative to the sine."""
    peak_hz: float
    """Frequency of the largest spectral peak minus that of the sine."""
    beside_db: float
    """Power further than AROUND_HZ from the sine, relative to the total power."""


@dataclass(kw_only=True, frozen=True)
class ClickProbe:
    """Result of passing a train of clicks through a codec."""

    found: int
    """Clicks that are at most 320 samples (a frame) from their position and above a twentieth of their height."""
    clicks: int
    furthest_samples: int
    """Largest distance between a click's position and the loudest sample around it."""


def probe_sine(codec: Codec, hz: float, seed: int = 0) -> SineProbe:
    """Pass a sine at -20 dB through the codec."""
    rate = codec.sample_rate
    sine_N = 10 ** (SINE_DB / 20) * np.sqrt(2) * np.sin(2 * np.pi * hz * np.arange(round(SINE_S * rate)) / rate)
    made_N = _through(codec, sine_N, seed)[round(EDGE_S * rate) : -round(EDGE_S * rate)]
    power_F = np.square(np.abs(np.fft.rfft(made_N * np.hanning(len(made_N))))) + 1e-30
    at_hz = np.fft.rfftfreq(len(made_N), 1 / rate)
    return SineProbe(
        hz=hz,
        level_db=float(_db(np.square(made_N).mean())) - SINE_DB,
        peak_hz=float(at_hz[power_F.argmax()]) - hz,
        beside_db=float(_db(power_F[np.abs(at_hz - hz) > AROUND_HZ].sum() / power_F.sum())),
    )


def probe_clicks(codec: Codec, seed: int = 0) -> ClickProbe:
    """Pass five clicks a second, on digital silence, through the codec."""
    rate = codec.sample_rate
    clicks_N = np.zeros(round(CLICKS_S * rate))
    places = np.arange(round(FIRST_CLICK_S * rate), len(clicks_N), rate // CLICKS_PER_S)
    clicks_N[places] = CLICK_PEAK
    made_N = np.abs(_through(codec, clicks_N, seed))
    half = rate // CLICKS_PER_S // 2
    distances: list[int] = []
    heights: list[float] = []
    for place in places.tolist():
        first = max(0, place - half)
        around_N = made_N[first : place + half]
        distances.append(abs(first + int(around_N.argmax()) - place))
        heights.append(float(around_N.max()))
    found = sum(
        distance <= 320 and height > CLICK_PEAK / 20 for distance, height in zip(distances, heights, strict=True)
    )
    return ClickProbe(found=found, clicks=len(places), furthest_samples=max(distances))


def silence_is_exact(codec: Codec) -> bool:
    """Whether two seconds of digital silence are decoded to digital silence in 16 bits."""
    return not to_pcm16(_through(codec, np.zeros(2 * codec.sample_rate), 0)).any()


def tonal_crest_db(waveform_N: NDArray, sample_rate: int) -> float | None:
    """How far spectral peaks stand out: the ratio in dB of the maximum to the mean power in each third-octave band,
    averaged over bands and over windows, weighted by the windows' loudness; None for silence."""
    power_WF = _spectra(waveform_N.astype(np.float64))
    power_WF = power_WF[power_WF.mean(1) > SILENT_POWER * TONAL_WINDOW]
    if not len(power_WF):
        return None
    highest = sample_rate / 2
    count = int(OCTAVE_PARTS * np.log2(highest / LOWEST_HZ))
    edges = np.round(LOWEST_HZ * 2 ** (np.arange(count + 1) / OCTAVE_PARTS) / sample_rate * TONAL_WINDOW).astype(int)
    bands = [(low, high) for low, high in pairwise(edges) if high - low >= 4]
    crest_BW = [_db(power_WF[:, low:high].max(1) / (power_WF[:, low:high].mean(1) + 1e-30)) for low, high in bands]
    return float(np.average(np.mean(crest_BW, axis=0), weights=np.sqrt(power_WF.sum(1))))


def click_crest_db(waveform_N: NDArray) -> float | None:
    """How far clicks stand out: the ratio in dB of the loudest 64 samples to the whole of each window of 1,024,
    averaged over the windows that are not silent; None for silence."""
    count = len(waveform_N) // CLICK_WINDOW
    squares = np.square(waveform_N[: count * CLICK_WINDOW].astype(np.float64))
    parts = squares.reshape(count, CLICK_WINDOW // CLICK_PART, CLICK_PART).mean(2)
    parts = parts[parts.mean(1) > SILENT_POWER]
    return float(_db(parts.max(1) / parts.mean(1)).mean()) if len(parts) else None


def _spectra(waveform_N: NDArray[np.float64]) -> NDArray[np.float64]:
    padded_N = np.pad(waveform_N, (0, max(0, TONAL_WINDOW - len(waveform_N))))
    frames = np.lib.stride_tricks.sliding_window_view(padded_N, TONAL_WINDOW)[:: TONAL_WINDOW // 2]
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(TONAL_WINDOW), axis=1)))


def _through(codec: Codec, waveform_N: NDArray, seed: int) -> NDArray[np.float64]:
    codes = codec.encode_clips([waveform_N.astype(np.float32)])
    return codec.decode_clips(codes, [seed])[0][: len(waveform_N)].astype(np.float64)


def _db(ratio: float | NDArray) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(np.maximum(ratio, 1e-30)))
