"""Results of a cross-validation: one table of predictions, a summary, and a report that compares it with other runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cluster import storage
from cluster.errors import NotFoundError
from cluster.tables import read_table, write_table
from cluster.tables import stage_record as records
from jobs.classification.predictions import PREDICTIONS_FILE, SUMMARY_FILE, accuracy_dict, classes_dict
from soundstorm.classification.accuracy import Classification, classify_predictions, compare
from soundstorm.classification.caveats import accuracy_caveats
from soundstorm.data.datasets import DATASETS, Index
from soundstorm.errors import SoundStormError
from soundstorm.reports.classification_page import ClassificationData, FoldNote, OtherRun, render_classification
from soundstorm.schemas import PREDICTIONS, check_table

REPORT_FILE = "report.html"
OF_PRETRAINING = frozenset({"mode", "checkpoint", "packaged", "generator_preset", "pretrain_epochs"})
"""Settings in which a pre-trained run differs from one without pre-training."""
PRETRAINED_AND_NOT = (("soundstorm", "fine-tuned", "soundstorm", "codec"), ("ast", "fine-tuned", "ast", "scratch"))
"""Model and mode of a pre-trained run, and of the run that differs from it only in pre-training."""
NAMES = {"cnn": "log-mel CNN", "soundstorm": "SoundStorm", "ast": "AST"}


@dataclass(kw_only=True, frozen=True)
class ComparedRun:
    """Another cross-validation to compare with."""

    uri: str
    name: str
    model: str
    mode: str | None
    settings: Mapping[str, Any]
    """Settings in its record."""
    starts: Mapping[int, Any]
    """Codec and network of each fold."""
    predictions: pa.Table
    result: Classification


def classifier_name(model: str, mode: str | None) -> str:
    """Name in tables and reports: `SoundStorm, fine-tuned`."""
    return NAMES[model] + (f", {mode}" if mode else "")


def open_compared_run(uri: str, dataset: str, stage: str) -> ComparedRun:
    """Open the cross-validation with the output folder `uri`; `stage` is the name of its record.

    Raises:
        SoundStormError: there is none, it is damaged, or it is of another dataset.
    """
    where = storage.join(uri, SUMMARY_FILE)
    try:
        summary = json.loads(storage.read_bytes(where))
        name, model, mode, found = summary["name"], summary["model"], summary["mode"], summary["dataset"]
        starts = _starts({fold["fold"]: fold for fold in summary["folds"]})
    except NotFoundError as error:
        raise SoundStormError(
            f"--compare {uri}: no {SUMMARY_FILE} there: give the --output-dir of a finished `soundstorm cross-validate`"
        ) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SoundStormError(
            f"{where}: not the summary of a cross-validation: run `soundstorm cross-validate` again"
        ) from error
    if found != dataset:
        raise SoundStormError(
            f"--compare {uri}: its dataset is '{found}', not '{dataset}': compare runs on the same recordings"
        )
    table_uri, record = storage.join(uri, PREDICTIONS_FILE), records.read(uri, stage)
    table, categories = read_predictions(table_uri)
    settings = record.settings if record is not None else {}
    result = classify_predictions(table, categories, table_uri)
    return ComparedRun(
        uri=uri, name=name, model=model, mode=mode, settings=settings, starts=starts, predictions=table, result=result
    )


def read_predictions(uri: str) -> tuple[pa.Table, list[str]]:
    """A table of predictions (schema PREDICTIONS), and its categories."""
    table, metadata = read_table(uri)
    check_table(table, PREDICTIONS, uri)
    try:
        categories = json.loads(metadata["categories"])
    except (ValueError, LookupError, RecursionError) as error:
        raise SoundStormError(
            f"{uri}: its metadata has no list of categories: run the step that writes it with --overwrite"
        ) from error
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise SoundStormError(
            f"{uri}: its categories are not a list of names: run the step that writes it with --overwrite"
        )
    return table, categories


@dataclass(kw_only=True, frozen=True)
class Run:
    """A cross-validation whose folds are summarized."""

    dataset: str
    model: str
    mode: str | None
    settings: Mapping[str, Any]
    """Settings in its record."""
    folds: Mapping[int, Mapping[str, Any]]
    """Counts of the record of each fold."""
    skipped: Sequence[int]
    """Folds without clips."""

    @property
    def name(self) -> str:
        return classifier_name(self.model, self.mode)

    @property
    def leaks(self) -> list[str]:
        return [leak for fold in sorted(self.folds) for leak in self.folds[fold]["leaks"]]

    def beside(self, other: ComparedRun, predictions: pa.Table) -> OtherRun:
        """The comparison of this run's `predictions` with those of another run."""
        differing, otherwise = _differing(self.settings, other), _folds_with_other_inputs(self.folds, other)
        return OtherRun(
            name=other.name,
            result=other.result,
            comparison=compare(predictions, other.predictions, storage.join(other.uri, PREDICTIONS_FILE)),
            is_pretraining=(self.model, self.mode, other.model, other.mode) in PRETRAINED_AND_NOT
            and differing <= OF_PRETRAINING
            and not otherwise,
            differences=[f"{key} {self.settings.get(key)} and {other.settings.get(key)}" for key in sorted(differing)]
            + [f"codec or network of fold {fold}" for fold in otherwise],
        )


