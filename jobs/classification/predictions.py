"""Predictions of a classifier for recordings: the table, and the accuracy."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.tables import write_table
from jobs.inputs.recordings import decode_clips, warn_of_rejected
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, to_pcm16
from soundstorm.classification.accuracy import Accuracy, Classification
from soundstorm.classification.classifier import Classifier
from soundstorm.data.categories import normalized
from soundstorm.data.views import make_view
from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS

PREDICTIONS_FILE, SUMMARY_FILE = "predictions.parquet", "summary.json"
AT_ONCE = 64
"""Batch size of the classifier."""


def predict_clips(classifier: Classifier, clips: pa.Table, max_duration_s: float, num_views: int = 1) -> pa.Table:
    """The classifier's predictions (schema PREDICTIONS) for recordings (schema CLIPS) that can be decoded, in order of
    clip_id; Ray must run.

    `label` and `predicted` count as the classifier does.

    Args:
        classifier: the classifier.
        clips: recordings with their categories.
        max_duration_s: seconds of a recording that are used.
        num_views: views of each recording whose probabilities are averaged, the original and `num_views - 1` of
            `soundstorm.data.views`.

    Raises:
        SoundStormError: the classifier does not know a recording's category.
    """
    label_of = _labels(classifier, clips)
    decoded = decode_clips(clips, SAMPLE_RATE, max_duration_s)
    warn_of_rejected(decoded)
    known = {row["clip_id"]: row for row in clips.select(["clip_id", "fold", "category"]).to_pylist()}
    predictions = []
    for batch in decoded.iter_batches(batch_format="pyarrow", batch_size=AT_ONCE):
        table: pa.Table = batch
        rows = [row for row in table.select(["clip_id", "samples"]).to_pylist() if row["samples"]]
        views = [_views(np.frombuffer(row["samples"], "<i2"), row["clip_id"], num_views) for row in rows]
        probability_XVC = classifier.predict([view for views_of_one in views for view in views_of_one]).reshape(
            len(rows), num_views, len(classifier.categories)
        )
        probability_XC = probability_XVC.mean(1)
        for row, probability_C in zip(rows, probability_XC, strict=True):
            clip, guess = known[row["clip_id"]], int(probability_C.argmax())
            found = {
                "label": label_of[clip["category"]],
                "predicted": guess,
                "probability": float(probability_C[guess]),
            }
            predictions.append({"clip_id": row["clip_id"], "fold": clip["fold"], "model": classifier.kind} | found)
    return pa.Table.from_pylist(predictions, PREDICTIONS).sort_by("clip_id")


def _views(clip: np.ndarray, clip_id: str, num_views: int) -> list[np.ndarray]:
    """A clip int16 (N,) and the first of its views, none of them with a partner."""
    return [clip, *(to_pcm16(make_view(from_pcm16(clip), clip_id, view)) for view in range(1, num_views))]


def write_predictions(uri: str, predictions: pa.Table, categories: Sequence[str], dataset: str) -> None:
    """Write the table, with the name of each label beside it."""
    write_table(uri, predictions, {"dataset": dataset, "categories": json.dumps(list(categories), ensure_ascii=False)})


def count_correct(predictions: pa.Table, categories: Sequence[str]) -> dict[str, Any]:
    """Number of clips and of correct predictions, and the confusions."""
    pairs = list(zip(predictions["label"].to_pylist(), predictions["predicted"].to_pylist(), strict=True))
    right = sum(label == guess for label, guess in pairs)
    mistakes = Counter((categories[label], categories[guess]) for label, guess in pairs if label != guess)
    return {
        "clips": len(pairs),
        "right": right,
        "accuracy": right / len(pairs) if pairs else None,
        "mistakes": [
            {"category": category, "predicted": guess, "clips": count}
            for (category, guess), count in mistakes.most_common()
        ],
    }


def clips_of_classes(labels: Iterable[int], categories: Sequence[str]) -> dict[str, int]:
    """How many clips each class has, by their labels."""
    counts = Counter(labels)
    return {category: counts[label] for label, category in enumerate(categories)}


def _labels(classifier: Classifier, clips: pa.Table) -> dict[str, int]:
    """The classifier's label of each category that occurs."""
    known = {normalized(name): label for label, name in reversed(list(enumerate(classifier.categories)))}
    exact = {name: label for label, name in enumerate(classifier.categories)}
    there = sorted(set(clips["category"].to_pylist()))
    unknown = [name for name in there if normalized(name) not in known]
    if unknown:
        named, only = (
            ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else ""),
            ", ".join(classifier.categories[:20]),
        )
        raise SoundStormError(
            f"the classifier does not know {named}, only {only}: give recordings of these categories, or a classifier "
            "that was trained on those"
        )
    return {name: exact.get(name, known[normalized(name)]) for name in there}


def accuracy_dict(accuracy: Accuracy) -> dict[str, Any]:
    """An accuracy as part of a summary."""
    return {"clips": accuracy.clips, "right": accuracy.right, "accuracy": accuracy.share}


def classes_dict(result: Classification) -> dict[str, Any]:
    """What a summary says of the classes of predictions, and of their probabilities."""
    return {
        "classes": {category: accuracy_dict(found) for category, found in result.classes.items()},
        "categories": result.categories,
        "confusion": result.confusion,
        "confused_pairs": [asdict(pair) for pair in result.pairs],
        "calibration_error": result.calibration_error,
        "calibration": [asdict(found) for found in result.bins],
    }
