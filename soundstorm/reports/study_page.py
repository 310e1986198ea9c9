"""The page of a study: one self-contained HTML file with its trials, which settings mattered, and what quality costs.

The page asks nothing of any server, and its content security policy says so. Names and values are untrusted and always
escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from soundstorm.evaluation.pareto import CurvePoint, fewest_sufficient_iterations
from soundstorm.reports.page import decimal, render_page, themed
from soundstorm.reports.study_figures import (
    front_picture,
    importance_bars,
    iterations_picture,
    parallel_coordinates,
    trial_curves,
)

MAX_ROWS = 500
"""Maximum number of rows in the table of trials; trials.csv has them all."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How a trial went."""

    trial: str
    epochs: Sequence[float]
    values: Sequence[float]
    state: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Cost:
    """Quality against cost, of a decoding study."""

    iterations: Mapping[str, Sequence[CurvePoint]]
    """The curve of each checkpoint."""
    points: Sequence[tuple[float, float]]
    """(quality, seconds a clip) of every setting."""
    front: Sequence[Mapping[str, Any]]
    """Entries with quality, seconds_per_clip and point, the cheapest first."""
    best: tuple[float, float]
    spread: float
    """Standard deviation of the quality over seeds."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StudyData:
    """All that the page shows; what is left out is left out of the page."""

    title: str
    generated_at: datetime
    summary: Sequence[tuple[str, str, str]]
    """Tiles: name, value, note."""
    metric: str
    """What is made small, for people."""
    names: Sequence[str]
    """Settings that were searched: columns of the rows."""
    rows: Sequence[Mapping[str, Any]]
    """One a trial, the best first: `trial`, `state`, `problem`, the settings and `value`."""
    value: str
    """Column of the metric."""
    best: str | None
    """Name of the best trial."""
    curves: Sequence[Curve] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    importances_note: str = ""
    cost: Cost | None = None
    best_settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    """That uses the best settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Name to value; a value that is a mapping makes a group of its own."""
    warnings: Sequence[str] = ()


def render_study(data: StudyData) -> str:
    """The whole page as text."""
    valued = [row for row in data.rows if row.get(data.value) is not None]
    lines = [(curve.epochs, curve.values, curve.state) for curve in data.curves]
    best = next((number for number, curve in enumerate(data.curves) if curve.trial == data.best), None)
    return render_page(
        "study.html.j2",
        data,
        hues=("accent", "primary", "secondary"),
        curves=themed(lambda theme: trial_curves(lines, best, data.metric, theme)) if lines else None,
        importances=themed(lambda theme: importance_bars(data.importances, theme)) if data.importances else None,
        parallel=themed(lambda theme: parallel_coordinates(valued, data.names, data.value, data.best, theme))
        if valued and data.names
        else None,
        cost=None if data.cost is None else _cost(data.cost),
        rows=data.rows[:MAX_ROWS],
        left_out=max(0, len(data.rows) - MAX_ROWS),
    )


def _cost(cost: Cost) -> dict[str, Any]:
    enough = {name: fewest_sufficient_iterations(curve) for name, curve in cost.iterations.items() if curve}
    stops = {name: point.iterations for name, point in enough.items()}
    shown = {name: curve for name, curve in cost.iterations.items() if curve}
    front = [(float(entry["quality"]), float(entry["seconds_per_clip"])) for entry in cost.front]
    return {
        "iterations": themed(lambda theme: iterations_picture(shown, stops, theme)) if shown else None,
        "curve": [
            (name if len(shown) > 1 else "", point, stops[name] == point.iterations)
            for name, curve in shown.items()
            for point in curve
        ],
        "sentences": [stop_text(name if len(shown) > 1 else "", shown[name], point) for name, point in enough.items()],
        "front": themed(lambda theme: front_picture(cost.points, front, cost.best, theme)),
    }


def stop_text(name: str, curve: Sequence[CurvePoint], enough: CurvePoint) -> str:
    """A sentence on the number of iterations beyond which the quality no longer improves."""
    best = min(curve, key=lambda point: point.quality)
    where = f"{name}: more" if name else "More"
    if enough.iterations == curve[-1].iterations:
        return f"{where} iterations improve the quality up to the largest number tried, {enough.iterations}."
    reached = f"{decimal(enough.quality, 3)} with {enough.iterations} iterations, {decimal(enough.cost, 2)} s per clip"
    if best.iterations == enough.iterations:
        return f"{where} than {enough.iterations} iterations do not improve the quality: {reached}, is the best."
    return (
        f"{where} than {enough.iterations} iterations do not improve the quality: the best, "
        f"{decimal(best.quality, 3)} with {best.iterations} iterations and {decimal(best.cost, 2)} s per clip, does "
        f"not differ significantly from {reached}."
    )
