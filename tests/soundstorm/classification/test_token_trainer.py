"""Training of the token classifier: it learns, goes on bit for bit, and varies its examples as far as it says."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier, TokenMode
from soundstorm.classification.training.token_trainer import (
    TRAINING_PRESETS,
    TokenClassifierTrainer,
    TokenClassifierTrainingConfig,
)
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig
from soundstorm.optimization.worker import Worker

SMALL = ModelConfig(width=32, depth=2, heads=2, kernel=5, ff_mult=2, num_classes=3)
SHORT = TokenClassifierTrainingConfig(epochs=80, batch_size=8, window_s=0.8, lr=2e-3, precision="fp32")
PLAIN = replace(SHORT, speed_octaves=0, gain_db=0, equalizer_db=0, mix_share=0, frame_masks=0, level_drop_share=0)
"""No variation but where the excerpt begins."""
LABELS = [0, 1] * 4


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    torch.set_num_threads(1)
    return load_codec(tiny_codec)


def sounds(seeds: range) -> list[np.ndarray]:
    """Recordings of each of two sounds, one after the other in turn, some shorter than the others."""
    whole = [to_pcm16(synthesize(category, seed, 1.0, 24_000)) for seed in seeds for category in CLASSES[:2]]
    return [recording if number % 3 else recording[:20_000] for number, recording in enumerate(whole)]


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return sounds(range(4))


def network(codec: Codec, latent_dim: int = 16, blocks: int = 0) -> TokenClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TokenClassifier(2, SMALL, ReadoutConfig(latent_dim=latent_dim, heads=2, dropout=0.1, blocks=blocks))
    model.set_codebook_embeddings(codec)
    return model


def trainer(
    codec: Codec, recordings: list[np.ndarray], mode: TokenMode = "scratch", config: Any = SHORT, **place: Any
) -> TokenClassifierTrainer:
    model = network(codec, 0, blocks=1) if mode == "frozen" else network(codec)
    return TokenClassifierTrainer(model, codec, mode, config, recordings, LABELS, **place)


def weights(run: TokenClassifierTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_a_short_run_learns_to_tell_two_sounds_apart_and_names_new_ones(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings)
    losses = [run.step()["loss"] for _ in range(run.total_steps)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert run.learning_rate() == pytest.approx(0, abs=1e-9)
    new = codec.encode_clips([from_pcm16(sound) for sound in sounds(range(100, 110))])
    model = run.averaged()
    scores = [
        model(torch.from_numpy(clip.astype(np.int64))[None], torch.ones(1, clip.shape[1], dtype=torch.bool))
        for clip in new
    ]
    right = [int(score.argmax()) == number % 2 for number, score in enumerate(scores)]
    assert len(right) == 20 and sum(right) >= 17


@pytest.mark.parametrize("mode", ["fine-tuned", "frozen"])
def test_a_resumed_run_makes_the_same_next_step(mode: TokenMode, codec: Codec, recordings: list[np.ndarray]) -> None:
    run = trainer(codec, recordings, mode)
    for _ in range(3):
        run.step()
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    resumed = trainer(codec, recordings, mode)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)  # what else draws from the global generator does not matter
    assert resumed.step() == run.step()
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(resumed).items())
    assert all(torch.equal(value, run.ema.average[name]) for name, value in resumed.ema.average.items())


def test_a_frozen_run_changes_what_the_generator_does_not_have_and_nothing_else(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings, "frozen")
    before = weights(run)
    for _ in range(2):
        run.step()
    changed = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert {"head.weight", "pooling.query.weight", "pooling.hidden.weight", "all_stages.weight"} <= changed
    assert any(name.startswith("further.blocks.0.") for name in changed)
    assert not any(name.startswith(("backbone", "stage_weight")) for name in changed)


def test_a_frozen_classifier_with_the_codecs_vectors_is_refused(codec: Codec, recordings: list[np.ndarray]) -> None:
    with pytest.raises(SoundStormError, match="uses only the generator's embeddings: latent_dim is 16"):
        TokenClassifierTrainer(network(codec), codec, "frozen", SHORT, recordings, LABELS)


def test_all_that_is_not_frozen_is_trained_and_matrices_are_decayed(codec: Codec, recordings: list[np.ndarray]) -> None:
    run = trainer(codec, recordings, "fine-tuned")
    names = {id(value): name for name, value in run.model.named_parameters()}
    trained = {names[id(value)] for group in run.optimizer.param_groups for value in group["params"]}
    assert trained == {name for name, _ in run.model.named_parameters()}
    decayed = {
        names[id(value)] for group in run.optimizer.param_groups if group["weight_decay"] for value in group["params"]
    }
    assert "head.weight" in decayed and not any(
        "embedding" in name or "bias" in name or "depthwise" in name for name in decayed
    )


def test_the_published_preset_has_no_variation_and_one_learning_rate(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    published = TRAINING_PRESETS["published"]
    assert (published.batch_size, published.epochs, published.lr, published.weight_decay) == (32, 50, 5e-5, 0)
    run = trainer(codec, recordings, "fine-tuned", replace(published, batch_size=4, precision="fp32"))
    assert run.learning_rate() == 5e-5
    heard, weights_BC = zip(*(run.varied.waveform(index, 0) for index in range(4)), strict=True)
    for clip_N, recording in zip(heard, recordings[:4], strict=True):
        assert len(clip_N) >= 24_000  # a short one is repeated, as when it is named
        np.testing.assert_array_equal(clip_N, np.resize(from_pcm16(recording), len(clip_N)))
    assert np.array_equal(weights_BC, [[1, 0], [0, 1], [1, 0], [0, 1]])
    for varied, clip_N in zip(run.varied(range(4), 0, keep=False), heard, strict=True):
        [expected_QT] = codec.encode_clips([clip_N])
        np.testing.assert_array_equal(varied.codes_QT, expected_QT)
    run.step()
    assert all(
        torch.equal(value, dict(run.model.named_parameters())[name])
        for name, value in run.averaged().named_parameters()
    )


def test_an_example_is_an_excerpt_of_the_size_asked_for_and_another_in_the_next_epoch(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings, config=replace(PLAIN, window_s=4 / 3))
    first, second = (run.varied.waveform(0, number)[0] for number in (0, 1))
    assert first.shape == second.shape == (32_000,) and not np.array_equal(first, second)
    assert [varied.codes_QT.shape for varied in run.varied([0, 0, 3], 1, keep=False)] == [(8, 100)] * 3


def test_variations_are_used_again_after_the_last_and_made_no_more(
    codec: Codec, recordings: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is kept nor a resumption nor the memory for it changes what is trained."""
    config = replace(SHORT, variations=2, batch_size=4, epochs=5)
    encoded: list[int] = []
    encode = codec.encode_clips
    monkeypatch.setattr(codec, "encode_clips", lambda clips: (encoded.append(len(clips)), encode(clips))[1])
    run = trainer(codec, recordings, config=config)
    losses = [run.step()["loss"] for _ in range(run.total_steps)]
    assert encoded == [4] * 4 and len(losses) == 10  # of five epochs the first two
    monkeypatch.setattr("soundstorm.classification.training.varied.MAX_KEPT_BYTES", 0)
    encoded.clear()
    forgetful = trainer(codec, recordings, config=config)
    assert [forgetful.step()["loss"] for _ in range(run.total_steps)] == losses
    assert encoded == [4] * 10
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(forgetful).items())


