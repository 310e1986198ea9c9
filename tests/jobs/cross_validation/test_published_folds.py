"""`soundstorm cross-validate` on the ten published folds of UrbanSound8K, on a made-up copy of its layout."""

from pathlib import Path

import numpy as np
import pytest

from jobs.console.command import console
from jobs.cross_validate import run
from jobs.cross_validation.options import Options
from jobs.cross_validation.results import read_predictions
from jobs.inputs.classifiers import CLASSIFIER_FILE
from soundstorm.audio.files import SAMPLE_RATE, encode_audio
from soundstorm.classification.cnn import load_classifier
from soundstorm.data.datasets import URBANSOUND8K_CATEGORIES
from soundstorm.serialization.provenance import TrainedOn

NUM_FOLDS, CLASSES, CLIP_S = 10, (1, 6), 0.5
"""Folds, the two classes that have clips, and the length of a clip in seconds."""
HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """One clip of each class in every fold, each of a recording of its own."""
    root, rows, random = tmp_path / "urbansound8k", [HEADER], np.random.default_rng(0)
    for fold in range(1, NUM_FOLDS + 1):
        folder = root / "audio" / f"fold{fold}"
        folder.mkdir(parents=True)
        for label in CLASSES:
            source = 100 * fold + label
            name = f"{source}-{label}-0-0.wav"
            clip_N = 0.1 * random.standard_normal(round(CLIP_S * SAMPLE_RATE)).astype(np.float32)
            (folder / name).write_bytes(encode_audio(clip_N, SAMPLE_RATE))
            rows.append(f"{name},{source},0,{CLIP_S},1,{fold},{label},{URBANSOUND8K_CATEGORIES[label]}")
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_published_fold_is_tested_by_a_classifier_of_the_nine_others(
    made_up: Path, tmp_path: Path, ray_session: None
) -> None:
    output = tmp_path / "out"
    options = Options(
        dataset="urbansound8k",
        data_dir=str(made_up),
        output_dir=str(output),
        folds=str(NUM_FOLDS),
        epochs=1,
        batch_size=18,
        device="cpu",
    )
    with console.capture() as said:
        summary = run(options)
    assert "fold 10 to run" in said.get()
    assert summary["done"] == [NUM_FOLDS] and summary["clips"] == len(CLASSES) and not summary["leaks"]
    table, _ = read_predictions(str(output / "predictions.parquet"))
    assert sorted(zip(table["fold"].to_pylist(), table["clip_id"].to_pylist(), strict=True)) == [
        (NUM_FOLDS, f"{100 * NUM_FOLDS + label}-{label}-0-0") for label in CLASSES
    ]
    learned = load_classifier((output / "fold-10" / "classifier" / CLASSIFIER_FILE).read_bytes()).provenance
    assert isinstance(learned, TrainedOn)
    assert set(learned.recordings[0].folds) == set(range(1, NUM_FOLDS))
