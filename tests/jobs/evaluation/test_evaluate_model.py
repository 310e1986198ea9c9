"""Distances in what a given model hears: `evaluate --embedding-model`."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import evaluate
from jobs.inputs.audio_files import load_clip
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, resample
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.metric_info import MEASURES, MODEL_MEASURES
from tests.jobs.conftest import evaluate_options
from tests.soundstorm.evaluation.test_embeddings import MEAN_AND_PEAK

RATE = 16_000


def test_a_model_gives_distances_of_its_own(
    generated: str, synthetic_dataset: Path, tmp_path: Path, ray_session: None
) -> None:
    model, output = tmp_path / "mean and peak.onnx", str(tmp_path / "out")
    model.write_bytes(MEAN_AND_PEAK)
    options = evaluate_options(
        str(synthetic_dataset), generated, output, embedding_model=str(model), embedding_rate=RATE
    )
    evaluate.run(options)
    features, _ = tables.read_table(storage.join(output, "features.parquet"))
    row = next(row for row in features.to_pylist() if row["role"] == "real")
    waveform = resample(
        from_pcm16(load_clip(str(synthetic_dataset / "audio" / f"{row['clip_id']}.wav"))), SAMPLE_RATE, RATE
    )
    np.testing.assert_allclose(row["model_embedding"], [waveform.mean(), waveform.max()], atol=1e-6)
    measures = json.loads(Path(output, "summary.json").read_text())["closeness"]["measures"]
    assert [measure["name"] for measure in measures] == [info.name for info in (*MEASURES, *MODEL_MEASURES)]
    found = {measure["name"]: measure for measure in measures}
    assert (
        found["frechet_model"]["title"] == "Fréchet distance, mean and peak" and found["frechet_model"]["generated"] > 0
    )
    assert found["diversity_model"]["floor"] > 0
    assert "Kernel distance, mean and peak" in Path(output, "report.html").read_text()
    with pytest.raises(
        ClusterError, match=r"embedding_rate: then 16000, now 8000\. Use --overwrite"
    ):  # other values than were measured
        evaluate.run(
            evaluate_options(
                str(synthetic_dataset), generated, output, embedding_model=str(model), embedding_rate=8_000
            )
        )


def test_what_is_no_model_is_refused_before_anything_is_measured(
    generated: str, synthetic_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.onnx").write_bytes(b"these are not weights")
    options = evaluate_options(
        str(synthetic_dataset), generated, str(tmp_path / "out"), embedding_model=str(tmp_path / "notes.onnx")
    )
    with pytest.raises(SoundStormError, match="'notes' is not an ONNX model"):
        evaluate.run(options)
    with pytest.raises(SoundStormError, match="--embedding-rate is 8000"):
        evaluate_options(str(synthetic_dataset), generated, str(tmp_path / "out"), embedding_rate=8_000)
