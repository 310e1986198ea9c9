"""`soundstorm evaluate`: the tables, the three columns, the report, and clips that cannot be measured."""

import base64
import io
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import soundfile

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs import evaluate
from jobs.evaluation.resynthesis import Resynthesizer
from jobs.inputs.audio_files import load_clip
from soundstorm.audio.files import SAMPLE_RATE, encode_audio, from_pcm16
from soundstorm.audio.synthesis import CLASSES
from soundstorm.classification.cnn import load_classifier, save_classifier
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.evaluation.embeddings import CodecEmbedder
from soundstorm.evaluation.metric_info import MEASURES, METRIC_NAMES, PAIR_METRIC_NAMES
from soundstorm.evaluation.temporal import spectral_flux
from soundstorm.schemas import FEATURES, METRICS, PAIRS, REJECTED, SUBSTITUTION, UTILITY, CodecFingerprint, check_schema
from tests.jobs.conftest import (
    NUM_SAMPLES,
    Command,
    Evaluated,
    assert_one_message,
    evaluate_options,
    file_times,
    interrupt,
    synthetic_clip,
)

NUM_REAL = 2 * len(CLASSES)


class Players(HTMLParser):
    """The addresses of all players of a page, and of everything that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.audio: list[str] = []
        self.loaded: list[str] = []
        self._in_audio = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        source = values.get("src") or (values.get("href") if tag == "link" else None)
        self._in_audio = tag == "audio" or (self._in_audio and tag == "source")
        if source:
            self.loaded.append(source)
            if self._in_audio:
                self.audio.append(source)


# ---- tables


def test_every_clip_has_a_row_in_its_column_and_all_values_are_finite(evaluated: Evaluated) -> None:
    metrics, metadata = tables.read_table(storage.join(evaluated.output, "metrics.parquet"))
    check_schema(metrics.schema, METRICS, evaluated.output)
    counts = {row["values"]: row["counts"] for row in pc.value_counts(metrics["source"]).to_pylist()}
    assert counts == {"real": NUM_REAL, "resynthesized": NUM_REAL, "generated": NUM_SAMPLES}
    for name in ("duration_s", *METRIC_NAMES):
        assert np.isfinite(metrics[name].to_numpy()).all()
    assert CodecFingerprint.from_metadata(metadata, evaluated.output) == load_codec().fingerprint


def test_the_values_are_those_of_the_clips_at_the_one_sample_rate(
    evaluated: Evaluated, synthetic_dataset: Path
) -> None:
    metrics, _ = tables.read_table(storage.join(evaluated.output, "metrics.parquet"))
    rows = {(row["source"], row["clip_id"]): row for row in metrics.to_pylist()}
    clip_id = next(clip_id for source, clip_id in rows if source == "real")
    pcm = load_clip(str(synthetic_dataset / "audio" / f"{clip_id}.wav"))
    assert len(pcm) == SAMPLE_RATE
    [through_codec] = Resynthesizer(load_codec())([pcm])
    for source, samples in (("real", pcm), ("resynthesized", through_codec)):
        assert len(samples) == SAMPLE_RATE
        for name, value in clip_metrics(samples, SAMPLE_RATE).items():
            assert rows[source, clip_id][name] == pytest.approx(value, rel=1e-2 if source == "resynthesized" else 1e-9)


def test_every_generated_clip_is_paired_with_a_real_one_of_its_class(evaluated: Evaluated, generated: str) -> None:
    pairs, _ = tables.read_table(storage.join(evaluated.output, "pairs.parquet"))
    check_schema(pairs.schema, PAIRS, evaluated.output)
    metrics, _ = tables.read_table(storage.join(evaluated.output, "metrics.parquet"))
    category = {row["clip_id"]: row["category"] for row in metrics.to_pylist()}
    samples, _ = tables.read_table(storage.join(generated, "samples.parquet"))
    assert sorted(pairs["generated_id"].to_pylist()) == sorted(samples["sample_id"].to_pylist())
    assert all(category[row["real_id"]] == category[row["generated_id"]] for row in pairs.to_pylist())
    assert len(set(pairs["real_id"].to_pylist())) == NUM_REAL  # real clips are taken in turn
    for name in PAIR_METRIC_NAMES:
        values = pairs[name].to_numpy()
        assert np.isfinite(values).all() and (values > 0).all()


def test_the_summary_holds_three_columns_overall_and_per_class(evaluated: Evaluated) -> None:
    summary = json.loads(storage.read_bytes(storage.join(evaluated.output, "summary.json")))
    for group in (summary["overall"], *summary["categories"].values()):
        for name in METRIC_NAMES:
            assert all(
                np.isfinite(group["metrics"][name][source]["mean"]) for source in ("real", "resynthesized", "generated")
            )
            assert 0 <= group["metrics"][name]["generated"]["ks"] <= 1
    assert summary["categories"].keys() == set(CLASSES)
    assert summary["overall"]["counts"] == {"real": NUM_REAL, "resynthesized": NUM_REAL, "generated": NUM_SAMPLES}
    assert summary["pairs"]["log_spectral_distance"]["n"] == NUM_SAMPLES


# ---- closeness


def test_every_clip_has_features_and_so_have_the_other_clips_of_the_dataset(evaluated: Evaluated) -> None:
    features, metadata = tables.read_table(storage.join(evaluated.output, "features.parquet"))
    check_schema(features.schema, FEATURES, evaluated.output)
    counts = {row["values"]: row["counts"] for row in pc.value_counts(features["role"]).to_pylist()}
    assert counts == {"real": NUM_REAL, "generated": NUM_SAMPLES, "reference": 5 * len(CLASSES) - NUM_REAL}
    assert CodecFingerprint.from_metadata(metadata, evaluated.output) == load_codec().fingerprint
    for row in features.to_pylist():
        assert np.isfinite([row["flux"], row["modulation"], row["probability"], *row["classifier_embedding"]]).all()
        assert row["modulation"] == pytest.approx(sum(row["modulation_bands"]))
        assert np.shape(row["codec_embedding"]) == (1, 160) and len(row["codes"]) == np.ceil(load_codec().frame_rate)
        assert row["predicted"] in CLASSES
        assert (row["fold"] == 0) == (row["role"] == "generated")


def test_the_features_are_those_of_the_clip_and_its_codes_those_after_the_codec(
    evaluated: Evaluated, synthetic_dataset: Path
) -> None:
    features, _ = tables.read_table(storage.join(evaluated.output, "features.parquet"))
    row = next(row for row in features.to_pylist() if row["role"] == "reference")
    pcm = load_clip(str(synthetic_dataset / "audio" / f"{row['clip_id']}.wav"))
    assert row["flux"] == pytest.approx(spectral_flux(pcm, SAMPLE_RATE))
    codec = load_codec()
    [through_codec] = Resynthesizer(codec)([pcm])
    [codes_QT] = codec.encode_clips([from_pcm16(through_codec)])
    assert np.mean(codes_QT[0] == np.array(row["codes"])) > 0.9
    [embedding_WD] = CodecEmbedder(codec).embed([pcm])
    np.testing.assert_allclose(row["codec_embedding"], embedding_WD, rtol=1e-2, atol=1e-2)


def test_the_summary_says_how_close_the_sound_is_beside_real_sound(evaluated: Evaluated) -> None:
    summary = json.loads(storage.read_bytes(storage.join(evaluated.output, "summary.json")))["closeness"]
    assert [measure["name"] for measure in summary["measures"]] == [measure.name for measure in MEASURES]
    assert summary["counts"] == {
        "real": NUM_REAL,
        "generated": NUM_SAMPLES,
        "training": 4 * len(CLASSES),
        "held_out": len(CLASSES),
    }
    assert summary["held_out_fold"] == 5
    for measure in summary["measures"]:
        assert measure["generated"] is not None and measure["floor"] is not None
        assert (measure["ratio"] is None) == (measure["reason"] is not None) == (measure["met"] is None)
    assert len(summary["confusion"]["generated"]) == len(CLASSES)
    seen = "The classifier was trained on the held-out fold 5 too, or may have been (synthetic without fold 4)"
    assert any(warning.startswith(seen) for warning in summary["warnings"])


def test_acoustic_metrics_alone_look_at_no_other_clip(
    two_classes: Path, generated_of_two: str, tmp_path: Path, ray_session: None
) -> None:
    output = tmp_path / "out"
    evaluate.run(
        evaluate_options(str(two_classes), generated_of_two, str(output), metrics="acoustic", clips_per_class=1)
    )
    assert json.loads((output / "summary.json").read_text())["closeness"] is None
    assert not (output / "features.parquet").exists()
    features = list((output / "parts" / "features").glob("*/part-*.parquet"))
    assert features and all(tables.table_info(str(part)).num_rows == 0 for part in features)
    assert 'id="closeness"' not in (output / "report.html").read_text()


# ---- the report


def test_a_table_says_where_a_generator_loses(
    two_classes: Path, generated_of_two: str, checkpoint: str, tiny_classifier: str, tmp_path: Path
) -> None:
    chosen = {"substitution": checkpoint, "substitution_clips": 3, "clips_per_class": 1, "classifier": tiny_classifier}
    options = evaluate_options(str(two_classes), generated_of_two, str(tmp_path / "out"), **chosen)
    evaluate.run(options)
    table, _ = tables.read_table(storage.join(options.output_dir, "substitution.parquet"))
    check_schema(table.schema, SUBSTITUTION, "substitution")
    rows = {(row["kept"], row["rest"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == 2 + 2 + 4 * 3  # recordings, codec; none true; 1, 2, 4 and 8 levels true
    assert rows[32, "recording"]["log_mel"] == 0 < rows[32, "codec"]["log_mel"] < rows[8, "left out"]["log_mel"]
    assert {row["clips"] for row in rows.values()} == {2}
    assert all(0 <= row["named"] <= 1 for row in rows.values())
    page = storage.read_bytes(storage.join(options.output_dir, "report.html")).decode()
    assert "Where the generator loses" in page and "left out" in page


def test_a_table_says_what_the_generated_clips_are_worth_as_training_data(
    two_classes: Path, generated_of_two: str, tiny_classifier: str, tmp_path: Path
) -> None:
    chosen: dict[str, Any] = {"utility": True, "utility_clips": (2,), "utility_seeds": 1, "utility_steps": 2}
    chosen |= {"clips_per_class": 1, "classifier": tiny_classifier}
    options = evaluate_options(str(two_classes), generated_of_two, str(tmp_path / "out"), **chosen)
    evaluate.run(options)
    table, _ = tables.read_table(storage.join(options.output_dir, "utility.parquet"))
    check_schema(table.schema, UTILITY, "utility")
    found = {(row["training_set"], row["clips_per_class"]): row["training_clips"] for row in table.to_pylist()}
    classes = 2
    assert found == {
        ("generated", 2): 2 * classes,
        ("recordings", 2): 2 * classes,
        ("recordings and generated", 2): 4 * classes,
    }
    assert {row["test_clips"] for row in table.to_pylist()} == {classes}
    summary = json.loads(storage.read_bytes(storage.join(options.output_dir, "summary.json")))
    assert [line["training_set"] for line in summary["utility"]] == [name for name, _ in found]
    page = storage.read_bytes(storage.join(options.output_dir, "report.html")).decode()
    assert "Worth as training data" in page and "Generated clips alone reach" in page


def test_without_folds_to_test_on_there_is_no_such_table(generated: str, tmp_path: Path) -> None:
    options = evaluate_options(generated, generated, str(tmp_path / "out"), utility=True)
    with pytest.raises(SoundStormError, match="--utility needs a fold to test on"):
        evaluate.run(options)


def test_a_generator_of_another_codec_has_no_table(
    synthetic_dataset: Path, generated: str, checkpoint: str, tiny_codec: Path, tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    shutil.copy(next((synthetic_dataset / "audio").iterdir()), recordings)
    options = evaluate_options(
        str(synthetic_dataset), str(recordings), str(tmp_path / "out"), codec=str(tiny_codec), substitution=checkpoint
    )
    with pytest.raises(
        SoundStormError, match=r"--substitution .* its codec .* is not the codec of the evaluation.* with --codec"
    ):
        evaluate.run(options)


def test_the_report_has_three_players_per_class_with_sound_in_them_and_loads_nothing(evaluated: Evaluated) -> None:
    page = Players(storage.read_bytes(storage.join(evaluated.output, "report.html")).decode())
    assert len(page.audio) == 3 * len(CLASSES)
    assert all(source.startswith("data:") for source in page.loaded)
    for source in page.audio:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert rate == SAMPLE_RATE and len(samples) == SAMPLE_RATE and np.isfinite(samples).all()


def test_the_report_names_classes_fingerprints_and_settings(evaluated: Evaluated, generated: str) -> None:
    text = storage.read_bytes(storage.join(evaluated.output, "report.html")).decode()
    metadata = tables.table_info(storage.join(generated, "samples.parquet")).metadata
    for part in (
        *CLASSES,
        load_codec().fingerprint.sha256,
        metadata["checkpoint_sha256"],
        generated,
        "choice_temperature",
    ):
        assert part in text
    for part in ('id="closeness"', "Spectral flux", "Class agreement", "trained on the held-out fold 5 too"):
        assert part in text
    assert "val_loss" in text or "validation" in text.lower()


# ---- repeated and interrupted runs


@pytest.fixture(scope="module")
def few(
    two_classes: Path, generated_of_two: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> Evaluated:
    """A comparison of two classes."""
    output = str(tmp_path_factory.mktemp("few") / "out")
    options = evaluate_options(
        str(two_classes), generated_of_two, output, classifier=tiny_classifier, num_actors=2, shard_size=4
    )
    evaluate.run(options)
    return Evaluated(output, options)


def test_a_report_that_was_deleted_is_written_again_from_what_was_measured(few: Evaluated) -> None:
    uri = storage.join(few.output, "report.html")
    storage.delete(uri)
    before = {name: time for name, time in file_times(few.output).items() if name.startswith("parts/")}
    assert not evaluate.run(few.again)["message"].startswith("already done")
    assert storage.exists(uri)
    assert before and {name: file_times(few.output)[name] for name in before} == before


def test_a_second_run_does_nothing_and_other_settings_are_refused(
    evaluated: Evaluated, tiny_classifier: str, tmp_path: Path
) -> None:
    before = file_times(evaluated.output)
    summary = evaluate.run(evaluated.again)
    assert summary["message"].startswith("already done") and summary["generated"] == NUM_SAMPLES
    other = tmp_path / "other.safetensors"
    model = load_classifier(Path(tiny_classifier)).model
    save_classifier(other, model, categories=CLASSES, dataset="another")
    for changes, message in (
        ({"clips_per_class": 1}, r"clips_per_class: then 2, now 1; real_clips: .*--overwrite"),
        ({"examples_per_class": 2}, r"examples_per_class: then 1, now 2"),
        ({"held_out_fold": 3}, r"held_out_fold: then 5, now 3"),
        ({"classifier": str(other)}, r"classifier_sha256: then \""),
    ):
        with pytest.raises(ClusterError, match=message):
            evaluate.run(replace(evaluated.again, **changes))
    assert file_times(evaluated.output) == before


def test_unfinished_output_of_an_earlier_kind_is_refused(evaluated: Evaluated, tmp_path: Path) -> None:
    output = str(shutil.copytree(evaluated.output, tmp_path / "out"))
    interrupt(output, "evaluate")
    started = json.loads(storage.read_bytes(storage.join(output, "evaluate.started.json")))
    old = {"tables", "classifier_sha256", "held_out_fold", "reference_clips", "clips_per_class_with_features"}
    started["settings"] = {name: value for name, value in started["settings"].items() if name not in old}
    for metrics in ("all", "acoustic"):
        started["settings"]["metrics"] = metrics
        storage.write_bytes(storage.join(output, "evaluate.started.json"), json.dumps(started).encode())
        changes = {} if metrics == "all" else {"classifier": None}
        with pytest.raises(ClusterError, match=r"was started there with other settings: .*tables: then not set"):
            evaluate.run(replace(evaluated.again, output_dir=output, metrics=metrics, **changes))


def test_other_samples_at_the_same_place_are_noticed(evaluated: Evaluated, generated: str, tmp_path: Path) -> None:
    output = str(shutil.copytree(evaluated.output, tmp_path / "out"))
    manifest = Path(generated, "samples.parquet")
    original = manifest.read_bytes()
    samples, metadata = tables.read_table(str(manifest))
    column = samples.column_names.index("sha256")
    try:
        tables.write_table(
            str(manifest),
            samples.set_column(column, samples.schema.field(column), [["0" * 64] * len(samples)]),
            metadata,
        )
        with pytest.raises(ClusterError, match="generated_clips: then"):
            evaluate.run(replace(evaluated.again, output_dir=output))
    finally:
        manifest.write_bytes(original)


def test_an_interrupted_run_measures_only_the_part_that_is_missing(
    few: Evaluated, tmp_path: Path, ray_session: None
) -> None:
    output = tmp_path / "out"
    shutil.copytree(few.output, output)
    lost = [output / "parts" / name / "02" / "part-0000002.parquet" for name in ("metrics", "features")]
    content = [path.read_bytes() for path in lost]
    summary = (output / "summary.json").read_bytes()
    interrupt(str(output), "evaluate")
    for path in (*lost, output / "report.html", output / "metrics.parquet", output / "summary.json"):
        path.unlink()
    before = file_times(str(output / "parts" / "metrics"))
    evaluate.run(replace(few.again, output_dir=str(output), num_actors=1))
    after = file_times(str(output / "parts" / "metrics"))
    assert after.keys() - before.keys() == {"02/part-0000002.parquet"}
    assert {name: after[name] for name in before} == before
    assert [path.read_bytes() for path in lost] == content
    assert (output / "summary.json").read_bytes() == summary
    assert (output / "report.html").exists() and records.read(str(output), "evaluate") is not None


# ---- clips that cannot be measured


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two plain folders of audio: six real clips, one of them broken, and three generated ones."""
    for number in range(6):
        path = tmp_path / "real" / ("rain" if number % 2 else "wind") / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_audio(synthetic_clip("rain", 0.3, seed=number), 24_000, "wav"))
    (tmp_path / "real" / "wind" / "4.wav").write_text("no sound at all")
    (tmp_path / "generated").mkdir()
    for number in range(3):
        (tmp_path / "generated" / f"{number}.flac").write_bytes(
            encode_audio(synthetic_clip("wind", 0.3, seed=number), 24_000)
        )
    return tmp_path / "real", tmp_path / "generated"


