"""The page of a classification: one self-contained HTML file with figures by fold and class, what is taken for what,
and how sure to be of it.

The page asks nothing of any server, and its content security policy says so. Names of categories are untrusted and
always escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from soundstorm.classification.accuracy import CONFIDENCE, Accuracy, Classification, PairedComparison
from soundstorm.reports.classification_figures import confusion_picture, reliability_picture
from soundstorm.reports.page import p_text, render_page, themed, thousands, typeset

PUBLISHED_DATASETS = {"esc50": "ESC-50", "urbansound8k": "UrbanSound8K"}
PUBLISHED = (
    ("SoundStorm, frozen", {"esc50": 0.723, "urbansound8k": 0.698}),
    ("SoundStorm, fine-tuned", {"esc50": 0.796, "urbansound8k": 0.754}),
    ("Audio Spectrogram Transformer", {"esc50": 0.885, "urbansound8k": 0.842}),
)
"""What an earlier study of SoundStorm as a classifier published: it used the codes of level 0 alone."""
NUMBERED_CATEGORIES = 60
"""Up to this many categories the page has the confusion matrix as a table too."""


@dataclass(kw_only=True, frozen=True, slots=True)
class FoldNote:
    """Where the result of a fold comes from."""

    fold: int
    codec: str | None = None
    """The codec that its tokens were made with; None: it needs none."""
    start: str | None = None
    """Where the classifier's training started."""


@dataclass(kw_only=True, frozen=True, slots=True)
class OtherRun:
    """Another classification beside this one."""

    name: str
    result: Classification
    comparison: PairedComparison
    is_pretraining: bool
    """Whether the two differ only in that one was pre-trained, so that the difference is the effect of pre-training."""
    differences: Sequence[str] = ()
    """Settings that differ, as text."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ClassificationData:
    """All that the page shows; what is left out is left out of the page."""

    title: str
    name: str
    """Name of the classifier in tables."""
    dataset: str
    """Its name, one of ours."""
    generated_at: datetime
    result: Classification
    notes: Sequence[FoldNote] = ()
    compared: Sequence[OtherRun] = ()
    leaks: Sequence[str] = ()
    """What has seen clips that it is tested on."""
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Name to value; a value that is a mapping makes a group of its own."""
    credits: Sequence[str] = ()


def render_classification(data: ClassificationData) -> str:
    """The whole page as text."""
    result = data.result
    return render_page(
        "classification.html.j2",
        data,
        credits=data.credits,
        tiles=_tiles(result),
        folds=_folds(data),
        published=_published(data),
        compared=[_compared(other) for other in data.compared],
        classes=[{"name": name} | _share(accuracy) for name, accuracy in result.classes.items()],
        confusion_width=min(760, 180 + 52 * len(result.categories)),
        confusion=themed(lambda theme: confusion_picture(result.confusion, result.categories, theme)),
        cells=list(zip(result.categories, result.confusion, strict=True))
        if len(result.categories) <= NUMBERED_CATEGORIES
        else [],
        pairs=[
            {"category": x.category, "predicted": x.predicted, "clips": x.clips, "share": share_text(x.share)}
            for x in result.pairs
        ],
        reliability=themed(lambda theme: reliability_picture(result.bins, theme)),
        bins=[
            {
                "range": f"{found.low:.1f} to {found.high:.1f}",
                "clips": thousands(found.clips),
                "confidence": share_text(found.confidence),
                "accuracy": share_text(found.accuracy),
            }
            for found in result.bins
        ],
        calibration=share_text(result.calibration_error),
        certainty=_certainty(result),
    )


def share_text(share: float | None, signed: bool = False) -> str:
    """A share in percent, with one digit after the point."""
    if share is None:
        return "n/a"
    return typeset(f"{100 * share:{'+' if signed else ''}.1f}%")


def mean_text(mean: float, std: float | None) -> str:
    """Mean and standard deviation over folds, in percent."""
    return share_text(mean) if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}%"


def _share(accuracy: Accuracy) -> dict[str, Any]:
    percent = 0.0 if accuracy.share is None else 100 * accuracy.share
    return {
        "clips": thousands(accuracy.clips),
        "right": thousands(accuracy.right),
        "share": share_text(accuracy.share),
        "percent": f"{percent:.0f}",
    }


def _tiles(result: Classification) -> list[dict[str, str]]:
    folds = f"{len(result.folds)} fold" + ("s" if len(result.folds) != 1 else "")
    note = "one fold, so no standard deviation" if result.std is None else f"mean ± standard deviation over {folds}"
    return [
        {"hue": "primary", "name": "Accuracy", "value": mean_text(result.mean, result.std), "note": note},
        {
            "hue": "accent",
            "name": "Clips",
            "value": f"{thousands(result.overall.right)} of {thousands(result.overall.clips)}",
            "note": f"correct, {share_text(result.overall.share)} of all clips together, each when its fold was held "
            "out",
        },
        {
            "hue": "secondary",
            "name": "Calibration error",
            "value": share_text(result.calibration_error),
            "note": "mean difference between predicted probability and accuracy",
        },
    ]


def _folds(data: ClassificationData) -> list[dict[str, Any]]:
    notes = {note.fold: note for note in data.notes}
    rows = []
    for fold, accuracy in data.result.folds.items():
        note = notes.get(fold, FoldNote(fold=fold))
        rows.append({"fold": fold, "codec": note.codec, "start": note.start} | _share(accuracy))
    return rows


def _published(data: ClassificationData) -> list[dict[str, str]]:
    """The rows of the earlier study, for scale, beside this one; none for a dataset that it did not use."""
    if data.dataset not in PUBLISHED_DATASETS:
        return []
    here = {data.dataset: mean_text(data.result.mean, data.result.std)}
    rows = [
        {"name": name} | {dataset: share_text(share) for dataset, share in shares.items()} for name, shares in PUBLISHED
    ]
    return [
        *rows,
        {"name": f"{data.name} (this page)"} | {dataset: here.get(dataset, "") for dataset in PUBLISHED_DATASETS},
    ]


def _compared(other: OtherRun) -> dict[str, Any]:
    found = other.comparison
    interval = found.interval
    return {
        "name": other.name,
        "is_pretraining": other.is_pretraining,
        "differences": other.differences,
        "mean": mean_text(other.result.mean, other.result.std),
        "difference": typeset(f"{100 * found.difference:+.1f} points"),
        "std": "" if found.std is None else f"± {100 * found.std:.1f}",
        "is_better": found.difference > 0,
        "interval": "" if interval is None else typeset(f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} points"),
        "confidence": f"{CONFIDENCE:.0%}",
        "better": f"better in {found.better_folds} of {len(found.folds)} folds",
        "clips": f"{thousands(found.only_this)} clips are correct only here, {thousands(found.only_other)} "
        f"only there ({p_text(found.p_value)}, McNemar)",
        "folds": [
            {"fold": fold, "this": share_text(a), "other": share_text(b)} for fold, (a, b) in found.folds.items()
        ],
    }


def _certainty(result: Classification) -> str:
    gap = result.confidence - (result.overall.share or 0.0)
    if abs(gap) < 0.005:
        return "On average its probability equals its accuracy."
    return f"On average its probability is {100 * abs(gap):.1f} points {'above' if gap > 0 else 'below'} its accuracy."
