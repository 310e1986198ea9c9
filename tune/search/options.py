"""Options that all studies share."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from cluster.tables import stage_record as records
from jobs.console.options import Count, JobOptions, NotNegative
from soundstorm.errors import SoundStormError

TRACKERS = {"mlflow": "mlflow", "wandb": "wandb"}
"""Value of --log-to, which is also the extra of the package -> the module that it installs."""


@dataclass(kw_only=True)
class StudyOptions(JobOptions):
    """Options that all studies share."""

    num_trials: Count = 12
    """Settings to try."""
    max_concurrent: Count | None = None
    """Trials at a time; default: one per GPU of the cluster, or one per CPU where there is none."""
    seed: NotNegative = 0
    """Seed of the search; of every trial's training too, and the first of the seeds that clips are generated with."""
    space: str | None = None
    """Python file of this machine that defines SPACE, what is searched (see tune/space.py); default: values around the
    preset's."""
    log_to: Literal["mlflow", "wandb"] | None = None
    """Send trials to MLflow or Weights & Biases too, as their own environment variables say; TensorBoard's files are
    always written."""
    resume: bool = False
    """Go on with a study, which must be there. The same command without this does so too, where there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise SoundStormError("--resume goes on with a study and --overwrite deletes it: give one of the two")
        if self.log_to is not None and importlib.util.find_spec(TRACKERS[self.log_to]) is None:
            raise SoundStormError(
                f"--log-to is {self.log_to}, which is not installed: pip install 'soundstorm-env[{self.log_to}]'"
            )


def check_resumable(output_dir: str, stage: str, resume: bool) -> None:
    """Raise SoundStormError if there is nothing to resume."""
    if resume and not records.is_begun(output_dir, stage) and records.read(output_dir, stage) is None:
        raise SoundStormError(f"--resume: no study was begun in {output_dir}; leave it out to begin one there")
