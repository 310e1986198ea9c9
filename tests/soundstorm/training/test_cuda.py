"""On a GPU, where there is one: the same losses, codes and sound as on the CPU, and trainings that learn and go on
there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainer, AudioClassifierTrainingConfig
from soundstorm.classification.training.token_trainer import TokenClassifierTrainer, TokenClassifierTrainingConfig
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import Checkpoint, load_checkpoint
from soundstorm.model.code_vectors import latent_dim
from soundstorm.model.config import ModelConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.ema import EMA
from soundstorm.serialization.bundled import bundled_file
from soundstorm.training.batches import collate, seeded_generator
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, evaluate_loss, training_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def codecs() -> tuple[Codec, Codec]:
    """The packaged codec on the CPU and on the GPU."""
    return load_codec(), load_codec(device="cuda")


@pytest.fixture
def generator() -> Checkpoint:
    return load_checkpoint(Path(str(bundled_file("esc50"))))


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    """Four synthetic sounds of each of two categories, in turn; float32 (N,)."""
    return [synthesize(category, seed, 1.0, 24_000).astype(np.float32) for seed in range(4) for category in CLASSES[:2]]


def test_the_codec_hears_and_sounds_as_on_the_cpu(codecs: tuple[Codec, Codec], sounds: list[np.ndarray]) -> None:
    on_cpu, on_gpu = (codec.encode_clips(sounds) for codec in codecs)
    assert (
        np.mean([np.mean(a == b) for a, b in zip(on_cpu, on_gpu, strict=True)]) > 0.98
    )  # nearly equal distances fall either way
    for a_N, b_N in zip(*(codec.decode_clips(on_cpu) for codec in codecs), strict=True):
        np.testing.assert_allclose(a_N, b_N, atol=2e-3)


def test_the_generator_has_the_loss_that_it_has_on_the_cpu(generator: Checkpoint) -> None:
    rng = np.random.default_rng(0)
    shape = generator.model.config
    clips = [rng.integers(shape.codebook_size, size=(shape.num_levels, frames)) for frames in (150, 75)]
    config = replace(generator.training, precision="fp32")
    on_cpu = evaluate_loss(generator.model, [collate(clips, [0, 1])], config).mean()
    assert evaluate_loss(generator.model.to(GPU), [collate(clips, [0, 1])], config).mean() == pytest.approx(
        on_cpu, rel=1e-4
    )


def test_generation_repeats_itself_and_fills_every_frame(generator: Checkpoint) -> None:
    model, lengths = generator.model.to(GPU), [150, 100]
    labels = torch.tensor([0, 1])
    first, again = (generate_codes(model, labels, lengths, generator.sampler, [1, 2], bf16=True) for _ in range(2))
    for codes_QT, repeated_QT, frames in zip(first, again, lengths, strict=True):
        assert codes_QT.device.type == "cpu"
        assert codes_QT.shape == (generator.model.config.num_levels, frames)
        assert torch.equal(codes_QT, repeated_QT)
        assert int(codes_QT.min()) >= 0
        assert int(codes_QT.max()) < generator.model.config.codebook_size


def test_a_generator_learns_one_batch() -> None:
    rng = np.random.default_rng(0)
    batch = collate([rng.integers(64, size=(4, 60)) for _ in range(4)], [0, 1, 2, 3]).to(GPU)
    torch.manual_seed(0)
    model = (
        SoundStorm(ModelConfig(width=64, depth=2, heads=2, ff_mult=2, num_levels=4, codebook_size=64, num_classes=4))
        .to(GPU)
        .train()
    )
    config = preset("tiny").training
    optimizer, ema, drawn = build_optimizer(model, config), EMA(model, config.ema_decay), seeded_generator(0)
    schedule = build_schedule(optimizer, config, 150)
    before = evaluate_loss(model, [batch], config).mean()
    model.train()
    for _ in range(150):
        apply_gradients(model, training_step(model, batch, drawn, config).loss, optimizer, schedule, config, ema)
    assert evaluate_loss(ema.averaged(model), [batch], config).mean() < 0.7 * before


def test_a_classifier_of_codes_learns_from_a_teacher_on_spectrograms(
    codecs: tuple[Codec, Codec], sounds: list[np.ndarray]
) -> None:
    labels, recordings = [0, 1] * 4, [to_pcm16(sound_N) for sound_N in sounds]
    torch.manual_seed(0)
    teacher = AudioClassifier(2, AudioClassifierConfig(widths=(8, 16, 32), mel_bands=32, embedding=16)).to(GPU)
    config = AudioClassifierTrainingConfig(epochs=60, batch_size=8, window_s=1.0, lr=3e-3)
    taught = AudioClassifierTrainer(teacher, config, recordings, labels)
    losses = [taught.step()["loss"] for _ in range(taught.total_steps)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    network = ModelConfig(width=32, depth=2, heads=2, kernel=5, ff_mult=2, num_classes=3)
    model = TokenClassifier(2, network, ReadoutConfig(latent_dim=latent_dim(codecs[1]), heads=2, dropout=0.1))
    model.set_codebook_embeddings(codecs[1])
    learning = TokenClassifierTrainingConfig(epochs=80, batch_size=8, window_s=0.8, lr=2e-3)
    run = TokenClassifierTrainer(
        model.to(GPU), codecs[1], "codec", learning, recordings, labels, teacher=teacher.eval()
    )
    steps = [run.step() for _ in range(run.total_steps)]
    assert np.mean([step["accuracy"] for step in steps[-20:]]) > 0.85
    codes = codecs[1].encode_clips([from_pcm16(recording) for recording in recordings])
    batch = collate([codes_QT.astype(np.int64) for codes_QT in codes], labels).to(GPU)
    with torch.inference_mode():
        named_B = run.averaged()(batch.codes_BQT, batch.valid_BT).argmax(1)
    assert int((named_B.cpu() == torch.tensor(labels)).sum()) >= 7
