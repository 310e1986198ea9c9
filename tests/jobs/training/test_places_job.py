"""The second order of generation through the jobs: trained on real codes of a codec, it generates fewer levels than
these have, after a prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from cluster import storage, tables
from jobs import generate, train
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import load_checkpoint
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.schemas import codes_to_lists
from tests.jobs.test_train_job import CATEGORIES, write_tokens

MODEL = {
    "width": 16, "depth": 1, "heads": 2, "kernel": 5, "ff_mult": 1, "order": "places", "centroids": True,
    "generated_levels": 3, "head_width": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `tokenize` would leave: 18 synthetic clips of a second in the codec's codes."""
    codec = load_codec(tiny_codec)
    clips = [synthesize(CLASSES[number % 3], number, 1.0, codec.sample_rate).astype(np.float32) for number in range(18)]
    rows = [
        {
            "clip_id": f"clip-{number:02d}",
            "dataset": "synthetic",
            "fold": number // 3 % 3 + 1,
            "label": number % 3,
            "category": CATEGORIES[number % 3],
            "view": 0,
            "num_frames": codes_QT.shape[1],
            "codes": codes_to_lists(codes_QT),
        }
        for number, codes_QT in enumerate(codec.encode_clips(clips))
    ]
    return write_tokens(str(tmp_path_factory.mktemp("tokens")), codec.fingerprint, rows=rows)


@pytest.fixture(scope="module")
def trained(
    tokens: str, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("places")
    config = folder / "config.json"
    config.write_text(
        json.dumps({"preset": "places", "model": MODEL, "training": {"batch_size": 4, "crop_frames": 40}})
    )
    return train.run(
        train.Options(
            tokens=tokens,
            output_dir=str(folder / "train"),
            config=str(config),
            epochs=2,
            codec=str(tiny_codec),
            num_workers=1,
        )
    )


def test_the_checkpoint_is_a_network_of_order_places_with_the_centroids_of_its_codec(
    trained: dict[str, Any], tiny_codec: Path
) -> None:
    checkpoint = load_checkpoint(Path(trained["checkpoint"]))
    codec = load_codec(tiny_codec)
    assert isinstance(checkpoint.model, PlaceNetwork)
    assert (checkpoint.model.config.num_levels, checkpoint.fingerprint.num_levels) == (3, 8)
    assert torch.equal(checkpoint.model.centroids.vectors_QKL, codec.network.codebooks[:3])
    bias_QK = checkpoint.model.head.head_bias
    assert float(bias_QK.detach().std()) > 0.1  # they began as the logarithms of the counts
    assert len(trained["val_losses"]) == 3


def test_samples_begin_with_their_prompt_and_are_decoded_from_the_levels_that_are_generated(
    trained: dict[str, Any], tiny_codec: Path, tmp_path: Path
) -> None:
    prompt = tmp_path / "prompt.wav"
    soundfile.write(prompt, 0.3 * np.sin(2 * np.pi * 700 * np.arange(12_000) / 24_000), 24_000)
    shared: dict[str, Any] = {
        "checkpoint": trained["checkpoint"],
        "codec": str(tiny_codec),
        "num_samples": 2,
        "duration": 1.0,
        "num_actors": 1,
    }
    shared |= {
        "iterations": (4,),
        "class_name": load_checkpoint(Path(trained["checkpoint"])).categories[0],
        "format": "wav",
    }
    generate.run(generate.Options(output_dir=str(tmp_path / "out"), prompt=str(prompt), prompt_duration=0.5, **shared))
    waves = [soundfile.read(path)[0] for path in sorted((tmp_path / "out" / "audio").rglob("*.wav"))]
    assert [len(wave) for wave in waves] == [24_000, 24_000]
    assert not np.array_equal(waves[0], waves[1])
    codec = load_codec(tiny_codec)
    [prompt_QT] = codec.encode_clips([soundfile.read(prompt, dtype="float32")[0]])
    heard = 8_000  # beyond the reach of what follows the prompt
    rows, _ = tables.read_table(str(tmp_path / "out" / "samples.parquet"))
    for wave, row in zip(waves, sorted(rows.to_pylist(), key=lambda row: row["sample_id"]), strict=True):
        [alone] = codec.decode_clips([prompt_QT[:3]], [row["seed"]])
        np.testing.assert_allclose(
            wave[:heard] / np.abs(wave[:heard]).max(), alone[:heard] / np.abs(alone[:heard]).max(), atol=2e-3
        )
    with pytest.raises(SoundStormError, match="one number: this network decides all levels of a place at once"):
        generate.run(generate.Options(output_dir=str(tmp_path / "other"), **(shared | {"iterations": (4, 1, 1)})))


def test_more_levels_than_the_codec_has_are_refused(tokens: str, tiny_codec: Path, tmp_path: Path) -> None:
    config = storage.join(str(tmp_path), "config.json")
    storage.write_bytes(config, json.dumps({"model": MODEL | {"generated_levels": 9}}).encode())
    with pytest.raises(SoundStormError, match=r"generated_levels is 9: give at most 8, the levels of the codec of "):
        train.run(
            train.Options(
                tokens=tokens, output_dir=str(tmp_path / "out"), config=config, preset="places", codec=str(tiny_codec)
            )
        )
