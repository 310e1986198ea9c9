"""The actor of `generate`: samples the codes of a shard as one batch, decodes them, and writes the audio and the
shard's table."""

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.tables import tar_shards as tars
from jobs.actors.finishing import Finishing, as_json, file_stem
from jobs.actors.sharded_output import SETTINGS, folder_of
from jobs.inputs.checkpoints import open_checkpoint
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.editing.editor import Editor
from soundstorm.editing.edits import Edit, New
from soundstorm.generation.seeds import derived_seed
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.optimization.precision import Precision, decided
from soundstorm.schemas import SAMPLES

ModelFiles = tuple[dict[str, bytes], bytes, bytes | None]
MAX_BATCH_S = 600.0
"""Longest batch in seconds of sound; a longer clip is a batch of its own."""


def sample_seed(seed: int, label: int, index: int) -> int:
    """The 63-bit seed of sample `index`: a hash, so that runs with neighbouring seeds have no sample in common."""
    return derived_seed(seed, f"{label}/{index}")


def editor_of(
    checkpoint: Checkpoint,
    codec: Codec,
    sampler: SamplerSettings,
    reranker: bytes | None,
    device: str,
    threads: int = 1,
    precision: Precision = "auto",
) -> Editor:
    """The editor of a checkpoint.

    Args:
        checkpoint: the network, on `device`.
        codec: codec that the network was trained with.
        sampler: how codes are sampled.
        reranker: file of the classifier that chooses among candidates, or None.
        device: where the reranker runs.
        threads: number of candidates that are generated in parallel.
        precision: of the network's linear layers.
    """
    return Editor(
        model=checkpoint.model,
        codec=codec,
        settings=sampler,
        filled_frames=checkpoint.training.filled_frames or 0,
        takes_class=checkpoint.training.class_dropout < 1,
        reranker=None if reranker is None else load_classifier(reranker, device),
        categories=checkpoint.categories,
        threads=threads,
        precision=decided(checkpoint.model.device, precision),
    )


class Generator:
    """Actor that generates the samples of a shard as one batch.

    Args:
        model: the checkpoint's files, the codec's file, and the reranker's file or None; or a list of one reference to
            them.
        sampler: how codes are sampled.
        edit: the edit that all samples share; None: new sound.
        job: `output_dir`, `layout`, `format`, `duration_s`, `seed`, and `settings`, the digest of all settings of the
            run. Optional: `recipe`, which is written beside each clip; `own_seed` and `batch_size`, to reproduce one
            clip: its seed and the size of its batch; `threads`, the cores of the actor; `precision`, default `auto`.
        device: where the networks run.
    """

    def __init__(
        self,
        model: ModelFiles | list[ray.ObjectRef],
        sampler: SamplerSettings,
        edit: Edit | None,
        job: dict[str, Any],
        device: str,
    ) -> None:
        torch.set_num_threads(1)
        files, weights, reranker = ray.get(model[0]) if isinstance(model, list) else model
        self.checkpoint = open_checkpoint(files, device)
        self.codec = load_codec(weights, device)
        self.edit, self.job = edit or New(), job
        self.editor = editor_of(
            self.checkpoint,
            self.codec,
            sampler,
            reranker,
            device,
            threads=job.get("threads", 1),
            precision=job.get("precision", "auto"),
        )
        self.finishing = Finishing(
            sample_rate=self.codec.sample_rate,
            hop=self.codec.hop,
            num_samples=round(job["duration_s"] * self.codec.sample_rate),
            format=job["format"],
            keeps_recording=self.edit.keeps_recording,
            recipe=job.get("recipe"),
            precision=self.editor.precision,
        )

    def generate_shard(self, work: tuple[str, list[tuple[int, int]]]) -> int:
        """Generate a shard: write the audio of its samples, then its table; returns the number of samples.

        If the table exists, because another attempt or another run wrote it, nothing is written.

        Args:
            work: name of the shard's part file, and `(index, label)` of each sample.
        """
        name, samples = work
        part_uri = storage.join(self.job["output_dir"], "parts", name)
        if storage.exists(part_uri):
            return len(samples)
        at_once = max(1, int(MAX_BATCH_S / self.job["duration_s"]))
        clips = []
        for first in range(0, len(samples), at_once):
            clips += self._clips(samples[first : first + at_once])
        if storage.exists(part_uri):  # another actor may have processed the shard meanwhile
            return len(samples)
        rows = self._store_tar(name, clips) if self.job["layout"] == "webdataset" else self._store_files(clips)
        tables.write_table(part_uri, pa.Table.from_pylist(rows, SAMPLES), {SETTINGS: self.job["settings"]})
        return len(samples)

    def _clips(self, samples: list[tuple[int, int]]) -> list[tuple[dict[str, Any], bytes]]:
        """Row and audio file of samples `(index, label)`, generated as one batch."""
        labels = [label for _, label in samples]
        seeds = [sample_seed(self.job["seed"], label, index) for index, label in samples]
        if self.job.get("own_seed") is not None:  # reproduce one clip: in bfloat16 its codes depend on the batch size
            labels, seeds = [labels[0]] * self.job["batch_size"], [self.job["own_seed"]] * self.job["batch_size"]
        waveforms = self.waveforms(labels, seeds, self.finishing.num_samples)
        clips = [
            self.finishing.clip(index, label, self.checkpoint.categories[label], seed, wave)
            for (index, label), seed, wave in zip(samples, seeds, waveforms, strict=False)
        ]
        return [(row | {"batch_size": len(labels)}, audio) for row, audio in clips]

    def waveforms(self, labels: list[int], seeds: list[int], num_samples: int) -> list[np.ndarray]:
        """The waveform (num_samples,) of each sample."""
        return self.edit.takes(self.editor, labels, seeds, num_samples)

    def _store_files(self, clips: list[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
        """Write one audio file per clip; returns the rows with their URIs."""
        rows = []
        for row, audio in clips:
            folder = folder_of(int(row["sample_id"].rpartition("-")[2]))
            stem = storage.join(self.job["output_dir"], "audio", folder, file_stem(row["category"]), row["sample_id"])
            uri = f"{stem}.{self.job['format']}"
            storage.write_bytes(uri, audio)
            if self.job.get("recipe") is not None:
                storage.write_bytes(f"{stem}.json", as_json(self.finishing.about(row)))
            rows.append(row | {"uri": uri})
        return rows

    def _store_tar(self, name: str, clips: list[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
        """Write one archive with the audio and a JSON file of each clip; returns the rows with their URIs."""
        uri = storage.join(self.job["output_dir"], "audio", name.removesuffix(tables.SUFFIX) + ".tar")
        files = []
        for row, audio in clips:
            stem = row["sample_id"]
            files += [(f"{stem}.{self.job['format']}", audio), (f"{stem}.json", as_json(self.finishing.about(row)))]
        storage.write_bytes(uri, tars.write_tar(files))
        return [row | {"uri": tars.member_uri(uri, f"{row['sample_id']}.{self.job['format']}")} for row, _ in clips]
