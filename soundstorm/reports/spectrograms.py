"""Pictures of clips, as PNG bytes: waveform and log-mel spectrogram, alone and as a grid of all classes."""

import math
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from soundstorm.evaluation.acoustic import stft_magnitudes
from soundstorm.reports.style import Theme, style_axes, to_png
from soundstorm.schemas import Source

COLOR_MAP = "magma"

DYNAMIC_RANGE_DB = 80.0
"""Spectrograms show this much below their loudest point."""

QUIETEST_PEAK_DB = -60.0
"""A clip whose loudest point is below this is drawn as the silence it is, not blown up."""

NUM_MELS = 96

SPECTROGRAM_HOP = 256

FREQUENCY_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip to be drawn, as often as needed: its spectrogram is computed once."""

    waveform: NDArray[np.floating]
    """(N,), mono, from -1 to 1, at least one sample."""
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate

    @cached_property
    def level_db(self) -> NDArray[np.float64]:
        """`log_mel_db` of the clip."""
        return log_mel_db(self.waveform, self.sample_rate)


@dataclass(kw_only=True, frozen=True, slots=True)
class Scale:
    """The axes that clips shown side by side share, so that lengths, levels and colours compare."""

    duration_s: float
    """End of the time axis."""
    peak: float
    """Largest magnitude of a waveform."""
    peak_db: float
    """Top of the colours of a spectrogram."""

    @classmethod
    def of(cls, clips: Collection[Clip]) -> Self:
        """The scale that holds all of `clips`, of which there is at least one."""
        return cls(
            duration_s=max(clip.duration_s for clip in clips),
            peak=max(float(np.abs(clip.waveform).max()) for clip in clips),
            peak_db=max(float(clip.level_db.max()) for clip in clips),
        )


def log_mel_db(x_N: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Log-mel spectrogram (NUM_MELS, 1 + N // SPECTROGRAM_HOP) in dB, where a full-scale sine is near 0 dB; silence is
    -140 dB."""
    magnitudes = stft_magnitudes(np.asarray(x_N, dtype=np.float64), hop_length=SPECTROGRAM_HOP)
    n_fft = 2 * (len(magnitudes) - 1)
    power = _mel_filters(sample_rate, n_fft) @ (magnitudes / (n_fft / 4)) ** 2
    return 10 * np.log10(np.maximum(power, 1e-14))


def clip_panel(clip: Clip, theme: Theme, source: Source = Source.REAL, scale: Scale | None = None) -> bytes:
    """Waveform of a clip above its log-mel spectrogram, on one time axis.

    Args:
        source: gives the waveform its colour.
        scale: the axes it shares with the clips beside it (default: its own).
    """
    scale = scale or Scale.of([clip])
    figure = Figure(figsize=(3.8, 2.6))
    wave, spectrogram = figure.add_axes((0.13, 0.735, 0.845, 0.235)), figure.add_axes((0.13, 0.17, 0.845, 0.52))
    _draw_waveform(wave, clip, theme.sources[source], scale)
    _draw_spectrogram(spectrogram, clip, scale)
    style_axes(wave, theme, grid=False)
    wave.tick_params(labelbottom=False)
    style_axes(spectrogram, theme, grid=False)
    for axes in (wave, spectrogram):
        axes.set_xlim(0, scale.duration_s)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    spectrogram.set_xlabel("Time (s)")
    figure.text(0.008, 0.43, "Frequency (kHz)", rotation=90, va="center", fontsize=8, color=theme.text)
    return to_png(figure, num_colors=96)


