"""The audio classifier: spectra with known answers, rows that do not depend on their company, files that come back,
training that learns."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from soundstorm.audio.files import read_audio, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.cnn import (
    AudioClassifier,
    AudioClassifierConfig,
    TrainedClassifier,
    load_classifier,
    save_classifier,
)
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainer, AudioClassifierTrainingConfig
from soundstorm.codec.files import packaged_codec_bytes
from soundstorm.data.datasets import ESC50_CATEGORIES
from soundstorm.errors import SoundStormError
from soundstorm.optimization.worker import Worker

SMALL = AudioClassifierConfig(widths=(8, 16, 32), mel_bands=32, embedding=16)
SHORT = AudioClassifierTrainingConfig(epochs=60, batch_size=8, window_s=1.0, lr=3e-3, precision="fp32")
PLAIN = replace(
    SHORT, speed_octaves=0, pitch_bands=0, gain_db=0, equalizer_db=0, mix_share=0, band_masks=0, frame_masks=0
)
"""No variation but where the window begins."""


def clip(category: str, duration_s: float = 1.0, seed: int = 0) -> np.ndarray:
    """A synthetic sound, int16 (N,)."""
    return to_pcm16(synthesize(category, seed, duration_s, 24_000))


def network(config: AudioClassifierConfig = SMALL) -> AudioClassifier:
    """A small network for two categories; its weights are random and always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AudioClassifier(2, config)


