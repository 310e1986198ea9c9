"""Options that several commands share, and the check of bounds in the annotation of an option, such as
`Annotated[int, Ge(1)]`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from soundstorm.errors import SoundStormError
from soundstorm.settings import Allowed, Count, NotNegative, allowed, bounds_of


@dataclass(frozen=True, init=False)
class OneOf(Allowed):
    """Bound: one of these names."""

    names: tuple[str, ...]

    def __init__(self, names: Iterable[str]) -> None:
        object.__setattr__(self, "names", tuple(names))
        super().__init__(f"one of {', '.join(self.names)}")


Rate = Annotated[float, Gt(0), Lt(math.inf), Allowed("a number above 0")]
Fraction = Annotated[float, Ge(0), Le(1), Allowed("a fraction from 0 to 1")]
Device = Literal["auto", "cpu", "cuda"]


def check_bounds(options: Any) -> None:
    """Raise SoundStormError for the first field of a dataclass whose value is outside the bounds in its annotation.
    None is always allowed."""
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None or all(_is_within(value, bound) for bound in bounds_of(hints[field.name])):
            continue
        shown = f"'{value}'" if isinstance(value, str) else value
        raise SoundStormError(f"--{field.name.replace('_', '-')} is {shown}: give {allowed(hints[field.name])}")


def _is_within(value: Any, bound: Any) -> bool:
    match bound:
        case Ge(ge=least):
            return bool(value >= least)
        case Gt(gt=least):
            return bool(value > least)
        case Le(le=most):
            return bool(value <= most)
        case Lt(lt=most):
            return bool(value < most)
        case OneOf(names=names):
            return value in names
    return True


@dataclass(kw_only=True)
class JobOptions:
    """Options of all jobs."""

    overwrite: bool = False
    """Delete the output of earlier runs of this command in the output folder first."""
    address: str | None = None
    """Address of the Ray cluster to join; default: start Ray on this machine."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(kw_only=True)
class TrainingOptions(JobOptions):
    """Options of all jobs that train networks."""

    epochs: Count | None = None
    """Passes over the clips; default: the preset's."""
    batch_size: Count | None = None
    """Clips per step and worker; default: the preset's."""
    lr: Rate | None = None
    """Peak learning rate; default: the preset's."""
    seed: NotNegative | None = None
    """Random seed of the order of clips, augmentation and initial weights; default: the preset's."""
    num_workers: Count | None = None
    """Number of training processes; default: one per GPU, or one."""
    device: Device = "auto"
    """Where to train; auto: on GPUs if there are any."""

    @property
    def given(self) -> dict[str, Any]:
        """The options that override a setting of the preset."""
        values = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "seed")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(kw_only=True)
class RestartOptions(JobOptions):
    """Options of jobs that restart when a process dies."""

    max_failures: NotNegative = 3
    """Restarts from the latest checkpoint before the run fails."""


@dataclass(kw_only=True)
class PoolOptions(JobOptions):
    """Options of jobs that run on a pool of actors."""

    num_actors: Count | None = None
    """Number of actors; default: one per GPU, or one per CPU if there is no GPU."""


@dataclass(kw_only=True)
class CacheOptions(JobOptions):
    """Options of jobs that cache what later runs would compute again."""

    cache: bool = True
    """Use what earlier runs cached, and cache what this one computes."""
    cache_dir: str | None = None
    """Folder or s3:// prefix of the cache; default: in SOUNDSTORM_CACHE_DIR, else in ~/.cache/soundstorm."""
