"""Accuracy of a classifier by fold and by class, confusion matrix, and calibration of its probabilities.

Everything is computed from a table of predictions (schema PREDICTIONS). The accuracy of a cross-validation is the mean
over its folds, with the standard deviation over them (n - 1).

Legend: C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS, check_table

NUM_BINS = 10
"""Bins of the probability, from 0 to 1, in the calibration."""
MAX_CONFUSED_PAIRS = 10
"""Maximum number of confused pairs in the result."""
CONFIDENCE = 0.95
"""Confidence level of the interval around a difference."""


@dataclass(kw_only=True, frozen=True)
class Accuracy:
    """Number of clips, and how many are classified correctly."""

    clips: int
    right: int

    @property
    def share(self) -> float | None:
        """Accuracy from 0 to 1; None without clips."""
        return self.right / self.clips if self.clips else None


@dataclass(kw_only=True, frozen=True)
class ConfusedPair:
    """Clips of one category that are predicted as another."""

    category: str
    predicted: str
    clips: int
    share: float
    """Fraction of the clips of the category."""


@dataclass(kw_only=True, frozen=True)
class CalibrationBin:
    """The predictions in one bin of probability."""

    low: float
    high: float
    clips: int
    confidence: float | None
    """Mean probability (confidence); None without clips."""
    accuracy: float | None
    """Fraction that is correct."""


@dataclass(kw_only=True, frozen=True)
class Classification:
    """Result of `classify_predictions`."""

    categories: list[str]
    folds: dict[int, Accuracy]
    """Accuracy of each fold, in order."""
    overall: Accuracy
    """Accuracy over all clips."""
    mean: float
    """Mean of the accuracies of the folds."""
    std: float | None
    """Standard deviation (n - 1) over the folds; None for a single fold."""
    classes: dict[str, Accuracy]
    """Accuracy of each category, in the order of the labels."""
    confusion: list[list[int]]
    """Confusion matrix: clips by true label (row) and predicted label (column)."""
    pairs: list[ConfusedPair]
    """The most frequent confusions, the most frequent first."""
    bins: list[CalibrationBin]
    calibration_error: float
    """Expected calibration error: mean distance of confidence and accuracy, weighted by clips (Guo et al., arXiv
    1706.04599)."""
    confidence: float
    """Mean probability of the predictions."""


@dataclass(kw_only=True, frozen=True)
class PairedComparison:
    """Difference of the accuracies of two classifiers on the same clips and folds."""

    folds: dict[int, tuple[float, float]]
    """Accuracies of this and of the other classifier, by fold."""
    difference: float
    """Mean over the folds."""
    std: float | None
    """Standard deviation (n - 1) of the differences; None of a single fold."""
    interval: tuple[float, float] | None
    """Confidence interval of the mean, by Student's t over the folds."""
    only_this: int
    """Clips that only this classifier classifies correctly."""
    only_other: int
    """Clips that only the other classifier classifies correctly."""
    p_value: float
    """P-value of McNemar's exact test."""

    @property
    def better_folds(self) -> int:
        """Folds in which this one is better."""
        return sum(this > other for this, other in self.folds.values())


def classify_predictions(
    predictions: pa.Table, categories: Sequence[str], where: str = "predictions"
) -> Classification:
    """All figures of a table of predictions.

    Args:
        predictions: schema PREDICTIONS, each clip once.
        categories: name of each label.
        where: what to call the table in errors.

    Raises:
        SoundStormError: the table has no row, a clip twice, a label out of range, or a probability that is none.
    """
    _check(predictions, len(categories), where)
    label, predicted = (predictions[name].to_numpy() for name in ("label", "predicted"))
    probability, fold, right = predictions["probability"].to_numpy(), predictions["fold"].to_numpy(), label == predicted
    folds = {int(number): _accuracy(right[fold == number]) for number in np.unique(fold)}
    shares = [number.right / number.clips for number in folds.values()]
    confusion_CC = np.zeros((len(categories), len(categories)), np.int64)
    np.add.at(confusion_CC, (label, predicted), 1)
    bins = _bins(probability, right)
    gaps = [
        found.clips * abs(found.confidence - found.accuracy)
        for found in bins
        if found.confidence is not None and found.accuracy is not None
    ]
    return Classification(
        categories=list(categories),
        folds=folds,
        overall=_accuracy(right),
        mean=float(np.mean(shares)),
        std=_spread(shares),
        classes={
            name: Accuracy(clips=int(row.sum()), right=int(row[at]))
            for at, (name, row) in enumerate(zip(categories, confusion_CC, strict=True))
        },
        confusion=confusion_CC.tolist(),
        pairs=_pairs(confusion_CC, categories),
        bins=bins,
        calibration_error=sum(gaps) / len(right),
        confidence=float(probability.mean()),
    )


