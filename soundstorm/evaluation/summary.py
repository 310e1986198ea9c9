"""Acoustic metrics of resynthesized and generated clips compared with real ones: means, medians and Kolmogorov-Smirnov
distances, overall and per category.

`summarize` returns the content of `summary.json`; nothing in it is NaN or infinite, and undefined values are `null`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp

from soundstorm.data.categories import by_group
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.metric_info import METRIC_NAMES, PAIR_METRIC_NAMES
from soundstorm.schemas import METRICS, PAIRS, Source, check_schema

DIFFERENCE_BAR_PERCENT = 15.0
"""A mean within this percentage of the real one counts as close."""
SIGNIFICANCE = 0.05
"""If the p-value of the KS test is below this, the two sets differ significantly in the metric."""


@dataclass(kw_only=True, frozen=True, slots=True)
class KSComparison:
    """A metric of a set of clips compared with the same metric of the real clips."""

    n_real: int
    n_other: int
    mean_real: float
    mean_other: float
    std_real: float
    """Population standard deviation (divided by n), so it is 0 for a single clip."""
    std_other: float
    median_real: float
    median_other: float
    difference_percent: float | None
    """Mean of other minus mean of real, in percent of the magnitude of the latter; None if the real mean is 0 and the
    other is not."""
    ks: float
    """KS distance: largest difference between the two cumulative distributions, 0 to 1."""
    p_value: float
    """Probability of a difference at least this large if both sets were drawn from one distribution."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Distribution:
    """Statistics of a metric over a set of clips."""

    n: int
    mean: float
    std: float
    median: float


@dataclass(kw_only=True, frozen=True, slots=True)
class SourceValues(Distribution):
    """`Distribution` of one source; the last three values compare it with the real clips and are None for the real
    clips themselves, or if there are none."""

    difference_percent: float | None
    ks: float | None
    p_value: float | None

    @property
    def is_close(self) -> bool:
        """Whether the mean is within DIFFERENCE_BAR_PERCENT of the real one."""
        return self.difference_percent is not None and abs(self.difference_percent) <= DIFFERENCE_BAR_PERCENT

    @property
    def is_different(self) -> bool:
        """Whether the KS test finds a significant difference."""
        return self.p_value is not None and self.p_value < SIGNIFICANCE


@dataclass(kw_only=True, frozen=True, slots=True)
class Breakdown:
    """The six metrics of a group of clips for each source; a source without clips is None."""

    counts: dict[str, int]
    metrics: dict[str, dict[str, SourceValues | None]]


@dataclass(kw_only=True, frozen=True, slots=True)
class Summary:
    """Content of `summary.json`."""

    overall: Breakdown
    categories: dict[str, Breakdown]
    groups: dict[str, Breakdown]
    """The groups of ESC-50 that have classes here (`soundstorm.data.categories`)."""
    pairs: dict[str, Distribution]
    """Both pair metrics; empty if no pairs were measured."""

    def to_dict(self) -> dict[str, Any]:
        """Dicts, strings and finite numbers, ready for `json.dumps(..., allow_nan=False)`."""
        return asdict(self)


def compare(real: ArrayLike, other: ArrayLike) -> KSComparison:
    """Compare the values of a metric in two sets of clips, including a two-sample Kolmogorov-Smirnov test.

    Args:
        real: (n_real,) values of the real clips.
        other: (n_other,) values of the other clips.

    Raises:
        SoundStormError: a set is empty or contains NaN or infinity.
    """
    a, b = _values(real, "real"), _values(other, "other")
    mean_a, mean_b = float(a.mean()), float(b.mean())
    test = ks_2samp(a, b)
    return KSComparison(
        n_real=len(a),
        n_other=len(b),
        mean_real=mean_a,
        mean_other=mean_b,
        std_real=float(a.std()),
        std_other=float(b.std()),
        median_real=float(np.median(a)),
        median_other=float(np.median(b)),
        difference_percent=_difference_percent(mean_a, mean_b),
        ks=float(test.statistic),
        p_value=float(test.pvalue),
    )


