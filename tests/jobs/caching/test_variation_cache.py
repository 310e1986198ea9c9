"""Variations that one training made and another finds: the same bits, for the same recordings, codec and teacher
only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import storage
from jobs.caching import variation_cache
from jobs.caching.variation_cache import VariationCache, variations_folder
from soundstorm.audio.augmentation import Variation
from soundstorm.audio.files import to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig
from soundstorm.classification.training import varied as varied_recordings
from soundstorm.classification.training.varied import VariationConfig, VariedRecording, VariedRecordings
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec

CONFIG = VariationConfig(
    augmentation=Variation(speed_octaves=0.3, gain_db=10.0, equalizer_db=3.0), window_s=0.5, mix_share=0.5, seed=0
)
LABELS = [0, 1] * 3


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    torch.set_num_threads(1)
    return load_codec(tiny_codec)


@pytest.fixture(scope="module")
def other_codec() -> Codec:
    return load_codec()


@pytest.fixture(scope="module")
def teacher() -> AudioClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AudioClassifier(2, AudioClassifierConfig(widths=(4, 8), embedding=8)).eval()


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return [
        to_pcm16(synthesize(category, seed, 0.7 + seed / 10, 24_000)) for seed in range(3) for category in CLASSES[:2]
    ]


@pytest.fixture
def opened(codec: Codec, teacher: AudioClassifier, recordings: list[np.ndarray]) -> Callable[..., VariedRecordings]:
    """The varied recordings of a training, with its cache in a folder."""

    def open_in(folder: str | None, **changes: Any) -> VariedRecordings:
        asked: dict[str, Any] = {"recordings": recordings, "labels": LABELS, "num_categories": 2, "codec": codec}
        asked |= {"teacher": teacher, "config": CONFIG, "precision": "fp32"}
        varied = VariedRecordings(**(asked | changes))
        varied.store = None if folder is None else VariationCache(folder)
        return varied

    return open_in


def epochs(varied: VariedRecordings, numbers: range, *, keep: bool = True) -> dict[tuple[int, int], VariedRecording]:
    """All that a training of one worker sees, two recordings a step; by recording and number."""
    found = {}
    for number in numbers:
        for chosen in ([4, 1], [0, 2], [3, 5]):
            found.update(
                {(index, number): each for index, each in zip(chosen, varied(chosen, number, keep=keep), strict=True)}
            )
    varied.save()
    return found


@pytest.fixture
def encoded(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many waveforms each call of the codec has encoded."""
    counts: list[int] = []
    encode = codec.encode_clips

    def counting(waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        counts.append(len(waveforms))
        return encode(waveforms)

    monkeypatch.setattr(codec, "encode_clips", counting)
    return counts


def require_equal(one: dict[tuple[int, int], VariedRecording], other: dict[tuple[int, int], VariedRecording]) -> None:
    assert one.keys() == other.keys()
    for place, made in one.items():
        for name in ("codes_QT", "target_C", "teacher_C"):
            ours, theirs = getattr(made, name), getattr(other[place], name)
            assert (ours is None) == (theirs is None)
            assert ours is None or (ours.dtype == theirs.dtype and np.array_equal(ours, theirs))


def files(folder: str) -> dict[str, bytes]:
    return {entry.uri: storage.read_bytes(entry.uri) for entry in storage.iter_objects(folder)}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("is_taught", [True, False])
def test_a_second_training_sees_the_same_and_encodes_none(
    opened: Callable[..., VariedRecordings],
    teacher: AudioClassifier,
    storage_root: str,
    encoded: list[int],
    is_taught: bool,
    keep: bool,
) -> None:
    taught_by = {"teacher": teacher if is_taught else None}
    alone = epochs(opened(None, **taught_by), range(2), keep=keep)
    require_equal(alone, epochs(opened(storage_root, **taught_by), range(2), keep=keep))
    written = files(storage_root)
    assert len(written) == 2, "a file for each number"
    assert sum(encoded) == 2 * len(alone)
    require_equal(alone, epochs(opened(storage_root, **taught_by), range(2), keep=keep))
    assert sum(encoded) == 2 * len(alone) and files(storage_root) == written


def test_recordings_of_several_lengths_keep_them(opened: Callable[..., VariedRecordings], tmp_path: Path) -> None:
    whole = replace(CONFIG, window_s=None)
    first = epochs(opened(str(tmp_path), config=whole), range(1))
    assert len({made.codes_QT.shape for made in first.values()}) == 3
    require_equal(first, epochs(opened(str(tmp_path), config=whole), range(1)))


@pytest.mark.parametrize("numbers", [range(2), range(1)])
def test_workers_find_what_others_made_when_they_come_to_that_number_again(
    opened: Callable[..., VariedRecordings], encoded: list[int], tmp_path: Path, numbers: range
) -> None:
    folder = str(tmp_path)
    ours, theirs = opened(folder), opened(folder)
    for number in numbers:
        ours([0, 1, 2], number, keep=True)
        theirs([3, 4, 5], number, keep=True)
        ours.save()
        theirs.save()
    written = files(folder)
    assert len(written) == 2 * len(numbers) and sum(encoded) == 6 * len(numbers)
    everything = epochs(ours, numbers)
    assert sum(encoded) == 6 * len(numbers) and files(folder) == written
    require_equal(everything, epochs(opened(None), numbers))


def test_what_does_not_fit_into_memory_is_loaded_again(
    opened: Callable[..., VariedRecordings], encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = epochs(opened(None), range(2))
    monkeypatch.setattr(varied_recordings, "MAX_KEPT_BYTES", 2_000)
    for _ in range(2):
        varied = opened(str(tmp_path))
        for _ in range(2):
            require_equal(alone, epochs(varied, range(2)))
    assert sum(encoded) == 2 * len(alone) and len(files(str(tmp_path))) == 2


def test_a_damaged_file_counts_as_missing(opened: Callable[..., VariedRecordings], tmp_path: Path) -> None:
    first = epochs(opened(str(tmp_path)), range(1))
    [(uri, whole)] = files(str(tmp_path)).items()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        storage.write_bytes(uri, damaged)
        require_equal(first, epochs(opened(str(tmp_path)), range(1)))
        assert files(str(tmp_path)) == {uri: whole}, "made again"


def test_a_file_that_is_deleted_meanwhile_is_missing_alone(
    opened: Callable[..., VariedRecordings], encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = epochs(opened(str(tmp_path)), range(2))
    listed = storage.list_objects(str(tmp_path))
    storage.delete(listed[0].uri)

    def as_before(uri: str, suffix: str = "") -> list[storage.Entry]:
        return [entry for entry in listed if entry.uri.startswith(storage.absolute(uri)) and entry.uri.endswith(suffix)]

    monkeypatch.setattr(storage, "list_objects", as_before)
    require_equal(first, epochs(opened(str(tmp_path)), range(2)))
    assert sum(encoded) == len(first) + len(first) // 2


def test_a_folder_that_cannot_be_written_to_is_read_and_that_is_said(
    opened: Callable[..., VariedRecordings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    varied = opened(str(tmp_path / "file" / "folder"))
    require_equal(epochs(varied, range(2)), epochs(opened(None), range(2)))
    [record] = [record for record in caplog.records if record.name == variation_cache.__name__]
    assert "no longer cached" in record.getMessage() and str(tmp_path / "file") in record.getMessage()


def test_variations_of_other_inputs_are_in_another_folder(
    opened: Callable[..., VariedRecordings],
    recordings: list[np.ndarray],
    other_codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def folder(teacher: bytes | None = b"t0", **changes: Any) -> str:
        return variations_folder("root", opened(None, **changes), teacher, torch.device("cpu"))

    changed = [part.copy() for part in recordings]
    changed[-1][-1] ^= 1
    others = [
        folder(recordings=changed),
        folder(recordings=recordings[::-1]),
        folder(recordings=recordings[:-1], labels=LABELS[:-1]),
        folder(labels=LABELS[::-1]),
        folder(num_categories=3),
        folder(codec=other_codec),
        folder(teacher=b"t1"),
        folder(teacher=None),
        folder(config=replace(CONFIG, seed=1)),
        folder(config=replace(CONFIG, window_s=1.0)),
        folder(config=replace(CONFIG, augmentation=replace(CONFIG.augmentation, gain_db=9.0))),
        folder(precision="bf16"),
    ]
    same = folder()
    assert folder() == same and same not in others and len(set(others)) == len(others)
    monkeypatch.setattr(variation_cache, "code_version", lambda *_: "another")
    assert folder() != same
