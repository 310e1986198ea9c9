"""`soundstorm tune decoding`: a real Ray Tune study on a small checkpoint and synthetic recordings."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import storage, tables
from jobs import generate
from soundstorm.audio.synthesis import CLASSES
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CheckpointInfo, save_checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from tune.decoding_study import Options, run

TRIALS, PASSES, SEEDS, CLIPS = 3, (1, 4), 2, 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_codec: Path) -> str:
    """A network with random weights that knows three synthetic classes."""
    folder = tmp_path_factory.mktemp("decoding") / "checkpoint"
    codec = load_codec(tiny_codec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fingerprint = codec.fingerprint
        network = SoundStorm(
            ModelConfig(
                width=16,
                depth=1,
                heads=2,
                num_levels=fingerprint.num_levels,
                codebook_size=fingerprint.codebook_size,
                num_classes=3,
            )
        )
    save_checkpoint(
        folder,
        network,
        CheckpointInfo(
            training=preset("tiny").training,
            categories=list(CLASSES[:3]),
            fingerprint=fingerprint,
            step=0,
            # else a single pass is the same for all seeds
            sampler=SamplerSettings(iterations=2, final_temperature=1.0),
        ),
    )
    return str(folder)


def options(checkpoint: str, sounds: Path, codec: Path, output: str, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "checkpoint": checkpoint,
        "dataset": "synthetic",
        "data_dir": str(sounds),
        "codec": str(codec),
        "output_dir": output,
        "num_trials": TRIALS,
        "curve_iterations": PASSES,
        "curve_seeds": SEEDS,
        "clips_per_class": CLIPS,
        "duration": 1.0,
        "max_concurrent": 2,
    }
    return Options(**(settings | changes))


@pytest.fixture(scope="module")
def study(checkpoint: str, synthetic_dataset: Path, tiny_codec: Path, s3: Any, ray_session: None) -> dict[str, Any]:
    """One study whose output is in object storage; the tests below look at it."""
    return run(options(checkpoint, synthetic_dataset, tiny_codec, storage.join(s3.make_bucket(), "study")))


def test_the_curve_and_the_search_have_a_row_a_trial(study: dict[str, Any]) -> None:
    rows = tables.read_table(storage.join(study["output_dir"], "trials.parquet"))[0].to_pylist()
    curve = [row for row in rows if row["part"] == "curve"]
    assert sorted((row["iterations_level_0"], row["seed"]) for row in curve) == sorted(
        (count, seed) for count in PASSES for seed in range(SEEDS)
    )
    assert len(rows) - len(curve) == TRIALS
    assert all(row["state"] == "finished" and row["seconds_per_clip"] > 0 for row in rows)
    for row in rows:
        assert row["quality"] == pytest.approx(row["ks_mean"] + row["embedding_distance"])
        assert 0 < row["ks_mean"] <= 1 and 0 <= row["embedding_distance"] <= math.sqrt(2)
    by_passes = {count: [row for row in curve if row["iterations_level_0"] == count] for count in PASSES}
    assert all(
        len({row["quality"] for row in found}) == SEEDS for found in by_passes.values()
    )  # another seed, other clips


def test_the_page_says_where_more_iterations_no_longer_help(study: dict[str, Any]) -> None:
    page = storage.read_bytes(storage.join(study["output_dir"], "report.html")).decode()
    assert study["said"] in page and "iterations" in study["said"]
    assert "Pareto-optimal settings" in page


def test_the_best_is_on_the_front_and_generate_takes_it(
    study: dict[str, Any], checkpoint: str, tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    best = json.loads(storage.read_bytes(study["best_config"]))
    entries = [(entry["quality"], entry["seconds_per_clip"]) for entry in best["front"]]
    assert (best["quality"], best["seconds_per_clip"]) in entries
    assert entries == sorted(entries, key=lambda entry: entry[1]) == sorted(entries, key=lambda entry: -entry[0])
    assert best["quality"] <= min(entries)[0] + best["spread"]
    out = str(tmp_path / "samples")
    common: dict[str, Any] = {
        "checkpoint": checkpoint,
        "codec": str(tiny_codec),
        "num_samples": 2,
        "duration": 0.2,
        "num_actors": 1,
    }
    generate.run(generate.Options(config=study["best_config"], output_dir=out, top_p=0.5, **common))
    made = json.loads((tmp_path / "samples" / "generate.json").read_text())["settings"]["sampler"]
    assert made == best["sampler"] | {"top_p": 0.5}  # what the command line says goes first


def test_a_finished_study_is_not_repeated(
    study: dict[str, Any], checkpoint: str, synthetic_dataset: Path, tiny_codec: Path
) -> None:
    assert (
        "already done"
        in run(options(checkpoint, synthetic_dataset, tiny_codec, study["output_dir"], resume=True))["message"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve_iterations": (1, 1)}, "--curve-iterations"),
        ({"curve_iterations": (0, 4)}, "--curve-iterations"),
        ({"num_trials": 0, "curve_iterations": (4,)}, "there is nothing to try"),
        ({"clips_per_class": 0}, "--clips-per-class is 0"),
        ({"duration": 0.0}, "--duration is 0"),
        ({"dataset": "esc51"}, "--dataset is 'esc51'"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        options("c", Path("d"), Path("e"), "out", **changes)


def test_a_fold_that_is_not_there_is_refused(
    checkpoint: str, synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(SoundStormError, match="--fold is 9"):
        run(options(checkpoint, synthetic_dataset, tiny_codec, str(tmp_path), fold=9))
