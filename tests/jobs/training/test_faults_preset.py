"""The faults of the reference work, put back for comparison: a network trained with them is asked the way it was
trained."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from cluster import storage, tables
from jobs import generate
from soundstorm.audio.files import to_pcm16
from soundstorm.audio.limiter import within_full_scale
from soundstorm.codec.files import load_codec
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import CheckpointInfo, save_checkpoint
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.precision import uses_bf16
from tests.conftest import shape_of
from tests.jobs.conftest import generate_options


def test_a_network_trained_on_filled_up_clips_without_classes_draws_the_filling_too_and_is_told_no_class(
    tmp_path: Path, ray_session: None
) -> None:
    faults, tiny = preset("faults"), preset("tiny")
    torch.manual_seed(0)
    codec = load_codec()
    model = SoundStorm(replace(tiny.model, num_classes=2, **shape_of(codec.fingerprint))).eval()
    frames = math.ceil(0.2 * codec.frame_rate)
    training = replace(faults.training, filled_frames=40)
    info = CheckpointInfo(
        training=training, categories=["rain", "dog"], fingerprint=codec.fingerprint, step=1, sampler=faults.sampler
    )
    save_checkpoint(tmp_path / "checkpoint", model, info)
    generate.run(generate_options(str(tmp_path), str(tmp_path / "out"), num_samples=2, duration=0.2, num_actors=1))
    rows = tables.read_table(str(tmp_path / "out" / "samples.parquet"))[0].to_pylist()
    labels = torch.full((2,), model.no_class)
    bf16 = uses_bf16(torch.device("cpu"), "auto")
    codes = generate_codes(model, labels, [40, 40], faults.sampler, [row["seed"] for row in rows], bf16=bf16)
    for row, codes_QT in zip(rows, codes, strict=True):
        assert row["num_frames"] == frames
        [waveform] = codec.decode_clips([codes_QT[:, :frames].numpy()], [row["seed"]])
        found, _ = soundfile.read(io.BytesIO(storage.read_bytes(row["uri"])), dtype="int16")
        expected = to_pcm16(within_full_scale(waveform[:4800]))
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
