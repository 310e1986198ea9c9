"""Pictures of a classifier's results: what it takes for what, and how often it is right when it is sure.

Legend: C categories.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from soundstorm.classification.accuracy import CalibrationBin
from soundstorm.reports.closeness_figures import draw_shares, short_names
from soundstorm.reports.style import Theme, style_axes, to_png


def confusion_picture(confusion: Sequence[Sequence[int]], categories: Sequence[str], theme: Theme) -> bytes:
    """What the clips of each category (row) are taken for (column), in percent of the row."""
    counts_CC = np.array(confusion, dtype=np.float64)
    cell_in = min(0.42, 8.0 / len(categories))
    size = min(8.5, 60 * cell_in)
    names = short_names(categories)
    names_in = 0.45 + 0.0085 * size * max(map(len, names))
    side_in = len(categories) * cell_in
    total_in = names_in + side_in + 0.1
    figure = Figure(figsize=(total_in, total_in))
    axes = figure.add_axes((names_in / total_in, names_in / total_in, side_in / total_in, side_in / total_in))
    draw_shares(axes, counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1), theme)
    style_axes(axes, theme, grid=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set(xlabel="Predicted class", ylabel="True class")
    return to_png(figure)


def reliability_picture(bins: Sequence[CalibrationBin], theme: Theme) -> bytes:
    """Share that is right over the mean probability of each range, above how many clips fall into it; the diagonal is
    perfect calibration."""
    figure = Figure(figsize=(3.8, 3.9))
    curve, counts = figure.add_axes((0.15, 0.36, 0.82, 0.62)), figure.add_axes((0.15, 0.12, 0.82, 0.2))
    known = [
        (found.confidence, found.accuracy)
        for found in bins
        if found.confidence is not None and found.accuracy is not None
    ]
    curve.plot([0, 1], [0, 1], color=theme.grid, linewidth=1.5)
    for confidence, accuracy in known:
        curve.plot(
            [confidence, confidence],
            [confidence, accuracy],
            color=theme.secondary,
            linewidth=2.2,
            alpha=0.7,
        )
    curve.plot(
        [x for x, _ in known],
        [y for _, y in known],
        "o-",
        color=theme.primary,
        linewidth=1.7,
        markersize=5,
    )
    edges = [found.low for found in bins] + [bins[-1].high]
    counts.stairs([found.clips for found in bins], edges, fill=True, color=theme.primary, alpha=0.45)
    for axes in (curve, counts):
        style_axes(axes, theme)
        axes.set_xlim(0, 1)
    curve.set(ylim=(0, 1.02), ylabel="Accuracy")
    curve.tick_params(labelbottom=False)
    counts.set(xlabel="Probability of the name given", ylabel="Clips")
    return to_png(figure)
