"""The codec's contract: shapes, independence of batch mates, silence, weights that are refused, and the compact codec's own figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encodec import EncodecModel
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from soundstorm.codec import Codec, load_codec, packaged_codec_bytes, save_compact_codec
from soundstorm.codec_quality import log_mel_distance
from soundstorm.compact_codec import CompactCodec, CompactCodecConfig
from soundstorm.errors import SoundStormError
from soundstorm.synthetic import CLASSES, synthesize


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.set_num_threads(1)
    return load_codec()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [synthesize(category, seed=1, duration_s=1.0 + 0.5 * (number % 2), sample_rate=24_000) for number, category in enumerate(CLASSES)]


def test_a_clip_of_five_seconds_is_375_frames_of_8_levels(codec: Codec) -> None:
    codes = codec.encode_clips([np.zeros(5 * 24_000, dtype=np.float32)])[0]
    assert codes.shape == (8, 375)
    assert codes.dtype == np.uint16


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (320, 1), (321, 2), (1200, 4), (24_000, 75)])
def test_frames_are_the_samples_divided_by_the_hop_rounded_up(codec: Codec, samples: int, frames: int) -> None:
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, samples).astype(np.float32)
    codes = codec.encode_clips([waveform])[0]
    assert codes.shape[1] == frames
    assert codec.decode_clips([codes])[0].shape == (frames * 320,)


def test_codes_do_not_depend_on_the_clips_beside_them(codec: Codec, clips: list[np.ndarray]) -> None:
    together = codec.encode_clips(clips)
    for clip, codes in zip(clips, together, strict=True):
        np.testing.assert_array_equal(codes, codec.encode_clips([clip])[0])


def test_decoding_does_not_depend_on_the_clips_beside_it(codec: Codec, clips: list[np.ndarray]) -> None:
    codes = codec.encode_clips(clips)
    for one, other in zip(codec.decode_clips(codes), [codec.decode_clips([c])[0] for c in codes], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_inverse_transform_undoes_the_transform_of_a_frame_rate_spectrum() -> None:
    """With the exact log-magnitude and phase in place of the decoder's guess, the waveform comes back."""
    network = CompactCodec(CompactCodecConfig(encoder_width=8, encoder_blocks=1, decoder_width=8, decoder_blocks=1, latent_dim=8))
    waveform = torch.from_numpy(synthesize("siren", seed=0, duration_s=1.0, sample_rate=24_000))[None]
    padded = torch.nn.functional.pad(waveform, (480, 480))
    spectrum = torch.stft(padded, 1280, 320, window=network.window, center=False, return_complex=True)
    exact = torch.cat([torch.log(spectrum.abs() + 1e-9), spectrum.angle()], dim=1).transpose(1, 2)
    network.decoder = torch.nn.Identity()
    torch.testing.assert_close(network.decode_latent(exact.transpose(1, 2)), waveform, atol=1e-4, rtol=0)


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
    with pytest.raises(ValueError, match=r"expected 0\.\.1023"):
        codec.decode(torch.full((1, 8, 3), 1024))
    with pytest.raises(ValueError, match="1 to 8, frames"):
        codec.decode(torch.zeros(1, 9, 3, dtype=torch.int64))


def test_the_first_levels_alone_are_a_coarser_sound_of_the_same_length(codec: Codec, clips: list[np.ndarray]) -> None:
    real = clips[0]
    [codes_QT] = codec.encode_clips([real])
    whole, coarse, coarsest = (codec.decode_clips([codes_QT[:levels]])[0] for levels in (8, 4, 1))
    assert whole.shape == coarse.shape == coarsest.shape
    distances = [log_mel_distance(real, wave[: len(real)], codec.sample_rate) for wave in (whole, coarse, coarsest)]
    assert distances == sorted(distances)
    assert distances[2] > 1.1 * distances[0]


def test_the_fingerprint_is_that_of_the_file(codec: Codec, tmp_path: Path) -> None:
    import hashlib

    assert codec.fingerprint.sha256 == hashlib.sha256(packaged_codec_bytes()).hexdigest()
    assert (codec.sample_rate, codec.frame_rate, codec.hop) == (24_000, 75, 320)
    assert (codec.fingerprint.num_levels, codec.fingerprint.codebook_size) == (8, 1024)


def test_saved_weights_load_again_with_the_same_codes(tmp_path: Path, clips: list[np.ndarray]) -> None:
    network = CompactCodec(CompactCodecConfig(encoder_width=16, encoder_blocks=1, decoder_width=16, decoder_blocks=1, latent_dim=8)).eval()
    save_compact_codec(tmp_path / "one.safetensors", network, "one", "random")
    first, second = load_codec(tmp_path / "one.safetensors"), load_codec((tmp_path / "one.safetensors").read_bytes())
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
        "other shape": _changed(good, config=json.dumps({"encoder_width": 33})),
        "unknown setting": _changed(good, config=json.dumps({"depth": 3})),
        "config is a list": _changed(good, config="[1]"),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(SoundStormError, match="train-codec") as caught:
            load_codec(path)
        assert path.name in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tiny_codec: Path, tmp_path: Path) -> None:
    data = tiny_codec.read_bytes()
    tensors = load_safetensors(data)
    tensors["decoder.project_out.bias"][0] = float("nan")
    size = int.from_bytes(data[:8], "little")
    (tmp_path / "nan.safetensors").write_bytes(save_safetensors(tensors, metadata=json.loads(data[8 : 8 + size])["__metadata__"]))
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


@pytest.mark.parametrize("setting", [{"n_fft": 320}, {"n_fft": 961, "hop": 320}, {"hop": 640}, {"num_levels": 0}, {"encoder_width": -1}])
def test_a_codec_that_could_not_work_is_refused_by_setting(setting: dict[str, int]) -> None:
    with pytest.raises(SoundStormError, match=f"codec setting ({'|'.join(setting)})"):
        CompactCodecConfig(**setting)


def test_a_long_run_of_equal_clips_is_encoded_in_bounded_batches(tiny_codec: Path) -> None:
    codec, sizes = load_codec(tiny_codec), []
    encode = codec._encode
    codec._encode = lambda waveform: (sizes.append(waveform.shape[0]), encode(waveform))[1]
    clips = [np.full(24_000, 0.01 * number, dtype=np.float32) for number in range(70)]
    codes = codec.encode_clips(clips)
    assert max(sizes) <= 30
    assert sum(sizes) == len(codes) == 70
    np.testing.assert_array_equal(codes[69], codec.encode_clips(clips[69:])[0])
