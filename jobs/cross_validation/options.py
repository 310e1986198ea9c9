"""Options of a cross-validation, and the settings of its folds that follow from them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster import storage
from jobs.console.options import CacheOptions, Count, Device, Fraction, NotNegative, OneOf
from jobs.cross_validation.fold_plan import Settings
from jobs.inputs.datasets import DatasetOptions
from soundstorm.errors import SoundStormError
from soundstorm.model.presets import PRESETS

OF_STAGES = ("generator_preset", "pretrain_epochs", "views", "taught", "teacher_epochs", "stages_dir")
FOR_SOUNDSTORM = (*OF_STAGES, "cache", "cache_dir")
"""Options that other models refuse unless they have their default value."""


@dataclass(kw_only=True)
class Options(DatasetOptions, CacheOptions):
    """Test a classifier on every fold of a dataset, each time trained without that fold."""

    output_dir: str = "runs/cross-validation"
    """Folder or s3:// prefix with a folder for each fold, and predictions.parquet, summary.json and report.html for all
    folds."""
    model: Literal["cnn", "soundstorm", "ast"] = "cnn"
    """Kind of classifier, as in `train-classifier`."""
    mode: Literal["fine-tuned", "frozen", "codec", "scratch"] | None = None
    """How it is initialized, as in `train-classifier`; default: fine-tuned. The cnn is always trained from scratch."""
    folds: str = "all"
    """Test folds: all, or their numbers, as in 1,3. Other folds may be added to the same --output-dir later."""
    fold: int | None = None
    """Single test fold, instead of --folds."""
    max_concurrent: Count | None = None
    """Folds that run at once; default: as many as there are GPUs, or else as CPUs and memory allow. The CPUs and GPUs
    are divided among them."""
    preset: str | None = None
    """Settings of the classifier's training, as in `train-classifier`."""
    epochs: Count | None = None
    """Epochs of the classifier's training; default: the preset's."""
    batch_size: Count | None = None
    """Clips per step and worker of the classifier's training; default: the preset's."""
    lr: float | None = None
    """Peak learning rate of the classifier's training; default: the preset's."""
    seed: int | None = None
    """Random seed of all training; default: that of each job."""
    weights: str | None = None
    """Folder of AST's weights; default: the published ones from the hub."""
    codec: str | None = None
    """Codec for the folds that it was not trained on, path or URI."""
    checkpoint: str | None = None
    """Generator that initializes soundstorm for the folds that it was not trained on, path or URI."""
    packaged: bool = True
    """Use the codec of `tokenize` and the generator in the package for the folds that they were not trained on."""
    generator_preset: Annotated[str, OneOf(PRESETS)] = "hearing"
    """Preset of `train` for a generator that is trained if every available one was trained on the fold."""
    pretrain_epochs: NotNegative | None = None
    """Epochs of that generator's training; default: the preset's. 0: no generator is trained, and the classifier starts
    from the codebook embeddings of the codec."""
    taught: bool = True
    """Distillation: first train a cnn for each fold, without that fold, as a teacher whose predictions soundstorm
    learns beside the labels. Not used with --preset published, which learns from labels alone."""
    teacher_epochs: Count | None = None
    """Epochs of the teacher's training; default: those of --model cnn."""
    views: NotNegative = 7
    """Number of augmented views of each clip that are tokenized beside the original, as in `tokenize`."""
    test_views: Count = 1
    """Test-time augmentation: number of views of each test recording whose probabilities are averaged, the original and
    views with another start, speed, pitch and loudness."""
    max_rejected: Fraction = 0.05
    """Fraction of clips (0 to 1) that `tokenize` may reject before the job fails."""
    stages_dir: str | None = None
    """Folder or s3:// prefix for the codecs, tokens, teachers and generators of the folds, which later runs with the
    same settings reuse; default: --output-dir."""
    compare: tuple[str, ...] = ()
    """Output folders of other cross-validations of the same dataset to compare with, fold by fold."""
    allow_leak: bool = False
    """Use --codec, --checkpoint and the package for every fold, even if they were trained on it; the report says so."""
    num_workers: Count | None = None
    """Number of training processes per fold; default: one per GPU of its quota, or one."""
    device: Device = "auto"
    """Where to train; auto: on GPUs if there are any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "cnn" and self.mode not in (None, "scratch"):
            raise SoundStormError(f"--mode is {self.mode}: the cnn is always trained from scratch; leave it out")
        if self.fold is not None and self.folds != "all":
            raise SoundStormError(f"--fold is {self.fold} and --folds is {self.folds}: give one of the two")
        for option, model in (("codec", "soundstorm"), ("checkpoint", "soundstorm"), ("weights", "ast")):
            if getattr(self, option) is not None and self.model != model:
                raise SoundStormError(
                    f"--{option} is {getattr(self, option)}: only --model {model} uses it; leave it out for "
                    f"{self.model}"
                )
        if self.model != "soundstorm":
            for option in FOR_SOUNDSTORM:
                value, usual = getattr(self, option), self.__dataclass_fields__[option].default
                if value != usual:
                    raise SoundStormError(
                        f"--{option.replace('_', '-')} is {value}: only --model soundstorm uses it; leave it "
                        f"out for {self.model}"
                    )
        if self.teacher_epochs is not None and not self.has_teacher:
            raise SoundStormError(
                f"--teacher-epochs is {self.teacher_epochs}: with --no-taught or --preset published no teacher is "
                "trained; leave it out"
            )
        if self.mode == "frozen" and self.pretrain_epochs == 0:
            raise SoundStormError(
                "--mode is frozen and --pretrain-epochs is 0: without a generator there are no weights to freeze; "
                "give 1 "
                "or more"
            )

    @property
    def initialization(self) -> str | None:
        """How the classifier is initialized, from --mode and --pretrain-epochs; None for the cnn."""
        if self.model == "cnn":
            return None
        mode = self.mode or "fine-tuned"
        return "codec" if self.model == "soundstorm" and mode == "fine-tuned" and self.pretrain_epochs == 0 else mode

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is trained for each fold."""
        return self.taught and self.model == "soundstorm" and self.preset != "published"

    @property
    def settings(self) -> Settings:
        """The settings that the result of each fold depends on."""
        names = [name for name in Settings.__dataclass_fields__ if name not in ("location", "clips", "mode", "stages")]
        given = {name: getattr(self, name) for name in names} | {"taught": self.has_teacher}
        paths = {
            name: None if given[name] is None else storage.absolute(given[name])
            for name in ("codec", "checkpoint", "weights", "cache_dir")
        }
        stages = None if self.stages_dir is None else storage.absolute(self.stages_dir)
        return Settings(
            location=storage.absolute(self.location), mode=self.initialization, stages=stages, **given | paths
        )
