"""Pictures of a study: how its trials went, which settings mattered, and quality against cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from soundstorm.evaluation.pareto import CurvePoint
from soundstorm.reports.style import Theme, style_axes, to_png

STATE_STYLES = {"finished": "-", "stopped": (0, (3, 1.5)), "diverged": (0, (1, 1)), "failed": (0, (1, 1))}
MISSING = "n/a"


def trial_curves(
    curves: Sequence[tuple[Sequence[float], Sequence[float], str]], best: int | None, label: str, theme: Theme
) -> bytes:
    """A line a trial: (epochs, values, state); that at position `best` stands out.

    Raises:
        ValueError: no trial has a value.
    """
    if not any(len(y) for _, y, _ in curves):
        raise ValueError("no trial has a value to draw")
    figure = Figure(figsize=(8.4, 3.6))
    axes = figure.add_axes((0.08, 0.14, 0.9, 0.83))
    for number, (x, y, state) in enumerate(curves):
        color = theme.accent if number == best else theme.primary
        width, strength = (2.4, 1.0) if number == best else (1.1, 0.55)
        style: Any = STATE_STYLES.get(state, "-")
        axes.plot(
            x, y, color=color, linewidth=width, alpha=strength, linestyle=style, zorder=3 if number == best else 2
        )
        if len(x):
            axes.plot(
                [x[-1]], [y[-1]], "o", color=color, alpha=strength, markersize=5 if number == best else 3, zorder=3
            )
    ends = [y[-1] for _, y, _ in curves if len(y)]
    starts = [value for _, y, _ in curves for value in y]
    low, high = min(starts), max(np.percentile(starts, 97), max(ends))
    axes.set_ylim(low - 0.04 * (high - low or 1), high + 0.04 * (high - low or 1))
    axes.set(xlabel="Epoch", ylabel=label)
    style_axes(axes, theme)
    return to_png(figure)


def importance_bars(importances: Mapping[str, float], theme: Theme) -> bytes:
    """Share of the variance that each setting accounts for, the largest on top."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    height = 0.7 + 0.32 * len(ordered)
    figure = Figure(figsize=(5.6, height))
    axes = figure.add_axes((0.32, 0.5 / height, 0.64, 1 - 0.6 / height))
    axes.barh(
        range(len(ordered)),
        [100 * share for _, share in ordered],
        color=theme.primary,
        alpha=0.75,
        height=0.62,
    )
    style_axes(axes, theme)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], parse_math=False)
    axes.set(xlabel="Share of the differences (%)", xlim=(0, None))
    return to_png(figure)


def parallel_coordinates(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], value: str, best: str | None, theme: Theme
) -> bytes:
    """A line a trial over one axis a setting, the last that of `value`; the better, the stronger. Rows without a value
    are left out.

    Raises:
        ValueError: no row has a value.
    """
    known = [row for row in rows if row.get(value) is not None]
    if not known:
        raise ValueError(f"no trial has a value of '{value}' to draw")
    columns = [*names, value]
    figure = Figure(figsize=(max(5.0, 1.25 * len(columns)), 3.8))
    axes = figure.add_axes((0.05, 0.17, 0.9, 0.75))
    heights = {name: _heights([row.get(name) for row in known]) for name in columns}
    rank = np.argsort(np.argsort([row[value] for row in known]))
    for number, row in enumerate(known):
        is_best = row.get("trial") == best
        strength = 1.0 if is_best else 0.15 + 0.6 * (1 - rank[number] / max(1, len(known) - 1))
        axes.plot(
            range(len(columns)),
            [heights[name][0][number] for name in columns],
            color=theme.accent if is_best else theme.primary,
            linewidth=2.6 if is_best else 1.1,
            alpha=strength,
            zorder=3 if is_best else 2,
        )
    for position, name in enumerate(columns):
        axes.axvline(position, color=theme.grid, linewidth=1.2, zorder=1)
        for text, height in heights[name][1]:
            axes.annotate(
                text,
                (position, height),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                color=theme.text,
                va="center",
                parse_math=False,
            )
    style_axes(axes, theme, grid=False)
    axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in columns], parse_math=False)
    axes.set(yticks=[], xlim=(-0.1, len(columns) - 0.6), ylim=(-0.06, 1.06))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return to_png(figure)


