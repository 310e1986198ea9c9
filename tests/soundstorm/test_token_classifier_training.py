"""Training of the token classifier: it learns, goes on bit for bit, and varies its examples as far as it says."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soundstorm.codec import Codec, load_codec
from soundstorm.errors import SoundStormError
from soundstorm.presets import ModelConfig
from soundstorm.synthetic import CLASSES, synthesize
from soundstorm.token_classifier import Mode, ReadoutConfig, TokenClassifier
from soundstorm.token_classifier_training import PRESETS, TokenClassifierTrainer, TokenClassifierTrainingConfig

SMALL = ModelConfig(width=32, depth=2, heads=2, kernel=5, ff_mult=2, num_classes=3)
SHORT = TokenClassifierTrainingConfig(epochs=80, batch_size=8, window_frames=60, lr=2e-3, precision="fp32")
PLAIN = replace(SHORT, mix_share=0, frame_masks=0, level_drop_share=0)
"""No variation but where the window begins."""
LABELS = [0, 1] * 4


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    torch.set_num_threads(1)
    return load_codec(tiny_codec)


def heard(codec: Codec, seeds: range) -> list[list[np.ndarray]]:
    """Clips of each of two sounds, one after the other in turn, in one or two views."""
    sounds = [synthesize(category, seed, 1.0, 24_000) for seed in seeds for category in CLASSES[:2]]
    recorded, shifted = codec.encode_clips(sounds), codec.encode_clips([np.roll(sound, 5_000) for sound in sounds])
    return [[first, second] if number % 3 else [first] for number, (first, second) in enumerate(zip(recorded, shifted, strict=True))]


@pytest.fixture(scope="module")
def views(codec: Codec) -> list[list[np.ndarray]]:
    return heard(codec, range(4))


def network(codec: Codec, latent_dim: int = 16) -> TokenClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TokenClassifier(2, SMALL, ReadoutConfig(latent_dim=latent_dim, heads=2, dropout=0.1))
    model.take_vectors(codec)
    return model


def trainer(codec: Codec, views: list[list[np.ndarray]], mode: Mode = "scratch", config: Any = SHORT, **place: Any) -> TokenClassifierTrainer:
    return TokenClassifierTrainer(network(codec, 0 if mode == "frozen" else 16), mode, config, views, LABELS, **place)


def weights(run: TokenClassifierTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_a_short_run_learns_to_tell_two_sounds_apart_and_names_new_ones(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views)
    losses = [run.step()["loss"] for _ in range(run.total_steps)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert run.learning_rate() == pytest.approx(0, abs=1e-9)
    new = [clip[0] for clip in heard(codec, range(100, 110))]
    model = run.averaged()
    scores = [model(torch.from_numpy(clip.astype(np.int64))[None], torch.ones(1, clip.shape[1], dtype=torch.bool)) for clip in new]
    right = [int(score.argmax()) == number % 2 for number, score in enumerate(scores)]
    assert len(right) == 20 and sum(right) >= 17


@pytest.mark.parametrize("mode", ["fine-tuned", "frozen"])
def test_a_resumed_run_makes_the_same_next_step(mode: Mode, codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, mode)
    for _ in range(3):
        run.step()
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    resumed = trainer(codec, views, mode)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)  # what else draws from the global generator does not matter
    assert resumed.step() == run.step()
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(resumed).items())
    assert all(torch.equal(value, run.ema.average[name]) for name, value in resumed.ema.average.items())


def test_a_frozen_run_changes_what_the_generator_does_not_have_and_nothing_else(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, "frozen")
    before = weights(run)
    for _ in range(2):
        run.step()
    changed = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert {"head.weight", "pooling.query.weight", "pooling.hidden.weight"} <= changed
    assert not any(name.startswith(("backbone", "stage_weight")) for name in changed)


def test_what_a_frozen_network_makes_of_a_view_is_kept_and_is_that_of_the_whole_clip(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, "frozen", replace(PLAIN, window_frames=None))
    for _ in range(4):
        run.step()
    assert 8 <= len(run.heard) <= sum(map(len, views))
    model = run.model.eval()
    (clip, view), kept_DT = next(iter(run.heard.items()))
    codes_1QT = torch.from_numpy(views[clip][view].astype(np.int64))[None]
    mask_BT = torch.ones(1, codes_1QT.shape[2], dtype=torch.bool)
    np.testing.assert_allclose(kept_DT.T, model.frames(model.embed(codes_1QT, mask_BT))[0].detach().numpy(), atol=5e-3)


def test_a_frozen_classifier_with_the_codecs_vectors_is_refused(codec: Codec, views: list[list[np.ndarray]]) -> None:
    with pytest.raises(SoundStormError, match="hears by the generator alone: latent_dim is 16"):
        TokenClassifierTrainer(network(codec), "frozen", SHORT, views, LABELS)


def test_all_that_is_not_frozen_is_trained_and_matrices_are_decayed(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, "fine-tuned")
    names = {id(value): name for name, value in run.model.named_parameters()}
    trained = {names[id(value)] for group in run.optimizer.param_groups for value in group["params"]}
    assert trained == {name for name, _ in run.model.named_parameters()}
    decayed = {names[id(value)] for group in run.optimizer.param_groups if group["weight_decay"] for value in group["params"]}
    assert "head.weight" in decayed and not any("embedding" in name or "bias" in name or "depthwise" in name for name in decayed)


def test_the_published_preset_has_no_variation_and_one_learning_rate(codec: Codec, views: list[list[np.ndarray]]) -> None:
    published = PRESETS["published"]
    assert (published.batch_size, published.epochs, published.lr, published.weight_decay) == (32, 50, 5e-5, 0)
    run = trainer(codec, views, "fine-tuned", replace(published, batch_size=4))
    assert run.learning_rate() == 5e-5
    shown, mask_BT = run._codes(np.arange(4), np.random.default_rng(0))
    assert mask_BT.sum(1).tolist() == [views[clip][0].shape[1] for clip in range(4)]
    assert not (shown == 1024).any()
    assert run._ratio(np.random.default_rng(0)).tolist() == [1, 1, 1, 1]
    run.step()
    assert all(torch.equal(value, dict(run.model.named_parameters())[name]) for name, value in run.averaged().named_parameters())


def test_an_example_is_a_window_of_a_view_from_anywhere_that_goes_on_at_the_beginning(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, config=replace(PLAIN, window_frames=100))
    clip_QT = views[0][0]
    window_QT = run._window(clip_QT, np.random.default_rng(0))
    assert window_QT.shape == (8, 100)
    [start] = [start for start in range(75) if np.array_equal(np.roll(clip_QT, -start, 1), window_QT[:, :75])]
    np.testing.assert_array_equal(window_QT[:, 75:], np.roll(clip_QT, -start, 1)[:, :25])


def test_masks_are_stretches_of_all_levels_and_upper_levels_as_often_as_they_say(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, config=replace(PLAIN, frame_masks=1, mask_share=0.2, level_drop_share=0.5))
    rng = np.random.default_rng(0)
    masked = np.stack([run._masked(np.zeros((8, 60), np.uint16), rng) for _ in range(400)]) == 1024
    in_frames = masked.all(1).sum(1)
    assert in_frames.max() == 12 and in_frames.min() == 0
    dropped = masked.all(2)
    assert 0.35 < (dropped.any(1)).mean() < 0.55  # one draw in eight keeps all levels
    assert not dropped[:, 0].any() and (np.diff(dropped.astype(int), axis=1) >= 0).all()


def test_the_share_of_mixed_examples_and_of_each_in_them(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views, config=replace(SHORT, batch_size=1000, mix_share=0.3))
    ratio_B = run._ratio(np.random.default_rng(0))
    mixed_B = ratio_B[ratio_B < 1]
    assert 0.25 < len(mixed_B) / 1000 < 0.35 and 0.4 < float(mixed_B.mean()) < 0.6


def test_workers_share_an_epoch_in_which_every_clip_occurs(codec: Codec, views: list[list[np.ndarray]]) -> None:
    workers = [trainer(codec, views, config=replace(PLAIN, batch_size=3), rank=rank, num_workers=2) for rank in (0, 1)]
    assert workers[0].steps_per_epoch == 2
    seen = []
    for step in range(2):
        for worker in workers:
            worker.step_count = step
            seen.append(worker._chosen().tolist())
    assert all(len(chosen) == 3 for chosen in seen)
    assert set(np.concatenate(seen)) == set(range(8))


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_updated(codec: Codec, views: list[list[np.ndarray]]) -> None:
    run = trainer(codec, views)
    torch.nn.init.constant_(run.model.head.bias, torch.inf)
    before = weights(run)
    with pytest.raises(SoundStormError, match=r"the gradient is nan .* lower --lr"):
        run.step()
    assert run.step_count == 0 and torch.equal(weights(run)["head.weight"], before["head.weight"])


@pytest.mark.parametrize(
    ("labels", "frames", "message"),
    [([], [], "0 clips and 0 labels"), ([0], [9, 9], "2 clips and 1 labels"), ([0], [0], "none of them empty"), ([2], [9], "labels 2 to 2")],
)
def test_clips_that_cannot_be_trained_on_are_refused(codec: Codec, labels: list[int], frames: list[int], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        TokenClassifierTrainer(network(codec), "scratch", SHORT, [[np.zeros((8, count), np.uint16)] for count in frames], labels)


def test_a_step_of_one_clip_is_refused(codec: Codec, views: list[list[np.ndarray]]) -> None:
    with pytest.raises(SoundStormError, match="the batch size is 1"):
        trainer(codec, views, config=replace(SHORT, batch_size=1))
