"""The actor of `generate`: samples the codes of a shard as one batch, decodes them, and writes the audio and the
shard's table."""

import hashlib
import json
import math
import re
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.tables import tar_shards as tars
from jobs.actors.sharded_output import SETTINGS, folder_of
from jobs.inputs.checkpoints import open_checkpoint
from soundstorm.audio.files import encode_audio, within_full_scale
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import continuation, generate_codes
from soundstorm.generation.reranking import best_candidates, candidate_seed
from soundstorm.model.config import SamplerSettings
from soundstorm.optimization.precision import uses_bf16
from soundstorm.schemas import SAMPLES


def sample_seed(seed: int, label: int, index: int) -> int:
    """The seed, 63 bits, of sample `index`: a hash, so that runs with neighbouring seeds have no sample in common."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}/{index}".encode()).digest()[:8], "big") >> 1


def file_stem(category: str) -> str:
    """The class name as a file name: letters, digits, `_` and `-` stay; a symbol such as an emoji becomes its code
    point; everything else becomes `_`."""
    spelt = "".join(
        f"u{ord(character):x}_" if unicodedata.category(character) == "So" else character for character in category
    )
    return re.sub(r"[^\w-]+", "_", spelt).removesuffix("_" if spelt != category else "") or "_"


def playable(waveform: np.ndarray, num_samples: int, index: int) -> np.ndarray:
    """The first `num_samples` of `waveform`, scaled down if they would clip. Raises SoundStormError, which names sample
    `index`, if a value is not finite."""
    waveform = waveform[:num_samples]
    if not np.isfinite(waveform).all():
        raise SoundStormError(f"sample {index} has NaN or infinite values: the checkpoint or the codec is damaged")
    return within_full_scale(waveform)


class Generator:
    """Actor that generates the samples of a shard as one batch.

    Args:
        model: a list of one reference to a tuple: the checkpoint's files, the codec's file, and the reranker's file or
            None.
        sampler: how codes are sampled.
        prompt: codes (Q, T) that every clip begins with.
        job: `output_dir`, `layout`, `format`, `duration_s`, `seed`, and `settings`, the digest of all settings of the
            run.
        device: where the networks run.
    """

    def __init__(
        self,
        model: list[ray.ObjectRef],
        sampler: SamplerSettings,
        prompt: np.ndarray | None,
        job: dict[str, Any],
        device: str,
    ) -> None:
        torch.set_num_threads(1)
        files, weights, reranker = ray.get(model[0])
        self.checkpoint = open_checkpoint(files, device)
        self.codec = load_codec(weights, device)
        self.reranker = None if reranker is None else load_classifier(reranker, device)
        self.sampler, self.prompt, self.job, self.device = sampler, prompt, job, device

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
        seeds = [sample_seed(self.job["seed"], label, index) for index, label in samples]
        num_samples = round(self.job["duration_s"] * self.codec.sample_rate)
        num_frames = math.ceil(num_samples / self.codec.hop)
        waveforms = self.waveforms([label for _, label in samples], seeds, num_samples)
        clips = [
            self._clip(index, label, seed, num_frames, wave)
            for (index, label), seed, wave in zip(samples, seeds, waveforms, strict=True)
        ]
        if storage.exists(part_uri):  # the shard may have been given to another actor meanwhile
            return len(samples)
        rows = self._store_tar(name, clips) if self.job["layout"] == "webdataset" else self._store_files(clips)
        tables.write_table(part_uri, pa.Table.from_pylist(rows, SAMPLES), {SETTINGS: self.job["settings"]})
        return len(samples)

    def waveforms(self, labels: list[int], seeds: list[int], num_samples: int) -> list[np.ndarray]:
        """The waveform (num_samples,) of each sample, the best of its candidates if the sampler asks for several."""
        if self.reranker is None:
            return self._sample(labels, seeds, num_samples)
        candidates = [
            self._sample(labels, [candidate_seed(seed, candidate) for seed in seeds], num_samples)
            for candidate in range(self.sampler.candidates)
        ]
        return best_candidates(candidates, [self.checkpoint.categories[label] for label in labels], self.reranker)

    def _sample(self, labels: list[int], seeds: list[int], num_samples: int) -> list[np.ndarray]:
        """One waveform (num_samples,) for each label and seed."""
        num_frames = math.ceil(num_samples / self.codec.hop)
        drawn_frames = max(
            num_frames, self.checkpoint.training.filled_frames or 0
        )  # a network trained on padded clips expects the padding
        known, known_mask = (None, None)
        if self.prompt is not None:
            prompt_QT = torch.from_numpy(self.prompt[: self.checkpoint.model.config.num_levels].astype(np.int64))
            known, known_mask = continuation([prompt_QT] * len(labels), [drawn_frames] * len(labels))
        codes = generate_codes(
            self.checkpoint.model,
            torch.tensor(
                [
                    label if self.checkpoint.training.class_dropout < 1 else self.checkpoint.model.no_class
                    for label in labels
                ]
            ),
            [drawn_frames] * len(labels),
            self.sampler,
            seeds,
            known_BQT=known,
            known_mask_BQT=known_mask,
            bf16=uses_bf16(self.checkpoint.model.device, "auto"),
        )
        waveforms = self.codec.decode_clips([codes_QT[:, :num_frames].numpy() for codes_QT in codes], seeds)
        return [waveform[:num_samples] for waveform in waveforms]

    def _clip(
        self, index: int, label: int, seed: int, num_frames: int, waveform: np.ndarray
    ) -> tuple[dict[str, Any], bytes]:
        """A sample's row, without its URI, and the content of its audio file."""
        sample_rate = self.codec.sample_rate
        waveform = playable(waveform, round(self.job["duration_s"] * sample_rate), index)
        category = self.checkpoint.categories[label]
        audio = encode_audio(waveform, sample_rate, self.job["format"])
        row = {
            "sample_id": f"{file_stem(category)}-{index:07d}",
            "label": label,
            "category": category,
            "seed": seed,
            "num_frames": num_frames,
            "duration_s": len(waveform) / sample_rate,
            "sha256": hashlib.sha256(audio).hexdigest(),
        }
        return row, audio

    def _store_files(self, clips: list[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
        """Write one audio file per clip; returns the rows with their URIs."""
        rows = []
        for row, audio in clips:
            folder = folder_of(int(row["sample_id"].rpartition("-")[2]))
            uri = storage.join(
                self.job["output_dir"],
                "audio",
                folder,
                file_stem(row["category"]),
                f"{row['sample_id']}.{self.job['format']}",
            )
            storage.write_bytes(uri, audio)
            rows.append(row | {"uri": uri})
        return rows

    def _store_tar(self, name: str, clips: list[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
        """Write one archive with the audio and a JSON file of each clip; returns the rows with their URIs."""
        uri = storage.join(self.job["output_dir"], "audio", name.removesuffix(tables.SUFFIX) + ".tar")
        files = []
        for row, audio in clips:
            notes = json.dumps(row | {"sample_rate": self.codec.sample_rate}, sort_keys=True, ensure_ascii=False)
            files += [(f"{row['sample_id']}.{self.job['format']}", audio), (f"{row['sample_id']}.json", notes.encode())]
        storage.write_bytes(uri, tars.write_tar(files))
        return [row | {"uri": tars.member_uri(uri, f"{row['sample_id']}.{self.job['format']}")} for row, _ in clips]
