"""The actor of `evaluate --utility`, and the table of the utility of generated clips as training data."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo
from jobs.actors.sharded_output import SETTINGS, TableRun, actor_resources, sharded_table
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip
from soundstorm.audio.files import RejectedAudio
from soundstorm.classification.utility import (
    Case,
    LabelledClips,
    TrainingSet,
    accuracy_after_training,
    cases,
    drawn,
    mixture,
)
from soundstorm.data.categories import normalized
from soundstorm.errors import SoundStormError
from soundstorm.schemas import UTILITY


@dataclass(kw_only=True, frozen=True)
class UtilityClips:
    """Recordings for training and for testing, and generated clips, of the classes that all three have."""

    training: list[Clip]
    test: list[Clip]
    generated: list[Clip]
    categories: list[str]
    """Normalized names, in the order of their labels."""

    def label(self, clip: Clip) -> int:
        """The label of the clip's class."""
        return self.categories.index(normalized(clip.category))

    def fewest(self, clips: Sequence[Clip]) -> int:
        """Number of clips of the smallest class."""
        counts = Counter(normalized(clip.category) for clip in clips)
        return min(counts[category] for category in self.categories)


def utility_clips(
    dataset: Sequence[Clip], generated: Sequence[Clip], held_out_fold: int | None, no_fold: str
) -> UtilityClips:
    """Divide the clips for `evaluate --utility`.

    Args:
        dataset: all recordings.
        generated: the clips whose utility as training data is measured.
        held_out_fold: the fold of the test recordings.
        no_fold: reason if there is no such fold.

    Raises:
        SoundStormError: there is no held-out fold, or fewer than two classes have clips of all three kinds.
    """
    if held_out_fold is None:
        raise SoundStormError(f"--utility needs a fold to test on: {no_fold}")
    sides = (
        [clip for clip in dataset if clip.fold != held_out_fold],
        [clip for clip in dataset if clip.fold == held_out_fold],
        list(generated),
    )
    categories = sorted(set.intersection(*({normalized(clip.category) for clip in side} for side in sides)))
    if len(categories) < 2:
        raise SoundStormError(
            f"--utility needs two classes or more with generated clips, recordings in fold {held_out_fold} and "
            f"recordings in other folds: {', '.join(categories) or 'no class'} has all three"
        )
    known = set(categories)
    training, test, made = ([clip for clip in side if normalized(clip.category) in known] for side in sides)
    return UtilityClips(training=training, test=test, generated=made, categories=categories)


class UtilityTrainer:
    """Actor that trains and tests classifiers.

    Args:
        clips: training and test clips.
        steps: optimizer steps of each training.
        parts_folder: URI of the folder of part files.
        settings: digest of all settings of the run.
        device: where to train.
    """

    def __init__(self, clips: UtilityClips, steps: int, parts_folder: str, settings: str, device: str) -> None:
        torch.set_num_threads(1)
        self.clips, self.steps, self.device = clips, steps, device
        self.parts_folder, self.metadata = parts_folder, {SETTINGS: settings}
        self._loaded: dict[str, np.ndarray | None] = {}

    def utility_shard(self, work: tuple[str, list[Case]]) -> int:
        """Run trainings and write their rows as the part file `name`, unless it exists; returns their number."""
        name, todo = work
        part_uri = storage.join(self.parts_folder, name)
        if not storage.exists(part_uri):
            rows = [self._row(case) for case in todo]
            tables.write_table(part_uri, pa.Table.from_pylist(rows, UTILITY), self.metadata)
        return len(todo)

    def _row(self, case: Case) -> dict[str, Any]:
        training, test = self._training_clips(case), self._labelled(self.clips.test)
        accuracy = accuracy_after_training(
            training, test, len(self.clips.categories), case.seed, steps=self.steps, device=self.device
        )
        return {
            "training_set": case.training_set.value,
            "clips_per_class": case.clips_per_class,
            "seed": case.seed,
            "training_clips": len(set(map(id, training.clips))),
            "test_clips": len(test.clips),
            "accuracy": accuracy,
        }

    def _training_clips(self, case: Case) -> LabelledClips:
        if case.training_set == TrainingSet.GENERATED:
            return self._labelled(self._drawn(self.clips.generated, case))
        recordings = self._drawn(self.clips.training, case)
        if case.training_set == TrainingSet.RECORDINGS:
            return self._labelled(recordings)
        repeats = mixture(len(recordings), len(self.clips.generated))
        both = [*recordings, *self.clips.generated]
        return self._labelled([clip for clip, count in zip(both, repeats, strict=True) for _ in range(count)])

    def _drawn(self, clips: list[Clip], case: Case) -> list[Clip]:
        labels = [self.clips.label(clip) for clip in clips]
        return [clips[index] for index in drawn(labels, case.clips_per_class, case.seed)]

    def _labelled(self, clips: Sequence[Clip]) -> LabelledClips:
        pairs = [(pcm, self.clips.label(clip)) for clip in clips if (pcm := self._pcm(clip)) is not None]
        return LabelledClips(clips=[pcm for pcm, _ in pairs], labels=[label for _, label in pairs])

    def _pcm(self, clip: Clip) -> np.ndarray | None:
        """The samples of a clip; None if it is rejected (the evaluation lists it)."""
        if clip.uri not in self._loaded:
            try:
                self._loaded[clip.uri] = load_clip(clip.uri, dataset=clip.dataset)
            except RejectedAudio:
                self._loaded[clip.uri] = None
        return self._loaded[clip.uri]


def utility_table(run: TableRun, clips: UtilityClips, *, steps: int, sizes: Sequence[int], seeds: int) -> pa.Table:
    """The table (schema UTILITY); trainings that an interrupted run has finished are not repeated.

    Args:
        run: the evaluation; each actor makes one training at a time.
        clips: training and test clips.
        steps: optimizer steps of each training.
        sizes: numbers of recordings per class.
        seeds: number of trainings of each kind.

    Raises:
        SoundStormError, ClusterError: as `jobs.actors.sharded_output.sharded_table`.
    """

    def prepare(info: ClusterInfo, folder: str) -> Callable[[], Any]:
        actor_class = ray.remote(UtilityTrainer).options(**actor_resources(info))
        reference = ray.put(clips)
        return lambda: actor_class.remote(reference, steps, folder, run.settings, "cuda" if info.num_gpus else "cpu")

    lines = cases(clips.fewest(clips.training), clips.fewest(clips.generated), sizes, seeds)
    return sharded_table("utility", run, lines, UTILITY, prepare)
