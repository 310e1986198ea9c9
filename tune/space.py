"""What a training study searches: settings of `TrainingConfig` and the range of each, in plain Python."""

from dataclasses import dataclass, fields

from ray import tune
from ray.tune.search.sample import Domain

from soundstorm.errors import SoundStormError
from soundstorm.presets import TrainingConfig


@dataclass(kw_only=True, frozen=True)
class Range:
    """Numbers from `low` to `high`."""

    low: float
    high: float
    is_log: bool = False
    """Whether equal ratios rather than equal differences are equally likely."""

    def domain(self) -> Domain:
        """The range as Ray Tune knows it."""
        return tune.loguniform(self.low, self.high) if self.is_log else tune.uniform(self.low, self.high)


def training_space(config: TrainingConfig) -> dict[str, Range]:
    """Ranges around a preset: learning rate within a factor of 10, warm-up share, share of examples with masked spans."""
    return {
        "lr": Range(low=config.lr / 10, high=config.lr * 10, is_log=True),
        "warmup_share": Range(low=0.02, high=0.5, is_log=True),
        "span_share": Range(low=0.0, high=0.6),
    }


def check_space(space: dict[str, Range]) -> None:
    """Raise SoundStormError for a name that is no setting of the training, or for a range that is empty."""
    names = [field.name for field in fields(TrainingConfig)]
    for name, span in space.items():
        if name not in names:
            raise SoundStormError(f"search space: '{name}' is no training setting; there are {', '.join(names)}")
        if not span.low < span.high or (span.is_log and span.low <= 0):
            raise SoundStormError(
                f"search space: {name} runs from {span.low} to {span.high}: give two numbers, the lower first, above 0 if logarithmic"
            )
