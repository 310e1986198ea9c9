"""How close generated clips come to real ones as sound: their distribution, their class, their variety, their motion, and whether they are copies.

Every measure stands beside the same measure of real clips, its floor, and their ratio is what counts. The floor of a distance is that of
two halves of the real clips, cut between recordings; generated clips then stand in for the second half, as many of each class, so that
neither has more clips to go by. Of several cuts, the generated clips' distance is the mean, and the floor the root mean square: distances
of equal distributions lie around 0, and what they are off by is the least that can be told.

Nothing here is NaN or infinite: what cannot be said is None, with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soundstorm.categories import normalized
from soundstorm.clip_sets import ClipSet
from soundstorm.copying import nearest_share
from soundstorm.distances import frechet_infinity, kernel_distance
from soundstorm.diversity import within_class_distance
from soundstorm.errors import SoundStormError
from soundstorm.measures import MEASURES, MODEL_MEASURES, MeasureInfo
from soundstorm.schemas import Role

NOTHING_IN_COMMON = "the generated and the real clips have no class in common"
NUM_SPLITS = 10
"""Ways to halve the real clips that a distance is averaged over."""
FEW_CLIPS = 100
"""With fewer clips on a side, the distances are rough."""
COPY_SHARE = 0.3
"""A generated clip is named as a copy if it has this share of its frames in common with a training clip, not counting its commonest code, which
is mostly silence. Of the 400 recordings of ESC-10, each beside those of its class in other folds, none has more than 0.13; a copy has 1."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Measure:
    """One measure of the generated clips beside that of the real ones."""

    name: str
    title: str
    unit: str
    meaning: str
    generated: float | None
    floor: float | None
    """What real clips have."""
    ratio: float | None
    """Generated over floor."""
    bar: str
    """Where the ratio should lie."""
    met: bool | None
    """Whether it lies there."""
    reason: str | None
    """Why a value is None."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Confusion:
    """How many clips of each class (row) the classifier calls by each name (column)."""

    categories: list[str]
    predicted: list[str]
    generated: list[list[int]]
    held_out: list[list[int]] | None
    """Real clips of the held-out fold; None where there are none."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Copy:
    """A generated clip that repeats a training clip."""

    clip_id: str
    category: str
    share: float
    """Of its frames, those that it has in common with the training clip."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Closeness:
    """What `summary.json` holds under `closeness`."""

    measures: list[Measure]
    """In the order of MEASURES, and of MODEL_MEASURES where a model was given."""
    counts: dict[str, int]
    """Clips that were looked at: real, generated, training (of other folds than the held-out one), held_out."""
    held_out_fold: int | None
    confusion: Confusion | None
    copies: list[Copy]
    """The worst first."""
    warnings: list[str]
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Frames that each generated and each held-out clip has in common with the nearest training clip; for a picture."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, strings and finite numbers, ready for `json.dumps(..., allow_nan=False)`; without what is only for a picture."""
        return {name: value for name, value in asdict(self).items() if name != "shares"}


