"""Pictures of figures as PNG bytes: the distribution of a metric, and the curves of a training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from soundstorm.evaluation.metric_info import MetricInfo
from soundstorm.reports.style import LINE_STYLES, Theme, style_axes, to_png
from soundstorm.schemas import Source


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
        "train_loss": (theme.primary, "-", "training"),
        "val_loss": (theme.secondary, (0, (4, 1.5)), "validation"),
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
    rate.plot(*curves["lr"], color=theme.accent, linewidth=1.7)
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
