"""How similar generated clips are to real ones: distribution, class, diversity, temporal structure, and memorization of
training clips.

Every metric is compared with a baseline, the same metric of real clips (key `floor`); the ratio of the two is the
result. The baseline of a distance is the distance between two halves of the real clips: see
`soundstorm.evaluation.split_distances`.

No value is NaN or infinite: an undefined value is None, and the reason is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from soundstorm.data.categories import normalized
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.clip_sets import ClipSet
from soundstorm.evaluation.closeness_result import FEW_CLIPS, Closeness, Confusion, Embedding, Measure, MemorizedClip
from soundstorm.evaluation.distances import within_class_distance
from soundstorm.evaluation.memorization import nearest_training_match
from soundstorm.evaluation.metric_info import MEASURES, MODEL_MEASURES, MeasureInfo
from soundstorm.evaluation.split_distances import (
    NUM_SPLITS,
    DistanceBasis,
    SplitDistance,
    Splits,
    frechet_over_splits,
    kernel_over_splits,
)
from soundstorm.schemas import Role

TEMPORAL_METRICS = ("flux", "modulation", "onset_rate", "onset_rise")
"""Columns of FEATURES that describe how a clip changes in time; each is a metric of the same name."""
NOTHING_IN_COMMON = "the generated and the real clips have no class in common"
COPY_SHARE = 0.3
"""A generated clip is reported as a copy if it shares at least this fraction of its frames with a training clip, not
counting its most frequent code, which is mostly silence. No recording of ESC-10 shares more than 0.13 with those of its
class in other folds; a copy shares 1."""


class Undefined(Exception):  # noqa: N818 - not an error, but a metric without a value
    """A metric or its baseline is undefined for the reason given; `generated` is the value for the generated clips if
    at least that is defined."""

    def __init__(self, reason: str, generated: float | None = None) -> None:
        super().__init__(reason)
        self.generated = generated


def closeness(
    features: pa.Table,
    *,
    held_out_fold: int | None,
    no_fold: str = "the real clips have no folds",
    classifier_categories: Sequence[str] | None = None,
    no_classifier: str = "there is no classifier",
    embeddings: Mapping[str, Embedding] | None = None,
    reference: str = "the real clips",
    splits: Splits | None = None,
) -> Closeness:
    """Compute all of MEASURES from the features of generated clips, of real clips, and of the other clips in the real
    clips' dataset.

    Only clips of classes that both the generated and the real clips have are used; if there is no such class, all clips
    are treated as one class.

    Args:
        features: schema FEATURES; an embedding has the same width in all rows.
        held_out_fold: fold of the real and reference clips that the model was not trained on; None if there is none.
        no_fold: reason why there is no such fold.
        classifier_categories: the classifier's classes; None: there was no classifier, and its columns are null.
        no_classifier: reason why there was no classifier.
        embeddings: the networks that computed the embeddings `codec`, `classifier` and `model`, for the record. Without
            a `model` there was none, and the column is null.
        reference: which real clips the distances refer to, for the record.
        splits: how the real clips are split into halves; None: with seed 0.

    Raises:
        SoundStormError: a column is missing, or there are no generated or no real clips.
    """
    clips, embeddings = ClipSet.of_table(features), embeddings or {}
    common = set(clips.with_roles(Role.GENERATED).categories) & set(clips.with_roles(Role.REAL).categories)
    clips = clips.filter([category in common for category in clips.categories]) if common else clips.pooled()
    real, generated, dataset = (
        clips.with_roles(Role.REAL),
        clips.with_roles(Role.GENERATED),
        clips.with_roles(Role.REAL, Role.REFERENCE),
    )
    if not len(real) or not len(generated):
        raise SoundStormError(
            f"features: {len(real)} real and {len(generated)} generated clips; a comparison needs at least one of each"
        )
    comparison = _ClosenessMetrics(
        real=real,
        generated=generated,
        training=dataset.filter([False] * len(dataset))
        if held_out_fold is None
        else dataset.outside_fold(held_out_fold),
        held_out=dataset.filter([False] * len(dataset)) if held_out_fold is None else dataset.of_fold(held_out_fold),
        no_fold=no_fold if held_out_fold is None else "",
        named=None if classifier_categories is None else [normalized(category) for category in classifier_categories],
        no_classifier=no_classifier,
        pooled=not common,
        embeddings=embeddings,
        reference=reference,
        splits=splits or Splits(),
    )
    metric_functions = comparison.metric_functions()
    infos = list(MEASURES)
    if "model" in embeddings:
        name = embeddings["model"].name
        infos += [replace(info, title=f"{info.title}, {name}") for info in MODEL_MEASURES]
    copies = comparison.copies()
    with threadpool_limits(1, user_api="blas"):  # matrices of this size take several threads longer than one
        measures = [_measure(info, metric_functions[info.name]) for info in infos]
    return Closeness(
        measures=measures,
        counts={name: len(getattr(comparison, name)) for name in ("real", "generated", "training", "held_out")},
        held_out_fold=held_out_fold,
        confusion=comparison.confusion(),
        copies=copies,
        warnings=_warnings(real, generated, copies, pooled=not common),
        shares={name: shares.tolist() for name, shares in comparison.shares.items()},
    )


def _warnings(real: ClipSet, generated: ClipSet, copies: Sequence[MemorizedClip], pooled: bool) -> list[str]:
    warnings = []
    if pooled:
        warnings.append(f"{NOTHING_IN_COMMON.capitalize()}: all clips are compared as if they were of one class.")
    if min(len(real), len(generated)) < FEW_CLIPS:
        warnings.append(
            f"The distances are computed on {len(generated)} generated and {len(real)} real clips; with fewer than "
            f"{FEW_CLIPS} they are rough."
        )
    if copies:
        worst = ", ".join(f"{copy.clip_id} in {100 * copy.share:.0f}% of its frames" for copy in copies[:3])
        warnings.append(
            f"{len(copies)} of {len(generated)} generated clips repeat a training clip: "
            f"{worst}{' and others' if len(copies) > 3 else ''}."
        )
    return warnings


Values = tuple[float, float] | tuple[float, float, DistanceBasis]
"""Value for the generated clips, baseline, and for a distance what it was computed on."""


def _measure(info: MeasureInfo, values: Callable[[], Values]) -> Measure:
    generated: float | None = None
    floor: float | None = None
    basis: DistanceBasis | None = None
    ratio, reason = None, None
    try:
        generated, floor, *rest = values()
        basis = rest[0] if rest else None
        if floor > 0:
            ratio = max(0.0, generated) / floor
        else:
            reason = "the value of the real clips is 0, so there is no ratio"
    except Undefined as undefined:
        generated, reason = undefined.generated, str(undefined)
    except SoundStormError as error:  # too few clips for a distance
        reason = str(error)
    return Measure(
        name=info.name,
        title=info.title,
        unit=info.unit,
        meaning=info.meaning,
        generated=generated,
        floor=floor,
        ratio=ratio,
        bar=info.bar,
        met=None if ratio is None else info.met(ratio),
        reason=reason,
        basis=basis,
    )


@dataclass(kw_only=True, eq=False)
class _ClosenessMetrics:
    """The sets of clips, and each metric as a pair: its value for the generated and for the real clips."""

    real: ClipSet
    generated: ClipSet
    training: ClipSet
    held_out: ClipSet
    no_fold: str
    named: list[str] | None
    no_classifier: str
    pooled: bool
    """Whether all clips are treated as one class."""
    embeddings: Mapping[str, Embedding]
    reference: str
    splits: Splits

    def metric_functions(self) -> dict[str, Callable[[], Values]]:
        """Name of a metric -> function that computes its values; may raise Undefined."""
        metric_functions: dict[str, Callable[[], Values]] = {"class_agreement": self.agreement, "copying": self.copying}
        for embedding in ("codec", "classifier", "model"):
            metric_functions[f"frechet_{embedding}"] = partial(self.distance, embedding, frechet_over_splits)
            metric_functions[f"kernel_{embedding}"] = partial(self.distance, embedding, kernel_over_splits)
            metric_functions[f"diversity_{embedding}"] = partial(self.diversity, embedding)
        return metric_functions | {column: partial(self.temporal, column) for column in TEMPORAL_METRICS}

    def distance(
        self, embedding: str, measure: Callable[[ClipSet, ClipSet, str, Splits], SplitDistance]
    ) -> tuple[float, float, DistanceBasis]:
        self._require_classifier(embedding)
        found, network = (
            measure(self.real, self.generated, embedding, self.splits),
            self.embeddings.get(embedding, Embedding.unknown(embedding)),
        )
        basis = DistanceBasis(
            embedding=network.name,
            embedding_sha256=network.sha256,
            sample_rate_hz=network.sample_rate_hz,
            reference=self.reference,
            generated_rows=found.generated_rows,
            real_rows=found.real_rows,
            splits=NUM_SPLITS,
            extrapolated=found.extrapolated,
            note=found.note,
        )
        return found.generated, found.floor, basis

    def diversity(self, embedding: str) -> tuple[float, float]:
        self._require_classifier(embedding)
        values: list[float] = []
        for name, clips in (("generated", self.generated), ("real", self.real)):
            means_ND = np.stack([rows_WD.mean(axis=0) for rows_WD in clips.embedding(embedding)])
            value = within_class_distance(means_ND, clips.categories)
            if value is None:
                raise Undefined(f"no class has two {name} clips", generated=values[0] if values else None)
            values.append(value)
        return values[0], values[1]

    def temporal(self, column: str) -> tuple[float, float]:
        generated, real = (clips.class_mean(clips.table[column].to_numpy()) for clips in (self.generated, self.real))
        return generated, real

    def agreement(self) -> tuple[float, float]:
        if self.named is None:
            raise Undefined(self.no_classifier)
        if self.pooled:
            raise Undefined(NOTHING_IN_COMMON)
        unknown = sorted(set(self.generated.categories) - set(self.named))
        if unknown:
            raise Undefined(
                f"the classifier has no class '{unknown[0]}': give one that was trained on these classes with "
                "--classifier"
            )
        generated = _agreement(self.generated)
        if not len(self.held_out):
            raise Undefined(self.no_fold or "the held-out fold has no clip of these classes", generated)
        return generated, _agreement(self.held_out)

    def copying(self) -> tuple[float, float]:
        if not self.shares:
            raise Undefined(self.no_fold or "the other folds have no clip of these classes")
        generated = float(np.median(self.shares["generated"]))
        if not len(self.held_out):
            raise Undefined("the held-out fold has no clip of these classes", generated)
        return generated, float(np.median(self.shares["held_out"]))

    @cached_property
    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Share of its codes that each clip has in common with its nearest training clip; empty if there is none."""
        if not len(self.training):
            return {}
        trained = self.training.codes(), self.training.categories
        return {
            name: nearest_training_match(clips.codes(), clips.categories, *trained)
            for name, clips in (("generated", self.generated), ("held_out", self.held_out))
        }

    def copies(self) -> list[MemorizedClip]:
        """Generated clips that repeat a training clip, unless they share only silence."""
        if not self.shares:
            return []
        found = []
        rows = zip(
            self.generated.table["clip_id"].to_pylist(),
            self.generated.categories,
            self.generated.codes(),
            self.shares["generated"],
            strict=True,
        )
        for clip_id, category, codes_T, share in rows:
            commonest = float(np.bincount(codes_T).max()) / len(codes_T)
            if commonest < 1 and (share - commonest) / (1 - commonest) >= COPY_SHARE:
                found.append(MemorizedClip(clip_id=clip_id, category=category, share=float(share)))
        return sorted(found, key=lambda copy: (-copy.share, copy.clip_id))

    def confusion(self) -> Confusion | None:
        """None if there is no classifier that knows the classes."""
        if self.named is None or not set(self.named) >= set(self.generated.categories):
            return None
        categories = sorted(set(self.generated.categories) | set(self.held_out.categories))
        called = set(self.generated.predicted()) | set(self.held_out.predicted())
        predicted = categories + sorted(called - set(categories))
        return Confusion(
            categories=categories,
            predicted=predicted,
            generated=_counts(self.generated, categories, predicted),
            held_out=_counts(self.held_out, categories, predicted) if len(self.held_out) else None,
        )

    def _require_classifier(self, embedding: str) -> None:
        if embedding == "classifier" and self.named is None:
            raise Undefined(self.no_classifier)


def _agreement(clips: ClipSet) -> float:
    return clips.class_mean(
        [float(category == name) for category, name in zip(clips.categories, clips.predicted(), strict=True)]
    )


def _counts(clips: ClipSet, categories: list[str], predicted: list[str]) -> list[list[int]]:
    counts = np.zeros((len(categories), len(predicted)), np.int64)
    for category, name in zip(clips.categories, clips.predicted(), strict=True):
        counts[categories.index(category), predicted.index(name)] += 1
    return counts.tolist()