def test_a_clip_that_cannot_be_measured_is_rejected_and_too_many_fail_the_job(
    folders: tuple[Path, Path], tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    real, generated = folders
    output = tmp_path / "out"
    settings = {"codec": str(tiny_codec), "clips_per_class": None, "num_actors": 1}
    with pytest.raises(
        SoundStormError, match=r"1 of 9 clips cannot be measured \(1 not_audio; .*4\.wav.*--max-rejected 0\.05"
    ):
        evaluate.run(evaluate_options(str(real), str(generated), str(output), **settings))
    assert not any((output / name).exists() for name in ("evaluate.json", "report.html", "metrics.parquet"))
    before = file_times(str(output / "parts"))
    summary = evaluate.run(evaluate_options(str(real), str(generated), str(output), max_rejected=0.2, **settings))
    assert file_times(str(output / "parts")) == before
    assert (summary["real"], summary["generated"], summary["rejected"]) == (5, 3, 1)
    rejected, _ = tables.read_table(str(output / "rejected.parquet"))
    check_schema(rejected.schema, REJECTED, str(output))
    assert [(row["clip_id"], row["stage"], row["reason"]) for row in rejected.to_pylist()] == [
        ("wind/4.wav", "measure", "not_audio")
    ]
    metrics, _ = tables.read_table(str(output / "metrics.parquet"))
    assert len(metrics) == 5 + 5 + 3
    measures = {row["name"]: row for row in json.loads((output / "summary.json").read_text())["closeness"]["measures"]}
    assert measures["copying"]["generated"] is None and "not a dataset with folds" in measures["copying"]["reason"]
    assert measures["flux"]["ratio"] > 0
    assert "not audio" in (output / "report.html").read_text()


@pytest.fixture
def copies(two_classes: Path, tmp_path: Path) -> Path:
    """A folder a class, each with one recording of fold 1, as somebody else's generator may have made them."""
    for path in sorted((two_classes / "audio").glob("1-*-[01].wav")):
        category = CLASSES[int(path.stem.rpartition("-")[2])]
        (tmp_path / "copies" / category).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "copies" / category / path.name)
    return tmp_path / "copies"


