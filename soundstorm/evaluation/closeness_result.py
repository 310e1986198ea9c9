"""What a comparison of generated and real clips found: its measures, and what they are worth.

Nothing here is NaN or infinite: what cannot be said is None, with the reason.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from soundstorm.evaluation.split_distances import DistanceBasis

FEW_CLIPS = 100
"""With fewer clips on a side, the distances are rough."""


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
    basis: DistanceBasis | None = None
    """What a distance was measured on; None for other measures."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Embedding:
    """A network whose inner values distances are taken in."""

    name: str
    sha256: str | None
    """SHA-256 of its weights."""
    sample_rate_hz: int | None
    """Of the sound that it is given."""

    @classmethod
    def unknown(cls, name: str) -> "Embedding":
        """One of which the name alone is known."""
        return cls(name=name, sha256=None, sample_rate_hz=None)


@dataclass(kw_only=True, frozen=True, slots=True)
class Confusion:
    """How many clips of each class (row) the classifier calls by each name (column)."""

    categories: list[str]
    predicted: list[str]
    generated: list[list[int]]
    held_out: list[list[int]] | None
    """Real clips of the held-out fold; None where there are none."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MemorizedClip:
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
    copies: list[MemorizedClip]
    """The worst first."""
    warnings: list[str]
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Frames that each generated and each held-out clip has in common with the nearest training clip; for a picture."""

    @property
    def verdict(self) -> str:
        """How many measures lie within their bars, and what that is worth; empty where none can be said."""
        known = [measure.met for measure in self.measures if measure.met is not None]
        if not known:
            return ""
        few = (
            f", which is rough with {self.counts['generated']} generated and {self.counts['real']} real clips"
            if self.is_rough
            else ""
        )
        return f"{sum(known)} of {len(known)} measures of closeness within their bars{few}"

    @property
    def is_rough(self) -> bool:
        """Whether the distances rest on too few clips."""
        return min(self.counts["generated"], self.counts["real"]) < FEW_CLIPS

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, strings and finite numbers, ready for `json.dumps(..., allow_nan=False)`; without what is only
        for a picture."""
        return {name: value for name, value in asdict(self).items() if name != "shares"}
