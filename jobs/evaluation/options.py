"""Options of `evaluate`, with checks of their combinations."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from jobs.console.options import Allowed, CacheOptions, Count, Fraction, NotNegative, PoolOptions
from jobs.inputs.audio_files import MAX_CLIP_S
from soundstorm.classification.utility import CLIPS_PER_CLASS, SEEDS, STEPS
from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import Precision

MAX_LINK_DAYS = 7


@dataclass(kw_only=True)
class Options(PoolOptions, CacheOptions):
    """Compare generated clips with real ones and write a report with players."""

    real_audio: str
    """Real clips: a dataset's folder, a table of clips, the output of `tokenize`, or a folder of audio; path or URI."""
    generated_audio: str
    """Generated clips: the output of `generate`, its samples.parquet, or a folder of audio."""
    output_dir: str = "runs/evaluation"
    """Folder or s3:// prefix for metrics, pairs, features and rejected (.parquet), summary.json, report.html and
    evaluate.json."""
    metrics: Literal["all", "acoustic"] = "all"
    """acoustic: the six metrics of single clips; all: also the two metrics of pairs, and the closeness of the
    distributions."""
    fold: Count | None = None
    """Use real clips of this fold only."""
    held_out_fold: Count | None = None
    """Fold of --real-audio that the generator was not trained on, needed to detect memorization; default: --fold, else
    the last."""
    classifier: str | None = None
    """Classifier that classifies the clips, a file of `train-classifier`, path or URI; default: the one in the
    package."""
    embedding_model: str | None = None
    """Further embedding model for distances, such as PANNs or CLAP, path or URI: an ONNX file from waveforms (batch,
    samples) to embeddings; needs the extra `onnx`."""
    embedding_rate: Count | None = None
    """Sample rate that this model expects, in Hz; default: 24000."""
    substitution: str | None = None
    """Generator (output of `train`, path or URI, or `packaged`) for an additional table: the accuracy if the first
    levels keep the true codes of recordings and the generator makes the others."""
    precision: Precision = "auto"
    """In which numbers that generator computes: bfloat16, float32, or auto: as the run began, or by the slowest kind of
    node of the cluster."""
    substitution_clips: Count = 100
    """Approximate number of recordings for that table."""
    utility: bool = False
    """Also measure what the generated clips are worth as training data: classifiers are trained on them, on recordings
    of the other folds and on both, and tested on the held-out fold."""
    utility_clips: tuple[int, ...] = CLIPS_PER_CLASS
    """Numbers of recordings per class that they are trained on."""
    utility_seeds: Count = SEEDS
    """Trainings of each kind, with other recordings and initial weights."""
    utility_steps: Count = STEPS
    """Optimizer steps of each training."""
    clips_per_class: Count | None = None
    """Real clips per class, a random sample by --seed; default: all."""
    max_duration: Annotated[float, Ge(0.1), Le(600), Allowed("0.1 to 600 seconds")] = MAX_CLIP_S
    """Seconds of each clip, real or generated, that are measured; the rest is ignored."""
    seed: NotNegative = 0
    """Random seed of the sample of real clips."""
    common_band: bool = False
    """Low-pass all clips to the bandwidth that both sides have: for clips of different sample rates."""
    codec: str | None = None
    """Weights of the codec for the column `resynthesized`; default: the codec of the generated clips, else as in
    `tokenize`."""
    training_log: str | None = None
    """log.csv of `train`, for the curves in the report."""
    examples_per_class: NotNegative = 1
    """Clips of each class and source that the report plays."""
    players: Literal["inside", "linked"] = "inside"
    """inside: the report contains its audio and always works; linked: it links to files in players/; in object storage
    the links are signed and expire."""
    link_days: Annotated[int, Ge(1), Le(MAX_LINK_DAYS), Allowed(f"1 to {MAX_LINK_DAYS}")] = 7
    """Days that signed links are valid, 1 to 7: anyone who has the report can play its clips until then."""
    max_rejected: Fraction = 0.05
    """Fraction of clips (0 to 1) that may be rejected before the job fails."""
    shard_size: Count = 16
    """Clips per shard."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_rate is not None and self.embedding_model is None:
            raise SoundStormError(
                f"--embedding-rate is {self.embedding_rate} without --embedding-model: give both or neither"
            )
        if not self.utility_clips or min(self.utility_clips) < 1:
            raise SoundStormError(
                f"--utility-clips is {self.utility_clips}: give numbers of recordings per class, at least 1"
            )
        for name, given in (
            ("--classifier", self.classifier),
            ("--held-out-fold", self.held_out_fold),
            ("--embedding-model", self.embedding_model),
            ("--utility", self.utility or None),
        ):
            if given is not None and self.metrics != "all":
                raise SoundStormError(f"{name} is {given}: it needs --metrics all, and --metrics is {self.metrics}")