def test_a_teachers_opinion_of_a_variation_does_not_depend_on_the_batch(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    torch.manual_seed(0)
    teacher = AudioClassifier(2, AudioClassifierConfig(mel_bands=16, widths=(4, 8), embedding=8)).eval()
    run = trainer(codec, recordings, teacher=teacher)
    together = run.varied(range(8), 0, keep=False)
    for index, varied in enumerate(together):
        [alone] = run.varied([index], 0, keep=False)
        assert varied.teacher_C is not None and varied.teacher_C.shape == (2,)
        np.testing.assert_array_equal(alone.teacher_C, varied.teacher_C)
        np.testing.assert_array_equal(alone.codes_QT, varied.codes_QT)
        np.testing.assert_array_equal(alone.target_C, varied.target_C)


def test_masks_are_stretches_of_all_levels_and_upper_levels_as_often_as_they_say(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings, config=replace(PLAIN, frame_masks=1, mask_share=0.2, level_drop_share=0.5))
    rng = np.random.default_rng(0)
    masked = np.stack([run._masked(np.zeros((8, 60), np.uint16), rng) for _ in range(400)]) == 1024
    in_frames = masked.all(1).sum(1)
    assert in_frames.max() == 12 and in_frames.min() == 0
    dropped = masked.all(2)
    assert 0.35 < (dropped.any(1)).mean() < 0.55  # one draw in eight keeps all levels
    assert not dropped[:, 0].any() and (np.diff(dropped.astype(int), axis=1) >= 0).all()


def test_the_share_of_mixed_examples_and_of_each_in_them(codec: Codec, recordings: list[np.ndarray]) -> None:
    run = trainer(codec, recordings, config=replace(SHORT, mix_share=0.3, window_s=0.0267))
    target_VC = np.stack([run.varied.waveform(index, number)[1] for index in range(8) for number in range(250)])
    own_V = target_VC[np.arange(2000), np.repeat(LABELS, 250)]
    mixed_V = own_V[own_V < 1]  # of seven other recordings four have the other label
    assert 0.25 < len(mixed_V) / 2000 * 7 / 4 < 0.35 and 0.4 < float(mixed_V.mean()) < 0.6
    np.testing.assert_allclose(target_VC.sum(1), 1, atol=1e-6)


def test_silence_is_not_mixed_with_anything(codec: Codec, recordings: list[np.ndarray]) -> None:
    silent = [recordings[0], np.zeros(24_000, np.int16), *recordings[2:]]
    run = trainer(codec, silent, config=replace(SHORT, mix_share=1.0))
    varied = [run.varied.waveform(1, number) for number in range(20)]
    assert not any(clip_N.any() or weight_C[1] != 1 for clip_N, weight_C in varied)
    others = [run.varied.waveform(0, number) for number in range(60)]
    assert all(np.abs(clip_N).max() > 0.01 for clip_N, _ in others)
    # of seven others three have the same label, three another and are mixed in, one is silent and is not
    assert 0.25 < np.mean([weight_C[1] > 0 for _, weight_C in others]) < 0.65


def test_a_teacher_is_agreed_with_where_its_opinion_counts_alone(codec: Codec, recordings: list[np.ndarray]) -> None:
    """The teacher takes every sound for the second, whatever its label."""
    teacher = (
        AudioClassifier(2, AudioClassifierConfig(mel_bands=16, widths=(4, 8), embedding=8)).eval().requires_grad_(False)
    )
    torch.nn.init.zeros_(teacher.head.weight)
    teacher.head.bias.copy_(torch.tensor([0.0, 4.0]))
    run = trainer(codec, recordings, config=replace(SHORT, teacher_share=1.0, lr=5e-2), teacher=teacher)
    losses = [run.step()["loss"] for _ in range(run.total_steps)]
    assert np.mean(losses[-3:]) < 0.2 * np.mean(losses[:3])
    model = run.averaged()
    for codes in codec.encode_clips([from_pcm16(recording) for recording in recordings[:4]]):
        assert (
            int(
                model(
                    torch.from_numpy(codes.astype(np.int64))[None], torch.ones(1, codes.shape[1], dtype=torch.bool)
                ).argmax()
            )
            == 1
        )


def test_the_disagreement_with_a_teacher_is_the_divergence_of_softened_opinions(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings, config=replace(SHORT, teacher_temperature=2.0))
    own_BC, taught_BC = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    p, q = (taught_BC / 2).softmax(1), (own_BC / 2).softmax(1)
    assert float(run._distillation_loss(own_BC, taught_BC)) == pytest.approx(4 * float((p * (p / q).log()).sum()))
    assert float(run._distillation_loss(taught_BC, taught_BC)) == pytest.approx(0, abs=1e-7)


def test_workers_share_an_epoch_in_which_every_clip_occurs(codec: Codec, recordings: list[np.ndarray]) -> None:
    workers = [
        trainer(codec, recordings, config=replace(PLAIN, batch_size=3), worker=Worker(rank=rank, num_workers=2))
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


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_updated(
    codec: Codec, recordings: list[np.ndarray]
) -> None:
    run = trainer(codec, recordings)
    torch.nn.init.constant_(run.model.head.bias, torch.inf)
    before = weights(run)
    with pytest.raises(SoundStormError, match=r"the gradient is nan .* lower --lr"):
        run.step()
    assert run.step_count == 0 and torch.equal(weights(run)["head.weight"], before["head.weight"])


@pytest.mark.parametrize(
    ("labels", "lengths", "message"),
    [
        ([], [], "0 clips and 0 labels"),
        ([0], [9, 9], "2 clips and 1 labels"),
        ([0], [0], "no empty clips"),
        ([2], [9], "labels 2 to 2"),
    ],
)
def test_recordings_that_cannot_be_trained_on_are_refused(
    codec: Codec, labels: list[int], lengths: list[int], message: str
) -> None:
    with pytest.raises(SoundStormError, match=message):
        TokenClassifierTrainer(
            network(codec), codec, "scratch", SHORT, [np.zeros(length, np.int16) for length in lengths], labels
        )


def test_a_step_of_one_clip_is_refused(codec: Codec, recordings: list[np.ndarray]) -> None:
    with pytest.raises(SoundStormError, match="the batch size is 1"):
        trainer(codec, recordings, config=replace(SHORT, batch_size=1))
