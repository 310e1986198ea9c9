"""The report: one self-contained HTML page to listen to, with every picture and (unless linked) every sound inside it.

The page asks nothing of any server, and its content security policy says so. Names of classes and clips are untrusted
and always escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from soundstorm.audio.bands import Bands
from soundstorm.classification.utility_result import utility_lines, utility_verdict
from soundstorm.data.categories import group_of
from soundstorm.evaluation.closeness_result import Closeness
from soundstorm.evaluation.metric_info import CLIP_METRICS, METRIC_NAMES, PAIR_METRICS, MetricInfo
from soundstorm.evaluation.summary import DIFFERENCE_BAR_PERCENT, SIGNIFICANCE, Breakdown, Summary
from soundstorm.reports.closeness_section import closeness_section
from soundstorm.reports.curves import has_losses, metric_distribution, training_curves
from soundstorm.reports.listening_section import SCRIPT, Example, Pictures, listening_section, policy, searchable
from soundstorm.reports.page import render_page, themed
from soundstorm.reports.style import Theme
from soundstorm.schemas import METRICS, SUBSTITUTION, Source, check_schema

MEANINGS = {
    Source.REAL: "a recording",
    Source.RESYNTHESIZED: "the recordings through the codec: the best any model on its tokens can do",
    Source.GENERATED: "made by the model, from the class alone",
}


@dataclass(kw_only=True, frozen=True, slots=True)
class ReportData:
    """All that the page shows; what is left out is left out of the page."""

    title: str
    generated_at: datetime
    summary: Summary
    metrics: pa.Table | None = None
    """The table behind `summary`, for the distributions."""
    closeness: Closeness | None = None
    """How close the generated clips come as sound; its warnings are not shown unless they are in `warnings` too."""
    features: pa.Table | None = None
    """The table behind `closeness`, for its pictures."""
    substitution: pa.Table | None = None
    """Where the generator loses, schema SUBSTITUTION."""
    utility: pa.Table | None = None
    """Utility of the generated clips as training data, schema UTILITY."""
    bands: Bands | None = None
    """Up to which frequency both sides reach; its note is not shown unless it is in `warnings` too."""
    examples: Sequence[Example] = ()
    """Shown by category in this order; the first of each source side by side, then the second of each, and so on."""
    pictures: Pictures | None = None
    """Pictures of the examples, if they are drawn."""
    training_log: Sequence[Mapping[str, Any]] = ()
    """Rows of `log.csv`; without a loss in them there is no section on training."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Name to value; a value that is a mapping makes a group of its own."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """What to name when the result is to be made again: SHA-256 of codec, checkpoint and the like."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason to number of clips."""
    warnings: Sequence[str] = ()
    credits: Sequence[str] = ()
    """Whom the recordings come from, and under which licence."""


def render_report(data: ReportData) -> str:
    """The whole page as text; its size is about 4/3 of the audio within, plus some 50 KB a clip.

    Raises:
        SoundStormError: `data.metrics` lacks a column.
    """
    confusion = None if data.closeness is None else data.closeness.confusion
    return render_page(
        "report.html.j2",
        data,
        credits=data.credits,
        num_columns=max(1, len({example.source for example in data.examples})),
        meanings={source: MEANINGS[source] for source in Source if data.summary.overall.counts[source]},
        verdicts=_verdicts(data.summary.overall),
        listening=listening_section(data.examples, confusion, data.pictures),
        closeness=None if data.closeness is None else closeness_section(data.closeness, data.features),
        substitution=None if data.substitution is None else _substitution(data.substitution),
        utility=None if data.utility is None else _utility(data.utility),
        metrics=CLIP_METRICS,
        pair_metrics=PAIR_METRICS,
        category_tables=_category_tables(data.summary),
        distributions=_distributions(data.metrics),
        training=_training(data.training_log),
        common_rate=_common_rate(data.bands),
        bar_percent=f"{DIFFERENCE_BAR_PERCENT:g}",
        significance=f"{SIGNIFICANCE:g}",
        script=SCRIPT,
        policy=policy(data.examples),
    )


def _substitution(table: pa.Table) -> list[dict[str, Any]]:
    check_schema(table.schema, SUBSTITUTION, "substitution")
    return table.to_pylist()


def _utility(table: pa.Table) -> dict[str, Any]:
    lines = utility_lines(table)
    return {"lines": lines, "test_clips": table["test_clips"][0].as_py(), "verdict": utility_verdict(lines)}


def _common_rate(bands: Bands | None) -> str:
    """A sentence about the common sample rate at which all clips are compared, and the band that it keeps."""
    if bands is not None and bands.common_band_hz is not None:
        common_khz = f"{bands.common_band_hz / 1000:.1f} kHz"
        return (
            f"All clips are compared at one sample rate and below {common_khz}, which both sides reach: no "
            "difference comes from their files' rates."
        )
    if bands is not None and bands.note is not None:
        return "All clips are compared at one sample rate. That gives no clip what its file never had: " + bands.note
    return "All clips are compared at one sample rate, so that no difference comes from resampling alone."


def _distributions(metrics: pa.Table | None) -> list[dict[str, Any]]:
    if metrics is None or not len(metrics):
        return []
    check_schema(metrics.schema, METRICS, "metrics")
    by_source = {source: metrics.filter(pc.equal(metrics["source"], source.value)) for source in Source}
    pictures = []
    for metric in CLIP_METRICS:
        values = {source: table[metric.name].to_numpy() for source, table in by_source.items()}

        def draw(
            theme: Theme, metric: MetricInfo = metric, values: Mapping[Source, NDArray[np.float64]] = values
        ) -> bytes:
            return metric_distribution(values, metric, theme)

        pictures.append({"title": metric.title, "meaning": metric.meaning, "picture": themed(draw)})
    return pictures


def _training(rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    return themed(lambda theme: training_curves(rows, theme)) if has_losses(rows) else None


def _verdicts(overall: Breakdown) -> list[dict[str, Any]]:
    verdicts = []
    for source in Source:
        values = [overall.metrics[name][source] for name in METRIC_NAMES]
        known = [value for value in values if value is not None]
        if known:
            compared = [value for value in known if value.ks is not None]
            verdicts.append(
                {
                    "source": source.value,
                    "clips": overall.counts[source],
                    "of": len(compared),
                    "close": sum(value.is_close for value in compared),
                    "different": sum(value.is_different for value in compared),
                }
            )
    return verdicts


def _category_tables(summary: Summary) -> list[dict[str, Any]]:
    """For each source that is compared: differences of the means by group, where there is more than one, and by class;
    the class that is furthest from its recordings first."""
    tables = []
    for source in (Source.RESYNTHESIZED, Source.GENERATED):
        if summary.overall.counts[source]:
            classes = [_category_row(name, part, source) for name, part in summary.categories.items()]
            groups = [_category_row(name, part, source) for name, part in summary.groups.items()]
            classes.sort(key=lambda row: row["beyond"], reverse=True)
            tables.append({"source": source.value, "rows": classes, "groups": groups if len(groups) > 1 else []})
    return tables


def _category_row(name: str, part: Breakdown, source: Source) -> dict[str, Any]:
    values = [part.metrics[metric][source] for metric in METRIC_NAMES]
    compared = [value if value is not None and value.ks is not None else None for value in values]
    return {
        "category": name,
        "search": searchable(name),
        "group": group_of(name) or "",
        "n_real": part.counts[Source.REAL],
        "n": part.counts[source],
        "beyond": sum(value is not None and not value.is_close for value in compared),
        "compared": compared,
    }
