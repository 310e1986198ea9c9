"""Options of a cross-validation, and the settings of its folds that follow from them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster import storage
from jobs.console.options import Count, Fraction, NotNegative, OneOf
from jobs.cross_validation.fold_plan import (
    Settings,
)
from jobs.inputs.datasets import DatasetOptions
from soundstorm.errors import SoundStormError
from soundstorm.model.presets import PRESETS

FOR_SOUNDSTORM = ("generator_preset", "pretrain_epochs", "views", "taught", "stages_dir")
"""Options that are refused for other models; their defaults are the same as none."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Test a classifier on every fold of a dataset, each time trained without that fold."""

    output_dir: str = "runs/cross-validation"
    """Folder or s3:// prefix with a folder for each fold, and predictions.parquet, summary.json and report.html of
    all."""
    model: Literal["cnn", "soundstorm", "ast"] = "cnn"
    """Which classifier, as in `train-classifier`."""
    mode: Literal["fine-tuned", "frozen", "codec", "scratch"] | None = None
    """How it starts, as in `train-classifier`; default: fine-tuned. The cnn is always trained from scratch."""
    folds: str = "all"
    """Folds to test: all, or their numbers, as in 1,3. Other folds may follow into the same --output-dir later."""
    fold: int | None = None
    """One fold to test, in place of --folds."""
    max_concurrent: Count | None = None
    """Folds at a time; default: as many as there are GPUs, or else CPUs and memory for. The CPUs and GPUs are shared
    out among them."""
    preset: str | None = None
    """Settings of the classifier's training, as in `train-classifier`."""
    epochs: Count | None = None
    """Passes of the classifier's training; default: the preset's."""
    batch_size: Count | None = None
    """Clips per step and worker of the classifier's training; default: the preset's."""
    lr: float | None = None
    """Highest learning rate of the classifier's training; default: the preset's."""
    seed: int | None = None
    """Seed of all training; default: that of each job."""
    weights: str | None = None
    """Folder of AST's weights; default: from the hub."""
    codec: str | None = None
    """Codec to use for the folds that it holds out, path or URI."""
    checkpoint: str | None = None
    """Generator to start from in the folds that it holds out, path or URI."""
    packaged: bool = True
    """Use the codec of `tokenize` and the generator in the package for the folds that they hold out."""
    generator_preset: Annotated[str, OneOf(PRESETS)] = "hearing"
    """Preset of training a generator where none at hand holds a fold out: one of `train`'s."""
    pretrain_epochs: NotNegative | None = None
    """Passes of training that generator; default: the preset's. 0: train none, so that the classifier starts from the
    codec's vectors."""
    taught: bool = True
    """Train a cnn for each fold first, whose opinions soundstorm learns beside the labels; it has not seen the fold
    either. Not with --preset published, which is to learn from labels alone."""
    views: NotNegative = 7
    """Augmented views of each clip to tokenize beside the recording, as in `tokenize`."""
    test_views: Count = 1
    """Views of each test recording whose probabilities are averaged: the recording itself, and others begun elsewhere,
    at a speed, pitch and level of their own."""
    max_rejected: Fraction = 0.05
    """Share of clips (0 to 1) that may be rejected when they are tokenized."""
    stages_dir: str | None = None
    """Folder or s3:// prefix where codecs, tokens, teachers and generators of the folds are kept, for runs that have
    them in common, one after the other; default: --output-dir."""
    compare: tuple[str, ...] = ()
    """Output folders of other cross-validations of the same dataset, to compare with fold by fold."""
    allow_leak: bool = False
    """Use --codec, --checkpoint and the package for every fold, also where they have seen it; the report says so."""
    num_workers: Count | None = None
    """Training processes of each fold; default: one per GPU of its share, or one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where there are any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "cnn" and self.mode not in (None, "scratch"):
            raise SoundStormError(f"--mode is {self.mode}: the cnn is always trained from scratch, leave it out")
        if self.fold is not None and self.folds != "all":
            raise SoundStormError(f"--fold is {self.fold} and --folds is {self.folds}: give one of the two")
        for option, hears in (("codec", "soundstorm"), ("checkpoint", "soundstorm"), ("weights", "ast")):
            if getattr(self, option) is not None and self.model != hears:
                raise SoundStormError(
                    f"--{option} is {getattr(self, option)}: only --model {hears} starts from it, leave it out for "
                    f"{self.model}"
                )
        if self.model != "soundstorm":
            for option in FOR_SOUNDSTORM:
                value, usual = getattr(self, option), self.__dataclass_fields__[option].default
                if value != usual:
                    raise SoundStormError(
                        f"--{option.replace('_', '-')} is {value}: only --model soundstorm has use for it, leave it "
                        f"out for {self.model}"
                    )
        if self.mode == "frozen" and self.pretrain_epochs == 0:
            raise SoundStormError(
                "--mode is frozen and --pretrain-epochs is 0: without a generator there is nothing to freeze, give 1 "
                "or more"
            )

    @property
    def initialization(self) -> str | None:
        """The mode that follows from all options; None for the cnn, which has none."""
        if self.model == "cnn":
            return None
        mode = self.mode or "fine-tuned"
        return "codec" if self.model == "soundstorm" and mode == "fine-tuned" and self.pretrain_epochs == 0 else mode

    @property
    def is_taught(self) -> bool:
        """Whether a teacher is trained for each fold."""
        return self.taught and self.model == "soundstorm" and self.preset != "published"

    @property
    def settings(self) -> Settings:
        """What decides how each fold is done."""
        names = [name for name in Settings.__dataclass_fields__ if name not in ("location", "clips", "mode", "stages")]
        given = {name: getattr(self, name) for name in names} | {"taught": self.is_taught}
        paths = {
            name: None if given[name] is None else storage.absolute(given[name])
            for name in ("codec", "checkpoint", "weights")
        }
        stages = None if self.stages_dir is None else storage.absolute(self.stages_dir)
        return Settings(
            location=storage.absolute(self.location), mode=self.initialization, stages=stages, **given | paths
        )