def trained(model: AudioClassifier) -> TrainedClassifier:
    return TrainedClassifier(
        model=model.eval(), categories=["a", "b"], dataset="synthetic", held_out_fold=5, accuracy=None, sha256=""
    )


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Four clips of each of two sounds, one after the other in turn."""
    torch.set_num_threads(1)
    return [clip(category, seed=seed) for seed in range(4) for category in CLASSES[:2]]


# ---- spectra


def test_a_tone_is_in_the_bands_around_its_frequency_and_twelve_decibels_per_quarter_of_its_amplitude() -> None:
    model = network()
    tone_N = torch.sin(2 * torch.pi * 3_000 * torch.arange(24_000) / 24_000)
    power_BMT = model.power(torch.stack([tone_N, tone_N / 4]))
    assert power_BMT.shape == (2, 32, 24_000 // 320 + 1)
    loudest = int(power_BMT[0, :, 30].argmax())
    centre_hz = float(model.mel_FM[:, loudest].argmax()) * 24_000 / 1_024
    assert centre_hz == pytest.approx(3_000, rel=0.1)
    assert 0.25 < float(power_BMT[0, :, 30].sum()) < 0.5
    torch.testing.assert_close(power_BMT[1], power_BMT[0] / 16, atol=1e-9, rtol=1e-3)


def test_what_is_below_the_floor_is_not_heard() -> None:
    classifier = trained(network(replace(SMALL, floor_db=-60.0)))
    silence = np.zeros(24_000, np.int16)
    hiss = np.random.default_rng(0).integers(-1, 2, 24_000).astype(np.int16)  # -92 dB
    np.testing.assert_allclose(classifier.embed([hiss]), classifier.embed([silence]), atol=1e-2)
    loud = (hiss * 3_000).astype(np.int16)
    assert np.abs(classifier.embed([loud]) - classifier.embed([silence])).max() > 0.1


# ---- predictions


def test_a_prediction_does_not_depend_on_the_clips_beside_it(clips: list[np.ndarray]) -> None:
    classifier = trained(network())
    several = [*clips[:3], clips[3][:20_000], np.tile(clips[4], 3)]
    together, embedded = classifier.predict(several), classifier.embed(several)
    assert together.shape == (5, 2) and embedded.shape == (5, 16)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    for position, samples in enumerate(several):
        np.testing.assert_allclose(classifier.predict([samples])[0], together[position], atol=1e-5)
        np.testing.assert_allclose(classifier.embed([samples])[0], embedded[position], atol=1e-4)


def test_a_clip_shorter_than_a_second_is_repeated(clips: list[np.ndarray]) -> None:
    classifier = trained(network())
    short = clips[0][:9_000]
    np.testing.assert_array_equal(classifier.predict([short]), classifier.predict([np.tile(short, 3)]))
    assert np.isfinite(classifier.predict([short[:1]])).all()


def test_no_clips_have_no_rows_and_an_empty_clip_is_named(clips: list[np.ndarray]) -> None:
    classifier = trained(network())
    assert classifier.predict([]).shape == (0, 2)
    with pytest.raises(SoundStormError, match="clip 1 has no samples"):
        classifier.embed([clips[0], clips[0][:0]])


# ---- files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    model = network()
    for name, buffer in model.named_buffers():  # as after training
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    save_classifier(path, model, categories=["Möwe", "b"], dataset="synthetic", held_out_fold=3, accuracy=0.875)
    return path


def test_a_saved_classifier_comes_back_with_what_is_known_of_it(saved: Path, clips: list[np.ndarray]) -> None:
    classifier = load_classifier(saved)
    assert (classifier.categories, classifier.dataset) == (["Möwe", "b"], "synthetic")
    assert (classifier.held_out_fold, classifier.accuracy) == (3, 0.875)
    assert classifier.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert classifier.model.config == SMALL
    other = load_classifier(saved.read_bytes())
    np.testing.assert_array_equal(classifier.predict(clips), other.predict(clips))


def test_packing_to_eight_bits_hardly_changes_a_prediction(clips: list[np.ndarray], tmp_path: Path) -> None:
    model = network()
    save_classifier(tmp_path / "c", model, categories=["a", "b"], dataset="synthetic")
    np.testing.assert_allclose(load_classifier(tmp_path / "c").predict(clips), trained(model).predict(clips), atol=0.01)


def test_categories_that_do_not_fit_the_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="1 categories, but the classifier has 2 outputs"):
        save_classifier(tmp_path / "c", network(), categories=["a"], dataset="synthetic")


def with_about(content: bytes, **changes: object) -> bytes:
    """The file with another header."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    about = json.dumps(json.loads(header["about"]) | changes)
    return bytes(save(load(content), metadata=header | {"about": about}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "not a classifier"),
        (lambda content: b"this is a letter", "not a classifier"),
        (lambda content: content[:-100], "not a classifier"),
        (lambda content: packaged_codec_bytes(), "its format is 'soundstorm-block-codec-2'"),
        (lambda content: with_about(content, categories="two"), "its categories are not a list of names"),
        (
            lambda content: with_about(content, categories=["a", "b", "c"]),
            r"'head.bias' has shape \(2,\), its architecture \(3,\)",
        ),
        (lambda content: with_about(content, architecture={"depth": 3}), "architecture: unknown setting 'depth'"),
        (
            lambda content: with_about(content, architecture=replace(SMALL, widths=(8, 16)).to_dict()),
            "parameters differ",
        ),
        (
            lambda content: bytes(
                save(load(content) | {"head.bias": torch.full((2,), torch.nan)}, metadata=metadata(content))
            ),
            "not finite",
        ),
    ],
)
def test_a_file_that_is_no_classifier_is_one_clear_message(damage: object, message: str, saved: Path) -> None:
    with pytest.raises(SoundStormError, match=message) as raised:
        load_classifier(damage(saved.read_bytes()))  # type: ignore[operator]
    assert "soundstorm train-classifier" in str(raised.value)


def metadata(content: bytes) -> dict[str, str]:
    header: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return header


