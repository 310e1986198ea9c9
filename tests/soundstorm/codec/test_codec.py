"""The codec's contract: shapes, independence of batch mates, silence, and weights that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encodec import EncodecModel
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.codec.quality import log_mel_distance
from soundstorm.errors import SoundStormError


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.set_num_threads(1)
    return load_codec()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [
        synthesize(category, seed=1, duration_s=1.0 + 0.5 * (number % 2), sample_rate=24_000)
        for number, category in enumerate(CLASSES)
    ]


def test_a_clip_of_five_seconds_has_the_levels_and_the_rate_of_the_fingerprint(codec: Codec) -> None:
    codes = codec.encode_clips([np.zeros(5 * 24_000, dtype=np.float32)])[0]
    assert codes.shape == (codec.fingerprint.num_levels, np.ceil(5 * codec.frame_rate))
    assert codes.dtype == np.uint16


@pytest.mark.parametrize(("hops", "more", "frames"), [(0, 1, 1), (1, 0, 1), (1, 1, 2), (3, 240, 4), (75, 0, 75)])
def test_frames_are_the_samples_divided_by_the_hop_rounded_up(codec: Codec, hops: int, more: int, frames: int) -> None:
    samples = hops * codec.hop + more
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, samples).astype(np.float32)
    codes = codec.encode_clips([waveform])[0]
    assert codes.shape[1] == frames
    assert codec.decode_clips([codes])[0].shape == (frames * codec.hop,)


def test_codes_do_not_depend_on_the_clips_beside_them(codec: Codec, clips: list[np.ndarray]) -> None:
    together = codec.encode_clips(clips)
    for clip, codes in zip(clips, together, strict=True):
        np.testing.assert_array_equal(codes, codec.encode_clips([clip])[0])


def test_decoding_does_not_depend_on_the_clips_beside_it(codec: Codec, clips: list[np.ndarray]) -> None:
    codes = codec.encode_clips(clips)
    for one, other in zip(codec.decode_clips(codes), [codec.decode_clips([c])[0] for c in codes], strict=True):
        np.testing.assert_array_equal(one, other)


def test_digital_silence_comes_back_as_exact_zeros_in_16_bits(codec: Codec, clips: list[np.ndarray]) -> None:
    silence = np.zeros(24_000, dtype=np.float32)
    clip = np.concatenate([clips[0][:24_000], silence])
    decoded = codec.decode_clips(codec.encode_clips([clip]))[0]
    quiet = np.round(decoded[24_000 + 2_400 : -1_600] * 32_768)
    assert np.abs(quiet).max() == 0


def test_the_level_of_a_clip_survives_the_codec(codec: Codec, clips: list[np.ndarray]) -> None:
    decoded = codec.decode_clips(codec.encode_clips(clips))
    ratios_db = [20 * np.log10(np.std(d[: len(c)]) / np.std(c)) for d, c in zip(decoded, clips, strict=True)]
    assert abs(float(np.median(ratios_db))) < 2.0


def test_decoding_another_clips_codes_gives_another_sound(codec: Codec, clips: list[np.ndarray]) -> None:
    """A codec that ignored its input would pass most tests of shape."""
    codes = codec.encode_clips([clips[0][:24_000], clips[1][:24_000]])
    one, other = codec.decode_clips(codes)
    assert np.std(one - other) > 0.5 * min(np.std(one), np.std(other))


@pytest.mark.parametrize("shape", [(24_000,), (1, 2, 24_000), (1, 1, 0)])
def test_a_waveform_of_another_shape_is_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(batch, 1, samples\)"):
        codec.encode(torch.zeros(shape))


def test_codes_out_of_range_are_refused(codec: Codec) -> None:
    levels, size = codec.fingerprint.num_levels, codec.fingerprint.codebook_size
    with pytest.raises(ValueError, match=rf"expected 0\.\.{size - 1}"):
        codec.decode(torch.full((1, levels, 3), size))
    with pytest.raises(ValueError, match=f"1 to {levels}, frames"):
        codec.decode(torch.zeros(1, levels + 1, 3, dtype=torch.int64))


def test_the_first_levels_alone_are_a_coarser_sound_of_the_same_length(codec: Codec, clips: list[np.ndarray]) -> None:
    real = clips[0]
    [codes_QT] = codec.encode_clips([real])
    whole, coarse, coarsest = (
        codec.decode_clips([codes_QT[:levels]])[0] for levels in (len(codes_QT), len(codes_QT) // 2, 1)
    )
    assert whole.shape == coarse.shape == coarsest.shape
    distances = [log_mel_distance(real, wave[: len(real)], codec.sample_rate) for wave in (whole, coarse, coarsest)]
    assert distances == sorted(distances)
    assert distances[2] > 1.1 * distances[0]


def test_the_fingerprint_is_that_of_the_file(codec: Codec, tmp_path: Path) -> None:
    import hashlib

    assert codec.fingerprint.sha256 == hashlib.sha256(packaged_codec_bytes()).hexdigest()
    assert (codec.sample_rate, codec.frame_rate) == (24_000, 24_000 / codec.hop)
    assert codec.network.codebooks.shape[:2] == (codec.fingerprint.num_levels, codec.fingerprint.codebook_size)


def test_weights_load_from_a_path_and_from_their_content_with_the_same_codes(
    tiny_codec: Path, clips: list[np.ndarray]
) -> None:
    first, second = load_codec(tiny_codec), load_codec(tiny_codec.read_bytes())
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.encode_clips(clips[:1])[0], second.encode_clips(clips[:1])[0])


def _changed(data: bytes, **header: str) -> bytes:
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    return save_safetensors(load_safetensors(data), metadata=metadata | header)


def test_damaged_weights_are_refused_with_the_file_and_the_remedy(tiny_codec: Path, tmp_path: Path) -> None:
    good = tiny_codec.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"these are not weights",
        "cut": good[: len(good) // 2],
        "other format": _changed(good, format="another-1"),
        "other shape": _changed(good, config=json.dumps({"dims": 33})),
        "unknown setting": _changed(good, config=json.dumps({"depth": 3})),
        "config is a list": _changed(good, config="[1]"),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(SoundStormError, match="train-codec") as caught:
            load_codec(path)
        assert path.name in str(caught.value)


@pytest.mark.parametrize("format", ["soundstorm-compact-codec-1", "soundstorm-block-codec-1"])
def test_a_codec_of_an_earlier_version_is_refused_with_what_it_is_and_what_to_do(
    format: str, tiny_codec: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.safetensors").write_bytes(_changed(tiny_codec.read_bytes(), format=format, name="compact-24khz"))
    with pytest.raises(SoundStormError) as caught:
        load_codec(tmp_path / "old.safetensors")
    said = str(caught.value)
    assert said.startswith(
        f"{tmp_path / 'old.safetensors'}: the codec 'compact-24khz' was written by an earlier version ({format}), "
        "and this version cannot read it"
    )
    assert all(
        command in said for command in ("soundstorm train-codec", "soundstorm tokenize", "soundstorm train` again")
    )


def test_weights_that_are_not_finite_are_refused(tiny_codec: Path, tmp_path: Path) -> None:
    data = tiny_codec.read_bytes()
    tensors = load_safetensors(data)
    tensors["texture"][0] = float("nan")
    size = int.from_bytes(data[:8], "little")
    (tmp_path / "nan.safetensors").write_bytes(
        save_safetensors(tensors, metadata=json.loads(data[8 : 8 + size])["__metadata__"])
    )
    with pytest.raises(SoundStormError, match="not finite"):
        load_codec(tmp_path / "nan.safetensors")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SoundStormError, match=r"nowhere.safetensors"):
        load_codec("/nowhere.safetensors")


def test_weights_in_the_official_format_load_once_their_hash_is_right(tmp_path: Path) -> None:
    """The official file cannot be shipped; one of the same keys and shapes takes its place."""
    import hashlib

    torch.manual_seed(0)
    path = tmp_path / "encodec_24khz-d7cc33bc.th"
    torch.save(EncodecModel.encodec_model_24khz(pretrained=False).state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    codec = load_codec(path, official_sha256=sha256)
    assert codec.fingerprint.sha256 == sha256
    waveform = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    codes = codec.encode_clips([waveform])[0]
    assert codes.shape == (8, 75)
    assert codec.decode_clips([codes])[0].shape == (24_000,)
    with pytest.raises(SoundStormError, match="SHA-256"):
        load_codec(path)


def test_a_pickle_in_place_of_the_official_weights_is_not_executed(tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "executed"),)

    path = tmp_path / "evil.th"
    torch.save({"payload": Payload()}, path, pickle_module=pickle)
    with pytest.raises(SoundStormError, match="not EnCodec"):
        load_codec(path, official_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "executed").exists()


def test_a_long_run_of_equal_clips_is_encoded_in_bounded_batches(
    tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, sizes = load_codec(tiny_codec), []
    encode = codec.network.encode_batch
    monkeypatch.setattr(
        codec.network, "encode_batch", lambda waveform: (sizes.append(waveform.shape[0]), encode(waveform))[1]
    )
    clips = [np.full(24_000, 0.01 * number, dtype=np.float32) for number in range(70)]
    codes = codec.encode_clips(clips)
    assert max(sizes) <= 30
    assert sum(sizes) == len(codes) == 70
    np.testing.assert_array_equal(codes[69], codec.encode_clips(clips[69:])[0])
