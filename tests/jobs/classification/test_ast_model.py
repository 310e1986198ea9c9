"""`soundstorm train-classifier --model ast` on a small network: from a folder of weights to a classifier that is like
any other."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.tables import read_table
from cluster.tables import stage_record as records
from jobs import train_classifier
from jobs.classification import ast_model as train_ast
from jobs.inputs.classifiers import classifier_files, open_classifier_files
from jobs.train_classifier import Options, run
from soundstorm.audio.synthesis import CLASSES
from soundstorm.classification.ast_network import AstClassifier, AstConfig, published_name
from soundstorm.errors import SoundStormError
from soundstorm.serialization.provenance import Role, TrainedOn, as_parent
from tests.jobs.conftest import trained_on_all_but

SMALL = AstConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_length=64)
pytest.importorskip("transformers", reason="the extra 'ast' is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small AST with random weights, as `transformers` saves it, whose config.json says that it was
    trained on nothing."""
    folder = tmp_path_factory.mktemp("ast-weights")
    AstClassifier(2, SMALL).network.save_pretrained(folder)
    say(folder, TrainedOn().to_dict())
    return folder


def say(folder: Path, trained_on: Any) -> None:
    """Write into config.json what the weights were trained on."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"trained_on": trained_on}))


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "model": "ast",
        "epochs": 2,
        "batch_size": 20,
        "device": "cpu",
        "dataset": "synthetic",
        "data_dir": str(dataset),
    }
    return Options(output_dir=str(output), **(settings | changes))


def test_a_frozen_ast_is_trained_from_a_folder_and_leaves_a_classifier_and_its_predictions(
    synthetic_dataset: Path, weights: Path, tmp_path: Path, ray_session: None
) -> None:
    summary = run(options(synthetic_dataset, tmp_path / "out", weights=str(weights), mode="frozen"))
    classifier = open_classifier_files(classifier_files(str(tmp_path / "out")))
    assert (classifier.kind, classifier.categories, classifier.held_out_fold) == ("ast", list(CLASSES), 5)
    assert classifier.accuracy == summary["test"]["accuracy"]
    start = as_parent(
        Role.START,
        f"--weights {weights}",
        sha256((weights / "model.safetensors").read_bytes()).hexdigest(),
        TrainedOn(),
    )
    assert classifier.provenance == trained_on_all_but(5, synthetic_dataset, start)
    rows = read_table(f"{summary['output_dir']}/predictions.parquet")[0].to_pylist()
    assert len(rows) == len(CLASSES) and {row["model"] for row in rows} == {"ast"}
    given = {published_name(name): value for name, value in load_file(weights / "model.safetensors").items()}
    kept = classifier.model.weights()  # type: ignore[attr-defined]
    same = [name for name in given if "layernorm" in name and not name.startswith("classifier.")]
    assert same and all(torch.allclose(kept[name], given[name], atol=1e-3) for name in same)
    assert (
        "already trained"
        in run(options(synthetic_dataset, tmp_path / "out", weights=str(weights), mode="frozen"))["message"]
    )


@pytest.mark.parametrize(
    ("trained_on", "message"),
    [
        (
            None,
            r"what --weights .* was trained on is not known: its file does not say it: state in its config\.json under "
            r"'trained_on'",
        ),
        ({"dataset": "audioset"}, "its entry in the file cannot be read"),
        ("seen", "was trained on synthetic without fold 4, and fold 5 of synthetic is the test"),
    ],
)
def test_weights_that_have_seen_the_test_fold_or_do_not_say_it_are_refused(
    trained_on: Any, message: str, synthetic_dataset: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(weights, tmp_path / "weights")
    say(
        tmp_path / "weights", trained_on_all_but(4, synthetic_dataset).to_dict() if trained_on == "seen" else trained_on
    )
    with pytest.raises(SoundStormError, match=message):
        run(options(synthetic_dataset, tmp_path / "out", weights=str(tmp_path / "weights")))
    assert not (tmp_path / "out").exists()


def test_only_safetensors_are_opened_and_what_is_missing_is_named(
    synthetic_dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    with pytest.raises(SoundStormError, match=r"give a folder with config\.json and model\.safetensors"):
        run(options(synthetic_dataset, tmp_path / "out", weights=str(pickled)))
    (pickled / "config.json").write_bytes((weights / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(
        SoundStormError,
        match=r"there is no model\.safetensors, only pytorch_model\.bin, which would have to be unpickled",
    ):
        run(options(synthetic_dataset, tmp_path / "out", weights=str(pickled)))
    with pytest.raises(SoundStormError, match=r"give a folder with config\.json and model\.safetensors"):
        run(options(synthetic_dataset, tmp_path / "out", weights=str(pickled / "pytorch_model.bin")))
    (pickled / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SoundStormError, match=r"pickled: not weights of this AST"):
        run(options(synthetic_dataset, tmp_path / "out", weights=str(pickled)))
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_downloaded_the_error_says_what_to_give(
    synthetic_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(SoundStormError, match=r"SOUNDSTORM_OFFLINE forbids.*give --weights a folder"):
        run(options(synthetic_dataset, tmp_path / "out"))
    monkeypatch.delenv("SOUNDSTORM_OFFLINE")
    monkeypatch.setattr(train_ast, "HUB_URL", "http://127.0.0.1:9/model.safetensors")  # where nobody answers
    with pytest.raises(SoundStormError, match=r"cannot be downloaded.*Without a network give --weights a folder"):
        run(options(synthetic_dataset, tmp_path / "out"))


def test_the_published_weights_are_read_only_for_a_run_that_is_not_finished(
    synthetic_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bytes:
        raise SoundStormError("the published weights were read")

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("the run began")

    monkeypatch.setattr(train_ast, "_hub_weights", fail)
    monkeypatch.setattr(train_classifier, "connect", refuse)
    finished, unfinished = tmp_path / "finished", tmp_path / "unfinished"
    settings: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(train_classifier, "run_once", lambda stage, *_, **__: settings.append(stage.settings) or {})
        patch.setattr(train_ast, "_hub_weights", lambda: b"")
        patch.setattr(train_ast, "pretrained_ast", lambda *_: None)
        run(options(synthetic_dataset, finished))
    assert settings[0]["weights_sha256"] == train_ast.HUB_SHA256
    test = {"right": 1, "clips": 2, "accuracy": 0.5}
    counts = {"epochs": 2, "recordings": 40, "fold": 5, "seconds": 1.0, "leaks": [], "test": test}
    records.complete_stage(str(finished), "train_classifier", settings[0], counts)
    for name in ("classifier.safetensors", "predictions.parquet"):
        (finished / name).write_bytes(b"")
    assert "already trained" in run(options(synthetic_dataset, finished))["message"]
    for output, overwrite in ((unfinished, False), (finished, True)):
        before = sorted(output.iterdir()) if output.exists() else []
        with pytest.raises(SoundStormError, match="the published weights were read"):
            run(options(synthetic_dataset, output, overwrite=overwrite))
        assert sorted(output.iterdir()) == before
