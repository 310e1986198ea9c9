"""The report: one self-contained HTML page to listen to, with every picture and (unless linked) every sound inside it.

The page asks nothing of any server, and its content security policy says so. Names of classes and clips are untrusted
and always escaped.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from soundstorm.audio.bands import Bands
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.acoustic import CLIP_METRICS, METRIC_NAMES, PAIR_METRICS, MetricInfo
from soundstorm.evaluation.closeness_result import Closeness
from soundstorm.evaluation.summary import DIFFERENCE_BAR_PERCENT, SIGNIFICANCE, Breakdown, SourceValues, Summary
from soundstorm.reports.closeness_section import closeness_section
from soundstorm.reports.curves import has_losses, metric_distribution, training_curves
from soundstorm.reports.page import data_uri, decimal, percent, setting_groups, themed, thousands
from soundstorm.reports.spectrograms import Clip, Scale, clip_panel, spectrogram_grid
from soundstorm.reports.style import Theme
from soundstorm.schemas import METRICS, SUBSTITUTION, Source, check_schema

AUDIO_TYPES = ("audio/flac", "audio/wav", "audio/ogg", "audio/mpeg")
MEANINGS = {
    Source.REAL: "a recording",
    Source.RESYNTHESIZED: "the recordings through the codec: the best any model on its tokens can do",
    Source.GENERATED: "made by the model, from the class alone",
}
SCRIPT = """
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
"""


@dataclass(kw_only=True, frozen=True, slots=True)
class Example:
    """One clip to listen to. Its sound is either inside the page (`audio_bytes`) or behind a link (`audio_src`)."""

    category: str
    source: Source
    clip_id: str
    duration_s: float
    audio_bytes: bytes | None = None
    """An audio file, as stored."""
    mime_type: str = "audio/flac"
    """What `audio_bytes` is; one of AUDIO_TYPES."""
    audio_src: str | None = None
    """Address of the audio, for instance a presigned link."""
    waveform: NDArray[np.floating] | None = None
    """The clip, mono, from -1 to 1, for its pictures; without it there are none."""
    sample_rate: int = 24000
    """Samples per second of `waveform`."""

    def __post_init__(self) -> None:
        if (self.audio_bytes is None) == (self.audio_src is None):
            raise SoundStormError(
                f"example '{self.clip_id}': give either audio_bytes or audio_src, not both or neither"
            )
        if self.mime_type not in AUDIO_TYPES:
            raise SoundStormError(
                f"example '{self.clip_id}': mime_type is '{self.mime_type}'; it is one of {', '.join(AUDIO_TYPES)}"
            )
        if self.waveform is not None and (self.waveform.ndim != 1 or not len(self.waveform)):
            raise SoundStormError(
                f"example '{self.clip_id}': waveform has shape {self.waveform.shape}; it must be (N,) with at least "
                "one sample"
            )


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
    bands: Bands | None = None
    """Up to which frequency both sides reach; its note is not shown unless it is in `warnings` too."""
    examples: Sequence[Example] = ()
    """Shown by category in this order; the first of each source side by side, then the second of each, and so on."""
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
    environment = Environment(
        loader=PackageLoader("soundstorm.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    clips = {id(x): Clip(x.waveform, x.sample_rate) for x in data.examples if x.waveform is not None}
    return environment.get_template("report.html.j2").render(
        data=data,
        made=f"{data.generated_at.day} {data.generated_at:%B %Y, %H:%M %Z}".strip(),
        num_columns=max(1, len({example.source for example in data.examples})),
        sources=[
            {"name": source.value, "meaning": MEANINGS[source]}
            for source in Source
            if data.summary.overall.counts[source]
        ],
        verdicts=_verdicts(data.summary.overall),
        classes=_classes(data.examples, clips),
        overview=_overview(data.examples, clips),
        closeness=None if data.closeness is None else closeness_section(data.closeness, data.features),
        substitution=None if data.substitution is None else _substitution(data.substitution),
        rows=[_metric_row(metric, data.summary.overall) for metric in CLIP_METRICS],
        pair_rows=[_pair_row(metric, data.summary) for metric in PAIR_METRICS if metric.name in data.summary.pairs],
        category_tables=_category_tables(data.summary),
        metric_titles=[metric.title for metric in CLIP_METRICS],
        distributions=_distributions(data.metrics),
        training=_training(data.training_log),
        groups=setting_groups(data.settings),
        common_rate=_common_rate(data.bands),
        bar_percent=f"{DIFFERENCE_BAR_PERCENT:g}",
        significance=f"{SIGNIFICANCE:g}",
        script=SCRIPT,
        policy=_policy(data.examples),
    )


def _substitution(table: pa.Table) -> dict[str, Any]:
    check_schema(table.schema, SUBSTITUTION, "substitution")
    rows = table.to_pylist()
    return {
        "caption": f"{thousands(rows[0]['clips'])} recordings",
        "rows": [
            {
                "kept": "all" if row["rest"] in ("recording", "codec") else row["kept"],
                "rest": {"recording": "the recordings", "codec": "none"}.get(row["rest"], row["rest"]),
                "named": "n/a" if row["named"] is None else f"{100 * row['named']:.0f}%",
                "log_mel": f"{row['log_mel']:.2f}",
            }
            for row in rows
        ],
    }


def _common_rate(bands: Bands | None) -> str:
    """What the one sample rate at which all clips are compared is worth."""
    if bands is not None and bands.common_band_hz is not None:
        common_khz = f"{bands.common_band_hz / 1000:.1f} kHz"
        return (
            f"All clips are compared at one sample rate and below {common_khz}, which both sides reach: no "
            "difference comes from their files' rates."
        )
    if bands is not None and bands.note is not None:
        return "All clips are compared at one sample rate. That gives no clip what its file never had: " + bands.note
    return "All clips are compared at one sample rate, so that no difference comes from resampling alone."


def _policy(examples: Sequence[Example]) -> str:
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    media = "data: 'self' file: http: https:" if any(example.audio_src is not None for example in examples) else "data:"
    return (
        f"default-src 'none'; img-src data:; media-src {media}; style-src 'unsafe-inline'; script-src "
        f"'sha256-{script_hash}'"
    )


def _classes(examples: Sequence[Example], clips: Mapping[int, Clip]) -> list[dict[str, Any]]:
    """Category by category, rows of players side by side, None where a source has no clip for the row."""
    sources = [source for source in Source if any(example.source == source for example in examples)]
    classes = []
    for number, category in enumerate(dict.fromkeys(example.category for example in examples)):
        mine = [example for example in examples if example.category == category]
        drawn = [clips[id(example)] for example in mine if id(example) in clips]
        scale = Scale.of(drawn) if drawn else None
        columns = [
            [_player(example, clips.get(id(example)), scale) for example in mine if example.source == source]
            for source in sources
        ]
        classes.append({"id": f"class-{number}", "name": category, "rows": list(zip_longest(*columns))})
    return classes


def _player(example: Example, clip: Clip | None, scale: Scale | None) -> dict[str, Any]:
    audio = data_uri(example.audio_bytes, example.mime_type) if example.audio_bytes is not None else example.audio_src
    return {
        "source": example.source.value,
        "clip_id": example.clip_id,
        "duration": f"{example.duration_s:.2f} s",
        "audio": audio,
        "picture": None if clip is None else themed(lambda theme: clip_panel(clip, theme, example.source, scale)),
    }


def _overview(examples: Sequence[Example], clips: Mapping[int, Clip]) -> dict[str, str] | None:
    """The first clip of each class and source in one grid, where there is more than one class to see."""
    rows: dict[str, dict[Source, Clip]] = {}
    for example in examples:
        if id(example) in clips:
            rows.setdefault(example.category, {}).setdefault(example.source, clips[id(example)])
    return themed(lambda theme: spectrogram_grid(rows, theme)) if len(rows) > 1 else None


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
                    "clips": thousands(overall.counts[source]),
                    "of": len(compared),
                    "close": sum(_is_close(value) for value in compared),
                    "apart": sum(_is_told_apart(value) for value in compared),
                }
            )
    return verdicts


def _metric_row(metric: MetricInfo, overall: Breakdown) -> dict[str, Any]:
    values = overall.metrics[metric.name]
    cells = [_cell(metric, source, value) for source in Source if (value := values[source]) is not None]
    return {"title": metric.title, "unit": metric.unit, "meaning": metric.meaning, "cells": cells}


def _cell(metric: MetricInfo, source: Source, value: SourceValues) -> dict[str, Any]:
    cell = {
        "source": source.value,
        "mean": decimal(value.mean, metric.decimals),
        "std": decimal(value.std, metric.decimals),
        "median": decimal(value.median, metric.decimals),
        "compared": value.ks is not None,
    }
    if value.ks is not None and value.p_value is not None:
        cell |= {
            "difference": percent(value.difference_percent),
            "close": _is_close(value),
            "ks": f"{value.ks:.2f}",
            "ks_percent": f"{100 * value.ks:.0f}",
            "p": "p < 0.001"
            if value.p_value < 0.001
            else f"p = {value.p_value:.3f}"
            if value.p_value < 0.1
            else f"p = {value.p_value:.2f}",
            "told_apart": _is_told_apart(value),
        }
    return cell


def _pair_row(metric: MetricInfo, summary: Summary) -> dict[str, str]:
    spread = summary.pairs[metric.name]
    numbers = {name: decimal(getattr(spread, name), metric.decimals) for name in ("mean", "std", "median")}
    return {"title": metric.title, "unit": metric.unit, "meaning": metric.meaning, "n": thousands(spread.n)} | numbers


def _category_tables(summary: Summary) -> list[dict[str, Any]]:
    """For each source that is compared: differences of the means by class."""
    tables = []
    for source in (Source.RESYNTHESIZED, Source.GENERATED):
        if summary.overall.counts[source]:
            rows = []
            for category, group in summary.categories.items():
                values = [group.metrics[name][source] for name in METRIC_NAMES]
                cells = [
                    None
                    if value is None or value.ks is None
                    else {"text": percent(value.difference_percent), "close": _is_close(value)}
                    for value in values
                ]
                rows.append(
                    {
                        "category": category,
                        "n_real": group.counts[Source.REAL],
                        "n": group.counts[source],
                        "cells": cells,
                    }
                )
            tables.append({"source": source.value, "rows": rows})
    return tables


def _is_close(value: SourceValues) -> bool:
    return value.difference_percent is not None and abs(value.difference_percent) <= DIFFERENCE_BAR_PERCENT


def _is_told_apart(value: SourceValues) -> bool:
    return value.p_value is not None and value.p_value < SIGNIFICANCE
