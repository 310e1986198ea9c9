"""A compact codec whose latent is the log-mel spectrum: what the latent is, what codes keep of it from the first step on, and its file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soundstorm.audio import to_pcm16
from soundstorm.code_vectors import code_vectors
from soundstorm.codec import load_codec, save_compact_codec
from soundstorm.codec_training import CodecTrainer, CodecTrainingConfig
from soundstorm.compact_codec import MEL_CENTER, MEL_SCALE, CompactCodec, CompactCodecConfig
from soundstorm.crops import CropSampler
from soundstorm.errors import SoundStormError
from soundstorm.synthetic import CLASSES, synthesize

SMALL = CompactCodecConfig(decoder_width=32, decoder_blocks=1, latent_dim=20, mel_bands=20, codebook_size=64)
ONE_STEP = CodecTrainingConfig(steps=1, polish_steps=0, quantizer_start=0, batch_size=4, crop_frames=50, codebook_crops=60, warmup_steps=1)


@pytest.fixture(scope="module")
def trained() -> CompactCodec:
    """After one step, before which the codebooks were started."""
    torch.set_num_threads(1)
    recordings = [to_pcm16(synthesize(category, seed, 2.0, 24_000)) for category in CLASSES for seed in range(2)]
    codec = CompactCodec(SMALL)
    CodecTrainer(codec, ONE_STEP, CropSampler(recordings, range(len(recordings)))).step()
    return codec.eval()


def band_db(latent: torch.Tensor) -> torch.Tensor:
    return 10 * (latent * MEL_SCALE + MEL_CENTER)


def test_the_latent_is_the_power_of_a_tone_in_the_bands_beside_it_and_the_floor_elsewhere() -> None:
    codec = CompactCodec(SMALL)
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(24_000) / 24_000)
    level_DB = band_db(codec.encode_latent(tone[None])[0, :, 37])
    # Slaney's bands are 200 Hz apart in their middles below 1 kHz, of which a tone of amplitude A has A^2 / 4 where a window peaks.
    loudest = int(level_DB.argmax())
    assert -20 < float(level_DB[loudest]) < -9 and loudest in (5, 6)
    assert float(level_DB[-1]) < -75
    silence_DB = band_db(codec.encode_latent(torch.zeros(1, 3_200)))
    torch.testing.assert_close(silence_DB, torch.full_like(silence_DB, -90.0), atol=1e-3, rtol=0)


def test_the_latent_does_not_change_under_autocast() -> None:
    codec = CompactCodec(SMALL)
    noise = torch.randn(1, 6_400, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = codec.encode_latent(noise)
    torch.testing.assert_close(rounded, codec.encode_latent(noise), atol=0, rtol=0)


def test_after_one_step_the_codes_keep_the_spectrum_of_sounds_that_were_not_trained_on(trained: CompactCodec) -> None:
    for category in CLASSES[:4]:
        latent_BDT = trained.encode_latent(torch.from_numpy(synthesize(category, 99, 1.0, 24_000))[None])
        kept_BDT = trained.quantizer.vq.decode(trained.quantizer.vq.encode(latent_BDT))
        assert float((band_db(kept_BDT) - band_db(latent_BDT)).abs().mean()) < 3.5
        assert float((kept_BDT - latent_BDT).square().mean() / latent_BDT.var()) < 0.12


def test_it_comes_back_from_its_file_with_the_same_codes_but_for_rounding(trained: CompactCodec, tmp_path: Path) -> None:
    save_compact_codec(tmp_path / "mel.safetensors", trained, "mel", "one step")
    codec = load_codec(tmp_path / "mel.safetensors")
    waveform = synthesize(CLASSES[0], 5, 1.0, 24_000)
    [codes_QT] = codec.encode_clips([waveform])
    assert (codes_QT == trained.encode(torch.from_numpy(waveform)[None, None])[0].numpy()).mean() > 0.98
    assert codec.decode_clips([codes_QT])[0].shape == (24_000,)
    assert code_vectors(codec).shape == (8 * 65, 20)


def test_a_latent_of_another_size_than_the_bands_is_refused() -> None:
    with pytest.raises(SoundStormError, match="mel_bands is 40: give latent_dim 20, or 0 for a learned encoder"):
        replace(SMALL, mel_bands=40)
    with pytest.raises(SoundStormError, match="mel_bands is -1: give a whole number from 0"):
        replace(SMALL, mel_bands=-1)