def _heights(values: Sequence[Any]) -> tuple[list[float], list[tuple[str, float]]]:
    """Where on an axis from 0 to 1 each value lies, and what is written beside it: numbers by size, other values in
    equal steps."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len([value for value in values if value is not None]) and numbers:
        is_log = min(numbers) > 0 and max(numbers) / min(numbers) > 20
        scaled = [math.log(number) if is_log else float(number) for number in numbers]
        low, high = min(scaled), max(scaled)
        low_text, high_text = f"{min(numbers):.3g}", f"{max(numbers):.3g}"

        def height(value: Any) -> float:
            if value is None or high == low:
                return 0.5
            return ((math.log(value) if is_log else float(value)) - low) / (high - low)

        return [height(value) for value in values], [(high_text, 0.5)] if high == low else [
            (low_text, 0.0),
            (high_text, 1.0),
        ]
    texts = sorted({MISSING if value is None else str(value) for value in values})
    places = {text: 0.5 if len(texts) == 1 else number / (len(texts) - 1) for number, text in enumerate(texts)}
    return [places[MISSING if value is None else str(value)] for value in values], list(places.items())


def iterations_picture(curves: Mapping[str, Sequence[CurvePoint]], enough: Mapping[str, int], theme: Theme) -> bytes:
    """Quality (mean, and every seed) and cost over the passes at level 0, a line a checkpoint; a ring where more stops
    paying."""
    figure = Figure(figsize=(8.4, 4.4))
    quality, cost = figure.add_axes((0.09, 0.42, 0.89, 0.55)), figure.add_axes((0.09, 0.12, 0.89, 0.24))
    for (name, curve), color in zip(curves.items(), _colors(len(curves), theme), strict=True):
        x = [point.iterations for point in curve]
        mean, spread = np.array([point.quality for point in curve]), np.array([point.spread for point in curve])
        quality.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.16, linewidth=0)
        quality.plot(
            x,
            mean,
            "o-",
            color=color,
            linewidth=1.8,
            markersize=4,
            label=name if len(curves) > 1 else "mean of the seeds",
        )
        for point in curve:
            quality.plot(
                [point.iterations] * len(point.values), point.values, "_", color=color, markersize=8, alpha=0.8
            )
        cost.plot(x, [point.cost for point in curve], "o-", color=color, linewidth=1.5, markersize=3.5)
        stop = next((point for point in curve if point.iterations == enough.get(name)), None)
        if stop is not None:
            label = f"more stops paying at {stop.iterations}" + (f" ({name})" if len(curves) > 1 else "")
            quality.plot(
                [stop.iterations],
                [stop.quality],
                "o",
                markersize=13,
                markerfacecolor="none",
                markeredgecolor=color,
                label=label,
            )
    ticks = sorted({point.iterations for curve in curves.values() for point in curve})
    for axes in (quality, cost):
        style_axes(axes, theme)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    quality.tick_params(labelbottom=False)
    quality.set_ylabel("Distance from real\n(less is better)")
    cost.set(xlabel="Passes at level 0", ylabel="Seconds\na clip", ylim=(0, None))
    quality.legend(frameon=False, fontsize=8.5, labelcolor=theme.text)
    return to_png(figure)


def front_picture(
    points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]], best: tuple[float, float], theme: Theme
) -> bytes:
    """Quality over cost of every trial, those that no other beats joined by steps, the chosen one ringed."""
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.add_axes((0.13, 0.15, 0.84, 0.82))
    axes.plot(
        [cost for _, cost in points],
        [value for value, _ in points],
        "o",
        color=theme.primary,
        alpha=0.5,
        markersize=4,
    )
    axes.step(
        [cost for _, cost in front],
        [value for value, _ in front],
        "o-",
        where="post",
        color=theme.accent,
        markersize=5,
    )
    axes.plot([best[1]], [best[0]], "o", markersize=13, markerfacecolor="none", markeredgecolor=theme.text)
    _log_where_wide(axes, [cost for _, cost in points])
    style_axes(axes, theme)
    axes.tick_params(which="both", labelsize=8, labelcolor=theme.text, color=theme.grid)
    axes.set(xlabel="Seconds per clip", ylabel="Distance from real (lower is better)")
    return to_png(figure)


def _log_where_wide(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) > 8:
        axes.set_xscale("log")
        for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _colors(count: int, theme: Theme) -> list[str]:
    palette = [
        theme.accent,
        theme.primary,
        theme.secondary,
        theme.text,
    ]
    return [palette[number % len(palette)] for number in range(count)]