def write_results(output_dir: str, index: Index, run: Run, others: Sequence[ComparedRun]) -> dict[str, Any]:
    """Write the table of predictions, `summary.json` and the report; returns the summary.

    Args:
        output_dir: output folder of the run; the predictions of fold N are in
            `fold-N/classifier/predictions.parquet`.
        index: index of the dataset.
        run: the run and its folds.
        others: runs to compare with.
    """
    parts = [
        read_table(storage.join(fold_folder(output_dir, fold), "classifier", PREDICTIONS_FILE))[0]
        for fold in sorted(run.folds)
    ]
    predictions = pa.concat_tables(parts).sort_by([("fold", "ascending"), ("clip_id", "ascending")])
    uri, categories = storage.join(output_dir, PREDICTIONS_FILE), json.dumps(index.categories, ensure_ascii=False)
    result = classify_predictions(predictions, index.categories, uri)
    write_table(uri, predictions, {"dataset": run.dataset, "categories": categories})
    compared = [run.beside(other, predictions) for other in others]
    warnings = _warnings(index, result, run.folds, run.skipped)
    compared_with = [
        {"with": other.uri, "name": other.name, "is_pretraining": found.is_pretraining, **asdict(found.comparison)}
        for other, found in zip(others, compared, strict=True)
    ]
    summary = _summary(run, result) | {"compared": compared_with, "leaks": run.leaks, "warnings": warnings}
    storage.write_bytes(
        storage.join(output_dir, SUMMARY_FILE), (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
    )
    page = render_classification(_page(run, result, compared, warnings))
    storage.write_bytes(storage.join(output_dir, REPORT_FILE), page.encode())
    return summary


def _page(run: Run, result: Classification, compared: list[OtherRun], warnings: list[str]) -> ClassificationData:
    dataset = DATASETS[run.dataset]
    return ClassificationData(
        title=f"{run.name} on {dataset.title}",
        name=run.name,
        dataset=run.dataset,
        generated_at=datetime.now(UTC),
        result=result,
        notes=[
            FoldNote(fold=fold, codec=counts["codec"], start=counts["start"])
            for fold, counts in sorted(run.folds.items())
        ],
        compared=compared,
        leaks=run.leaks,
        warnings=warnings,
        settings={
            "run": {key: value for key, value in run.settings.items() if value is not None},
            "versions": records.versions(),
        },
        credits=[f"{dataset.title}: {dataset.credit}, {dataset.licence}."] if dataset.credit else [],
    )


def _summary(run: Run, result: Classification) -> dict[str, Any]:
    return {
        "name": run.name,
        "dataset": run.dataset,
        "model": run.model,
        "mode": run.mode,
        "accuracy_mean": result.mean,
        "accuracy_std": result.std,
        "accuracy_of_all_clips": result.overall.share,
        "clips": result.overall.clips,
        "folds": [
            {"fold": fold, **accuracy_dict(accuracy)}
            | {name: run.folds[fold].get(name) for name in ("codec", "network", "start", "leaks")}
            for fold, accuracy in result.folds.items()
        ],
        "skipped_folds": list(run.skipped),
        **classes_dict(result),
    }


def fold_folder(output_dir: str, fold: int) -> str:
    """Output folder of a fold."""
    return storage.join(output_dir, f"fold-{fold}")


def _differing(settings: Mapping[str, Any], other: ComparedRun) -> set[str]:
    return {key for key in settings.keys() | other.settings.keys() if settings.get(key) != other.settings.get(key)}


def _starts(folds: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    """Codec and network of each fold."""
    return {fold: (counts.get("codec"), counts.get("network")) for fold, counts in folds.items()}


def _folds_with_other_inputs(folds: Mapping[int, Mapping[str, Any]], other: ComparedRun) -> list[int]:
    """Folds of both runs that differ in codec or network."""
    mine = _starts(folds)
    return [fold for fold in sorted(mine.keys() & other.starts.keys()) if mine[fold] != other.starts[fold]]


def _warnings(
    index: Index, result: Classification, folds: Mapping[int, Mapping[str, Any]], skipped: Sequence[int]
) -> list[str]:
    warnings = []
    if skipped:
        warnings.append(f"There is no clip in fold {', '.join(map(str, skipped))} of these recordings: skipped.")
    left = [fold for fold in range(1, index.num_folds + 1) if fold not in folds and fold not in skipped]
    if left:
        warnings.append(f"Fold {', '.join(map(str, left))} was not tested: the figures cover the other folds only.")
    missing = sum(fold in folds for fold in index.clips["fold"].to_pylist()) - result.overall.clips
    if missing:
        warnings.append(f"{missing} clips of these folds could not be used and are not among the predictions.")
    tested = {name: found.clips for name, found in result.classes.items()}
    warnings += [
        f"The accuracy says little: {caveat}."
        for caveat in accuracy_caveats(index.categories, result.overall.right, tested)
    ]
    warnings += [
        f"In fold {fold} {', '.join(names[:5])}{' and others' if len(names) > 5 else ''} had no clip to train on."
        for fold, names in _untrained(index, folds)
    ]
    if len({(counts["codec"], counts.get("own_generator", False)) for counts in folds.values()}) > 1:
        warnings.append(
            "The folds did not all use the same codec or generator: see the table of folds. A generator that was not "
            "trained for one fold alone was trained longer."
        )
    return warnings


def _untrained(index: Index, folds: Iterable[int]) -> list[tuple[int, list[str]]]:
    """Folds that have all clips of some classes, and these classes."""
    where: dict[str, set[int]] = {}
    for fold, category in zip(index.clips["fold"].to_pylist(), index.clips["category"].to_pylist(), strict=True):
        where.setdefault(category, set()).add(fold)
    found = [(fold, sorted(category for category, its in where.items() if its == {fold})) for fold in sorted(folds)]
    return [(fold, names) for fold, names in found if names]
