"""Measurements that are kept: found again by content alone, made again where anything differs or a file is damaged."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

import soundstorm
from cluster import storage, tables
from cluster.storage import retry
from cluster.tables import tar_shards as tars
from jobs.actors.evaluator import EvaluatorActor
from jobs.caching import result_cache
from jobs.caching.result_cache import ResultCache
from jobs.evaluation.measurement_cache import KINDS, BaselineCache, MeasurementCache, wanted_of
from jobs.evaluation.selection import MeasurementRequest
from jobs.inputs.clips import Clip
from soundstorm.audio.files import SAMPLE_RATE, encode_audio
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.schemas import FEATURES, Role, Source
from tests.conftest import free_port

CLIP_SETTINGS = {"max_duration_s": 60.0, "common_band_hz": None}
NETWORKS = {"device": "cpu", "codec": "c0", "classifier": "d1", "model": None}
MEASURED = {
    "metrics": {"duration_s": 1.0, "rms": 0.1 + 0.2},
    "resynthesized": {"duration_s": 1.0, "rms": 1 / 3},
    "features": {
        "flux": np.float64(0.1),
        "codec_embedding": [np.float32([0.1, 1 / 3]), np.float32([2.0, 1e-30])],
        "codes": np.uint16([3, 65535]),
        "predicted": None,
    },
}


def request_of(uri: str, **changes: Any) -> MeasurementRequest:
    clip = Clip(uri.rpartition("/")[2], uri, "rain", 1)
    return replace(
        MeasurementRequest(clip=clip, source=Source.REAL, role=Role.REAL, through_codec=True),
        **changes,
    )


@pytest.fixture
def recording(tmp_path: Path) -> str:
    (tmp_path / "a.wav").write_bytes(b"a recording")
    return str(tmp_path / "a.wav")


def opened(folder: str, **networks: Any) -> MeasurementCache:
    return MeasurementCache(folder, CLIP_SETTINGS, NETWORKS | networks)


def content(cache: MeasurementCache, item: MeasurementRequest) -> str | None:
    return cache.content(item, tars.TarMemberReader())


def kept(folder: str, item: MeasurementRequest) -> MeasurementCache:
    cache = opened(folder)
    cache.keep(item, content(cache, item), MEASURED)
    return cache


def test_what_was_kept_is_found_to_the_bit_by_a_later_run_under_another_name(
    storage_root: str, recording: str, tmp_path: Path
) -> None:
    kept(storage_root, request_of(recording))
    copied = tmp_path / "copy.wav"
    copied.write_bytes(Path(recording).read_bytes())
    later, item = opened(storage_root), request_of(str(copied))
    found = later.find(item, content(later, item))
    assert found is not None and set(found) == set(KINDS)
    assert found["metrics"] == MEASURED["metrics"] and found["resynthesized"] == MEASURED["resynthesized"]
    assert found["features"]["codec_embedding"] == [row.tolist() for row in MEASURED["features"]["codec_embedding"]]
    column = pa.array([found["features"]["codec_embedding"]], FEATURES.field("codec_embedding").type)
    assert np.array_equal(np.float32(column.to_pylist()[0]), np.stack(MEASURED["features"]["codec_embedding"]))
    assert found["features"]["codes"] == [3, 65535] and found["features"]["predicted"] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"another recording"),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.unlink(),
    ],
    ids=["another", "longer", "gone"],
)
def test_another_content_is_not_found(tmp_path: Path, recording: str, change: Callable[[Path], Any]) -> None:
    item, folder = request_of(recording), str(tmp_path / "cache")
    cache = kept(folder, item)
    change(Path(recording))
    assert cache.find(item, content(cache, item)) is None


def test_other_networks_settings_windows_or_measures_are_measured_again(
    tmp_path: Path, recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, item = str(tmp_path / "cache"), request_of(recording)
    cache = kept(folder, item)
    known = content(cache, item)
    only_metrics = request_of(recording, source=Source.GENERATED, role=None)
    for other in (opened(folder, codec="c1"), opened(folder, classifier=None), opened(folder, model=["m", 24000])):
        assert other.find(item, known) is None
        assert other.find(only_metrics, known) == {"metrics": MEASURED["metrics"]}, "no network has a part in these"
    for settings in ({"max_duration_s": 30.0}, {"common_band_hz": 8000.0}):
        assert MeasurementCache(folder, CLIP_SETTINGS | settings, NETWORKS).find(only_metrics, known) is None
    assert cache.find(request_of(recording, through_codec=False), known) is None
    assert cache.find(request_of(f"{recording}#t=0,1"), known) is None
    monkeypatch.setattr(result_cache, "code_version", lambda *_: "another")
    assert cache.find(item, known) is None


def test_baselines_are_found_to_the_bit_unless_they_are_damaged_or_the_measures_differ(
    storage_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = [{"floor": 0.1 + 0.2, "bandwidth": 1 / 3}, {"floor": -1e-300}]
    cache = BaselineCache(storage_root)
    assert cache.find("a") is None
    cache.keep("a", splits)
    assert BaselineCache(storage_root).find("a") == splits and cache.find("b") is None
    [file] = storage.iter_objects(storage_root)
    whole = storage.read_bytes(file.uri)
    for damaged in (whole[:-1], whole.replace(b"0.3", b"0.4"), b""):
        storage.write_bytes(file.uri, damaged)
        assert cache.find("a") is None
    storage.write_bytes(file.uri, whole)
    monkeypatch.setattr(result_cache, "code_version", lambda *_: "another")
    assert cache.find("a") is None
    BaselineCache(None).keep("a", splits)
    assert BaselineCache(None).find("a") is None


def test_a_reference_clip_is_known_by_the_features_that_it_had_as_a_real_one(tmp_path: Path, recording: str) -> None:
    folder = str(tmp_path / "cache")
    cache = kept(folder, request_of(recording))
    reference = request_of(recording, source=None, role=Role.REFERENCE)
    assert wanted_of(reference) == ["features"]
    found = cache.find(reference, content(cache, reference))
    assert found is not None and set(found) == {"features"}


@pytest.mark.parametrize("damage", [b"", b"{}", b"0" * 64 + b"\n{}"], ids=["empty", "headless", "changed"])
def test_a_damaged_or_shortened_file_is_no_measurement_and_is_made_again(
    tmp_path: Path, recording: str, damage: bytes
) -> None:
    folder, item = str(tmp_path / "cache"), request_of(recording)
    cache = kept(folder, item)
    [file] = (tmp_path / "cache" / "features").rglob("*.json")
    whole = file.read_bytes()
    for content_now in (damage, whole[: len(whole) // 2], whole[:-1] + b"]"):
        file.write_bytes(content_now)
        assert cache.find(item, content(cache, item)) is None
        kept(folder, item)
        assert file.read_bytes() == whole


def test_runs_at_once_share_a_folder(tmp_path: Path, recording: str) -> None:
    folder, item = str(tmp_path / "cache"), request_of(recording)
    cache, missed = kept(folder, item), []
    known = content(cache, item)

    def work() -> None:
        for _ in range(50):
            cache.keep(item, known, MEASURED)
            if cache.find(item, known) is None:
                missed.append(item)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missed
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".json"}


def test_a_folder_that_takes_nothing_stops_no_evaluation(tmp_path: Path, recording: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    item, cache = request_of(recording), opened(str(tmp_path / "file" / "cache"))
    known = content(cache, item)
    cache.keep(item, known, MEASURED)
    assert cache.find(item, known) is None


def test_a_figure_that_is_not_finite_is_not_kept(tmp_path: Path, recording: str) -> None:
    item, cache = request_of(recording, role=None), opened(str(tmp_path / "cache"))
    cache.keep(item, content(cache, item), {"metrics": {"rms": float("nan")}, "resynthesized": {"rms": 0.5}})
    assert cache.find(item, content(cache, item)) is None
    assert not (tmp_path / "cache" / "metrics").exists()


def test_without_a_folder_no_file_is_read(tmp_path: Path) -> None:
    item = request_of(str(tmp_path / "absent.wav"))
    cache = MeasurementCache(None, CLIP_SETTINGS, NETWORKS)
    assert content(cache, item) is None and cache.find(item, None) is None


def test_the_version_follows_the_source_of_the_rooms_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("audio", "codec"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "code.py").write_text("1")
    monkeypatch.setattr(soundstorm, "__file__", str(tmp_path / "__init__.py"))
    version = result_cache.code_version.__wrapped__
    before = version("audio", "codec"), version("audio")
    (tmp_path / "codec" / "code.py").write_text("2")
    assert version("audio", "codec") != before[0] and version("audio") == before[1]


def test_an_actor_that_finds_all_clips_writes_the_tables_of_one_that_measured_them(
    tmp_path: Path, tiny_codec: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(encode_audio(synthesize(CLASSES[number], number, 0.5, SAMPLE_RATE), SAMPLE_RATE, "wav"))
        source, role = (None, Role.REFERENCE) if number == 2 else (Source.REAL, Role.REAL)
        items.append(request_of(str(path), source=source, role=role))
    weights = [ray.put((tiny_codec.read_bytes(), None, None))]

    def measured(name: str, cache_dir: str | None) -> list[pa.Table]:
        actor = EvaluatorActor(weights, str(tmp_path / name), "settings", "cpu", cache_dir=cache_dir)
        assert actor.evaluate_shard(("00/part.parquet", items)) == 3
        return [
            tables.read_table(storage.join(str(tmp_path / name), kind, "00", "part.parquet"))[0]
            for kind in ("metrics", "features", "pairs", "rejected")
        ]

    plain = measured("plain", None)
    assert measured("first", str(tmp_path / "cache")) == plain
    monkeypatch.setattr(EvaluatorActor, "_measure", lambda *_: pytest.fail("a clip was measured again"))
    monkeypatch.setattr(
        EvaluatorActor, "_loaded", lambda self, unknown, *_: pytest.fail(f"{unknown}") if unknown else []
    )
    assert measured("second", str(tmp_path / "cache")) == plain


def test_a_folder_that_cannot_be_used_is_left_alone_after_the_first_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    full = ResultCache(str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(retry, "RETRY_BUDGET_S", 0.5)
    monkeypatch.setattr("cluster.storage.s3_objects.RETRY_BUDGET_S", 0.5)
    monkeypatch.setattr(retry, "SHORT_RETRY_BUDGET_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = ResultCache("s3://bucket/cache")
    for _ in range(2):
        full.keep("codes", {}, [1])
        assert away.find("codes", {}) is None
    assert not full.is_on and not away.is_on
    assert len(caplog.messages) == 2 and all("the cache of results is off" in line for line in caplog.messages)


def test_a_result_that_is_not_finite_is_not_kept_but_others_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCache(str(tmp_path))
    cache.keep("codes", {"a": 1}, [float("nan")])
    cache.keep("codes", {"a": 2}, [1.0])
    assert (cache.find("codes", {"a": 1}), cache.find("codes", {"a": 2})) == (None, [1.0])
    assert ["not finite" in line for line in caplog.messages] == [True]
