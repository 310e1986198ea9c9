"""`soundstorm tune joint`: training and then decoding, on synthetic recordings."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs.inputs.audio_files import load_clip
from jobs.inputs.datasets import open_dataset
from soundstorm.audio.files import from_pcm16
from soundstorm.audio.synthesis import CLASSES
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.model.settings_file import parse_settings
from soundstorm.schemas import TOKENS, codes_to_lists
from tune.joint_study import Options, best_networks, run
from tune.search.trial_journal import TrialResult


@pytest.fixture
def sounds(synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path) -> str:
    """Tokens of two classes of the synthetic dataset, made with the tiny codec."""
    codec = load_codec(tiny_codec)
    clips = [
        row
        for row in open_dataset("synthetic", str(synthetic_dataset)).clips.to_pylist()
        if row["category"] in CLASSES[:2]
    ]
    codes = codec.encode_clips([from_pcm16(load_clip(row["uri"])) for row in clips])
    rows = [
        {name: row[name] for name in ("clip_id", "dataset", "fold", "category")}
        | {
            "label": CLASSES.index(row["category"]),
            "view": 0,
            "num_frames": codes_QT.shape[1],
            "codes": codes_to_lists(codes_QT),
        }
        for row, codes_QT in zip(clips, codes, strict=True)
    ]
    metadata = codec.fingerprint.to_metadata() | {"categories": json.dumps(list(CLASSES[:2])), "num_folds": "5"}
    uri = str(tmp_path / "tokens")
    tables.write_table(tables.part_uri(storage.join(uri, "tokens"), 0), pa.Table.from_pylist(rows, TOKENS), metadata)
    records.complete_stage(uri, "tokenize", {}, {})
    return uri


def test_the_best_networks_of_the_training_go_through_the_decoding(
    sounds: str, synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    (tmp_path / "space.py").write_text(
        "from tune.space import Choice, Range\nSPACE = {'lr': Range(1e-4, 1e-2, is_log=True), 'width': Choice(16, 32)}"
    )
    (tmp_path / "decoding.py").write_text(
        "from tune.space import Range\nSPACE = {'iterations_level_0': Range(1, 4, is_whole=True)}"
    )
    options = Options(
        tokens=sounds,
        output_dir=str(tmp_path / "out"),
        dataset="synthetic",
        data_dir=str(synthetic_dataset),
        codec=str(tiny_codec),
        space=str(tmp_path / "space.py"),
        decoding_space=str(tmp_path / "decoding.py"),
        num_trials=2,
        epochs=1,
        best=2,
        decoding_trials=3,
        curve_iterations=(1,),
        clips_per_class=1,
        duration=1.0,
        max_concurrent=2,
    )
    found = run(options)
    rows: list[dict[str, Any]] = tables.read_table(str(tmp_path / "out" / "trials.parquet"))[0].to_pylist()
    networks = {
        row["trial"] for row in tables.read_table(str(tmp_path / "out" / "training" / "trials.parquet"))[0].to_pylist()
    }
    assert len(rows) == 3 and {row["checkpoint"] for row in rows} <= networks and len(networks) == 2
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["quality"] == found["quality"] and best["trained"]["width"] == best["model"]["width"]
    chosen = parse_settings((tmp_path / "out" / "best.toml").read_bytes(), "best.toml")
    assert chosen.training["lr"] == best["trained"]["lr"]
    assert 1 <= chosen.sampler_over(SamplerSettings()).iterations_per_level(8)[0] <= 4
    assert "already done" in run(options)["message"]
    (tmp_path / "decoding.py").write_text("from tune.space import Range\nSPACE = {'guidance': Range(1.0, 2.0)}")
    with pytest.raises(ClusterError, match="made there with other settings: decoding_space"):
        run(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding_space": "nowhere.py"}, "--decoding-space nowhere.py: there is no such file"),
        ({"data_dir": "nowhere"}, "--data-dir nowhere: there is nothing there"),
        ({"listener": "nowhere", "decoding_space": "candidates.py"}, "nowhere"),
        ({"fold": 9}, "--fold is 9"),
    ],
)
def test_what_the_decoding_is_given_is_looked_at_before_the_training(
    changes: dict[str, Any],
    message: str,
    sounds: str,
    synthetic_dataset: Path,
    tiny_codec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "candidates.py").write_text("from tune.space import Choice\nSPACE = {'candidates': Choice(1, 2)}")
    given: dict[str, Any] = {
        "dataset": "synthetic",
        "data_dir": str(synthetic_dataset),
        "codec": str(tiny_codec),
        "tokens": sounds,
    }
    with pytest.raises((SoundStormError, ClusterError), match=message):
        run(Options(output_dir=str(tmp_path / "out"), **(given | changes)))
    assert not (tmp_path / "out" / "training").exists()


def test_only_trials_that_finished_go_on() -> None:
    def ended(name: str, state: str, loss: float) -> TrialResult:
        return TrialResult(trial=name, point={}, state=state, rows=[{"val_loss": loss}])

    trials = [
        ended("a", "finished", 4.0),
        ended("b", "stopped", 1.0),
        ended("c", "finished", 3.0),
        ended("d", "failed", 2.0),
        ended("e", "finished", 5.0),
    ]
    assert [network.trial for network in best_networks(trials, 2)] == ["c", "a"]
