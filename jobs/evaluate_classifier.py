"""Evaluate a classifier of any kind on recordings: its predictions and its accuracy.

A test fold is refused if the classifier, its codec or the generator that initialized it was trained on that fold.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cluster import storage
from cluster.runtime.connect import connect
from jobs.classification.predictions import (
    PREDICTIONS_FILE,
    SUMMARY_FILE,
    accuracy_dict,
    classes_dict,
    predict_clips,
    write_predictions,
)
from jobs.console.command import console, exit_process, run_command
from jobs.console.options import Count
from jobs.console.resume import Stage, run_once
from jobs.inputs.classifiers import CODEC_FILE, classifier_files, classifier_place, open_classifier_files
from jobs.inputs.datasets import (
    DatasetOptions,
    check_not_inside_dataset,
    folds_record,
    index_digest,
    open_and_report,
    rows_of_folds,
)
from jobs.inputs.leakage import distrust, refuse_leaks
from jobs.inputs.provenance import test_of
from jobs.inputs.recordings import RecordingSeconds
from soundstorm.classification.accuracy import classify_predictions
from soundstorm.classification.caveats import accuracy_caveats, with_caveats
from soundstorm.classification.classifier import Classifier
from soundstorm.classification.token_classifier import TrainedTokenClassifier
from soundstorm.codec.files import provenance_of_codec
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, may_contain
from soundstorm.serialization.provenance import TrainedOn

STAGE = "evaluate_classifier"


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Test a classifier on recordings that it has not seen."""

    output_dir: str = "runs/classifier-evaluation"
    """Folder for predictions.parquet and summary.json, path or s3:// URI."""
    checkpoint: str | None = None
    """Classifier: the --output-dir of `train-classifier` or its classifier.safetensors, path or URI; default: the one
    in the package."""
    codec: str | None = None
    """Codec, path or URI, if the classifier works on codes; default: the one beside the classifier, else the one in the
    package, else official EnCodec."""
    fold: int | None = None
    """Test fold; default: the fold of this dataset that the classifier held out, or all folds of a dataset that it was
    not trained on."""
    max_duration: RecordingSeconds = 30.0
    """Seconds of a recording that are used."""
    test_views: Count = 1
    """Test-time augmentation: number of views of each test recording whose probabilities are averaged, the original and
    views with another start, speed, pitch and loudness."""
    allow_leak: bool = False
    """Also test on folds that the classifier was trained on. The accuracy is then not to be trusted; the summary says
    so."""


def run(options: Options) -> dict[str, Any]:
    """Evaluate the classifier; returns its accuracy."""
    check_not_inside_dataset(options.output_dir, options)
    storage.check_writable(options.output_dir)
    index, files = open_and_report(options), classifier_files(options.checkpoint)
    classifier = open_classifier_files(files, codec_option=options.codec, where=classifier_place(options.checkpoint))
    folds = _folds(options, index, classifier)
    remedy = "give --fold the held-out fold, or a classifier that was trained without this fold"
    learned = [Learned(name="the classifier", provenance=classifier.provenance, sha256=classifier.sha256)]
    if isinstance(classifier, TrainedTokenClassifier) and CODEC_FILE in files:
        found = provenance_of_codec(files[CODEC_FILE])
        learned.append(
            Learned(
                name=f"its codec '{classifier.origin.codec.name}'",
                provenance=found,
                sha256=classifier.origin.codec.sha256,
            )
        )
    tests = [test_of(index.clips, fold) for fold in folds]
    leaks = refuse_leaks(learned, tests, remedy=remedy, allowed=options.allow_leak)
    clips = rows_of_folds(index.clips, set(folds))
    settings = {
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "clips": index_digest(clips),
        "folds": folds,
        "classifier_sha256": classifier.sha256,
        "max_duration_s": options.max_duration,
        "test_views": options.test_views,
        "leaks": leaks,
    }
    stage = Stage(STAGE, options, settings, (PREDICTIONS_FILE, SUMMARY_FILE), required=(PREDICTIONS_FILE, SUMMARY_FILE))
    return run_once(
        stage,
        lambda: _evaluate(options, index, classifier, folds, leaks),
        partial(_message, options),
        done="already tested, nothing to do; ",
    )


def _evaluate(
    options: Options, index: Index, classifier: Classifier, folds: list[int], leaks: list[str]
) -> dict[str, Any]:
    """Classify the clips of `folds`, and write predictions and summary; returns the counts."""
    clips = rows_of_folds(index.clips, set(folds))
    with connect(options.address, await_gpu=False):  # the classifier runs here, on a CPU
        console.print(f"evaluate-classifier: {classifier.kind}, {clips.num_rows} recordings of {_folds_text(folds)}")
        predictions = predict_clips(classifier, clips, options.max_duration, options.test_views)
    if not predictions.num_rows:
        raise SoundStormError(
            f"{options.location}: no usable recording in {_folds_text(folds)}; see the warnings above"
        )
    summary = _summary(options, classifier, predictions, clips.num_rows, leaks)
    write_predictions(
        storage.join(options.output_dir, PREDICTIONS_FILE), predictions, classifier.categories, options.dataset
    )
    storage.write_bytes(
        storage.join(options.output_dir, SUMMARY_FILE),
        (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode(),
    )
    recorded = ("clips", "right", "accuracy", "unusable", "leaks", "caveats")
    return {name: summary[name] for name in recorded} | {"folds": folds} | folds_record(index, options)


def _folds(options: Options, index: Index, classifier: Classifier) -> list[int]:
    """The test folds that have clips."""
    there = sorted(set(index.clips["fold"].to_pylist()))
    if options.fold is not None:
        if options.fold not in there:
            raise SoundStormError(
                f"--fold is {options.fold}: {options.location} has clips in fold {', '.join(map(str, there))}"
            )
        return [options.fold]
    found = classifier.provenance
    if not isinstance(found, TrainedOn):
        return [fold for fold in there if fold == classifier.held_out_fold] or there
    own = TrainedOn(recordings=found.recordings)
    unseen = [fold for fold in there if not may_contain(own, test_of(index.clips, fold))]
    return unseen or there


def _summary(
    options: Options, classifier: Classifier, predictions: pa.Table, num_clips: int, leaks: list[str]
) -> dict[str, Any]:
    """Content of `summary.json`."""
    result = classify_predictions(predictions, classifier.categories)
    return {
        "dataset": options.dataset,
        "classifier": {
            "kind": classifier.kind,
            "sha256": classifier.sha256,
            "dataset": classifier.dataset,
            "held_out_fold": classifier.held_out_fold,
            "accuracy": classifier.accuracy,
        },
        **accuracy_dict(result.overall),
        "unusable": num_clips - predictions.num_rows,
        "folds": {str(fold): accuracy_dict(found) for fold, found in result.folds.items()},
        **classes_dict(result),
        "leaks": leaks,
        "caveats": accuracy_caveats(
            result.categories, result.overall.right, {name: found.clips for name, found in result.classes.items()}
        ),
    }


def _folds_text(folds: list[int]) -> str:
    return f"fold {', '.join(map(str, folds))}"


def _message(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    figures = (
        f"{counts['right']} of {counts['clips']} recordings of {_folds_text(counts['folds'])} correct "
        f"({counts['accuracy']:.1%})"
    )
    where = storage.join(options.output_dir, SUMMARY_FILE)
    shown = with_caveats(figures, counts.get("caveats", []))
    return {
        "message": f"{prefix}{where}: {shown}{distrust(counts['leaks'])}",
        "output_dir": options.output_dir,
        "summary": where,
        **counts,
    }


if __name__ == "__main__":
    exit_process(run_command(Options, run))
