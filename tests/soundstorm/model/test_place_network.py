"""The network of order `places`: what it sees, what its head may know, what padding does, and that it learns what it is
shown."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import continuation, generate_codes
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import make_generator
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.training.batches import PADDING, Batch, collate
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, evaluate_loss, training_step

CONFIG = ModelConfig(
    width=32, depth=2, heads=2, kernel=7, ff_mult=2, num_levels=3, codebook_size=20, num_classes=4,
    order="places", centroids=True, centroid_dim=6, head_width=32, head_depth=2,
)  # fmt: skip
TRAINING = TrainingConfig(
    batch_size=4,
    epochs=1,
    lr=6e-3,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_share=0.1,
    class_dropout=0.0,
    prompt_share=0.25,
    precision="fp32",
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(config: ModelConfig = CONFIG) -> PlaceNetwork:
    model = make_generator(config)
    assert isinstance(model, PlaceNetwork)
    model.centroids.take(torch.randn(config.num_levels, config.codebook_size, config.centroid_dim))
    return model.eval()


def example(num_places: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes_BQT = torch.randint(CONFIG.codebook_size, (2, CONFIG.num_levels, num_places))
    known_BT = torch.rand(2, num_places) < 0.5
    known_BT[:, 0] = False
    return codes_BQT, known_BT, torch.tensor([0, 2]), torch.ones(2, num_places, dtype=torch.bool)


def test_the_order_of_a_config_says_which_network_is_made() -> None:
    assert isinstance(make_generator(CONFIG), PlaceNetwork)
    assert isinstance(make_generator(replace(CONFIG, order="levels")), SoundStorm)
    with pytest.raises(SoundStormError, match="centroids is False: it must be true where order is places"):
        replace(CONFIG, centroids=False, centroid_dim=0)
    with pytest.raises(SoundStormError, match="centroid_dim is 0"):
        make_generator(replace(CONFIG, centroid_dim=0))


def test_a_masked_place_is_one_vector_whatever_its_codes_and_a_known_one_shows_all_levels() -> None:
    model = network()
    codes_BQT, known_BT, label_B, valid_BT = example()
    with torch.no_grad():
        before_BTD = model.hidden(codes_BQT, known_BT, label_B, valid_BT)
        hidden_changed = torch.where(known_BT[:, None, :], codes_BQT, (codes_BQT + 1) % CONFIG.codebook_size)
        assert torch.equal(model.hidden(hidden_changed, known_BT, label_B, valid_BT), before_BTD)
        for level in range(CONFIG.num_levels):
            seen_changed = codes_BQT.clone()
            seen_changed[:, level] = torch.where(
                known_BT, (codes_BQT[:, level] + 1) % CONFIG.codebook_size, codes_BQT[:, level]
            )
            assert not torch.allclose(model.hidden(seen_changed, known_BT, label_B, valid_BT), before_BTD, atol=1e-3)


def test_a_level_is_asked_with_the_codes_below_it_and_none_of_its_own_or_above() -> None:
    model = network()
    x_ND, codes_NQ = torch.randn(5, CONFIG.width), torch.randint(CONFIG.codebook_size, (5, CONFIG.num_levels))
    with torch.no_grad():
        model.head.project_QHL.mul_(20)
        before_QNK = model.head(x_ND, codes_NQ, model.centroids)
        for level in range(CONFIG.num_levels):
            changed_NQ = codes_NQ.clone()
            changed_NQ[:, level] = (codes_NQ[:, level] + 1) % CONFIG.codebook_size
            after_QNK = model.head(x_ND, changed_NQ, model.centroids)
            torch.testing.assert_close(after_QNK[: level + 1], before_QNK[: level + 1])
            if level + 1 < CONFIG.num_levels:
                assert not torch.allclose(after_QNK[level + 1], before_QNK[level + 1], atol=1e-3)


def test_levels_one_by_one_have_the_logits_of_all_at_once() -> None:
    model = network()
    x_ND, codes_NQ = torch.randn(5, CONFIG.width), torch.randint(CONFIG.codebook_size, (5, CONFIG.num_levels))
    with torch.no_grad():
        together_QNK = model.head(x_ND, codes_NQ, model.centroids)
        levels = model.level_by_level(x_ND)
        for level in range(CONFIG.num_levels):
            torch.testing.assert_close(levels.logits(), together_QNK[level], atol=1e-5, rtol=1e-5)
            levels.take(codes_NQ[:, level])


def test_the_same_places_come_out_whatever_they_are_padded_with() -> None:
    model = network()
    codes_BQT, known_BT, label_B, valid_BT = example(9)
    padded_BQT = torch.nn.functional.pad(codes_BQT, (0, 8), value=PADDING)
    longer = [torch.nn.functional.pad(mask, (0, 8)) for mask in (known_BT, valid_BT)]
    asked_BT = ~known_BT & valid_BT
    with torch.no_grad():
        alone_QNK = model(codes_BQT, known_BT, label_B, valid_BT, asked_BT)
        for filling in (PADDING, 5):
            filled_BQT = padded_BQT.masked_fill(padded_BQT == PADDING, filling)
            known = longer[0] if filling == PADDING else longer[0] | ~longer[1]
            padded_QNK = model(filled_BQT, known, label_B, longer[1], torch.nn.functional.pad(asked_BT, (0, 8)))
            torch.testing.assert_close(padded_QNK, alone_QNK, atol=1e-5, rtol=1e-5)


def test_the_first_logits_are_the_logarithms_of_the_counts_and_little_else() -> None:
    model = network()
    codes_BQT, known_BT, label_B, valid_BT = example()
    with torch.no_grad():
        model.head.head_bias.copy_(torch.randn_like(model.head.head_bias).log_softmax(-1))
        logits_QNK = model(codes_BQT, known_BT, label_B, valid_BT, ~known_BT)
    assert float((logits_QNK - model.head.head_bias.detach()[:, None]).detach().std()) < 0.4


def trained(model: PlaceNetwork, batch: Batch, config: TrainingConfig, steps: int) -> list[float]:
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, steps)
    drawn = torch.Generator().manual_seed(3)
    losses = []
    model.train()
    for _ in range(steps):
        outcome = training_step(model, batch, drawn, config)
        apply_gradients(model, outcome.loss, optimizer, schedule, config)
        losses.append(float(outcome.loss.detach()))
    model.eval()
    return losses


def test_a_network_that_has_learned_four_clips_by_heart_makes_them_again_from_their_classes_and_beginnings() -> None:
    model = network()
    clips = [torch.randint(CONFIG.codebook_size, (CONFIG.num_levels, length)) for length in (10, 10, 8, 6)]
    batch = collate(clips, [0, 1, 2, 3])
    losses = trained(model, batch, TRAINING, 450)
    assert losses[0] > 2.8  # ln 20 is 3.0
    assert evaluate_loss(model, [batch], TRAINING).mean() < 0.1
    lengths = [clip.shape[1] for clip in clips]
    for order in ("even", "confidence"):
        known = continuation([clip[:, :2] for clip in clips], lengths)
        settings = SamplerSettings(iterations=8, order=order, temperature=0.0)  # type: ignore[arg-type]
        made = generate_codes(model, batch.label_B, lengths, settings, [1, 2, 3, 4], known=known)
        for clip, codes_QT in zip(clips, made, strict=True):
            assert torch.equal(codes_QT, clip)


def test_every_parameter_has_a_gradient_in_every_step() -> None:
    model = network()
    batch = collate([torch.randint(CONFIG.codebook_size, (CONFIG.num_levels, length)) for length in (10, 6)], [0, 3])
    training_step(model.train(), batch, torch.Generator().manual_seed(0), TRAINING).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