def test_copies_of_recordings_are_found_out_and_named(
    two_classes: Path, copies: Path, tiny_classifier: str, tmp_path: Path, ray_session: None
) -> None:
    names = {str(path.relative_to(copies)) for path in copies.rglob("*.wav")}
    output = tmp_path / "out"
    evaluate.run(evaluate_options(str(two_classes), str(copies), str(output), classifier=tiny_classifier, codec=None))
    found = json.loads((output / "summary.json").read_text())["closeness"]
    copying = next(measure for measure in found["measures"] if measure["name"] == "copying")
    assert copying["generated"] > 0.95 and copying["floor"] < 0.5 and copying["met"] is False
    assert {copy["clip_id"] for copy in found["copies"]} == names
    assert "2 of 2 generated clips repeat a training clip" in (output / "report.html").read_text()


def test_other_fold_held_out_makes_no_copies_of_what_was_not_trained_on(
    two_classes: Path, copies: Path, tiny_classifier: str, tmp_path: Path, ray_session: None
) -> None:
    output = tmp_path / "out"
    evaluate.run(
        evaluate_options(
            str(two_classes), str(copies), str(output), classifier=tiny_classifier, codec=None, held_out_fold=1
        )
    )
    found = json.loads((output / "summary.json").read_text())["closeness"]
    assert found["held_out_fold"] == 1 and found["copies"] == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--real-audio", "EMPTY", "--generated-audio", "GENERATED"], ["--real-audio", "no audio"]),
        (["--real-audio", "REAL", "--generated-audio", "/nowhere"], ["--generated-audio /nowhere", "no audio"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--fold", "7"], ["--fold is 7", "folds 0"]),
        (["--real-audio", "OVER", "--generated-audio", "GENERATED"], ["--output-dir", "is inside --real-audio"]),
        (["--real-audio", "REAL", "--generated-audio", "OVER"], ["--output-dir", "is inside --generated-audio"]),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--training-log", "/nowhere/log.csv"],
            ["/nowhere/log.csv does not exist"],
        ),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--clips-per-class", "0"],
            ["--clips-per-class is 0: give at least 1"],
        ),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--max-rejected", "2"], ["--max-rejected is 2.0"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--seed", "-1"], ["--seed is -1"]),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--held-out-fold", "3"],
            ["--held-out-fold is 3: ", "has fold 0"],
        ),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--held-out-fold", "0"],
            ["--held-out-fold is 0: give at least 1"],
        ),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--classifier", "NOISE"],
            ["--classifier", "not a classifier"],
        ),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--classifier", "/nowhere"],
            ["/nowhere does not exist"],
        ),
        (
            ["--real-audio", "REAL", "--generated-audio", "GENERATED", "--metrics", "acoustic", "--held-out-fold", "3"],
            ["--held-out-fold is 3: it needs --metrics all"],
        ),
    ],
)
def test_wrong_options_are_one_clear_message(
    arguments: list[str],
    parts: list[str],
    folders: tuple[Path, Path],
    tiny_codec: Path,
    tmp_path: Path,
    command: Command,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "REAL": str(folders[0]),
        "GENERATED": str(folders[1]),
        "EMPTY": str(tmp_path / "empty"),
        "OVER": str(tmp_path),
        "NOISE": str(folders[0] / "wind" / "4.wav"),
    }
    given = [places.get(argument, argument) for argument in arguments]
    result = command(evaluate, *given, "--codec", str(tiny_codec), "--output-dir", str(tmp_path / "out"))
    assert_one_message(result, *parts)
    assert not (tmp_path / "out" / "evaluate.json").exists()


def test_a_codec_that_the_generated_clips_were_not_made_with_is_refused(
    synthetic_dataset: Path, generated: str, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(SoundStormError, match=load_codec(tiny_codec).fingerprint.sha256[:12]):
        evaluate.run(evaluate_options(str(synthetic_dataset), generated, str(tmp_path / "out"), codec=str(tiny_codec)))
