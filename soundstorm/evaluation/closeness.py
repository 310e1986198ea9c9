"""How close generated clips come to real ones as sound: their distribution, their class, their variety, their motion,
and whether they are copies.

Every measure stands beside the same measure of real clips, its floor, and their ratio is what counts. The floor of a
distance is that of two halves of the real clips: see `soundstorm.evaluation.split_distances`.

Nothing here is NaN or infinite: what cannot be said is None, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    frechet_over_splits,
    kernel_over_splits,
)
from soundstorm.schemas import Role

MOTION = ("flux", "modulation", "onset_rate", "onset_rise")
"""Columns of FEATURES that say how a clip changes in time; each is a measure of that name."""
NOTHING_IN_COMMON = "the generated and the real clips have no class in common"
COPY_SHARE = 0.3
"""A generated clip is named as a copy if it has this share of its frames in common with a training clip, not counting
its commonest code, which is mostly silence. Of the 400 recordings of ESC-10, each beside those of its class in other
folds, none has more than 0.13; a copy has 1."""


class Undefined(Exception):  # noqa: N818 - no error: a measure without a value
    """Why a measure or its floor cannot be said; `generated` is the value that can be said all the same."""

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
    model: str | None = None,
    embeddings: Mapping[str, Embedding] | None = None,
    reference: str = "the real clips",
    warnings: Sequence[str] = (),
    seed: int = 0,
) -> Closeness:
    """Every measure of MEASURES, from the features of generated clips, of real clips, and of the others of the real
    clips' dataset.

    Only clips of classes that generated and real clips have in common count; where there are none, all clips are taken
    for one class.

    Args:
        features: schema FEATURES; an embedding has one width in all rows.
        held_out_fold: fold of the real and reference clips that the model was not trained on; None where there is none.
        no_fold: why there is none.
        classifier_categories: what the classifier can call a clip; None: there was no classifier, and its columns are
            null.
        no_classifier: why there was none.
        model: name of the model that gave `model_embedding`; None: there was none, and the column is null.
        embeddings: what is known of the networks behind the embeddings `codec`, `classifier` and `model`, for the
            record.
        reference: which real clips the distances are to, for the record.
        warnings: what else a reader should know; passed on.
        seed: draws the halves of the real clips.

    Raises:
        SoundStormError: a column is missing, or there is no generated or no real clip.
    """
    clips = ClipSet.of_table(features)
    common = set(clips.of(Role.GENERATED).categories) & set(clips.of(Role.REAL).categories)
    clips = clips.where([category in common for category in clips.categories]) if common else clips.pooled()
    real, generated, dataset = clips.of(Role.REAL), clips.of(Role.GENERATED), clips.of(Role.REAL, Role.REFERENCE)
    if not len(real) or not len(generated):
        raise SoundStormError(
            f"features: {len(real)} real and {len(generated)} generated clips; a comparison needs at least one of each"
        )
    comparison = _ClosenessMetrics(
        real=real,
        generated=generated,
        training=dataset.where([False] * len(dataset))
        if held_out_fold is None
        else dataset.outside_fold(held_out_fold),
        held_out=dataset.where([False] * len(dataset)) if held_out_fold is None else dataset.of_fold(held_out_fold),
        no_fold=no_fold if held_out_fold is None else "",
        named=None if classifier_categories is None else [normalized(category) for category in classifier_categories],
        no_classifier=no_classifier,
        pooled=not common,
        embeddings=embeddings or {},
        reference=reference,
        seed=seed,
    )
    comparison.find_shares()
    metric_functions = comparison.metric_functions()
    infos = [
        *MEASURES,
        *(replace(info, title=f"{info.title}, {model}") for info in MODEL_MEASURES if model is not None),
    ]
    copies = comparison.copies()
    return Closeness(
        measures=[_measure(info, metric_functions[info.name]) for info in infos],
        counts={name: len(getattr(comparison, name)) for name in ("real", "generated", "training", "held_out")},
        held_out_fold=held_out_fold,
        confusion=comparison.confusion(),
        copies=copies,
        warnings=[*warnings, *_warnings(real, generated, copies, pooled=not common)],
        shares={name: shares.tolist() for name, shares in comparison.shares.items()},
    )


def _warnings(real: ClipSet, generated: ClipSet, copies: Sequence[MemorizedClip], pooled: bool) -> list[str]:
    warnings = []
    if pooled:
        warnings.append(f"{NOTHING_IN_COMMON.capitalize()}: all of them are compared, as if they were of one.")
    if min(len(real), len(generated)) < FEW_CLIPS:
        warnings.append(
            f"The distances rest on {len(generated)} generated and {len(real)} real clips; under {FEW_CLIPS} they are "
            "rough."
        )
    if copies:
        worst = ", ".join(f"{copy.clip_id} in {100 * copy.share:.0f}% of its frames" for copy in copies[:3])
        warnings.append(
            f"{len(copies)} of {len(generated)} generated clips repeat a training clip: "
            f"{worst}{' and others' if len(copies) > 3 else ''}."
        )
    return warnings


Values = tuple[float, float] | tuple[float, float, DistanceBasis]
"""Of the generated clips, of the real ones, and what a distance rests on."""


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
            reason = "the real clips have 0, so there is no ratio"
    except Undefined as unsaid:
        generated, reason = unsaid.generated, str(unsaid)
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


@dataclass(kw_only=True, slots=True, eq=False)
class _ClosenessMetrics:
    """The sets of clips, and each measure on them as a pair: of the generated clips, of the real ones."""

    real: ClipSet
    generated: ClipSet
    training: ClipSet
    held_out: ClipSet
    no_fold: str
    named: list[str] | None
    no_classifier: str
    pooled: bool
    """Whether all clips are taken for one class."""
    embeddings: Mapping[str, Embedding]
    reference: str
    seed: int
    shares: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def metric_functions(self) -> dict[str, Callable[[], Values]]:
        """By name of the measure, what finds its values; raises Unsaid."""
        metric_functions: dict[str, Callable[[], Values]] = {"class_agreement": self.agreement, "copying": self.copying}
        for embedding in ("codec", "classifier", "model"):
            metric_functions[f"frechet_{embedding}"] = partial(self.distance, embedding, frechet_over_splits)
            metric_functions[f"kernel_{embedding}"] = partial(self.distance, embedding, kernel_over_splits)
            metric_functions[f"diversity_{embedding}"] = partial(self.diversity, embedding)
        return metric_functions | {column: partial(self.motion, column) for column in MOTION}

    def distance(
        self, embedding: str, measure: Callable[[ClipSet, ClipSet, str, int], SplitDistance]
    ) -> tuple[float, float, DistanceBasis]:
        self._require_classifier(embedding)
        found, network = (
            measure(self.real, self.generated, embedding, self.seed),
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

    def motion(self, column: str) -> tuple[float, float]:
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
                f"the classifier knows no '{unknown[0]}': name one that was trained on these classes with --classifier"
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

    def find_shares(self) -> None:
        """Compare with the training clips, where there are any."""
        if len(self.training):
            trained = self.training.codes(), self.training.categories
            self.shares = {
                name: nearest_training_match(clips.codes(), clips.categories, *trained)
                for name, clips in (("generated", self.generated), ("held_out", self.held_out))
            }

    def copies(self) -> list[MemorizedClip]:
        """Generated clips that repeat a training clip, and not silence alone."""
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
        """None without a classifier that knows the classes."""
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
