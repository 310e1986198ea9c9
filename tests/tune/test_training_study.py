"""`soundstorm tune`: a real Ray Tune study on a small token table."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import records, storage, tables
from jobs.tokens import open_tokens
from jobs.train import network_for
from soundstorm.errors import SoundStormError
from soundstorm.presets import TrainingConfig, preset
from soundstorm.schemas import TOKENS, CodecFingerprint, codes_to_lists
from tune.space import Range, check_space, training_space
from tune.training_study import Options, run, run_trial

FINGERPRINT = CodecFingerprint(name="pattern", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=2, codebook_size=8)
NUM_TRIALS, EPOCHS = 4, 5


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve clips of two classes in three folds, what `tokenize` would leave."""
    uri = str(tmp_path_factory.mktemp("tokens"))
    rows: list[dict[str, Any]] = [
        {
            "clip_id": f"clip-{number:02d}",
            "dataset": "test",
            "fold": number // 4 + 1,
            "label": number % 2,
            "category": ("rain", "wind")[number % 2],
            "view": 0,
            "num_frames": 16,
            "codes": codes_to_lists((np.arange(16) * np.array([[1], [3]]) + 2 * (number % 2)) % 8),
        }
        for number in range(12)
    ]
    metadata = FINGERPRINT.to_metadata() | {"categories": json.dumps(["rain", "wind"]), "num_folds": "3"}
    tables.write_table(tables.part_uri(storage.join(uri, "tokens"), 0), pa.Table.from_pylist(rows, TOKENS), metadata)
    records.finish(uri, "tokenize", {}, {})
    return uri


def options(tokens: str, output: str, **changes: Any) -> Options:
    settings: dict[str, Any] = {"num_trials": NUM_TRIALS, "max_concurrent": 2, "epochs": EPOCHS, "batch_size": 4, "seed": 3}
    return Options(tokens=tokens, output_dir=output, **(settings | changes))


@pytest.fixture(scope="module")
def study(tokens: str, s3: Any, ray_session: None) -> dict[str, Any]:
    """One study whose output is in object storage; the tests below look at it."""
    return run(options(tokens, storage.join(s3.make_bucket(), "study")))


def test_every_trial_has_a_row_and_the_first_is_the_best(study: dict[str, Any]) -> None:
    table, _ = tables.read_table(storage.join(study["output_dir"], "trials.parquet"))
    rows = table.to_pylist()
    assert len(rows) == NUM_TRIALS and len({row["trial"] for row in rows}) == NUM_TRIALS
    finished = [row for row in rows if row["state"] == "finished"]
    assert finished and all(row["epochs"] == EPOCHS for row in finished)
    assert all(row["epochs"] < EPOCHS for row in rows if row["state"] == "stopped")
    assert rows[0]["val_loss"] == min(row["val_loss"] for row in finished) == study["val_loss"]
    space = training_space(preset("tiny").training)
    assert all(span.low <= row[name] <= span.high for row in rows for name, span in space.items())
    listed = list(csv.DictReader(storage.read_bytes(storage.join(study["output_dir"], "trials.csv")).decode().splitlines()))
    assert [row["trial"] for row in listed] == [row["trial"] for row in rows]


def test_training_with_the_best_settings_gives_the_loss_that_the_study_reported(study: dict[str, Any], tokens: str) -> None:
    best = json.loads(storage.read_bytes(study["best_config"]))
    base = preset("tiny")
    config = TrainingConfig.from_dict(base.training.to_dict() | best["training"], "best.json")
    chosen = open_tokens(tokens, best["fold"])
    losses: list[float] = []
    run_trial({}, *chosen.split(), network_for(base.model, chosen).to_dict(), config.to_dict(), lambda row: losses.append(row["val_loss"]))
    assert len(losses) == EPOCHS
    assert losses[-1] == pytest.approx(best["val_loss"], abs=1e-6)


def test_a_finished_study_is_not_repeated(study: dict[str, Any], tokens: str) -> None:
    assert "already done" in run(options(tokens, study["output_dir"]))["message"]


def test_a_trial_whose_loss_is_not_finite_ends_with_infinity(tokens: str) -> None:
    base = preset("tiny")
    chosen = open_tokens(tokens, None)
    config = replace(base.training, batch_size=4, epochs=3, lr=1e30, warmup_share=0.0)
    rows: list[dict[str, Any]] = []
    run_trial({}, *chosen.split(), network_for(base.model, chosen).to_dict(), config.to_dict(), rows.append)
    assert rows[-1]["val_loss"] == float("inf") and rows[-1]["epoch"] <= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trials": 0}, "--num-trials is 0"),
        ({"preset": "huge"}, "--preset is 'huge'"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        options("tokens", "out", **changes)


def test_a_space_with_a_typo_or_an_empty_range_is_refused() -> None:
    with pytest.raises(SoundStormError, match="'learning_rate' is no training setting; there are batch_size"):
        check_space({"learning_rate": Range(low=0, high=1)})
    with pytest.raises(SoundStormError, match=r"lr runs from 0\.0 to 1\.0"):
        check_space({"lr": Range(low=0.0, high=1.0, is_log=True)})


def test_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="no finished tokens there"):
        run(options(str(tmp_path / "nothing"), str(tmp_path / "out")))
