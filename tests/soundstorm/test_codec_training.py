"""Training of the compact codec: crops, losses with known answers, codebooks that stay alive, and a run that learns and resumes."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from soundstorm.audio_classifier import load_classifier
from soundstorm.codebooks import initialise_codebooks, revive_dead_codes
from soundstorm.codec_losses import coherence_loss, flatness_loss, level_loss, loudness_loss, mel_loss, silence_loss
from soundstorm.codec_training import LOST_MEL_NATS, CodecTrainer, CodecTrainingConfig, require_not_lost
from soundstorm.compact_codec import CompactCodec, CompactCodecConfig
from soundstorm.crops import CropSampler, synthetic_recordings
from soundstorm.errors import SoundStormError
from soundstorm.synthetic import CLASSES, synthesize

SMALL = CompactCodecConfig(encoder_width=32, encoder_blocks=1, decoder_width=32, decoder_blocks=1, latent_dim=16, num_levels=2, codebook_size=64)
SHORT = CodecTrainingConfig(
    steps=40,
    polish_steps=0,
    quantizer_start=8,
    adversarial_start=34,
    batch_size=4,
    crop_frames=50,
    lr=2e-2,
    discriminator_filters=2,
    discriminator_crops=2,
)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    torch.set_num_threads(1)
    return [(synthesize(name, 0, 2.0, 24_000) * 32767).astype(np.int16) for name in CLASSES[:4]]


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))


def test_crops_come_equally_often_from_each_class_however_many_clips_it_has() -> None:
    hum, hiss = np.sin(np.arange(48_000) / 50), np.random.default_rng(1).standard_normal(48_000)
    recordings = [(8_000 * hum).astype(np.int16)] * 9 + [(4_000 * hiss).astype(np.int16)]
    crops = CropSampler(recordings, [0] * 9 + [1]).draw(400, 320, np.random.default_rng(0))
    roughness = crops.diff(dim=1).square().mean(1) / crops.square().mean(1)
    assert 0.4 < float((roughness < 0.05).float().mean()) < 0.6  # as many of the nine hums as of the one hiss
    assert crops.abs().max() <= 0.99 + 1e-6


def test_crops_are_never_digital_silence_where_there_is_sound() -> None:
    waveform = np.zeros(240_000, np.int16)
    waveform[:48_000] = 3_000
    crops = CropSampler([waveform], [0]).draw(100, 24_000, np.random.default_rng(0))
    assert (crops.square().mean(1) > 0).float().mean() > 0.98


def test_the_same_seed_draws_the_same_crops(waveforms: list[np.ndarray]) -> None:
    sampler = CropSampler(waveforms, [0, 1, 2, 3])
    first, again = (sampler.draw(4, 3200, np.random.default_rng(5)) for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)


def test_synthetic_recordings_share_three_labels_that_no_recording_has() -> None:
    recordings = synthetic_recordings(1, 24_000)
    assert len(recordings) == len(CLASSES)
    assert {label for _, label in recordings} == {-1, -2, -3}
    assert all(samples.dtype == np.int16 and np.abs(samples).max() > 5_000 for samples, _ in recordings)


def test_crops_of_a_short_recording_are_followed_by_silence() -> None:
    crops = CropSampler([np.full(2_400, 8_000, np.int16)], [0]).draw(20, 24_000, np.random.default_rng(0))
    assert crops.shape == (20, 24_000)
    assert crops.isfinite().all()
    assert (crops[:, 12_000:] == 0).all()


def test_no_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 recordings"):
        CropSampler([], [])


def test_every_loss_is_zero_for_a_perfect_copy(noise: torch.Tensor) -> None:
    of_pairs = (flatness_loss, level_loss, loudness_loss, coherence_loss)
    for loss in (mel_loss(noise, noise, 24_000), *(of_pair(noise, noise) for of_pair in of_pairs)):
        assert abs(float(loss)) < 1e-3


def test_the_level_loss_is_the_gain_in_nats(noise: torch.Tensor) -> None:
    assert float(level_loss(noise, 2 * noise)) == pytest.approx(np.log(2), abs=1e-3)


def test_the_loudness_loss_is_the_error_of_the_mean_amplitude_to_which_loud_crops_add_most() -> None:
    real = torch.tensor([[0.4], [0.1]]) * torch.ones(2, 2_400)
    for gains, expected in (([2.0, 2.0], 1.0), ([0.5, 1.0], 0.4), ([1.0, 0.5], 0.1), ([1.25, 0.0], 0.0)):
        assert float(loudness_loss(real, real * torch.tensor(gains)[:, None])) == pytest.approx(expected, abs=1e-3)


def test_the_coherence_loss_is_blind_to_gain_and_sees_a_flipped_sign(noise: torch.Tensor) -> None:
    assert float(coherence_loss(noise, 3 * noise)) == pytest.approx(0.0, abs=1e-3)
    assert float(coherence_loss(noise, -noise)) == pytest.approx(2.0, abs=1e-3)


def test_the_flatness_loss_tells_a_tone_from_noise_of_the_same_level(noise: torch.Tensor) -> None:
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(24_000) / 24_000)[None].repeat(2, 1)
    tone = tone * (noise.std() / tone.std())
    other = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(1))
    assert float(flatness_loss(noise, tone)) > 5 * float(flatness_loss(noise, other))


def test_the_silence_loss_counts_decades_above_the_floor_in_silent_frames_only() -> None:
    real = torch.zeros(1, 640)
    real[:, 320:] = 0.1
    decoded = torch.full((1, 640), 3e-4)
    assert float(silence_loss(real, decoded, 320)) == pytest.approx(2.0, abs=1e-3)
    assert float(silence_loss(real, torch.full((1, 640), 1e-6), 320)) == 0.0


def test_codebooks_started_by_k_means_leave_less_variance_at_each_level() -> None:
    torch.manual_seed(0)
    network = CompactCodec(SMALL)
    latent = torch.randn(2_000, 16) @ torch.randn(16, 16)
    initialise_codebooks(network.quantizer, latent, frames_per_step=300, seed=0)
    with torch.no_grad():
        residual, left = latent, [float(latent.var())]
        for layer in network.quantizer.vq.layers:
            residual = residual - layer._codebook.dequantize(layer._codebook.quantize(residual))
            left.append(float(residual.var()))
    assert left[1] < 0.75 * left[0]
    assert left[2] < 0.9 * left[1]


def test_too_few_frames_for_k_means_are_refused() -> None:
    with pytest.raises(ValueError, match="10 frames cannot start 64 codes"):
        initialise_codebooks(CompactCodec(SMALL).quantizer, torch.randn(10, 16), 300, 0)


def test_dead_codes_move_onto_badly_represented_frames() -> None:
    torch.manual_seed(0)
    network = CompactCodec(SMALL)
    latent = torch.randn(1_000, 16)
    initialise_codebooks(network.quantizer, latent, 300, 0)
    codebook = network.quantizer.vq.layers[0]._codebook
    codebook.embed[:8], codebook.embed_avg[:8], codebook.cluster_size[:8] = 1e3, 1e3, 0.0
    before = (latent - codebook.dequantize(codebook.quantize(latent))).square().mean()
    revived = revive_dead_codes(network.quantizer, latent, torch.Generator().manual_seed(0), threshold=0.03)
    after = (latent - codebook.dequantize(codebook.quantize(latent))).square().mean()
    assert revived[0] == 8
    assert after < before


@torch.no_grad()
def _loss_of_copies(codec: CompactCodec, crops: torch.Tensor) -> float:
    return float(mel_loss(crops, codec.decode(codec.encode(crops[:, None]))[:, 0], 24_000))


def test_a_short_run_learns_in_all_of_its_phases(waveforms: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    trainer = CodecTrainer(CompactCodec(SMALL), SHORT, CropSampler(waveforms, [0, 1, 2, 3]))
    crops = trainer.sampler.draw(8, 24_000, np.random.default_rng(9))
    before = _loss_of_copies(trainer.codec, crops)
    history = [trainer.step() for _ in range(SHORT.steps)]
    assert all(np.isfinite(list(losses.values())).all() for losses in history)
    assert _loss_of_copies(trainer.codec, crops) < 0.75 * before
    assert history[7]["commitment"] == 0.0 < history[8]["commitment"]
    assert "discriminator" not in history[33]
    assert history[34]["discriminator"] == pytest.approx(2.0, abs=0.5)  # it begins undecided


@pytest.mark.parametrize(
    ("changes", "sign", "option"),
    [
        ({"lr": 1e9, "quantizer_start": 0}, "the gradient is (nan|inf)", "--lr"),
        ({"lr": 1e9, "quantizer_start": 1}, "the encoder gives values that are not finite", "--lr"),
        ({"steps": 2, "quantizer_start": 0, "polish_steps": 9, "polish_lr": 1e30}, "the gradient is (nan|inf)", "--polish-lr"),
    ],
)
def test_a_run_that_diverges_ends_with_the_option_to_blame_and_weights_that_are_numbers(
    changes: dict[str, float], sign: str, option: str, waveforms: list[np.ndarray]
) -> None:
    torch.manual_seed(0)
    config = replace(SHORT, adversarial_start=100, batch_size=2, **changes)  # type: ignore[arg-type]
    trainer = CodecTrainer(CompactCodec(SMALL), config, CropSampler(waveforms, [0, 1, 2, 3]))
    with pytest.raises(SoundStormError, match=rf"training diverged: {sign} in step \d+; lower {option} \(it is"):
        for _ in range(config.total_steps):
            trainer.step()
    assert all(bool(value.isfinite().all()) for value in trainer.codec.parameters())


def test_a_resumed_run_makes_the_same_next_step(waveforms: list[np.ndarray]) -> None:
    config = replace(SHORT, quantizer_start=2, adversarial_start=3, steps=8)
    sampler = CropSampler(waveforms, [0, 1, 2, 3])
    torch.manual_seed(0)
    trainer = CodecTrainer(CompactCodec(SMALL), config, sampler)
    for _ in range(6):
        trainer.step()
    resumed = CodecTrainer(CompactCodec(SMALL), config, sampler)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.step() == pytest.approx(trainer.step(), rel=1e-5)


def test_the_last_phase_changes_the_decoder_and_leaves_every_code_as_it_was(waveforms: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    trainer = CodecTrainer(
        CompactCodec(SMALL), replace(SHORT, adversarial_start=100, polish_steps=30, polish_lr=1e-2), CropSampler(waveforms, range(4))
    )
    for _ in range(SHORT.steps):
        trainer.step()
    crops = trainer.sampler.draw(8, 24_000, np.random.default_rng(9))
    before, codes = {name: value.clone() for name, value in trainer.codec.state_dict().items()}, trainer.codec.encode(crops[:, None])
    history = [trainer.step() for _ in range(30)]
    changed = {name.split(".")[0] for name, value in trainer.codec.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}
    assert torch.equal(trainer.codec.encode(crops[:, None]), codes)
    assert np.mean([row["loudness"] for row in history[-5:]]) < 0.8 * np.mean([row["loudness"] for row in history[:5]])
    assert history[0].keys() == history[-1].keys() >= {"mel", "commitment", "loudness"}


def test_a_run_resumed_in_its_last_phase_makes_the_same_next_step(waveforms: list[np.ndarray]) -> None:
    config = replace(SHORT, quantizer_start=1, adversarial_start=5, steps=3, polish_steps=5)
    sampler = CropSampler(waveforms, [0, 1, 2, 3])
    torch.manual_seed(0)
    trainer = CodecTrainer(CompactCodec(SMALL), config, sampler)
    for _ in range(6):
        trainer.step()
    resumed = CodecTrainer(CompactCodec(SMALL), config, sampler)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        assert resumed.step() == pytest.approx(trainer.step(), rel=1e-5)
    assert resumed.step_count == config.total_steps


def test_a_listener_is_heeded_in_the_last_phase_only_and_is_itself_left_alone(waveforms: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    listener = load_classifier().model
    before = {name: value.clone() for name, value in listener.state_dict().items()}
    config = replace(SHORT, steps=4, quantizer_start=1, adversarial_start=100, polish_steps=30, polish_lr=1e-2)
    trainer = CodecTrainer(CompactCodec(SMALL), config, CropSampler(waveforms, range(4)), listener=listener)
    history = [trainer.step() for _ in range(config.total_steps)]
    assert ["texture" in row and "perceptual" in row for row in history] == [False] * 4 + [True] * 30
    for name in ("texture", "perceptual"):
        assert np.mean([row[name] for row in history[-5:]]) < 0.8 * np.mean([row[name] for row in history[4:9]])
    assert all(torch.equal(value, before[name]) for name, value in listener.state_dict().items())


def test_a_training_that_stays_far_from_silence_is_stopped_and_one_that_comes_back_is_not() -> None:
    config = CodecTrainingConfig(lr=10.0)
    measured = [1093.7, 4649.7, 1053.0]  # at this learning rate
    with pytest.raises(SoundStormError, match=r"the log-mel distance stays at 1,053 nats.*lower --lr \(it is 10\)"):
        require_not_lost([{"mel": mel} for mel in measured], config)
    for mels in (measured[:2], [*measured[:2], 6.0], [6.0, *measured[:2]]):
        require_not_lost([{"mel": mel} for mel in mels], config)


def test_silence_is_nearer_to_a_recording_than_a_training_that_is_lost(noise: torch.Tensor) -> None:
    assert mel_loss(noise, torch.zeros_like(noise), 24_000) < LOST_MEL_NATS / 5