class Unsaid(Exception):  # noqa: N818 - no error: a measure without a value
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
    warnings: Sequence[str] = (),
    seed: int = 0,
) -> Closeness:
    """Every measure of MEASURES, from the features of generated clips, of real clips, and of the others of the real clips' dataset.

    Only clips of classes that generated and real clips have in common count; where there are none, all clips are taken for one class.

    Args:
        features: schema FEATURES; an embedding has one width in all rows.
        held_out_fold: fold of the real and reference clips that the model was not trained on; None where there is none.
        no_fold: why there is none.
        classifier_categories: what the classifier can call a clip; None: there was no classifier, and its columns are null.
        no_classifier: why there was none.
        model: name of the model that gave `model_embedding`; None: there was none, and the column is null.
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
        raise SoundStormError(f"features: {len(real)} real and {len(generated)} generated clips; a comparison needs at least one of each")
    comparison = _Comparison(
        real=real,
        generated=generated,
        training=dataset.where([False] * len(dataset)) if held_out_fold is None else dataset.outside_fold(held_out_fold),
        held_out=dataset.where([False] * len(dataset)) if held_out_fold is None else dataset.of_fold(held_out_fold),
        no_fold=no_fold if held_out_fold is None else "",
        named=None if classifier_categories is None else [normalized(category) for category in classifier_categories],
        no_classifier=no_classifier,
        pooled=not common,
        seed=seed,
    )
    comparison.find_shares()
    ways = comparison.ways()
    infos = [*MEASURES, *(replace(info, title=f"{info.title}, {model}") for info in MODEL_MEASURES if model is not None)]
    warnings = list(warnings)
    if not common:
        warnings.append(f"{NOTHING_IN_COMMON.capitalize()}: all of them are compared, as if they were of one.")
    if min(len(real), len(generated)) < FEW_CLIPS:
        warnings.append(f"The distances rest on {len(generated)} generated and {len(real)} real clips; under {FEW_CLIPS} they are rough.")
    copies = comparison.copies()
    if copies:
        worst = ", ".join(f"{copy.clip_id} in {100 * copy.share:.0f}% of its frames" for copy in copies[:3])
        warnings.append(
            f"{len(copies)} of {len(generated)} generated clips repeat a training clip: {worst}{' and others' if len(copies) > 3 else ''}."
        )
    return Closeness(
        measures=[_measure(info, ways[info.name]) for info in infos],
        counts={name: len(getattr(comparison, name)) for name in ("real", "generated", "training", "held_out")},
        held_out_fold=held_out_fold,
        confusion=comparison.confusion(),
        copies=copies,
        warnings=warnings,
        shares={name: shares.tolist() for name, shares in comparison.shares.items()},
    )


def _measure(info: MeasureInfo, values: Callable[[], tuple[float, float]]) -> Measure:
    generated: float | None = None
    floor: float | None = None
    ratio, reason = None, None
    try:
        generated, floor = values()
        if floor > 0:
            ratio = max(0.0, generated) / floor
        else:
            reason = "the real clips have 0, so there is no ratio"
    except Unsaid as unsaid:
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
    )


@dataclass(kw_only=True, slots=True, eq=False)
class _Comparison:
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
    seed: int
    shares: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def ways(self) -> dict[str, Callable[[], tuple[float, float]]]:
        """By name of the measure, what finds its values; raises Unsaid."""
        ways: dict[str, Callable[[], tuple[float, float]]] = {"class_agreement": self.agreement, "copying": self.copying}
        for embedding in ("codec", "classifier", "model"):
            ways[f"frechet_{embedding}"] = partial(self.distance, embedding, frechet_infinity)
            ways[f"kernel_{embedding}"] = partial(self.distance, embedding, kernel_distance)
            ways[f"diversity_{embedding}"] = partial(self.diversity, embedding)
        return ways | {column: partial(self.motion, column) for column in ("flux", "modulation")}

    def distance(self, embedding: str, measure: Callable[[NDArray[Any], NDArray[Any]], float]) -> tuple[float, float]:
        self._require_classifier(embedding)
        real, generated = self.real.embedding(embedding), self.generated.embedding(embedding)
        found, floor = [], []
        for seed in range(self.seed, self.seed + NUM_SPLITS):
            first, second = self.real.halves(seed)
            guests = self.generated.like([self.real.categories[position] for position in second], seed)
            if not (len(first) and len(second) and len(guests)):
                raise Unsaid("the real clips are of one recording, which cannot be halved" if len(guests) else "there are too few clips to compare")
            base = np.concatenate([real[position] for position in first])
            floor.append(measure(base, np.concatenate([real[position] for position in second])))
            found.append(measure(base, np.concatenate([generated[position] for position in guests])))
        return float(np.mean(found)), float(np.sqrt(np.mean(np.square(floor))))

    def diversity(self, embedding: str) -> tuple[float, float]:
        self._require_classifier(embedding)
        values: list[float] = []
        for name, clips in (("generated", self.generated), ("real", self.real)):
            means_ND = np.stack([rows_WD.mean(axis=0) for rows_WD in clips.embedding(embedding)])
            value = within_class_distance(means_ND, clips.categories)
            if value is None:
                raise Unsaid(f"no class has two {name} clips", *values)
            values.append(value)
        return values[0], values[1]

    def motion(self, column: str) -> tuple[float, float]:
        generated, real = (clips.class_mean(clips.table[column].to_numpy()) for clips in (self.generated, self.real))
        return generated, real

    def agreement(self) -> tuple[float, float]:
        if self.named is None:
            raise Unsaid(self.no_classifier)
        if self.pooled:
            raise Unsaid(NOTHING_IN_COMMON)
        unknown = sorted(set(self.generated.categories) - set(self.named))
        if unknown:
            raise Unsaid(f"the classifier knows no '{unknown[0]}': name one that was trained on these classes with --classifier")
        generated = _agreement(self.generated)
        if not len(self.held_out):
            raise Unsaid(self.no_fold or "the held-out fold has no clip of these classes", generated)
        return generated, _agreement(self.held_out)

    def copying(self) -> tuple[float, float]:
        if not self.shares:
            raise Unsaid(self.no_fold or "the other folds have no clip of these classes")
        generated = float(np.median(self.shares["generated"]))
        if not len(self.held_out):
            raise Unsaid("the held-out fold has no clip of these classes", generated)
        return generated, float(np.median(self.shares["held_out"]))

    def find_shares(self) -> None:
        """Compare with the training clips, where there are any."""
        if len(self.training):
            trained = self.training.codes(), self.training.categories
            self.shares = {
                name: nearest_share(clips.codes(), clips.categories, *trained)
                for name, clips in (("generated", self.generated), ("held_out", self.held_out))
            }

    def copies(self) -> list[Copy]:
        """Generated clips that repeat a training clip, and not silence alone."""
        if not self.shares:
            return []
        found = []
        rows = zip(
            self.generated.table["clip_id"].to_pylist(), self.generated.categories, self.generated.codes(), self.shares["generated"], strict=True
        )
        for clip_id, category, codes_T, share in rows:
            commonest = float(np.bincount(codes_T).max()) / len(codes_T)
            if commonest < 1 and (share - commonest) / (1 - commonest) >= COPY_SHARE:
                found.append(Copy(clip_id=clip_id, category=category, share=float(share)))
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
            raise Unsaid(self.no_classifier)


def _agreement(clips: ClipSet) -> float:
    return clips.class_mean([float(category == name) for category, name in zip(clips.categories, clips.predicted(), strict=True)])


def _counts(clips: ClipSet, categories: list[str], predicted: list[str]) -> list[list[int]]:
    counts = np.zeros((len(categories), len(predicted)), np.int64)
    for category, name in zip(clips.categories, clips.predicted(), strict=True):
        counts[categories.index(category), predicted.index(name)] += 1
    return counts.tolist()
