"""The actor of `evaluate --substitution`, and the table of levels at which a generator loses accuracy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo
from jobs.actors.job_precision import UNKNOWN, JobPrecision
from jobs.actors.sharded_output import SETTINGS, TableRun, actor_resources, sharded_table
from jobs.inputs.audio_files import load_clip
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.clips import Clip, draw_per_category
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.data.categories import find_category, normalized
from soundstorm.errors import SoundStormError
from soundstorm.generation.substitution import Case, Substitution, cases
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.optimization.precision import Precision
from soundstorm.schemas import SUBSTITUTION

MAX_CLIP_S = 5.0
"""Longest part of a recording that is used, in seconds."""
PACKAGED = "packaged"
"""Option value for the checkpoint in the package."""


@dataclass(kw_only=True, frozen=True)
class EvaluatedGenerator:
    """The evaluated generator."""

    files: dict[str, bytes]
    checkpoint: Checkpoint

    @property
    def sha256(self) -> str:
        """SHA-256 of its weights."""
        return self.checkpoint.sha256

    def settings(self, clips: int) -> dict[str, Any]:
        """Settings for the record of an evaluation with a substitution table of `clips` recordings."""
        return {"substitution": (self.sha256, clips)}


def find_generator(uri: str | None, codec: Codec) -> EvaluatedGenerator | None:
    """The generator at `uri` (PACKAGED: the one in the package); None if `uri` is None.

    Raises:
        SoundStormError: there is no checkpoint, or it has another codec.
    """
    if uri is None:
        return None
    checkpoint_uri = None if uri == PACKAGED else uri
    files = checkpoint_files(checkpoint_uri)
    checkpoint = open_checkpoint(files, uri=checkpoint_uri)
    if checkpoint.fingerprint.sha256 != codec.fingerprint.sha256:
        raise SoundStormError(
            f"--substitution {uri}: its codec '{checkpoint.fingerprint.name}' "
            f"({checkpoint.fingerprint.sha256[:12]}) is not the codec of the evaluation, '{codec.fingerprint.name}' "
            f"({codec.fingerprint.sha256[:12]}): give the checkpoint's codec with --codec"
        )
    return EvaluatedGenerator(files=files, checkpoint=checkpoint)


class Substituter:
    """Actor that computes rows of the table.

    Args:
        weights: a list of one reference to a tuple: the checkpoint's files, the codec's file and the classifier's file.
        clips: the recordings.
        parts_folder: URI of the folder of part files.
        settings: digest of all settings of the run.
        seed: random seed of the samples.
        device: where the networks run.
        precision: of the generator's linear layers.
    """

    def __init__(
        self,
        weights: list[ray.ObjectRef],
        clips: Sequence[Clip],
        parts_folder: str,
        settings: str,
        seed: int,
        device: str,
        precision: Precision = "auto",
    ) -> None:
        torch.set_num_threads(1)
        files, codec, classifier = ray.get(weights[0])
        self.checkpoint = open_checkpoint(files, device)
        self.substitution = Substitution(
            model=self.checkpoint.model,
            settings=self.checkpoint.sampler,
            codec=load_codec(codec, device),
            classifier=load_classifier(classifier, device),
            seed=seed,
            precision=precision,
        )
        self.parts_folder, self.metadata = parts_folder, {SETTINGS: settings}
        self.pcms: list[np.ndarray] = []
        self.labels: list[int] = []
        for clip in clips:
            try:
                self.pcms.append(load_clip(clip.uri, dataset=clip.dataset)[: round(MAX_CLIP_S * SAMPLE_RATE)])
            except RejectedAudio:  # the evaluation lists it as rejected
                continue
            known = self.checkpoint.categories
            self.labels.append(find_category(clip.category, known, "a recording's class", "the checkpoint"))

    def substitution_shard(self, work: tuple[str, list[Case]]) -> int:
        """Compute rows and write them as the part file `name`, unless it exists; returns their number."""
        name, lines = work
        part_uri = storage.join(self.parts_folder, name)
        if storage.exists(part_uri):
            return len(lines)
        categories = [self.checkpoint.categories[label] for label in self.labels]
        rows = []
        for case in lines:
            found = self.substitution.outcome(case, self.pcms, self.labels, categories)
            rows.append(
                {
                    "kept": case.kept,
                    "rest": case.rest.value,
                    "named": found.named,
                    "log_mel": found.log_mel,
                    "clips": found.clips,
                }
            )
        tables.write_table(part_uri, pa.Table.from_pylist(rows, SUBSTITUTION), self.metadata)
        return len(lines)


def clips_to_substitute(real: Sequence[Clip], generator: EvaluatedGenerator, count: int, seed: int) -> list[Clip]:
    """About `count` recordings of the classes that the generator knows, equally many of each.

    Raises:
        SoundStormError: it knows none of their classes.
    """
    checkpoint = generator.checkpoint
    known = {normalized(category) for category in checkpoint.categories}
    clips = [clip for clip in real if normalized(clip.category) in known]
    if not clips:
        raise SoundStormError(
            f"--substitution: the checkpoint knows {', '.join(checkpoint.categories[:5])}"
            f"{', ...' if len(checkpoint.categories) > 5 else ''}, but none of the classes of the real clips: give "
            "another checkpoint"
        )
    return draw_per_category(clips, max(1, math.ceil(count / len({clip.category for clip in clips}))), seed)


def substitution_table(
    run: TableRun,
    generator: EvaluatedGenerator,
    codec: bytes,
    classifier: bytes | None,
    clips: Sequence[Clip],
    *,
    seed: int,
    precision: JobPrecision = UNKNOWN,
) -> pa.Table:
    """The table (schema SUBSTITUTION); rows that an interrupted run computed are kept.

    Args:
        run: the evaluation.
        generator: the evaluated generator.
        codec: content of the codec's file.
        classifier: content of the classifier's file; None: the one in the package.
        clips: the recordings.
        seed: random seed of the samples.
        precision: of the generator's linear layers.

    Raises:
        SoundStormError, ClusterError: as `jobs.actors.sharded_output.sharded_table`.
    """
    found = generator.checkpoint

    def prepare(info: ClusterInfo, folder: str) -> Callable[[], Any]:
        reference = ray.put((generator.files, codec, classifier))
        actor_class = ray.remote(Substituter).options(**actor_resources(info))
        device = "cuda" if info.num_gpus else "cpu"
        numbers = precision.of_actors(info)
        return lambda: actor_class.remote([reference], clips, folder, run.settings, seed, device, numbers)

    lines = cases(found.fingerprint.num_levels, found.model.config.num_levels)
    return sharded_table("substitution", run, lines, SUBSTITUTION, prepare)
