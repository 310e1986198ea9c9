"""The actor behind `generate`: draws the codes of a part's samples as one batch, decodes them and writes audio files and the part's table."""

import hashlib
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from jobs.checkpoints import open_checkpoint
from soundstorm.audio import encode_audio
from soundstorm.codec import load_codec
from soundstorm.decoding import continuation, generate_codes
from soundstorm.errors import SoundStormError
from soundstorm.presets import SamplerSettings
from soundstorm.schemas import SAMPLES
from soundstorm.training import uses_bf16

PEAK = 0.999
"""A decoded clip that exceeds full scale is scaled down to this peak, so that nothing clips."""


def sample_seed(seed: int, label: int, index: int) -> int:
    """The seed, 63 bits, of sample `index` of a run: spread out, so that runs with neighbouring seeds share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}/{index}".encode()).digest()[:8], "big") >> 1


def file_stem(category: str) -> str:
    """A class name as a file name: letters, digits, `_` and `-` stay, everything else becomes `_`."""
    return re.sub(r"[^\w-]+", "_", category) or "_"


class Generator:
    """An actor that makes the samples of a part as one batch."""

    def __init__(self, model: list[ray.ObjectRef], sampler: SamplerSettings, prompt: np.ndarray | None, job: dict[str, Any], device: str) -> None:
        torch.set_num_threads(1)
        files, weights = ray.get(model[0])
        self.checkpoint = open_checkpoint(files, device)
        self.codec = load_codec(weights, device)
        self.sampler, self.prompt, self.job, self.device = sampler, prompt, job, device

    def make_part(self, work: tuple[str, list[tuple[int, int]]]) -> int:
        """Generate samples `(index, label)`, write their audio, then the part's table; returns how many."""
        part_uri, samples = work
        num_frames = math.ceil(round(self.job["duration_s"] * self.codec.sample_rate) / self.codec.hop)
        drawn_frames = max(num_frames, self.checkpoint.training.filled_frames or 0)  # a network trained on filled-up clips expects the filling
        seeds = [sample_seed(self.job["seed"], label, index) for index, label in samples]
        known, known_mask = (None, None)
        if self.prompt is not None:
            prompt_QT = torch.from_numpy(self.prompt.astype(np.int64))
            known, known_mask = continuation([prompt_QT] * len(samples), [drawn_frames] * len(samples))
        codes = generate_codes(
            self.checkpoint.model,
            torch.tensor([label if self.checkpoint.training.class_dropout < 1 else self.checkpoint.model.no_class for _, label in samples]),
            [drawn_frames] * len(samples),
            self.sampler,
            seeds,
            known_BQT=known,
            known_mask_BQT=known_mask,
            bf16=uses_bf16(self.checkpoint.model.device, "auto"),
        )
        waveforms = self.codec.decode_clips([codes_QT[:, :num_frames].numpy() for codes_QT in codes])
        rows = [
            self._write(index, label, seed, num_frames, waveform) for (index, label), seed, waveform in zip(samples, seeds, waveforms, strict=True)
        ]
        tables.write_table(part_uri, pa.Table.from_pylist(rows, SAMPLES), {})
        return len(rows)

    def _write(self, index: int, label: int, seed: int, num_frames: int, waveform: np.ndarray) -> dict[str, Any]:
        sample_rate = self.codec.sample_rate
        waveform = waveform[: round(self.job["duration_s"] * sample_rate)]
        if not np.isfinite(waveform).all():
            raise SoundStormError(f"sample {index} came out with NaN or infinity: the checkpoint or the codec is damaged")
        waveform = waveform * min(1.0, PEAK / max(float(np.abs(waveform).max()), 1e-9))
        category = self.checkpoint.categories[label]
        sample_id = f"{file_stem(category)}-{index:07d}"
        audio = encode_audio(waveform, sample_rate, self.job["format"])
        uri = storage.join(self.job["output_dir"], "audio", file_stem(category), f"{sample_id}.{self.job['format']}")
        storage.write_bytes(uri, audio)
        return {
            "sample_id": sample_id,
            "label": label,
            "category": category,
            "seed": seed,
            "num_frames": num_frames,
            "duration_s": len(waveform) / sample_rate,
            "uri": uri,
            "sha256": hashlib.sha256(audio).hexdigest(),
        }
