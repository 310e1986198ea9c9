"""How the reports' pictures look: themes for light and dark pages, quiet axes, and PNG files with a palette.

Every function builds its own matplotlib `Figure` (no pyplot, no global state), so actors and threads may draw at once.
The colours of the sources keep apart for colour-blind readers (after Okabe and Ito, 2008) and in grey."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from soundstorm.schemas import Source

DOTS_PER_INCH = 160


@dataclass(kw_only=True, frozen=True, slots=True, eq=False)
class Theme:
    """Colours that suit one background."""

    text: str
    grid: str
    sources: Mapping[Source, str]
    """Colours of real, resynthesized and generated clips."""

    @property
    def primary(self) -> str:
        """Colour of the main values in a figure that is not about sources."""
        return self.sources[Source.REAL]

    @property
    def secondary(self) -> str:
        """Colour of values to compare with, or of wrong ones."""
        return self.sources[Source.RESYNTHESIZED]

    @property
    def accent(self) -> str:
        """Colour of the best, or of correct values."""
        return self.sources[Source.GENERATED]


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


def style_axes(axes: Axes, theme: Theme, grid: bool = True) -> None:
    """The style of all figures: quiet axes in the colours of the theme, on a transparent background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.text, labelsize=8, length=3, color=theme.grid)
    axes.xaxis.label.set(color=theme.text, fontsize=8.5)
    axes.yaxis.label.set(color=theme.text, fontsize=8.5)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=theme.grid, linewidth=0.6)


def to_png(figure: Figure, num_colors: int = 128) -> bytes:
    """The figure on a transparent ground, with a palette."""
    return to_palette_png(drawn_on(canvas_of(figure)), num_colors)


def canvas_of(figure: Figure) -> FigureCanvasAgg:
    """The figure, drawn on a transparent ground."""
    figure.set(facecolor="none", dpi=DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return canvas


def drawn_on(canvas: FigureCanvasAgg) -> Image.Image:
    """A copy of what is drawn, RGBA."""
    return Image.fromarray(np.array(canvas.buffer_rgba()))


def to_palette_png(image: Image.Image, num_colors: int) -> bytes:
    """An RGBA image as PNG with a palette: about a third of the size of true colour."""
    buffer = io.BytesIO()
    quantized = image.quantize(num_colors, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    quantized.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
