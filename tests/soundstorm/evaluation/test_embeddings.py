"""Embeddings: their windows, their independence of the clips beside them, and that sounds of a kind lie together."""

import base64
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encodec import EncodecModel

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import synthesize
from soundstorm.codec.block_codec import BlockCodec
from soundstorm.codec.codec import Codec
from soundstorm.codec.encodec import EncodecNetwork
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.distances import frechet_line, kernel_distance
from soundstorm.evaluation.embeddings import (
    CodecEmbedder,
    Embedder,
    OnnxEmbedder,
    window_statistics,
)
from soundstorm.schemas import CodecFingerprint
from tests.conftest import write_small_codec

RATE = 24_000
MEAN_AND_PEAK = base64.b64decode(
    "CAgSADqRAQofCgF4EgFtIgpSZWR1Y2VNZWFuKgsKBGF4ZXNAAaABBwoeCgF4EgFwIglSZWR1Y2VNYXgqCwoEYXhlc0ABoAEHCh4KAW0KAXASAXkiBkNvbmNhdCoLCgRheGlz"
    "GAGgAQISAWdaFQoBeBIQCg4IARIKCgMSAUIKAxIBTmIUCgF5Eg8KDQgBEgkKAxIBQgoCCAJCBAoAEA0="
)
"""An ONNX model from (B, N) to (B, 2): ReduceMean and ReduceMax over samples, concatenated."""
MEAN_ONLY = base64.b64decode(
    "CAgSADpeCjAKAXgSAXkiClJlZHVjZU1lYW4qCwoEYXhlc0ABoAEHKg8KCGtlZXBkaW1zGACgAQISAWdaFQoBeBIQCg4IARIKCgMSAUIKAxIBTmIQCgF5EgsKCQgBEgUKAxIBQkIECgAQDQ=="
)
"""One from (B, N) to (B,)."""
THREE_AXES = base64.b64decode(
    "CAgSADpICgsKAXgSAXkiA05lZxIBZ1oaCgF4EhUKEwgBEg8KAxIBQgoDEgFDCgMSAU5iGgoBeRIVChMIARIPCgMSAUIKAxIBQwoDEgFOQgQKABAN"
)
"""One whose input is (B, C, N)."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.set_num_threads(1)
    return load_codec()


def clip(category: str = "rain", seed: int = 0, duration_s: float = 1.0) -> np.ndarray:
    return to_pcm16(synthesize(category, seed=seed, duration_s=duration_s, sample_rate=RATE))


@pytest.mark.parametrize(
    ("frames", "windows"), [(1, 1), (30, 1), (75, 1), (112, 1), (113, 2), (150, 2), (187, 2), (188, 3), (375, 5)]
)
def test_a_rest_of_half_a_window_is_a_window_and_a_shorter_one_joins_the_one_before(frames: int, windows: int) -> None:
    latent_DT = np.random.default_rng(0).normal(size=(4, frames)).astype(np.float32)
    starts = [75 * window for window in range(windows)]
    parts = [latent_DT[:, start:end] for start, end in zip(starts, [*starts[1:], frames], strict=True)]
    expected = [np.concatenate([part_DT.mean(axis=1), part_DT.std(axis=1)]) for part_DT in parts]
    np.testing.assert_allclose(window_statistics(latent_DT, 75), expected, atol=1e-6)


def test_rows_of_the_codec_are_means_and_deviations_of_its_log_mel_frames_a_second_each(codec: Codec) -> None:
    sound = clip("siren", duration_s=2.6)
    [rows_WD] = CodecEmbedder(codec).embed([sound])
    assert isinstance(codec.network, BlockCodec)
    log_mel_MT = codec.network.log_mel(from_pcm16(sound)).T
    assert rows_WD.shape == (3, 2 * len(log_mel_MT)) and rows_WD.dtype == np.float32
    for row_D, part_MT in zip(rows_WD, (log_mel_MT[:, :75], log_mel_MT[:, 75:150], log_mel_MT[:, 150:]), strict=True):
        np.testing.assert_allclose(row_D, [*part_MT.mean(axis=1), *part_MT.std(axis=1)], atol=1e-4)


def test_rows_come_in_order_and_do_not_depend_on_the_clips_beside(codec: Codec) -> None:
    embedder: Embedder = CodecEmbedder(codec)
    clips = [clip("rain"), clip("siren", duration_s=0.3), clip("rain", seed=1), np.zeros(1, dtype=np.int16)]
    for sound, rows_WD in zip(clips, embedder.embed(clips), strict=True):
        np.testing.assert_allclose(rows_WD, embedder.embed([sound])[0], atol=1e-4)
    assert embedder.embed([]) == []


def test_rows_of_encodec_are_those_of_its_encoder_before_quantization() -> None:
    torch.manual_seed(0)
    network = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    fingerprint = CodecFingerprint(
        name="encodec-24khz", sha256="0" * 64, sample_rate=RATE, frame_rate=75, num_levels=8, codebook_size=1024
    )
    encodec = Codec(EncodecNetwork(network), fingerprint)
    sound = clip(duration_s=0.5)
    [rows_WD] = CodecEmbedder(encodec).embed([sound])
    with torch.inference_mode():
        latent_DT = network.encoder(torch.from_numpy(from_pcm16(sound))[None, None])[0].numpy()
    assert latent_DT.shape == (128, 38)
    np.testing.assert_allclose(rows_WD, [[*latent_DT.mean(axis=1), *latent_DT.std(axis=1)]], atol=1e-5)


def test_halves_of_one_class_are_close_and_two_classes_far_apart(codec: Codec) -> None:
    embedder = CodecEmbedder(codec)
    rain, other_rain, siren = (
        np.concatenate(embedder.embed([clip(category, seed, 2.0) for seed in seeds]))
        for category, seeds in (("rain", range(6)), ("rain", range(6, 12)), ("siren", range(6)))
    )
    for distance in (lambda *sets: frechet_line(*sets).value, kernel_distance):
        assert distance(rain, siren) > 5 * abs(distance(rain, other_rain))


def test_a_codec_of_another_sample_rate_is_refused(tmp_path: Path) -> None:
    write_small_codec(
        tmp_path / "slow.safetensors", "slow", sample_rate=16_000, highest_hz=8_000, num_levels=1, codebook_size=4
    )
    with pytest.raises(SoundStormError, match="codec 'slow' works at 16000 Hz"):
        CodecEmbedder(load_codec(tmp_path / "slow.safetensors"))


def test_clips_that_are_not_int16_or_have_no_samples_are_refused_by_number(codec: Codec) -> None:
    embedder = CodecEmbedder(codec)
    for wrong in (np.zeros(0, dtype=np.int16), np.zeros(100, dtype=np.float32), np.zeros((2, 100), dtype=np.int16)):
        with pytest.raises(SoundStormError, match="clip 1 has shape"):
            embedder.embed([clip(), wrong])


def test_an_onnx_model_sees_waveforms_at_its_own_rate(tmp_path: Path) -> None:
    (tmp_path / "mean_and_peak.onnx").write_bytes(MEAN_AND_PEAK)
    embedder = OnnxEmbedder(tmp_path / "mean_and_peak.onnx", sample_rate=RATE)
    clips = [clip(), clip(duration_s=0.4), clip("siren")]
    rows = embedder.embed(clips)
    assert embedder.name == "mean_and_peak"
    for sound, row_1D in zip(clips, rows, strict=True):
        np.testing.assert_allclose(row_1D, [[from_pcm16(sound).mean(), from_pcm16(sound).max()]], atol=1e-6)
    level = np.full(RATE, 8192, dtype=np.int16)
    [[[mean, _]]] = OnnxEmbedder(MEAN_AND_PEAK, sample_rate=8000).embed([level])
    assert mean == pytest.approx(0.25, rel=0.01)


def test_onnx_models_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=r"one float32 input \(batch, samples\)"):
        OnnxEmbedder(THREE_AXES, RATE)
    with pytest.raises(SoundStormError, match=r"returned \(1,\) for waveforms"):
        OnnxEmbedder(MEAN_ONLY, RATE).embed([clip()])
    with pytest.raises(SoundStormError, match="is not an ONNX model"):
        OnnxEmbedder(b"these are not weights", RATE)
    with pytest.raises(SoundStormError, match=r"absent\.onnx cannot be read"):
        OnnxEmbedder(tmp_path / "absent.onnx", RATE)


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SoundStormError, match=r"soundstorm-env\[onnx\]"):
        OnnxEmbedder(MEAN_AND_PEAK, RATE)