def test_a_missing_file_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="cannot read classifier weights"):
        load_classifier(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop": 0}, "hop is 0"),
        ({"hop": 2_000}, "hop is 2000: give at most n_fft 1024"),
        ({"widths": (8,)}, "widths is"),
        ({"mel_bands": 7}, "mel_bands is 7: each of 3 widths halves it, give at least 8"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


# ---- training


def test_a_short_run_learns_to_tell_two_sounds_apart_and_names_new_ones(clips: list[np.ndarray]) -> None:
    model = network()
    trainer = AudioClassifierTrainer(model, SHORT, clips, [0, 1] * 4)
    losses = [trainer.step()["loss"] for _ in range(trainer.total_steps)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    unheard = [clip(category, seed=100 + seed) for seed in range(5) for category in CLASSES[:2]]
    assert trained(model).predict(unheard).argmax(1).tolist() == [0, 1] * 5
    assert trainer.learning_rate() == pytest.approx(0, abs=1e-9)


def test_a_run_that_diverges_ends_with_the_option_to_blame_and_weights_that_are_numbers(
    clips: list[np.ndarray],
) -> None:
    trainer = AudioClassifierTrainer(network(), replace(SHORT, lr=1e30), clips, [0, 1] * 4)
    with pytest.raises(
        SoundStormError,
        match=r"training diverged: the gradient is (nan|inf) .* in step \d+: lower --lr \(it is 1e\+30\)",
    ):
        for _ in range(trainer.total_steps):
            trainer.step()
    assert all(bool(value.isfinite().all()) for value in trainer.model.parameters())


def test_a_resumed_run_makes_the_same_next_step(clips: list[np.ndarray]) -> None:
    trainer = AudioClassifierTrainer(network(), SHORT, clips, [0, 1] * 4)
    for _ in range(3):
        trainer.step()
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    resumed = AudioClassifierTrainer(network(), SHORT, clips, [0, 1] * 4)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)  # what else draws from the global generator does not matter
    assert resumed.step() == trainer.step()
    assert all(
        torch.equal(value, trainer.model.state_dict()[name]) for name, value in resumed.model.state_dict().items()
    )


def test_an_example_is_a_window_of_its_clip_from_anywhere_that_goes_on_at_the_beginning(
    clips: list[np.ndarray],
) -> None:
    trainer = AudioClassifierTrainer(network(), replace(PLAIN, window_s=2.0), clips, [0, 1] * 4)
    log_MT = trainer.log_powers[0].float()
    window_MT = trainer._varied(trainer.log_powers[0], np.random.default_rng(0))
    assert window_MT.shape == (32, 150)
    [start] = [start for start in range(76) if torch.equal(log_MT.roll(-start, 1), window_MT[:, :76])]
    torch.testing.assert_close(window_MT[:, 76:], log_MT.roll(-start, 1)[:, :74], atol=0, rtol=0)


def test_gain_and_pitch_move_the_spectrum_as_far_as_they_say() -> None:
    clips = [clip(CLASSES[0])]
    trainer = AudioClassifierTrainer(network(), replace(PLAIN, gain_db=6.0, pitch_bands=0.0), clips, [0])
    log_MT = trainer.log_powers[0].float()
    moved_db = [
        float((trainer._varied(log_MT, np.random.default_rng(seed)).mean() - log_MT[:, :75].mean()) * 10 / np.log(10))
        for seed in range(50)
    ]
    assert -8 < min(moved_db) < -4 and 4 < max(moved_db) < 8
    trainer.config = replace(PLAIN, pitch_bands=4.0)
    ramp_MT = torch.arange(32.0)[:, None].expand(32, 76)
    shifts = [float(trainer._varied(ramp_MT, np.random.default_rng(seed))[16, 0]) - 16 for seed in range(50)]
    assert -4 <= min(shifts) < -3 and 3 < max(shifts) <= 4


def test_two_clips_in_one_are_as_loud_as_their_shares_of_the_target_say(clips: list[np.ndarray]) -> None:
    trainer = AudioClassifierTrainer(network(), replace(PLAIN, mix_share=1.0), clips, [0, 1] * 4)
    power_BMT = torch.zeros(2, 32, 10)
    power_BMT[0, 3], power_BMT[1, 20] = 1e-2, 1e-6  # 40 dB apart
    target_BC = torch.eye(2)
    mixed_BMT, share_BC = trainer._mixed(power_BMT, target_BC, np.random.default_rng(0))
    torch.testing.assert_close(share_BC.sum(1), torch.ones(2))
    amplitude_B = (mixed_BMT[:, 3, 0] / 1e-2).sqrt() * 0.1, (mixed_BMT[:, 20, 0] / 1e-6).sqrt() * 1e-3
    torch.testing.assert_close(amplitude_B[0] / (amplitude_B[0] + amplitude_B[1]), share_BC[:, 0], atol=1e-4, rtol=1e-3)


def test_masks_are_silent_stretches_no_longer_than_allowed(clips: list[np.ndarray]) -> None:
    config = replace(PLAIN, band_masks=1, mask_bands=5, frame_masks=1, mask_frames=20)
    trainer = AudioClassifierTrainer(network(), config, clips, [0, 1] * 4)
    masked_BMT = trainer._masked(torch.ones(64, 32, 75), np.random.default_rng(0)) == 0
    bands_B, frames_B = masked_BMT.all(2).sum(1), masked_BMT.all(1).sum(1)
    assert (int(bands_B.max()), int(frames_B.max())) == (5, 20)
    assert int(bands_B.min()) == 0
    assert (masked_BMT.sum((1, 2)) == bands_B * 75 + frames_B * 32 - bands_B * frames_B).all()


def test_workers_share_an_epoch_in_which_every_clip_occurs(clips: list[np.ndarray]) -> None:
    config = replace(PLAIN, batch_size=3)
    workers = [
        AudioClassifierTrainer(network(), config, clips, [0, 1] * 4, worker=Worker(rank=rank, num_workers=2))
        for rank in (0, 1)
    ]
    assert workers[0].steps_per_epoch == 2
    seen = []
    for step in range(2):
        for worker in workers:
            worker.step_count = step
            seen.append(worker._chosen().tolist())
    assert all(len(chosen) == 3 for chosen in seen)
    assert set(np.concatenate(seen)) == set(range(8))
    workers[0].step_count = 2
    assert workers[0]._chosen().tolist() != seen[0]


@pytest.mark.parametrize(
    ("labels", "lengths", "message"),
    [
        ([], [], "0 clips and 0 labels"),
        ([0], [100, 100], "2 clips and 1 labels"),
        ([0], [0], "no empty clips"),
        ([2], [100], "labels 2 to 2"),
    ],
)
def test_clips_that_cannot_be_trained_on_are_refused(labels: list[int], lengths: list[int], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        AudioClassifierTrainer(network(), SHORT, [np.ones(length, np.int16) for length in lengths], labels)


# ---- the weights in the package


def test_the_packaged_classifier_is_small_and_has_not_seen_fold_five() -> None:
    classifier = load_classifier()
    assert (classifier.dataset, classifier.held_out_fold, len(classifier.categories)) == ("esc50", 5, 50)
    assert classifier.accuracy is not None and classifier.accuracy > 0.72
    assert sum(parameter.numel() for parameter in classifier.model.parameters()) < 1.5e6


def test_the_packaged_classifier_names_real_recordings_that_it_has_not_seen(esc50: Path) -> None:
    classifier = load_classifier()
    files = [
        (path, name)
        for number, name in enumerate(ESC50_CATEGORIES)
        for path in sorted((esc50 / "audio").glob(f"5-*-{number}.*"))[:2]
    ]
    probabilities = classifier.predict([to_pcm16(read_audio(path).waveform) for path, _ in files])
    right = [classifier.categories[row.argmax()] == name for row, (_, name) in zip(probabilities, files, strict=True)]
    assert len(files) == 100 and sum(right) >= 68
