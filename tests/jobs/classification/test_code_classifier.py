"""`soundstorm train-classifier --model soundstorm` and `evaluate-classifier`: real Ray on short synthetic recordings
and their codes."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs import classify, evaluate_classifier, train_classifier
from jobs.inputs.classifiers import CLASSIFIER_FILE, CODEC_FILE, classifier_files, open_classifier_files
from jobs.inputs.datasets import open_dataset
from jobs.inputs.tokens import CODEC_TRAINED_ON, open_tokens
from jobs.train_classifier import Options, run
from jobs.training.generator_recipe import first_weights, network_for
from soundstorm.audio.files import read_audio, to_pcm16
from soundstorm.audio.synthesis import CLASSES
from soundstorm.classification.cnn import AudioClassifier, save_classifier
from soundstorm.classification.token_classifier import TrainedTokenClassifier
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, save_checkpoint
from soundstorm.model.code_vectors import code_vectors
from soundstorm.model.config import ModelConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.schemas import PREDICTIONS, TOKENS, codes_to_lists
from soundstorm.serialization.provenance import MISSING, Role, TrainedOn, as_parent
from tests.jobs.conftest import trained_on_all_but

EPOCHS, FOLD = 4, 5


@pytest.fixture(scope="module")
def tokens(synthetic_dataset: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `tokenize` would leave of the synthetic dataset, in two views."""
    uri, codec = str(tmp_path_factory.mktemp("tokens")), load_codec(tiny_codec)
    index = open_dataset("synthetic", str(synthetic_dataset))
    clips = index.clips.to_pylist()
    waves = [read_audio(storage.read_bytes(clip["uri"])).waveform for clip in clips]
    rows = []
    for view, shift in enumerate((0, 7_000)):
        for clip, codes_QT in zip(clips, codec.encode_clips([np.roll(wave, shift) for wave in waves]), strict=True):
            rows.append(clip | {"view": view, "num_frames": codes_QT.shape[1], "codes": codes_to_lists(codes_QT)})
    metadata = codec.fingerprint.to_metadata() | {
        "categories": json.dumps(index.categories),
        "num_folds": str(index.num_folds),
    }
    tables.write_table(tables.part_uri(f"{uri}/tokens", 0), pa.Table.from_pylist(rows, TOKENS), metadata)
    tables.write_table(f"{uri}/clips.parquet", index.clips, {})
    records.complete_stage(uri, "tokenize", {}, {CODEC_TRAINED_ON: TrainedOn().to_dict()})
    return uri