def compare(this: pa.Table, other: pa.Table, where: str) -> PairedComparison:
    """Compare two tables of predictions (schema PREDICTIONS) over the folds that both have.

    Args:
        this, other: of the same dataset.
        where: what to call the other in errors.

    Raises:
        SoundStormError: they have no fold in common, or other clips in one of them.
    """
    check_table(other, PREDICTIONS, where)
    right: list[dict[tuple[int, str], tuple[int, bool]]] = [
        {(row["fold"], row["clip_id"]): (row["label"], row["label"] == row["predicted"]) for row in table.to_pylist()}
        for table in (this, other)
    ]
    common = sorted({fold for fold, _ in right[0]} & {fold for fold, _ in right[1]})
    if not common:
        raise SoundStormError(f"{where}: it has no fold in common with this one: compare runs on the same folds")
    folds, only_this, only_other = {}, 0, 0
    for fold in common:
        mine, others = ({key: value for key, value in rows.items() if key[0] == fold} for rows in right)
        if {key: label for key, (label, _) in mine.items()} != {key: label for key, (label, _) in others.items()}:
            raise SoundStormError(
                f"{where}: fold {fold} has other clips or labels there than here: compare runs on the same dataset"
            )
        pairs = [(mine[key][1], others[key][1]) for key in mine]
        folds[fold] = (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        only_this += sum(a and not b for a, b in pairs)
        only_other += sum(b and not a for a, b in pairs)
    differences = [a - b for a, b in folds.values()]
    mean, std = float(np.mean(differences)), _spread(differences)
    reach = None if std is None else float(stats.t.ppf((1 + CONFIDENCE) / 2, len(folds) - 1)) * std / len(folds) ** 0.5
    disagreements = only_this + only_other
    return PairedComparison(
        folds=folds,
        difference=mean,
        std=std,
        interval=None if reach is None else (mean - reach, mean + reach),
        only_this=only_this,
        only_other=only_other,
        p_value=float(stats.binomtest(only_this, disagreements).pvalue) if disagreements else 1.0,
    )


def _check(predictions: pa.Table, num_categories: int, where: str) -> None:
    check_table(predictions, PREDICTIONS, where)
    if not predictions.num_rows:
        raise SoundStormError(f"{where}: there is not one prediction")
    if pc.count_distinct(predictions["clip_id"]).as_py() != predictions.num_rows:
        raise SoundStormError(f"{where}: a clip is in it twice: each is tested once, in its own fold")
    for name in ("label", "predicted"):
        column = predictions[name].to_numpy()
        if column.min() < 0 or column.max() >= num_categories:
            raise SoundStormError(
                f"{where}: column '{name}' has {column.min()} to {column.max()}, but there are {num_categories} "
                "categories"
            )
    probability = predictions["probability"].to_numpy()
    if not bool(((probability >= 0) & (probability <= 1 + 1e-6)).all()):
        raise SoundStormError(f"{where}: column 'probability' has a value that is not from 0 to 1")


def _accuracy(right: NDArray[np.bool_]) -> Accuracy:
    return Accuracy(clips=len(right), right=int(right.sum()))


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _pairs(confusion_CC: NDArray[np.int64], categories: Sequence[str]) -> list[ConfusedPair]:
    off_diagonal = confusion_CC * (1 - np.eye(len(categories), dtype=np.int64))
    order = np.argsort(-off_diagonal, axis=None, kind="stable")[:MAX_CONFUSED_PAIRS]
    return [
        ConfusedPair(
            category=categories[row],
            predicted=categories[column],
            clips=int(off_diagonal[row, column]),
            share=float(off_diagonal[row, column] / confusion_CC[row].sum()),
        )
        for row, column in zip(*np.unravel_index(order, off_diagonal.shape), strict=True)
        if off_diagonal[row, column]
    ]


def _bins(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> list[CalibrationBin]:
    numbers = np.clip(np.ceil(probability * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)  # a bin holds its upper edge
    bins = []
    for number in range(NUM_BINS):
        inside = numbers == number
        clips = int(inside.sum())
        bins.append(
            CalibrationBin(
                low=number / NUM_BINS,
                high=(number + 1) / NUM_BINS,
                clips=clips,
                confidence=float(probability[inside].mean()) if clips else None,
                accuracy=float(right[inside].mean()) if clips else None,
            )
        )
    return bins
