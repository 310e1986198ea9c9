"""The actor behind `evaluate --substitution`, and the table that it makes: where a generator loses, level by level."""

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
from jobs.actors.sharded_output import SETTINGS, actor_resources, table_of_lines
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
from soundstorm.schemas import SUBSTITUTION

LONGEST_S = 5.0
"""Seconds of a recording that are heard."""
PACKAGED = "packaged"
"""In place of the address of a checkpoint: the one in the package."""


@dataclass(kw_only=True, frozen=True)
class Substituted:
    """The generator that the table is about."""

    files: dict[str, bytes]
    checkpoint: Checkpoint

    @property
    def sha256(self) -> str:
        """Of its weights."""
        return self.checkpoint.sha256

    def settings(self, clips: int) -> dict[str, Any]:
        """For the record of an evaluation whose table is about so many clips."""
        return {"substitution": (self.sha256, clips)}


def find_generator(uri: str | None, codec: Codec) -> Substituted | None:
    """The generator at `uri` (PACKAGED: the one in the package), None where none is asked for.

    Raises:
        SoundStormError: there is none, or it is of another codec.
    """
    if uri is None:
        return None
    place = None if uri == PACKAGED else uri
    files = checkpoint_files(place)
    found = open_checkpoint(files, uri=place)
    if found.fingerprint.sha256 != codec.fingerprint.sha256:
        raise SoundStormError(
            f"--substitution {uri}: it generates codes of '{found.fingerprint.name}' "
            f"({found.fingerprint.sha256[:12]}), and the evaluation is with '{codec.fingerprint.name}' "
            f"({codec.fingerprint.sha256[:12]}): give the generator's with --codec"
        )
    return Substituted(files=files, checkpoint=found)


class Substituter:
    """An actor that makes lines of the table.

    Args:
        weights: one reference, to the files of the checkpoint, and the content of the codec's and the classifier's.
        clips: the recordings.
        parts_folder: URI of the folder of the lines.
        settings: digest of all settings of the run.
        seed: of the samples.
        device: where the networks run.
    """

    def __init__(
        self,
        weights: list[ray.ObjectRef],
        clips: Sequence[Clip],
        parts_folder: str,
        settings: str,
        seed: int,
        device: str,
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
        )
        self.parts_folder, self.metadata = parts_folder, {SETTINGS: settings}
        self.pcms: list[np.ndarray] = []
        self.labels: list[int] = []
        for clip in clips:
            try:
                self.pcms.append(load_clip(clip.uri, dataset=clip.dataset)[: round(LONGEST_S * SAMPLE_RATE)])
            except RejectedAudio:  # it is among the rejected clips of the evaluation
                continue
            known = self.checkpoint.categories
            self.labels.append(find_category(clip.category, known, "a recording's class", "the checkpoint"))

    def substitution_shard(self, work: tuple[str, list[Case]]) -> int:
        """Write the table of these lines under the name given; returns how many. A part that is there is left alone."""
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


def clips_to_substitute(real: Sequence[Clip], generator: Substituted, count: int, seed: int) -> list[Clip]:
    """Recordings of the classes that the generator knows, as many of each, about `count` in all.

    Raises:
        SoundStormError: it knows none of their classes.
    """
    checkpoint = generator.checkpoint
    known = {normalized(category) for category in checkpoint.categories}
    clips = [clip for clip in real if normalized(clip.category) in known]
    if not clips:
        raise SoundStormError(
            f"--substitution: the checkpoint knows {', '.join(checkpoint.categories[:5])}"
            f"{', ...' if len(checkpoint.categories) > 5 else ''}, and no class of the real clips is among them"
        )
    return draw_per_category(clips, max(1, math.ceil(count / len({clip.category for clip in clips}))), seed)


def substitution_table(
    output_dir: str,
    address: str | None,
    generator: Substituted,
    codec: bytes,
    classifier: bytes | None,
    clips: Sequence[Clip],
    *,
    settings: str,
    seed: int,
    num_actors: int | None = None,
) -> pa.Table:
    """The table (schema SUBSTITUTION), of which the lines are made that are missing.

    Args:
        output_dir: of the evaluation.
        address: Ray cluster to join.
        generator: that the table is about.
        codec: content of its codec's file.
        classifier: content of the file of the one that names the clips; None: the one in the package.
        clips: the recordings.
        settings: digest of all settings of the run.
        seed: of the samples.
        num_actors: how many; None: by the cluster's size.

    Raises:
        SoundStormError, ClusterError: as `jobs.actors.sharded_output.table_of_lines`.
    """
    found = generator.checkpoint

    def prepare(info: ClusterInfo, folder: str) -> Callable[[], Any]:
        reference = ray.put((generator.files, codec, classifier))
        actor_class = ray.remote(Substituter).options(**actor_resources(info))
        device = "cuda" if info.num_gpus else "cpu"
        return lambda: actor_class.remote([reference], clips, folder, settings, seed, device)

    return table_of_lines(
        "substitution",
        output_dir,
        address,
        cases(found.fingerprint.num_levels, found.model.config.num_levels),
        SUBSTITUTION,
        prepare,
        settings=settings,
        num_actors=num_actors,
    )