@pytest.fixture(scope="module")
def generator(tiny_codec: Path, synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small generator of two of the classes, trained without fold 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SoundStorm(ModelConfig(width=16, depth=1, heads=2, kernel=5, num_classes=2))
    folder, config = tmp_path_factory.mktemp("generator") / "checkpoint", preset("tiny")
    codec = load_codec(tiny_codec).fingerprint
    learned = trained_on_all_but(4, synthetic_dataset, as_parent(Role.CODEC, codec.name, codec.sha256, TrainedOn()))
    info = CheckpointInfo(
        training=config.training,
        categories=CLASSES[:2],
        fingerprint=codec,
        step=1,
        sampler=config.sampler,
        extra={"dataset": "synthetic", "test_fold": 4},
    )
    save_checkpoint(folder, model, info, trained_on=learned)
    return str(folder)


def options(tokens: str, generator: str, codec: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": 10,
        "checkpoint_every": 2,
        "num_workers": 2,
        "device": "cpu",
        "fold": FOLD,
    }
    settings |= {"model": "soundstorm", "checkpoint": generator, "codec": str(codec), "output_dir": str(output)}
    return Options(tokens=tokens, **(settings | changes))


@pytest.fixture(scope="module")
def trained(
    tokens: str, generator: str, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> dict[str, Any]:
    """One run of two workers, from a generator that has seen the test fold; the tests below look at it."""
    return run(options(tokens, generator, tiny_codec, tmp_path_factory.mktemp("classifier-out"), allow_leak=True))


# ---- what a generator for it starts from


def test_a_generator_starts_from_the_vectors_of_the_codec_of_its_tokens(tokens: str, tiny_codec: Path) -> None:
    found, codec = open_tokens(tokens, FOLD), load_codec(tiny_codec)
    network = network_for(ModelConfig(width=32, depth=1, heads=2, kernel=5, num_classes=2), found)
    before = torch.get_rng_state()
    weights, again, other = (first_weights(network, seed, found, None, codec) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state()) and first_weights(network, 3, found, None, None) is None
    assert weights is not None and again is not None and other is not None
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert not torch.equal(weights["code_embedding.weight"], other["code_embedding.weight"])
    rows = network.codebook_size + 1
    apart, embedded = (
        torch.pdist(table[: rows - 1]) for table in (code_vectors(codec), weights["code_embedding.weight"])
    )
    assert torch.corrcoef(torch.stack([apart, embedded]))[0, 1] > 0.6


# ---- train-classifier


def test_the_log_has_every_epoch_once(trained: dict[str, Any]) -> None:
    rows = list(csv.DictReader((Path(trained["output_dir"]) / "log.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4"), ("3", "6"), ("4", "8")]
    assert not (Path(trained["output_dir"]) / "run").exists()


def test_trainings_of_the_same_recordings_share_their_variations(
    tokens: str, generator: str, tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    def cached_after(mode: str) -> dict[Path, int]:
        changes = {
            "mode": mode,
            "allow_leak": True,
            "epochs": 2,
            "num_workers": 1,
            "cache_dir": str(tmp_path / "cache"),
        }
        run(options(tokens, generator, tiny_codec, tmp_path / mode, **changes))
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}

    made = cached_after("scratch")
    assert len(made) == 2, "a file for each epoch"
    assert cached_after("frozen") == made, "the same folder, in which nothing was missing"


def test_a_cache_that_cannot_be_written_to_is_refused_if_it_was_asked_for_and_else_told(
    tokens: str,
    generator: str,
    tiny_codec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_bytes(b"")
    asked = options(tokens, generator, tiny_codec, tmp_path / "out", allow_leak=True, cache_dir=str(tmp_path / "file"))
    with pytest.raises(ClusterError, match="file"):
        run(asked)
    assert not list(tmp_path.glob("out/*")), "nothing was trained"
    monkeypatch.setenv("SOUNDSTORM_CACHE_DIR", str(tmp_path / "file"))
    assert train_classifier.cache_of(options(tokens, generator, tiny_codec, tmp_path / "out")) is None
    assert "note: variations of recordings are not cached" in capsys.readouterr().err


def test_the_classifier_it_leaves_knows_its_codec_and_its_generator(
    trained: dict[str, Any], tiny_codec: Path, generator: str, synthetic_dataset: Path
) -> None:
    files = classifier_files(trained["output_dir"])
    assert files[CODEC_FILE] == tiny_codec.read_bytes()
    assert classifier_files(trained["classifier"]) == files
    classifier = open_classifier_files(files)
    assert isinstance(classifier, TrainedTokenClassifier)
    assert (classifier.categories, classifier.dataset, classifier.held_out_fold) == (list(CLASSES), "synthetic", FOLD)
    assert classifier.accuracy == trained["test"]["accuracy"]
    codec, before, found = classifier.codec.fingerprint, load_checkpoint(Path(generator)), classifier.provenance
    assert (classifier.origin.mode, classifier.origin.generator_sha256) == ("fine-tuned", before.sha256)
    assert isinstance(found, TrainedOn) and found.recordings == trained_on_all_but(FOLD, synthetic_dataset).recordings
    assert found.of_role(Role.CODEC) == as_parent(Role.CODEC, codec.name, codec.sha256, TrainedOn())
    assert found.of_role(Role.GENERATOR) == as_parent(Role.GENERATOR, "started from", before.sha256, before.provenance)
    assert classifier.model.network.depth == 1 and classifier.model.readout.latent_dim == 16


def test_the_predictions_are_those_of_the_classifier_for_the_recordings_of_the_test_fold(
    trained: dict[str, Any], synthetic_dataset: Path
) -> None:
    table, metadata = tables.read_table(f"{trained['output_dir']}/predictions.parquet")
    assert table.schema.names == PREDICTIONS.names
    assert (metadata["dataset"], json.loads(metadata["categories"])) == ("synthetic", list(CLASSES))
    rows = table.to_pylist()
    assert (
        len(rows) == len(CLASSES)
        and {row["fold"] for row in rows} == {FOLD}
        and {row["model"] for row in rows} == {"soundstorm"}
    )
    assert trained["test"]["right"] == sum(row["label"] == row["predicted"] for row in rows)
    assert all((synthetic_dataset / "audio" / f"{row['clip_id']}.wav").exists() for row in rows)


def test_a_leak_that_was_allowed_is_told_wherever_the_accuracy_is(trained: dict[str, Any]) -> None:
    [leak] = trained["leaks"]
    assert "was trained on synthetic without fold 4, and fold 5 of synthetic is the test" in leak
    assert "NOT TO BE TRUSTED" in trained["message"]
    record = records.read(trained["output_dir"], "train_classifier")
    assert record is not None and record.counts["leaks"] == [leak]


def test_a_finished_classifier_is_not_trained_again(
    trained: dict[str, Any], tokens: str, generator: str, tiny_codec: Path
) -> None:
    again = options(tokens, generator, tiny_codec, Path(trained["output_dir"]), allow_leak=True)
    assert "already trained" in run(again)["message"]


def test_a_generator_that_has_seen_the_test_fold_is_refused(
    tokens: str, generator: str, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SoundStormError, match=r"the generator .* was trained on synthetic without fold 4, and fold 5 .* --allow-leak"
    ):
        run(options(tokens, generator, tiny_codec, tmp_path))


def test_a_generator_and_a_teacher_that_do_not_say_what_they_were_trained_on_are_refused(
    tokens: str, generator: str, tiny_codec: Path, tmp_path: Path
) -> None:
    shutil.copytree(generator, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["trained_on"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        SoundStormError,
        match=r"what the generator .*old was trained on is not known: its file does not say it: .* --allow-leak",
    ):
        run(options(tokens, str(tmp_path / "old"), tiny_codec, tmp_path / "out", fold=4))
    save_classifier(
        tmp_path / "teacher.safetensors",
        AudioClassifier(len(CLASSES)),
        categories=CLASSES,
        dataset="synthetic",
        held_out_fold=4,
    )
    with pytest.raises(SoundStormError, match=r"what the teacher .* was trained on is not known") as error:
        run(
            options(
                tokens, generator, tiny_codec, tmp_path / "out", fold=4, teacher=str(tmp_path / "teacher.safetensors")
            )
        )
    assert "the generator" not in str(error.value).split(": train")[0]
    assert load_checkpoint(tmp_path / "old").provenance == MISSING


def test_a_generator_of_another_codec_is_refused(
    tokens: str, checkpoint: str, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SoundStormError,
        match=rf"tokens was made with codec 'tiny' .* but the codec in use is '{load_codec().fingerprint.name}'",
    ):
        run(options(tokens, checkpoint, tiny_codec, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "--tokens is None for --model soundstorm: give the --output-dir of `soundstorm tokenize`"),
        ({"model": "cnn"}, "only --model soundstorm works on tokens; leave it out"),
        (
            {"model": "cnn", "tokens": None, "mode": "frozen"},
            "--mode is frozen: the cnn is always trained from scratch",
        ),
        ({"preset": "theirs"}, "--preset is 'theirs': give ours or published for soundstorm"),
        ({"model": "cnn", "tokens": None, "preset": "published"}, "--preset is 'published': give ours for cnn"),
        ({"model": "ast", "tokens": None, "mode": "codec"}, "--mode is codec: ast does not work on codes"),
        ({"batch_size": 1}, "--batch-size is 1: soundstorm uses batch normalization"),
    ],
)
def test_options_that_do_not_fit_the_model_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=message):
        Options(**({"model": "soundstorm", "tokens": "runs/tokens"} | changes))


# ---- classify


def test_any_files_are_named_by_the_codes_of_the_codec_that_lies_beside_the_classifier(
    trained: dict[str, Any], synthetic_dataset: Path, tmp_path: Path
) -> None:
    files = sorted(map(str, (synthetic_dataset / "audio").glob("*.wav")))[:6]
    options = classify.Options(
        files=tuple(files), checkpoint=trained["output_dir"], output_dir=str(tmp_path / "out"), num_actors=1
    )
    assert classify.run(options)["classified"] == len(files)
    classifier = open_classifier_files(classifier_files(trained["output_dir"]))
    expected = classifier.predict([to_pcm16(read_audio(Path(file)).waveform) for file in files])
    rows = tables.read_table(str(tmp_path / "out" / "classified.parquet"))[0].to_pylist()
    assert [row["uri"] for row in rows] == files
    for row, probability_C in zip(rows, expected, strict=True):
        best = np.argsort(-probability_C, kind="stable")[:3]
        assert row["categories"] == [classifier.categories[label] for label in best]
        np.testing.assert_allclose(row["probabilities"], probability_C[best], atol=1e-4)


# ---- evaluate-classifier


def test_another_test_of_the_same_fold_comes_to_the_same(
    trained: dict[str, Any], synthetic_dataset: Path, tmp_path: Path
) -> None:
    data: dict[str, Any] = {
        "dataset": "synthetic",
        "data_dir": str(synthetic_dataset),
        "checkpoint": trained["output_dir"],
    }
    with pytest.raises(
        SoundStormError,
        match=r"the generator 'started from' of the classifier was trained on synthetic without fold 4, and fold 5",
    ):
        evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), **data))
    told = evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), allow_leak=True, **data))
    assert "NOT TO BE TRUSTED" in told["message"] and told["folds"] == [FOLD]
    mine, others = (
        tables.read_table(f"{folder}/predictions.parquet")[0] for folder in (tmp_path, trained["output_dir"])
    )
    np.testing.assert_allclose(mine["probability"].to_numpy(), others["probability"].to_numpy(), atol=1e-5)
    assert mine.drop(["probability"]).equals(others.drop(["probability"]))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["clips"], summary["right"], summary["unusable"]) == (len(CLASSES), trained["test"]["right"], 0)
    assert summary["classifier"]["kind"] == "soundstorm" and summary["leaks"] == told["leaks"]
    assert (
        [sum(row) for row in summary["confusion"]]
        == [1] * len(CLASSES)
        == [found["clips"] for found in summary["classes"].values()]
    )
    assert (
        "already tested"
        in evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), allow_leak=True, **data))[
            "message"
        ]
    )


