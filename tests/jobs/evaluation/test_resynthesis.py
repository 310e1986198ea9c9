"""Clips through the codec: once they are encoded, their codes are found again."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from cluster import storage
from jobs.caching import result_cache
from jobs.evaluation.resynthesis import Resynthesizer
from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec


@pytest.fixture
def codec(tiny_codec: Path) -> Codec:
    return load_codec(tiny_codec.read_bytes())


def clips() -> list[np.ndarray]:
    return [to_pcm16(synthesize(name, 3, duration_s, 24_000)) for name, duration_s in (("rain", 0.5), ("drips", 0.3))]


def refuse(*_: Any) -> NoReturn:
    raise AssertionError("encoded again")


def test_clips_are_encoded_once_and_decoded_as_ever(
    storage_root: str, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [
        to_pcm16(waveform[: len(clip)])
        for waveform, clip in zip(
            codec.decode_clips(codec.encode_clips([from_pcm16(clip) for clip in clips()])), clips(), strict=True
        )
    ]
    for folder in (None, storage_root):
        found = Resynthesizer(codec, folder)(clips())
        assert [clip.dtype for clip in found] == [np.int16] * 2
        assert all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))
    assert Resynthesizer(codec, storage_root)([]) == []
    again = Resynthesizer(codec, storage_root)
    with monkeypatch.context() as patch:
        patch.setattr(codec, "encode_clips", lambda waveforms: refuse() if waveforms else [])
        assert all(np.array_equal(one, other) for one, other in zip(again(clips()[::-1]), plain[::-1], strict=True))
        with pytest.raises(AssertionError, match="encoded again"):
            again([clips()[0][1:]])
    [first, _] = storage.iter_objects(storage_root)
    storage.write_bytes(first.uri, b"damaged")
    assert all(np.array_equal(one, other) for one, other in zip(again(clips()), plain, strict=True))
    monkeypatch.setattr(result_cache, "code_version", lambda *_: "another")
    monkeypatch.setattr(codec, "encode_clips", lambda waveforms: refuse() if waveforms else [])
    with pytest.raises(AssertionError, match="encoded again"):
        again(clips())
