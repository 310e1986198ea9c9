"""Results of a study: a row per trial as Parquet and CSV, the best settings as JSON and TOML, and a report."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
import pyarrow as pa
from ray.tune.search.optuna import OptunaSearch

from cluster import storage
from cluster.tables import stage_record as records
from cluster.tables import write_table
from jobs.console.resume import OutputOptions, Stage
from soundstorm.errors import SoundStormError
from soundstorm.model.settings_file import to_json, to_toml
from soundstorm.reports.study_page import StudyData, render_study
from tune.search.space import Space
from tune.search.trial_journal import TrialResult

RESULTS = ("trials.parquet", "trials.csv", "best.json", "best.toml", "report.html")
"""Results of a finished study for its user."""
OUTPUTS = ("trials", "curve", "states", "checkpoints", *RESULTS)


def trial_row(ended: TrialResult, names: Sequence[str], figures: Sequence[str]) -> dict[str, Any]:
    """A row of the table: the trial, its settings (columns `names`), and the values that it reported last."""
    row: dict[str, Any] = {
        "trial": ended.trial,
        "state": ended.state,
        "problem": ended.problem,
        "epochs": len(ended.rows),
    }
    row |= {name: ended.point.get(name) for name in names}
    row |= {name: ended.last.get(name) for name in figures}
    return row


def write_trials(output_dir: str, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> None:
    """Write trials.parquet and trials.csv; a column whose values are not all numbers, or all truth values, becomes
    text."""
    if not rows:
        raise SoundStormError(f"{output_dir}: the study has no trial")
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table({name: _column(name, values) for name, values in columns.items()})
    write_table(storage.join(output_dir, "trials.parquet"), table, dict(metadata))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=table.column_names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(storage.join(output_dir, "trials.csv"), text.getvalue().encode())


def _column(name: str, values: list[Any]) -> pa.Array:
    known = [value for value in values if value is not None]
    if name in ("trial", "state", "problem", "part", "checkpoint") or any(isinstance(value, str) for value in known):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if known and all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    if name == "epochs" or (known and all(isinstance(value, int) and not isinstance(value, bool) for value in known)):
        return pa.array(values, pa.int64())
    return pa.array([None if value is None else float(value) for value in values], pa.float64())


def write_best(output_dir: str, content: Mapping[str, Any]) -> None:
    """Write best.json and best.toml."""
    storage.write_bytes(storage.join(output_dir, "best.json"), to_json(content))
    storage.write_bytes(storage.join(output_dir, "best.toml"), to_toml(content))


def write_page(output_dir: str, data: StudyData) -> None:
    """Write report.html."""
    storage.write_bytes(storage.join(output_dir, "report.html"), render_study(data).encode())


def now() -> datetime:
    """Date of the report."""
    return datetime.now(UTC)


def versions() -> dict[str, str]:
    """Versions of the libraries, for the report."""
    return records.versions()


def importances(space: Space, trials: Sequence[tuple[Mapping[str, Any], float]], seed: int = 0) -> dict[str, float]:
    """Fraction of the variance of the result that each setting explains by itself, by fANOVA (Hutter et al., 2014);
    they add up to 1.

    Empty if there are too few trials: fewer than 4, or fewer than settings plus 2, or all with the same result.

    Args:
        trials: settings and result of each trial.
    """
    known = [(point, value) for point, value in trials if math.isfinite(value)]
    if len(known) < max(4, len(space) + 2) or len({value for _, value in known}) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # takes as long as PyTorch

    distributions = OptunaSearch.convert_search_space({name: span.domain() for name, span in space.items()})
    study = optuna.create_study(direction="minimize")
    for point, value in known:
        study.add_trial(
            optuna.trial.create_trial(
                value=value, params={name: point[name] for name in space}, distributions=distributions
            )
        )
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {str(name): float(share) for name, share in found.items()}


def study_stage(name: str, options: OutputOptions, settings: Mapping[str, Any], *more_outputs: str) -> Stage:
    """A study as a stage that is run once; lost results are written again from its journal."""
    return Stage(name, options, settings, (*OUTPUTS, *more_outputs), required=RESULTS)
