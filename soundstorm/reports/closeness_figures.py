"""Figures of the closeness section: modulation spectra and confusion matrices."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from soundstorm.evaluation.closeness_result import Confusion
from soundstorm.evaluation.temporal import MODULATION_EDGES_HZ
from soundstorm.reports.style import LINE_STYLES, Theme, style_axes, to_png
from soundstorm.schemas import Source

MODULATION_TICKS_HZ = (0.5, 1, 2, 5, 10, 20)
NUMBERED_CLASSES = 12
"""Up to this many classes, the cells of a confusion matrix contain numbers."""


def modulation_curves(bands: Mapping[Source, NDArray[np.float64]], theme: Theme) -> bytes:
    """Modulation energy (K,) in dB² by modulation frequency, a line per source.

    Raises:
        ValueError: no source has values.
    """
    if not bands:
        raise ValueError("no modulation spectra to draw")
    figure = Figure(figsize=(3.6, 2.6))
    axes = figure.add_axes((0.15, 0.18, 0.83, 0.79))
    centres_hz = np.sqrt(MODULATION_EDGES_HZ[:-1] * MODULATION_EDGES_HZ[1:])
    for source, energy_K in bands.items():
        axes.plot(centres_hz, energy_K, color=theme.sources[source], linestyle=LINE_STYLES[source], linewidth=1.9)
    style_axes(axes, theme)
    axes.set_xscale("log")
    axes.set_xticks(MODULATION_TICKS_HZ, [f"{tick:g}" for tick in MODULATION_TICKS_HZ])
    axes.minorticks_off()
    axes.set(
        xlim=(MODULATION_EDGES_HZ[0], MODULATION_EDGES_HZ[-1]),
        ylim=(0, None),
        xlabel="Changes per second (Hz)",
        ylabel="Energy (dB²)",
    )
    return to_png(figure)


def confusion_matrix(confusion: Confusion, theme: Theme) -> bytes:
    """Confusion matrices in percent of each class: of the generated clips, and of the held-out fold if there is one."""
    panels = [(Source.REAL, confusion.held_out), (Source.GENERATED, confusion.generated)]
    shown = [(source, np.array(counts, dtype=np.float64)) for source, counts in panels if counts is not None]
    rows, columns = len(confusion.categories), len(confusion.predicted)
    cell_in = min(0.36, 5.5 / columns)
    size = min(8.0, 60 * cell_in)
    names_in, below_in = (
        0.15 + 0.0085 * size * max(map(len, short_names(names)))
        for names in (confusion.categories, confusion.predicted)
    )
    title_in, gap_in = 0.3, 0.25
    width_in = names_in + len(shown) * (columns * cell_in + gap_in)
    height_in = title_in + rows * cell_in + below_in
    figure = Figure(figsize=(width_in, height_in))
    for number, (source, counts) in enumerate(shown):
        left_in = names_in + number * (columns * cell_in + gap_in)
        axes = figure.add_axes(
            (left_in / width_in, below_in / height_in, columns * cell_in / width_in, rows * cell_in / height_in)
        )
        draw_shares(axes, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), theme)
        style_axes(axes, theme, grid=False)
        axes.spines[:].set_visible(False)
        axes.set_title(source.capitalize(), fontsize=10, color=theme.sources[source], fontweight="bold")
        axes.set_xticks(range(columns), short_names(confusion.predicted), rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(
            range(rows),
            short_names(confusion.categories) if number == 0 else [""] * rows,
            fontsize=size,
            parse_math=False,
        )
        axes.tick_params(length=0)
    return to_png(figure)


def draw_shares(axes: Axes, shares: NDArray[np.float64], theme: Theme) -> None:
    """Cells whose opacity is their fraction: one colour for correct predictions, another for wrong ones."""
    right = (np.eye(*shares.shape) > 0)[..., None]
    colors = np.where(right, to_rgb(theme.accent), to_rgb(theme.secondary))
    axes.imshow(
        np.concatenate([colors, (0.07 + 0.75 * shares)[..., None]], axis=2), aspect="auto", interpolation="nearest"
    )
    if shares.shape[1] <= NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=theme.text)


def short_names(names: Sequence[str]) -> list[str]:
    """Class names shortened for a figure."""
    return [textwrap.shorten(name.replace("_", " "), 20, placeholder="…") for name in names]
