"""Pictures of clips, as PNG bytes: waveform and log-mel spectrogram, alone and as a grid of all classes."""

import math
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from soundstorm.evaluation.acoustic import stft_magnitudes
from soundstorm.reports.style import Theme, canvas_of, drawn_on, style_axes, to_palette_png
from soundstorm.schemas import Source

COLOR_MAP = "magma"

DYNAMIC_RANGE_DB = 80.0
"""Spectrograms show this much below their loudest point."""

QUIETEST_PEAK_DB = -60.0
"""A clip whose loudest point is below this is drawn as the silence it is, not blown up."""

NUM_MELS = 96

SPECTROGRAM_HOP = 256

MAX_AXES = 16
"""Axes that are kept for later panels, some 2.5 MB each."""

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

    @property
    def tick_peak(self) -> float:
        """The magnitude that the axis of a waveform names, `peak` or the next tenth above."""
        return max(0.1, math.ceil(10 * self.peak - 1e-6) / 10)

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


class Panels:
    """Draws the panels of a page, one thread at a time. What several of them have is drawn once: their axes, which take
    longer than the rest, and the spectrogram of a clip, which is the same on light and dark pages."""

    def __init__(self) -> None:
        self._axes = lru_cache(maxsize=MAX_AXES)(_PanelAxes)
        self._last: tuple[Clip, Scale, Image.Image] | None = None

    def draw(self, clip: Clip, theme: Theme, source: Source, scale: Scale) -> bytes:
        """Waveform of a clip above its log-mel spectrogram, on one time axis.

        Args:
            source: gives the waveform its colour.
            scale: the axes it shares with the clips beside it.
        """
        axes = self._axes(theme, scale.duration_s, scale.tick_peak, clip.sample_rate)
        if self._last is None or self._last[0] is not clip or self._last[1] != scale:
            self._last = clip, scale, axes.spectrogram(clip, scale)
        return axes.panel(clip, theme.sources[source], self._last[2])


class _PanelAxes:
    """The axes of panels of one theme and scale, drawn without a clip."""

    def __init__(self, theme: Theme, duration_s: float, peak: float, sample_rate: int) -> None:
        figure = Figure(figsize=(3.8, 2.6))
        self._wave = figure.add_axes((0.13, 0.735, 0.845, 0.235))
        self._spectrogram = figure.add_axes((0.13, 0.17, 0.845, 0.52))
        for axes in (self._wave, self._spectrogram):
            style_axes(axes, theme, grid=False)
            axes.set_xlim(0, duration_s)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        self._wave.tick_params(labelbottom=False)
        self._wave.set_ylim(-1.05 * peak, 1.05 * peak)
        self._wave.set_yticks([-peak, 0, peak], [f"−{peak:g}", "0", f"{peak:g}"])
        ticks_hz = [tick for tick in FREQUENCY_TICKS_HZ if tick < sample_rate / 2]
        self._spectrogram.set_ylim(0, _hz_to_mel(sample_rate / 2))
        self._spectrogram.set_yticks([_hz_to_mel(tick) for tick in ticks_hz], [f"{tick / 1000:g}" for tick in ticks_hz])
        self._spectrogram.set_xlabel("Time (s)")
        figure.text(0.008, 0.43, "Frequency (kHz)", rotation=90, va="center", fontsize=8, color=theme.text)
        self._canvas = canvas_of(figure)
        self._frame = drawn_on(self._canvas)

    def spectrogram(self, clip: Clip, scale: Scale) -> Image.Image:
        """The spectrogram of a clip, alone."""
        return self._alone(self._spectrogram, lambda: _spectrogram(self._spectrogram, clip, scale))

    def panel(self, clip: Clip, color: str, spectrogram: Image.Image) -> bytes:
        """The panel of a clip."""
        wave = self._alone(self._wave, lambda: _waveform(self._wave, clip, color))
        image = Image.alpha_composite(Image.alpha_composite(spectrogram, wave), self._frame)
        return to_palette_png(image, num_colors=96)

    def _alone(self, axes: Axes, draw: Callable[[], Artist]) -> Image.Image:
        self._canvas.get_renderer().clear()  # type: ignore[no-untyped-call]
        artist = draw()
        axes.draw_artist(artist)
        artist.remove()
        return drawn_on(self._canvas)


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
    cells: list[tuple[NDArray[np.float64], Clip, Scale]] = []
    for row, (category, clips) in enumerate(rows.items()):
        bottom_in = height_in - header_in - row_in * (row + 1)
        name = "\n".join(textwrap.wrap(category.replace("_", " "), 16)[:3])
        x, y = (label_in - 0.1) / width_in, (bottom_in + row_in / 2) / height_in
        figure.text(x, y, name, ha="right", va="center", fontsize=9, color=theme.text, parse_math=False)
        for source, clip in clips.items():
            left_in = label_in + cell_in * columns.index(source)
            box_in = np.array([left_in, bottom_in + gap_in / 2, cell_in - gap_in, row_in - gap_in])
            cells.append((box_in / [width_in, height_in, width_in, height_in], clip, Scale.of(clips.values())))
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
    canvas, axes = canvas_of(figure), figure.add_axes((0, 0, 1, 1))
    for box, clip, scale in cells:  # one pair of axes at all places in turn: to make them takes longer than the picture
        axes.set_position(tuple(box))
        axes.set(xlim=(0, scale.duration_s), ylim=(0, _hz_to_mel(clip.sample_rate / 2)))
        picture = _spectrogram(axes, clip, scale)
        axes.draw_artist(picture)
        picture.remove()
    return to_palette_png(drawn_on(canvas), num_colors=96)


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


def _waveform(axes: Axes, clip: Clip, color: str) -> Artist:
    x_N = clip.waveform
    columns = min(len(x_N), 600)
    starts = np.linspace(0, len(x_N), columns, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(x_N, starts), np.maximum.reduceat(x_N, starts)
    time_s = (np.arange(columns) + 0.5) / columns * clip.duration_s
    return axes.fill_between(time_s, low, high, color=color, linewidth=0.6)


def _spectrogram(axes: Axes, clip: Clip, scale: Scale) -> Artist:
    top_db = max(scale.peak_db, QUIETEST_PEAK_DB)
    return axes.imshow(
        clip.level_db,
        origin="lower",
        aspect="auto",
        extent=(0, clip.duration_s, 0, _hz_to_mel(clip.sample_rate / 2)),
        cmap=COLOR_MAP,
        vmin=top_db - DYNAMIC_RANGE_DB,
        vmax=top_db,
    )


def _hz_to_mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mel / 2595) - 1)
