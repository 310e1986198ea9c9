"""What a decoding study compares with: real clips of the training folds, whose statistics are computed once, and the
checkpoints, all in Ray's object store."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import ray
from annotated_types import Ge, Le

from cluster.errors import ClusterError
from cluster.scheduling.limits import Limits
from cluster.scheduling.watchdog import limits_here
from jobs.console.command import print_note
from jobs.console.options import Allowed, Count
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.classifiers import open_reranker
from jobs.inputs.clips import Clip, draw_per_category, fingerprint_of_clips, with_sizes
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions, open_dataset
from soundstorm.data.categories import normalized
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.optimization.precision import Precision
from tune.decoding.objective import ClipStatistics
from tune.decoding.trial import ReferenceSet, measure_real

CHUNK = 10
"""Recordings per task."""


@dataclass(kw_only=True)
class ReferenceOptions(DatasetOptions):
    """Which clips a decoding study generates, and which real clips it compares them with."""

    fold: int | None = None
    """Left out of the real clips, so that what is chosen here can be measured there; default: the dataset's last."""
    clips_per_class: Count = 3
    """Clips of each class that a trial draws: its budget."""
    real_per_class: Count = 32
    """Real clips of each class, at most, to compare with."""
    duration: Annotated[float, Ge(0.05), Le(60), Allowed("0.05 to 60 seconds")] = 5.0
    """Seconds of each clip."""
    listener: str | None = None
    """The classifier that chooses among draws where candidates are more than 1, path or URI; default: the one in the
    package."""
    codec: str | None = None
    """Weights of the codec; default: the one the checkpoint was trained with."""
    precision: Precision = "auto"
    """In which numbers the networks compute: bfloat16, float32, or auto: as the study began, or by the slowest kind of
    node of the cluster."""


@dataclass(kw_only=True, frozen=True)
class StudyInputs:
    """All inputs of a study that are known before Ray is started."""

    files: dict[str, dict[str, bytes]]
    """Name of a checkpoint -> its files."""
    checkpoints: dict[str, Checkpoint]
    weights: bytes
    """Weights of the codec."""
    listener: bytes | None
    labels: list[int]
    real: list[Clip]
    fold: int

    @property
    def first(self) -> Checkpoint:
        return next(iter(self.checkpoints.values()))

    @property
    def settings(self) -> dict[str, Any]:
        """For the study's record."""
        return {
            "checkpoints": {name: checkpoint.sha256 for name, checkpoint in self.checkpoints.items()},
            "codec_sha256": self.first.fingerprint.sha256,
            "listener_sha256": None if self.listener is None else hashlib.sha256(self.listener).hexdigest(),
            "real_clips": fingerprint_of_clips(self.real),
            "fold": self.fold,
            "classes": [self.first.categories[label] for label in self.labels],
        }


def prepare_study_inputs(
    options: ReferenceOptions, checkpoints: dict[str, str | None], wants_reranker: bool
) -> StudyInputs:
    """Open the checkpoints and choose the real clips.

    Args:
        options: which recordings, and how many.
        checkpoints: name -> URI of each checkpoint; None is the one in the package. All must have the same classes and
            codec.
        wants_reranker: whether a trial may generate more than one candidate per clip.

    Raises:
        SoundStormError: a checkpoint or the dataset does not exist, or they have no class in common.
    """
    files = {name: checkpoint_files(uri) for name, uri in checkpoints.items()}
    opened = {name: open_checkpoint(content, uri=checkpoints[name]) for name, content in files.items()}
    first = next(iter(opened.values()))
    uri = next(iter(checkpoints.values()))
    weights, _ = choose_codec(
        options.codec, first.fingerprint, uri or "the checkpoint in the package", codec_beside(uri)
    )
    real = choose_real(options, first.categories)
    listener = None
    if wants_reranker or any(checkpoint.sampler.candidates > 1 for checkpoint in opened.values()):
        listener = open_reranker(options.listener, [first.categories[label] for label in real.labels])
    return StudyInputs(
        files=files,
        checkpoints=opened,
        weights=weights,
        listener=listener,
        labels=real.labels,
        real=real.clips,
        fold=real.fold,
    )


