"""Pictures of clips, metrics and training, as PNG bytes.

Every function builds its own matplotlib `Figure` (no pyplot, no global state), so actors and threads may draw at once.
Each takes a `Theme`, for light and for dark pages. The colours of the sources keep apart for colour-blind readers
(after Okabe and Ito, 2008) and in grey.
"""

import io
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from soundstorm.evaluation.acoustic import MetricInfo, stft_magnitudes
from soundstorm.schemas import Source

COLOR_MAP = "magma"
DYNAMIC_RANGE_DB = 80.0
"""Spectrograms show this much below their loudest point."""
QUIETEST_PEAK_DB = -60.0
"""A clip whose loudest point is below this is drawn as the silence it is, not blown up."""
NUM_MELS = 96
SPECTROGRAM_HOP = 256
DOTS_PER_INCH = 160
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)


@dataclass(kw_only=True, frozen=True, slots=True)
class Theme:
    """Colours that suit one background."""

    text: str
    grid: str
    sources: Mapping[Source, str]


LIGHT = Theme(
    text="#3d4450",
    grid="#d9dde3",
    sources={Source.REAL: "#0f5fa6", Source.RESYNTHESIZED: "#c77700", Source.GENERATED: "#00856a"},
)
DARK = Theme(
    text="#c3cad5",
    grid="#39404b",
    sources={Source.REAL: "#6cb6f2", Source.RESYNTHESIZED: "#f5b041", Source.GENERATED: "#3fd1a8"},
)
LINE_STYLES: Mapping[Source, Any] = {
    Source.REAL: "-",
    Source.RESYNTHESIZED: (0, (5, 1.5)),
    Source.GENERATED: (0, (1.2, 1)),
}


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


def metric_distribution(values: Mapping[Source, NDArray[np.float64]], metric: MetricInfo, theme: Theme) -> bytes:
    """Histograms of one metric, a line a source, above its median, middle half and 5% to 95% range.

    The axis runs over the middle 99% of all values; what lies beyond is counted in the outermost bins.

    Raises:
        ValueError: no source has a value.
    """
    shown = {source: np.asarray(values[source], dtype=np.float64) for source in Source if len(values.get(source, ()))}
    if not shown:
        raise ValueError(f"{metric.name}: no values to draw")
    figure = Figure(figsize=(3.6, 2.6))
    histogram, ranges = figure.add_axes((0.13, 0.455, 0.85, 0.52)), figure.add_axes((0.13, 0.18, 0.85, 0.255))
    low, high = _axis_range(np.concatenate(list(shown.values())))
    edges = np.linspace(low, high, 1 + int(np.clip(2 * math.sqrt(max(map(len, shown.values()))), 8, 40)))
    for row, (source, column) in enumerate(shown.items()):
        color = theme.sources[source]
        percent = 100 * np.histogram(np.clip(column, low, high), edges)[0] / len(column)
        histogram.stairs(percent, edges, fill=True, color=color, alpha=0.14)
        histogram.stairs(percent, edges, color=color, linewidth=1.7, linestyle=LINE_STYLES[source])
        p5, p25, median, p75, p95 = np.percentile(column, [5, 25, 50, 75, 95])
        ranges.plot([p5, p95], [row, row], color=color, linewidth=1.3, solid_capstyle="round")
        ranges.plot([p25, p75], [row, row], color=color, linewidth=6, alpha=0.45, solid_capstyle="butt")
        ranges.plot([median], [row], "o", color=color, markersize=5)
    style_axes(histogram, theme)
    style_axes(ranges, theme)
    histogram.set(xlim=(low, high), ylim=(0, None), ylabel="Clips (%)")
    histogram.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    histogram.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    histogram.tick_params(labelbottom=False)
    ranges.set(xlim=(low, high), ylim=(len(shown) - 0.4, -0.6), yticks=[], xlabel=metric.label)
    ranges.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return to_png(figure)


