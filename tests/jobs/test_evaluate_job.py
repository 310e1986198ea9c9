"""`soundstorm evaluate`: the tables, the three columns, the report, and clips that cannot be measured."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import soundfile

from cluster import records, storage, tables
from cluster.errors import ClusterError
from jobs import evaluate
from jobs.measurer import load_clip, resynthesize
from soundstorm.audio import SAMPLE_RATE, encode_audio
from soundstorm.codec import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.metrics import METRIC_NAMES, PAIR_METRIC_NAMES, clip_metrics
from soundstorm.schemas import METRICS, PAIRS, REJECTED, CodecFingerprint, check_schema
from soundstorm.synthetic import CLASSES
from tests.jobs.conftest import NUM_SAMPLES, Command, assert_one_message, evaluate_options, file_times, interrupt, synthetic_clip

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


def test_every_clip_has_a_row_in_its_column_and_all_values_are_finite(evaluated: str) -> None:
    metrics, metadata = tables.read_table(storage.join(evaluated, "metrics.parquet"))
    check_schema(metrics.schema, METRICS, evaluated)
    counts = {row["values"]: row["counts"] for row in pc.value_counts(metrics["source"]).to_pylist()}
    assert counts == {"real": NUM_REAL, "resynthesized": NUM_REAL, "generated": NUM_SAMPLES}
    for name in ("duration_s", *METRIC_NAMES):
        assert np.isfinite(metrics[name].to_numpy()).all()
    assert CodecFingerprint.from_metadata(metadata, evaluated) == load_codec().fingerprint


def test_the_values_are_those_of_the_clips_at_the_one_sample_rate(evaluated: str, synthetic_dataset: Path) -> None:
    metrics, _ = tables.read_table(storage.join(evaluated, "metrics.parquet"))
    rows = {(row["source"], row["clip_id"]): row for row in metrics.to_pylist()}
    clip_id = next(clip_id for source, clip_id in rows if source == "real")
    pcm = load_clip(str(synthetic_dataset / "audio" / f"{clip_id}.wav"))
    assert len(pcm) == SAMPLE_RATE
    [through_codec] = resynthesize(load_codec(), [pcm])
    for source, samples in (("real", pcm), ("resynthesized", through_codec)):
        assert len(samples) == SAMPLE_RATE
        for name, value in clip_metrics(samples, SAMPLE_RATE).items():
            assert rows[source, clip_id][name] == pytest.approx(value, rel=1e-2 if source == "resynthesized" else 1e-9)


def test_every_generated_clip_is_paired_with_a_real_one_of_its_class(evaluated: str, generated: str) -> None:
    pairs, _ = tables.read_table(storage.join(evaluated, "pairs.parquet"))
    check_schema(pairs.schema, PAIRS, evaluated)
    metrics, _ = tables.read_table(storage.join(evaluated, "metrics.parquet"))
    category = {row["clip_id"]: row["category"] for row in metrics.to_pylist()}
    samples, _ = tables.read_table(storage.join(generated, "samples.parquet"))
    assert sorted(pairs["generated_id"].to_pylist()) == sorted(samples["sample_id"].to_pylist())
    assert all(category[row["real_id"]] == category[row["generated_id"]] for row in pairs.to_pylist())
    assert len(set(pairs["real_id"].to_pylist())) == NUM_REAL  # real clips are taken in turn
    for name in PAIR_METRIC_NAMES:
        values = pairs[name].to_numpy()
        assert np.isfinite(values).all() and (values > 0).all()


def test_the_summary_holds_three_columns_overall_and_per_class(evaluated: str) -> None:
    summary = json.loads(storage.read_bytes(storage.join(evaluated, "summary.json")))
    for group in (summary["overall"], *summary["categories"].values()):
        for name in METRIC_NAMES:
            assert all(np.isfinite(group["metrics"][name][source]["mean"]) for source in ("real", "resynthesized", "generated"))
            assert 0 <= group["metrics"][name]["generated"]["ks"] <= 1
    assert summary["categories"].keys() == set(CLASSES)
    assert summary["overall"]["counts"] == {"real": NUM_REAL, "resynthesized": NUM_REAL, "generated": NUM_SAMPLES}
    assert summary["pairs"]["log_spectral_distance"]["n"] == NUM_SAMPLES


# ---- the report


def test_the_report_has_three_players_per_class_with_sound_in_them_and_loads_nothing(evaluated: str) -> None:
    page = Players(storage.read_bytes(storage.join(evaluated, "report.html")).decode())
    assert len(page.audio) == 3 * len(CLASSES)
    assert all(source.startswith("data:") for source in page.loaded)
    for source in page.audio:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert rate == SAMPLE_RATE and len(samples) == SAMPLE_RATE and np.isfinite(samples).all()


def test_the_report_names_classes_fingerprints_and_settings(evaluated: str, generated: str) -> None:
    text = storage.read_bytes(storage.join(evaluated, "report.html")).decode()
    metadata = tables.table_info(storage.join(generated, "samples.parquet")).metadata
    for part in (*CLASSES, load_codec().fingerprint.sha256, metadata["checkpoint_sha256"], generated, "choice_temperature"):
        assert part in text
    assert "val_loss" in text or "validation" in text.lower()


# ---- repeated and interrupted runs


def test_a_second_run_does_nothing_and_other_settings_are_refused(evaluated: str, synthetic_dataset: Path, generated: str) -> None:
    log = str(Path(evaluated).parent / "log.csv")
    before = file_times(evaluated)
    summary = evaluate.run(evaluate_options(str(synthetic_dataset), generated, evaluated, training_log=log))
    assert summary["message"].startswith("already done") and summary["generated"] == NUM_SAMPLES
    with pytest.raises(ClusterError, match=r"clips_per_class: then 2, now 1; real_clips: .*--overwrite"):
        evaluate.run(evaluate_options(str(synthetic_dataset), generated, evaluated, training_log=log, clips_per_class=1))
    with pytest.raises(ClusterError, match=r"examples_per_class: then 1, now 2"):
        evaluate.run(evaluate_options(str(synthetic_dataset), generated, evaluated, training_log=log, examples_per_class=2))
    assert file_times(evaluated) == before


def test_other_samples_at_the_same_place_are_noticed(evaluated: str, synthetic_dataset: Path, generated: str, tmp_path: Path) -> None:
    log = str(Path(evaluated).parent / "log.csv")
    output = str(shutil.copytree(evaluated, tmp_path / "out"))
    manifest = Path(generated, "samples.parquet")
    original = manifest.read_bytes()
    samples, metadata = tables.read_table(str(manifest))
    column = samples.column_names.index("sha256")
    try:
        tables.write_table(str(manifest), samples.set_column(column, samples.schema.field(column), [["0" * 64] * len(samples)]), metadata)
        with pytest.raises(ClusterError, match="generated_clips: then"):
            evaluate.run(evaluate_options(str(synthetic_dataset), generated, output, training_log=log))
    finally:
        manifest.write_bytes(original)


def test_an_interrupted_run_measures_only_the_part_that_is_missing(
    evaluated: str, synthetic_dataset: Path, generated: str, tmp_path: Path, ray_session: None
) -> None:
    log = str(Path(evaluated).parent / "log.csv")
    output = tmp_path / "out"
    shutil.copytree(evaluated, output)
    lost = output / "parts" / "metrics" / "part-00002.parquet"
    content = lost.read_bytes()
    interrupt(str(output), "evaluate")
    for path in (lost, output / "report.html", output / "metrics.parquet"):
        path.unlink()
    before = file_times(str(output / "parts" / "metrics"))
    evaluate.run(evaluate_options(str(synthetic_dataset), generated, str(output), training_log=log, num_actors=1))
    after = file_times(str(output / "parts" / "metrics"))
    assert after.keys() - before.keys() == {"part-00002.parquet"}
    assert {name: after[name] for name in before} == before
    assert lost.read_bytes() == content
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
        (tmp_path / "generated" / f"{number}.flac").write_bytes(encode_audio(synthetic_clip("wind", 0.3, seed=number), 24_000))
    return tmp_path / "real", tmp_path / "generated"


def test_a_clip_that_cannot_be_measured_is_rejected_and_too_many_fail_the_job(
    folders: tuple[Path, Path], tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    real, generated = folders
    output = tmp_path / "out"
    settings = {"codec": str(tiny_codec), "clips_per_class": None, "num_actors": 1}
    with pytest.raises(SoundStormError, match=r"1 of 9 clips cannot be measured \(1 not_audio; .*4\.wav.*--max-rejected 0\.05"):
        evaluate.run(evaluate_options(str(real), str(generated), str(output), **settings))
    assert not any((output / name).exists() for name in ("evaluate.json", "report.html", "metrics.parquet"))
    before = file_times(str(output / "parts"))
    summary = evaluate.run(evaluate_options(str(real), str(generated), str(output), max_rejected=0.2, **settings))
    assert file_times(str(output / "parts")) == before
    assert (summary["real"], summary["generated"], summary["rejected"]) == (5, 3, 1)
    rejected, _ = tables.read_table(str(output / "rejected.parquet"))
    check_schema(rejected.schema, REJECTED, str(output))
    assert [(row["clip_id"], row["stage"], row["reason"]) for row in rejected.to_pylist()] == [("wind/4.wav", "measure", "not_audio")]
    metrics, _ = tables.read_table(str(output / "metrics.parquet"))
    assert len(metrics) == 5 + 5 + 3
    assert "not audio" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--real-audio", "EMPTY", "--generated-audio", "GENERATED"], ["--real-audio", "no audio"]),
        (["--real-audio", "REAL", "--generated-audio", "/nowhere"], ["--generated-audio /nowhere", "no audio"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--fold", "7"], ["--fold is 7", "folds 0"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--training-log", "/nowhere/log.csv"], ["/nowhere/log.csv does not exist"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--clips-per-class", "0"], ["--clips-per-class is 0: give at least 1"]),
        (["--real-audio", "REAL", "--generated-audio", "GENERATED", "--max-rejected", "2"], ["--max-rejected is 2.0"]),
    ],
)
def test_wrong_options_are_one_clear_message(
    arguments: list[str], parts: list[str], folders: tuple[Path, Path], tiny_codec: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"REAL": str(folders[0]), "GENERATED": str(folders[1]), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(argument, argument) for argument in arguments]
    result = command(evaluate, *given, "--codec", str(tiny_codec), "--output-dir", str(tmp_path / "out"))
    assert_one_message(result, *parts)
    assert not (tmp_path / "out" / "evaluate.json").exists()


def test_a_codec_that_the_generated_clips_were_not_made_with_is_refused(
    synthetic_dataset: Path, generated: str, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(SoundStormError, match=load_codec(tiny_codec).fingerprint.sha256[:12]):
        evaluate.run(evaluate_options(str(synthetic_dataset), generated, str(tmp_path / "out"), codec=str(tiny_codec)))
