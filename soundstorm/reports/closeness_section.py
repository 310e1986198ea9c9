"""The report's section on closeness: a row for each metric, and figures that explain the values."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soundstorm.evaluation.clip_sets import ClipSet
from soundstorm.evaluation.closeness_result import Closeness
from soundstorm.evaluation.metric_info import MEASURES, MODEL_MEASURES, MetricInfo
from soundstorm.reports.closeness_figures import confusion_matrix, modulation_curves
from soundstorm.reports.curves import metric_distribution
from soundstorm.reports.page import themed
from soundstorm.reports.style import Theme
from soundstorm.schemas import Role, Source

SOURCES = {Source.REAL: Role.REAL, Source.GENERATED: Role.GENERATED}
INFOS = {info.name: info for info in (*MEASURES, *MODEL_MEASURES)}
FLUX = replace(INFOS["flux"], meaning="Frozen sound is on the left, flickering sound on the right.")
SHARE = replace(
    INFOS["copying"],
    title="Frames of the nearest training clip",
    unit="share",
    meaning="Compared with clips of the held-out fold, which are not copies. A clip near 1 repeats a training clip.",
    decimals=2,
)


def closeness_section(closeness: Closeness, features: pa.Table | None) -> dict[str, Any]:
    """Values for the template `closeness.html.j2`.

    Args:
        closeness: the metrics.
        features: the table that they were computed from, schema FEATURES; without it there are no figures of its
            columns.
    """
    rows = [(INFOS[measure.name], measure) for measure in closeness.measures]
    return {"result": closeness, "rows": rows, "plots": _plots(closeness, features)}


def _plots(closeness: Closeness, features: pa.Table | None) -> list[dict[str, Any]]:
    plots = []
    if features is not None:
        clips = ClipSet.of_table(features)
        sets = {source: clips.with_roles(role) for source, role in SOURCES.items()}
        flux = {source: of_source.table["flux"].to_numpy() for source, of_source in sets.items()}
        bands = {
            source: np.mean(of_source.table["modulation_bands"].to_pylist(), axis=0)
            for source, of_source in sets.items()
            if len(of_source)
        }
        plots += [
            _plot(
                "Modulation spectrum",
                "Slow swells are on the left, ticks and flutter on the right.",
                lambda theme: modulation_curves(bands, theme),
            ),
            _distribution(flux, FLUX),
        ]
    if closeness.shares:
        plots.append(
            _distribution(
                {
                    Source.REAL: np.array(closeness.shares["held_out"]),
                    Source.GENERATED: np.array(closeness.shares["generated"]),
                },
                SHARE,
            )
        )
    confusion = closeness.confusion
    if confusion is not None:
        meaning = "Percent of the clips of each class (row) by the class that the classifier predicts (column)."
        plots.append(
            _plot("What the classifier predicts", meaning, lambda theme: confusion_matrix(confusion, theme))
            | {"wide": True}
        )
    return plots


def _distribution(values: Mapping[Source, NDArray[np.float64]], metric: MetricInfo) -> dict[str, Any]:
    return _plot(metric.title, metric.meaning, lambda theme: metric_distribution(values, metric, theme))


def _plot(title: str, meaning: str, draw: Callable[[Theme], bytes]) -> dict[str, Any]:
    return {
        "title": title,
        "meaning": meaning,
        "alt": f"{title}, generated beside real. {meaning}",
        "picture": themed(draw),
        "wide": False,
    }