def test_without_a_fold_the_one_that_was_held_out_is_tested(
    tiny_classifier: str, synthetic_dataset: Path, ray_session: None, tmp_path: Path
) -> None:
    data: dict[str, Any] = {"dataset": "synthetic", "data_dir": str(synthetic_dataset), "checkpoint": tiny_classifier}
    told = evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), **data))
    assert told["folds"] == [4] and not told["leaks"]
    assert {row["fold"] for row in tables.read_table(f"{tmp_path}/predictions.parquet")[0].to_pylist()} == {4}
    with pytest.raises(
        SoundStormError,
        match=r"the classifier was trained on synthetic without fold 4, and fold 2 of synthetic is the test",
    ):
        evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), fold=2, **data))
    with pytest.raises(SoundStormError, match=r"--fold is 9: .* has clips in fold 1, 2, 3, 4, 5"):
        evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), fold=9, **data))


def test_a_classifier_of_other_categories_is_refused(
    synthetic_dataset: Path, ray_session: None, tmp_path: Path
) -> None:
    with pytest.raises(SoundStormError, match=r"the classifier does not know .* only dog, rooster"):
        data: dict[str, Any] = {"dataset": "synthetic", "data_dir": str(synthetic_dataset)}
        evaluate_classifier.run(evaluate_classifier.Options(output_dir=str(tmp_path), **data))


@pytest.mark.parametrize("name", ["", "none.safetensors", "codec.safetensors"])
def test_a_place_without_a_classifier_is_one_clear_message(name: str, tmp_path: Path, tiny_codec: Path) -> None:
    (tmp_path / "codec.safetensors").write_bytes(tiny_codec.read_bytes())
    with pytest.raises(
        SoundStormError, match="not a classifier" if name.startswith("codec") else "no classifier there"
    ):
        open_classifier_files(classifier_files(str(tmp_path / name)))
    assert set(classifier_files(None)) == {CLASSIFIER_FILE}


def test_the_codec_beside_a_finished_classifier_is_written_again_if_it_was_deleted(
    trained: dict[str, Any], tokens: str, generator: str, tiny_codec: Path
) -> None:
    path = Path(trained["output_dir"]) / "codec.safetensors"
    before = path.read_bytes()
    path.unlink()
    again = options(tokens, generator, tiny_codec, Path(trained["output_dir"]), allow_leak=True)
    assert "already trained" not in run(again)["message"] and path.read_bytes() == before