def has_losses(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `training_curves` can draw these rows of `log.csv`."""
    return _loss_axis(rows) is not None


def training_curves(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """Training and validation loss above the learning rate, from the rows of `log.csv`.

    Args:
        rows: dicts with `epoch` or `step`, and any of `train_loss`, `val_loss`, `lr`; text is read as numbers, blanks
            are gaps.

    Raises:
        ValueError: no row holds a loss.
    """
    axis = _loss_axis(rows)
    if axis is None:
        raise ValueError(f"no row of {len(rows)} has an 'epoch' or 'step' with a 'train_loss' or 'val_loss'")
    curves = {name: _curve(rows, axis, name) for name in ("train_loss", "val_loss", "lr")}
    figure = Figure(figsize=(8.4, 3.6))
    loss, rate = figure.add_axes((0.075, 0.40, 0.91, 0.575)), figure.add_axes((0.075, 0.135, 0.91, 0.2))
    looks = {
        "train_loss": (theme.sources[Source.REAL], "-", "training"),
        "val_loss": (theme.sources[Source.RESYNTHESIZED], (0, (4, 1.5)), "validation"),
    }
    for name, (color, style, label) in looks.items():
        x, y = curves[name]
        if x:
            loss.plot(
                x,
                y,
                color=color,
                linestyle=style,
                linewidth=1.9,
                label=label,
                marker="o" if len(x) < 30 else None,
                markersize=3.5,
            )
    if curves["val_loss"][0]:
        best_x, best_y = min(zip(*curves["val_loss"], strict=True), key=lambda point: point[1])
        loss.plot(
            [best_x],
            [best_y],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=theme.text,
            label=f"lowest: {best_y:.3f} at {axis} {best_x:g}",
        )
    rate.plot(*curves["lr"], color=theme.sources[Source.GENERATED], linewidth=1.7)
    for axes in (loss, rate):
        style_axes(axes, theme)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))
        axes.margins(x=0.015)
    loss.legend(frameon=False, fontsize=8.5, labelcolor=theme.text)
    loss.set_ylabel("Loss (nats)")
    loss.tick_params(labelbottom=False)
    rate.set_xlim(loss.get_xlim())
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.yaxis.get_offset_text().set(color=theme.text, fontsize=8)
    rate.set(xlabel=axis.capitalize(), ylabel="Learning\nrate")
    return to_png(figure)


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
    ticks_hz = [tick for tick in TICKS_HZ if tick < clip.sample_rate / 2]
    axes.set_yticks([_hz_to_mel(tick) for tick in ticks_hz], [f"{tick / 1000:g}" for tick in ticks_hz])


def style_axes(axes: Axes, theme: Theme, grid: bool = True) -> None:
    """The house's look: quiet axes in the colours of the theme, on a transparent ground."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.text, labelsize=8, length=3, color=theme.grid)
    axes.xaxis.label.set(color=theme.text, fontsize=8.5)
    axes.yaxis.label.set(color=theme.text, fontsize=8.5)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=theme.grid, linewidth=0.6)


def _axis_range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = (float(edge) for edge in np.percentile(values, [0.5, 99.5]))
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.15 * high else low - margin), high + margin


def _loss_axis(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column to draw losses over: epochs, or steps where an epoch has several rows."""
    for axis in ("epoch", "step"):
        curves = [_curve(rows, axis, name)[0] for name in ("train_loss", "val_loss")]
        if any(curves) and (
            axis == "step" or all(len(set(x)) == len(x) for x in curves) or not any("step" in row for row in rows)
        ):
            return axis
    return None


def _curve(rows: Sequence[Mapping[str, Any]], axis: str, name: str) -> tuple[list[float], list[float]]:
    points = [(_number(row.get(axis)), _number(row.get(name))) for row in rows]
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _hz_to_mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mel / 2595) - 1)


def to_png(figure: Figure, num_colors: int = 128) -> bytes:
    """The figure on a transparent ground, with a palette: about a third of the size of true colour."""
    figure.set(facecolor="none", dpi=DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).quantize(
        num_colors, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
