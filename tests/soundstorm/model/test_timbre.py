"""Timbres: what they are of a clip, how they are drawn, and that a network told one follows it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import continuation, generate_codes
from soundstorm.model.centroids import Centroids
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import make_generator
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.timbre import MAX_ENTRIES, Timbre, clip_features, num_entries, timbre_weights
from soundstorm.training.batches import collate
from soundstorm.training.place_step import training_timbre
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, training_step

CONFIG = ModelConfig(
    width=32, depth=2, heads=2, kernel=7, ff_mult=2, num_levels=2, codebook_size=20, num_classes=2,
    order="places", centroids=True, centroid_dim=6, head_width=32, head_depth=1, timbre_dim=3,
)  # fmt: skip
TRAINING = TrainingConfig(
    batch_size=8, epochs=1, lr=5e-3, betas=(0.9, 0.98), schedule="cosine", warmup_share=0.1, timbre_noise=0.0,
    precision="fp32", class_dropout=0.0,
)  # fmt: skip
SAMPLER = SamplerSettings(iterations=4, order="even", final_temperature=1.0, timbre_spread=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def centroids() -> Centroids:
    found = Centroids(CONFIG.num_levels, CONFIG.codebook_size, CONFIG.centroid_dim)
    found.take(torch.randn(CONFIG.num_levels, CONFIG.codebook_size, CONFIG.centroid_dim))
    return found


def clips(number: int = 12) -> tuple[list[list[np.ndarray]], list[int]]:
    """Clips of one view, each of few codes of its own: even ones of class 0 from the lower half of the codebook."""
    rng = np.random.default_rng(0)
    views, labels = [], []
    for index in range(number):
        own = rng.choice(10, 2, replace=False) + 10 * (index % 2)
        views.append([rng.choice(own, (CONFIG.num_levels, 16)).astype(np.uint16)])
        labels.append(index % 2)
    return views, labels


def network(number: int = 12) -> tuple[PlaceNetwork, list[list[np.ndarray]], list[int]]:
    views, labels = clips(number)
    config = replace(CONFIG, timbre_entries=num_entries(labels))
    model = make_generator(config)
    assert isinstance(model, PlaceNetwork)
    model.centroids.load_state_dict(centroids().state_dict())
    fitted = timbre_weights(None, model.centroids, config, views, labels)
    assert model.load_state_dict(fitted, strict=False).unexpected_keys == []
    return model.eval(), views, labels


def of_clips(model: PlaceNetwork, views: list[list[np.ndarray]]) -> Tensor:
    codes_BQT = torch.from_numpy(np.stack([of_clip[0] for of_clip in views]).astype(np.int64))
    timbre_BS = model.timbre_of(codes_BQT, torch.ones(len(views), codes_BQT.shape[2], dtype=torch.bool))
    assert timbre_BS is not None
    return timbre_BS


def test_a_timbre_is_mean_and_deviation_over_the_real_places_alone() -> None:
    sums_BTL = torch.tensor([[[1.0, 10.0], [3.0, 10.0], [99.0, -99.0]]])
    features_BF = clip_features(sums_BTL, torch.tensor([[True, True, False]]))
    assert features_BF.tolist() == [[2.0, 10.0, 1.0, 0.0]]


def test_timbres_of_the_training_clips_have_variance_one_and_are_stored_with_their_class() -> None:
    model, views, labels = network()
    timbre_BS = of_clips(model, views)
    assert timbre_BS.mean(0).abs().max() < 1e-5
    assert torch.allclose(timbre_BS.std(0, correction=0), torch.ones(3), atol=1e-4)
    assert model.timbre is not None
    for label in (0, 1):
        stored_ES = model.timbre.entries_ES[model.timbre.entry_label_E == label]
        own_ES = timbre_BS[torch.tensor(labels) == label]
        assert torch.allclose(stored_ES, own_ES, atol=1e-5)


def test_of_a_large_class_some_are_stored_and_the_order_of_classes_does_not_matter() -> None:
    assert num_entries([1] * 200 + [0] * 3) == MAX_ENTRIES + 3
    model, _, _ = network(2 * MAX_ENTRIES + 40)
    assert model.timbre is not None
    assert model.timbre.entries_ES.shape == (2 * MAX_ENTRIES, 3)
    assert model.timbre.entry_label_E.tolist() == [0.0] * MAX_ENTRIES + [1.0] * MAX_ENTRIES


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_drawn_timbres_have_mean_and_deviation_of_the_class_however_far_they_are_spread(spread: float) -> None:
    model, views, labels = network(40)
    timbre = model.timbre
    assert timbre is not None
    own_ES = of_clips(model, views)[torch.tensor(labels) == 1]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2000)]
    drawn_BS = timbre.draw(torch.ones(2000, dtype=torch.int64), generators, spread)
    deviation_S = own_ES.std(0, correction=0)
    assert ((drawn_BS.mean(0) - own_ES.mean(0)).abs() < 0.12 * deviation_S).all()
    assert torch.allclose(drawn_BS.std(0), deviation_S, rtol=0.12)
    are_own_B = torch.cdist(drawn_BS, own_ES).amin(1) < 1e-3
    assert bool(are_own_B.all()) == (spread == 0) and bool(are_own_B.any()) == (spread == 0)


def test_a_class_without_stored_timbres_draws_from_all() -> None:
    model, views, _ = network()
    assert model.timbre is not None
    no_class_B = torch.full((60,), model.no_class)
    drawn_BS = model.timbre.draw(no_class_B, [torch.Generator().manual_seed(seed) for seed in range(60)], 0.0)
    distance_BN = torch.cdist(drawn_BS, of_clips(model, views))
    assert distance_BN.amin(1).max() < 1e-3
    assert set((distance_BN.argmin(1) % 2).tolist()) == {0, 1}


def test_training_tells_most_clips_their_blurred_timbre_and_some_none() -> None:
    model, views, labels = network()
    batch = collate([of_clip[0] for of_clip in views] * 40, labels * 40)
    generator = torch.Generator().manual_seed(0)
    config = replace(TRAINING, timbre_dropout=0.25, timbre_noise=0.5)
    told_BS = training_timbre(model, batch, generator, config)
    own_BS = model.timbre_of(batch.codes_BQT, batch.valid_BT)
    assert told_BS is not None and own_BS is not None and model.timbre is not None
    is_known_B = ~told_BS.isnan().any(1)
    assert 0.65 < float(is_known_B.float().mean()) < 0.85
    blur_S = (told_BS - own_BS)[is_known_B].std(0)
    assert torch.allclose(blur_S, 0.5 * model.timbre.spread_S, rtol=0.15)


def test_a_network_that_has_learned_draws_the_sound_of_the_timbre_it_is_told() -> None:
    model, views, labels = network()
    model.train()
    optimizer = build_optimizer(model, TRAINING)
    schedule = build_schedule(optimizer, TRAINING, 400)
    batch, generator = collate([of_clip[0] for of_clip in views], labels), torch.Generator().manual_seed(1)
    for _ in range(400):
        apply_gradients(model, training_step(model, batch, generator, TRAINING).loss, optimizer, schedule, TRAINING)
    drawn = generate_codes(model, torch.tensor(labels * 8), [16] * 96, SAMPLER, list(range(96)))
    assert model.timbre is not None
    generators = [torch.Generator().manual_seed(seed) for seed in range(96)]
    told_BS = model.timbre.draw(torch.tensor(labels * 8), generators, SAMPLER.timbre_spread)
    made_BS = of_clips(model, [[codes_QT.numpy()] for codes_QT in drawn])
    correlation_S = [
        float(torch.corrcoef(torch.stack((told, made)))[0, 1]) for told, made in zip(told_BS.T, made_BS.T, strict=True)
    ]
    assert min(correlation_S) > 0.7


def test_what_is_continued_is_told_no_timbre_and_a_sample_follows_from_its_seed_alone() -> None:
    model, views, labels = network()
    with torch.no_grad():
        model.head.project_QHL.mul_(8)  # so that it has opinions
    labels_B = torch.tensor(labels[:3])
    together = generate_codes(model, labels_B, [16, 9, 16], SAMPLER, [5, 6, 7])
    alone = generate_codes(model, labels_B[1:2], [9], SAMPLER, [6])
    assert torch.equal(together[1], alone[0])
    other_timbre = replace(SAMPLER, timbre_spread=1.0)
    assert not torch.equal(together[0], generate_codes(model, labels_B[:1], [16], other_timbre, [5])[0])
    prompt_QT = torch.from_numpy(views[0][0][:, :4].astype(np.int64))
    known = continuation([prompt_QT], [16])
    assert model.timbre is not None

    def continued(settings: SamplerSettings) -> Tensor:
        return generate_codes(model, labels_B[:1], [16], settings, [5], known=known)[0]

    assert torch.equal(continued(SAMPLER)[:, :4], prompt_QT)
    assert torch.equal(continued(SAMPLER), continued(other_timbre))


def test_training_that_goes_on_with_other_clips_keeps_the_components() -> None:
    model, _, _ = network()
    views, labels = clips(30)
    config = replace(CONFIG, timbre_entries=num_entries(labels))
    weights = timbre_weights(model.timbre, model.centroids, config, views, labels)
    assert model.timbre is not None
    assert torch.equal(weights["timbre.basis_FS"], model.timbre.basis_FS)
    assert weights["timbre.entries_ES"].shape == (30, 3)
    other = Timbre(config)
    other.load_state_dict({name.removeprefix("timbre."): value for name, value in weights.items()}, strict=False)
    assert torch.allclose(other.entries_ES[0], model.timbre.entries_ES[0], atol=1e-5)


def test_timbres_belong_to_the_order_places() -> None:
    with pytest.raises(SoundStormError, match="timbre_dim is 3: it must be 0 where order is levels"):
        replace(CONFIG, order="levels")
