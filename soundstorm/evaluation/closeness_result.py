"""Result of the comparison of generated and real clips, and how reliable it is.

No value is NaN or infinite: an undefined value is None, and the reason is given.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from soundstorm.evaluation.split_distances import DistanceBasis

FEW_CLIPS = 100
"""With fewer generated or real clips, the distances are rough."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Measure:
    """A closeness metric of the generated clips and its baseline."""

    name: str
    title: str
    unit: str
    meaning: str
    generated: float | None
    floor: float | None
    """Baseline: the value for real clips."""
    ratio: float | None
    """Generated over baseline."""
    bar: str
    """Target of the ratio as a phrase."""
    met: bool | None
    """Whether the ratio is within the target."""
    reason: str | None
    """Why a value is None."""
    basis: DistanceBasis | None = None
    """What a distance was computed on; None for other metrics."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Embedding:
    """A network in whose embedding distances are computed."""

    name: str
    sha256: str | None
    """SHA-256 of its weights."""
    sample_rate_hz: int | None
    """Sample rate of its input."""

    @classmethod
    def unknown(cls, name: str) -> "Embedding":
        """An embedding of which only the name is known."""
        return cls(name=name, sha256=None, sample_rate_hz=None)


@dataclass(kw_only=True, frozen=True, slots=True)
class Confusion:
    """Number of clips of each class (row) by the class that the classifier predicts (column)."""

    categories: list[str]
    predicted: list[str]
    generated: list[list[int]]
    held_out: list[list[int]] | None
    """Real clips of the held-out fold; None if there are none."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MemorizedClip:
    """A generated clip that repeats a training clip."""

    clip_id: str
    category: str
    share: float
    """Fraction of its frames that it shares with the training clip."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Closeness:
    """Content of `closeness` in `summary.json`."""

    measures: list[Measure]
    """In the order of MEASURES, then of MODEL_MEASURES if a model was given."""
    counts: dict[str, int]
    """Number of clips: real, generated, training (of the other folds), held_out."""
    held_out_fold: int | None
    confusion: Confusion | None
    copies: list[MemorizedClip]
    """Sorted by share, largest first."""
    warnings: list[str]
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Fraction of frames that each generated and each held-out clip shares with the nearest training clip; for a
    figure."""

    @property
    def verdict(self) -> str:
        """How many metrics are within their targets, and how reliable that is; empty if no ratio is defined."""
        known = [measure.met for measure in self.measures if measure.met is not None]
        if not known:
            return ""
        few = (
            f", which is rough with {self.counts['generated']} generated and {self.counts['real']} real clips"
            if self.is_rough
            else ""
        )
        return f"{sum(known)} of {len(known)} closeness metrics within their targets{few}"

    @property
    def is_rough(self) -> bool:
        """Whether there are too few clips for reliable distances."""
        return min(self.counts["generated"], self.counts["real"]) < FEW_CLIPS

    def to_dict(self) -> dict[str, Any]:
        """Dicts, strings and finite numbers, ready for `json.dumps(..., allow_nan=False)`; without the values for the
        figure."""
        return {name: value for name, value in asdict(self).items() if name != "shares"}
