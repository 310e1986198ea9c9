"""An actor that measures a part: what it reads, and how often."""

from pathlib import Path

import pytest
import ray

from cluster import storage, tables
from cluster.tables import tar_shards as tars
from jobs.actors.evaluator import EvaluatorActor
from jobs.evaluation.selection import MeasurementRequest
from jobs.inputs.clips import Clip
from soundstorm.audio.files import SAMPLE_RATE, encode_audio
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.schemas import Source


def test_an_archive_of_real_clips_is_read_once_for_all_that_are_compared_with_them(
    tmp_path: Path, tiny_codec: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, opened = str(tmp_path / "real.tar"), []
    sounds = {
        f"{number}.wav": encode_audio(synthesize(CLASSES[0], number, 0.3, SAMPLE_RATE), SAMPLE_RATE, "wav")
        for number in range(5)
    }
    storage.write_bytes(archive, tars.write_tar([(name, sounds[name]) for name in ("0.wav", "1.wav")]))
    real = [Clip(name, tars.member_uri(archive, name), "a", 0) for name in ("0.wav", "1.wav")]
    items = []
    for number in range(2, 5):
        storage.write_bytes(tmp_path / f"{number}.wav", sounds[f"{number}.wav"])
        clip = Clip(f"{number}", str(tmp_path / f"{number}.wav"), "a", 0)
        items.append(MeasurementRequest(clip=clip, source=Source.GENERATED, partner=real[number % 2]))
    unpack = tars._unpacked
    monkeypatch.setattr(tars, "_unpacked", lambda uri: opened.append(uri) or unpack(uri))
    measurer = EvaluatorActor(
        [ray.put((tiny_codec.read_bytes(), None, None))], str(tmp_path / "parts"), "settings", "cpu"
    )
    assert measurer.evaluate_shard(("00/part.parquet", items)) == 3
    pairs = tables.read_table(str(tmp_path / "parts" / "pairs" / "00" / "part.parquet"))[0].to_pylist()
    assert [(row["real_id"], row["generated_id"]) for row in pairs] == [("0.wav", "2"), ("1.wav", "3"), ("0.wav", "4")]
    assert opened == [archive]