def summarize(metrics: pa.Table, pairs: pa.Table | None = None) -> Summary:
    """The six metrics of real, resynthesized and generated clips, overall, per category and per group, and both pair
    metrics.

    Args:
        metrics: a table of schema `METRICS`; resynthesized or generated clips may be absent.
        pairs: a table of schema `PAIRS`.

    Raises:
        SoundStormError: a missing column, an unknown source, no real clips, or a value that is not finite.
    """
    check_schema(metrics.schema, METRICS, "metrics")
    sources = set(pc.unique(metrics["source"]).to_pylist())
    unknown = sorted(map(str, sources - set(Source)))
    if unknown:
        raise SoundStormError(f"metrics: source '{unknown[0]}' is unknown: use one of {', '.join(Source)}")
    if Source.REAL not in sources:
        raise SoundStormError("metrics: there are no clips of source 'real' to compare with: measure real clips too")
    _refuse_not_finite(metrics, METRIC_NAMES, "clip_id", "metrics")
    categories = sorted(pc.unique(metrics["category"]).to_pylist())
    return Summary(
        overall=_breakdown(metrics),
        categories={
            category: _breakdown(metrics.filter(pc.equal(metrics["category"], category))) for category in categories
        },
        groups={
            group: _breakdown(metrics.filter(pc.is_in(metrics["category"], pa.array(members))))
            for group, members in by_group(categories).items()
        },
        pairs={} if pairs is None or not len(pairs) else _summarize_pairs(pairs),
    )


def _breakdown(metrics: pa.Table) -> Breakdown:
    by_source = {source: metrics.filter(pc.equal(metrics["source"], source.value)) for source in Source}
    values: dict[str, dict[str, SourceValues | None]] = {}
    for name in METRIC_NAMES:
        columns = {source: table[name].to_numpy() for source, table in by_source.items()}
        values[name] = {
            source.value: _source_values(source, column, columns[Source.REAL]) for source, column in columns.items()
        }
    return Breakdown(counts={source.value: len(table) for source, table in by_source.items()}, metrics=values)


def _source_values(source: Source, column: NDArray[np.float64], real: NDArray[np.float64]) -> SourceValues | None:
    if not len(column):
        return None
    if source is Source.REAL or not len(real):
        return SourceValues(**asdict(_distribution(column)), difference_percent=None, ks=None, p_value=None)
    comparison = compare(real, column)
    return SourceValues(
        n=comparison.n_other,
        mean=comparison.mean_other,
        std=comparison.std_other,
        median=comparison.median_other,
        difference_percent=comparison.difference_percent,
        ks=comparison.ks,
        p_value=comparison.p_value,
    )


def _summarize_pairs(pairs: pa.Table) -> dict[str, Distribution]:
    check_schema(pairs.schema, PAIRS, "pairs")
    _refuse_not_finite(pairs, PAIR_METRIC_NAMES, "generated_id", "pairs")
    return {name: _distribution(pairs[name].to_numpy()) for name in PAIR_METRIC_NAMES}


def _distribution(values: NDArray[np.float64]) -> Distribution:
    return Distribution(
        n=len(values), mean=float(values.mean()), std=float(values.std()), median=float(np.median(values))
    )


def _difference_percent(mean_real: float, mean_other: float) -> float | None:
    if mean_real == mean_other:
        return 0.0
    percent = 100 * (mean_other - mean_real) / abs(mean_real) if mean_real else np.inf
    return float(percent) if np.isfinite(percent) else None


def _values(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(array):
        raise SoundStormError(f"{what}: there are no values to compare: measure at least one clip")
    if not np.isfinite(array).all():
        raise SoundStormError(
            f"{what}: {np.count_nonzero(~np.isfinite(array))} of {len(array)} values are NaN or infinite: measure "
            "these clips again"
        )
    return array


def _refuse_not_finite(table: pa.Table, names: tuple[str, ...], id_column: str, where: str) -> None:
    for name in names:
        bad = np.flatnonzero(~np.isfinite(table[name].to_numpy()))
        if len(bad):
            raise SoundStormError(
                f"{where}: '{name}' of '{table[id_column][int(bad[0])].as_py()}' is "
                f"{table[name][int(bad[0])].as_py()}: measure this clip again"
            )


def most_distant_metric(summary: Summary) -> str:
    """A phrase with the metric in which generated clips differ most from real ones."""
    found = [
        (values["generated"].ks or 0.0, name)
        for name, values in summary.overall.metrics.items()
        if values["generated"] is not None
    ]
    if not found:
        return "nothing generated"
    distance, name = max(found)
    return f"largest KS distance {distance:.2f} ({name})"