@dataclass(kw_only=True, frozen=True)
class Real:
    """The real clips that generated clips are compared with."""

    labels: list[int]
    """Labels of the classes that the dataset has."""
    clips: list[Clip]
    fold: int
    """The fold that is left out."""


def choose_real(options: ReferenceOptions, categories: Sequence[str]) -> Real:
    """Sample real clips of `categories`, by label, from the training folds.

    Raises:
        SoundStormError: the dataset does not exist, or has none of these classes.
    """
    index = open_dataset(options.dataset, options.location, strict_folds=options.strict_folds)
    folds = sorted(set(index.clips["fold"].to_pylist()))
    fold = folds[-1] if options.fold is None else options.fold
    if fold not in folds or len(folds) < 2:
        raise SoundStormError(
            f"--fold is {fold}: the dataset has folds {', '.join(map(str, folds))}, and one other than it is needed"
        )
    names = [normalized(category) for category in categories]
    pool = [
        Clip(row["clip_id"], row["uri"], row["category"], row["fold"], dataset=row["dataset"])
        for row in index.clips.to_pylist()
        if row["fold"] != fold and normalized(row["category"]) in names
    ]
    present = {normalized(clip.category) for clip in pool}
    labels = [label for label, name in enumerate(names) if name in present]
    if not labels:
        raise SoundStormError(
            f"--dataset {options.dataset} has none of the checkpoint's classes {', '.join(categories[:8])}: give its "
            "own dataset"
        )
    return Real(labels=labels, clips=with_sizes(draw_per_category(pool, options.real_per_class, seed=0)), fold=fold)


def _await_all(tasks: Sequence[ray.ObjectRef], limits: Limits) -> None:
    """Wait for tasks as long as now and then one of them ends.

    Raises:
        ClusterError: none did for as long as a shard may take.
    """
    waiting = list(tasks)
    while waiting:
        ended, waiting = ray.wait(waiting, timeout=limits.shard_timeout_s + limits.scale_up_s)
        if not ended:
            for task in waiting:
                ray.cancel(task, force=True)
            raise ClusterError(
                f"real clips: of {len(tasks)} tasks that measure them {len(waiting)} are left, and none has ended for "
                f"{limits.shard_timeout_s + limits.scale_up_s:.0f} s; check with `ray status` that nodes are alive "
                "with "
                "a free CPU, then run again"
            )


def load_reference(inputs: StudyInputs, options: ReferenceOptions, seed: int, precision: Precision) -> ReferenceSet:
    """Measure the real clips in the cluster, and put all that trials share into the object store."""
    weights = ray.put(inputs.weights)
    chunks = [inputs.real[first : first + CHUNK] for first in range(0, len(inputs.real), CHUNK)]
    tasks = [measure_real.remote(weights, chunk) for chunk in chunks]
    _await_all(tasks, limits_here())
    found: list[tuple[ClipStatistics | None, list[str]]] = ray.get(tasks)
    parts = [part for part, _ in found if part is not None]
    rejected = [name for _, names in found for name in names]
    if rejected:
        print_note(f"{len(rejected)} of {len(inputs.real)} real clips cannot be used, such as {rejected[0]}")
    if not parts:
        raise SoundStormError(
            f"none of {len(inputs.real)} real clips can be used, such as {rejected[0]}: check --data-dir"
        )
    return ReferenceSet(
        models={name: ray.put((files, inputs.weights, inputs.listener)) for name, files in inputs.files.items()},
        samplers={name: checkpoint.sampler for name, checkpoint in inputs.checkpoints.items()},
        labels=inputs.labels,
        real=ClipStatistics.joined(parts),
        num_levels=inputs.first.model.config.iterated_levels,
        clips_per_class=options.clips_per_class,
        duration_s=options.duration,
        seed=seed,
        precision=precision,
    )
