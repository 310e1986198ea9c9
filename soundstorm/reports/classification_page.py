"""The page of a classification: one self-contained HTML file with figures by fold and class, what is taken for what,
and how sure to be of it.

The page asks nothing of any server, and its content security policy says so. Names of categories are untrusted and
always escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from soundstorm.classification.accuracy import CONFIDENCE, Classification, PairedComparison
from soundstorm.reports.classification_figures import confusion_picture, reliability_picture
from soundstorm.reports.page import render_page, themed

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
    result, notes = data.result, {note.fold: note for note in data.notes}
    return render_page(
        "classification.html.j2",
        data,
        credits=data.credits,
        result=result,
        folds=[(fold, accuracy, notes.get(fold, FoldNote(fold=fold))) for fold, accuracy in result.folds.items()],
        published=PUBLISHED if data.dataset in PUBLISHED_DATASETS else (),
        datasets=PUBLISHED_DATASETS,
        confidence=CONFIDENCE,
        confusion_width=min(760, 180 + 52 * len(result.categories)),
        confusion=themed(lambda theme: confusion_picture(result.confusion, result.categories, theme)),
        cells=list(zip(result.categories, result.confusion, strict=True))
        if len(result.categories) <= NUMBERED_CATEGORIES
        else [],
        reliability=themed(lambda theme: reliability_picture(result.bins, theme)),
        overconfidence=result.confidence - (result.overall.share or 0.0),
    )