def spectrogram_grid(rows: Mapping[str, Mapping[Source, Clip]], theme: Theme) -> bytes:
    """One row a class, one column a source: all log-mel spectrograms at a glance; a row shares its colour scale and
    time axis.

    Raises:
        ValueError: `rows` is empty, or a class has no clip.
    """
    if not rows or not all(rows.values()):
        raise ValueError("a grid needs at least one class, and each class a clip")
    columns = [source for source in Source if any(source in clips for clips in rows.values())]
    label_in, cell_in, row_in, header_in, gap_in = 1.25, 2.45, 0.8, 0.32, 0.08
    width_in, height_in = label_in + cell_in * len(columns), header_in + row_in * len(rows)
    figure = Figure(figsize=(width_in, height_in))
    for row, (category, clips) in enumerate(rows.items()):
        scale = Scale.of(clips.values())
        bottom_in = height_in - header_in - row_in * (row + 1)
        name = "\n".join(textwrap.wrap(category.replace("_", " "), 16)[:3])
        x, y = (label_in - 0.1) / width_in, (bottom_in + row_in / 2) / height_in
        figure.text(x, y, name, ha="right", va="center", fontsize=9, color=theme.text, parse_math=False)
        for column, source in enumerate(columns):
            if source in clips:
                left_in = label_in + cell_in * column
                box_in = np.array([left_in, bottom_in + gap_in / 2, cell_in - gap_in, row_in - gap_in])
                axes = figure.add_axes(tuple(box_in / [width_in, height_in, width_in, height_in]))
                _draw_spectrogram(axes, clips[source], scale)
                axes.set(xlim=(0, scale.duration_s), xticks=[], yticks=[], facecolor="none")
                axes.spines[:].set_visible(False)
    for column, source in enumerate(columns):
        x, y = (
            (label_in + cell_in * column + (cell_in - gap_in) / 2) / width_in,
            (height_in - header_in / 2) / height_in,
        )
        figure.text(
            x,
            y,
            source.capitalize(),
            ha="center",
            va="center",
            fontsize=10,
            color=theme.sources[source],
            fontweight="bold",
        )
    return to_png(figure, num_colors=96)


@lru_cache(maxsize=8)
def _mel_filters(sample_rate: int, n_fft: int) -> NDArray[np.float64]:
    """Triangles (NUM_MELS, n_fft // 2 + 1) of height 1 on the HTK mel scale; one narrower than a bin takes the nearest
    bin."""
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(sample_rate / 2), NUM_MELS + 2))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    bins_hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    triangles = np.clip(np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)), 0, None)
    nearest = np.abs(bins_hz - centre) <= sample_rate / n_fft / 2
    return np.where(triangles.max(axis=1, keepdims=True) > 0.5, triangles, nearest)


def _draw_waveform(axes: Axes, clip: Clip, color: str, scale: Scale) -> None:
    x_N = clip.waveform
    columns = min(len(x_N), 600)
    starts = np.linspace(0, len(x_N), columns, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(x_N, starts), np.maximum.reduceat(x_N, starts)
    time_s = (np.arange(columns) + 0.5) / columns * clip.duration_s
    axes.fill_between(time_s, low, high, color=color, linewidth=0.6)
    peak = max(0.1, math.ceil(10 * scale.peak - 1e-6) / 10)
    axes.set_ylim(-1.05 * peak, 1.05 * peak)
    axes.set_yticks([-peak, 0, peak], [f"−{peak:g}", "0", f"{peak:g}"])


def _draw_spectrogram(axes: Axes, clip: Clip, scale: Scale) -> None:
    top_db = max(scale.peak_db, QUIETEST_PEAK_DB)
    extent = (0, clip.duration_s, 0, _hz_to_mel(clip.sample_rate / 2))
    axes.imshow(
        clip.level_db,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap=COLOR_MAP,
        vmin=top_db - DYNAMIC_RANGE_DB,
        vmax=top_db,
    )
    ticks_hz = [tick for tick in FREQUENCY_TICKS_HZ if tick < clip.sample_rate / 2]
    axes.set_yticks([_hz_to_mel(tick) for tick in ticks_hz], [f"{tick / 1000:g}" for tick in ticks_hz])


def _hz_to_mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mel / 2595) - 1)
