"""One worker's side of a training run: which clips it sees when, and that a state saved between epochs continues
exactly."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from jobs.training.batches import epoch_batches, steps_per_epoch
from jobs.training.generator_trainer import TrainingRun
from soundstorm.errors import SoundStormError
from soundstorm.model.centroids import Centroids, log_counts
from soundstorm.model.config import ModelConfig, TrainingConfig
from soundstorm.model.generators import weights_for_categories
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.training.token_set import TokenSet
from tests.jobs.test_train_job import pattern

# ---- which clip goes where


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "world_size"), [(18, 4, 2), (19, 4, 2), (7, 8, 3), (1, 8, 4), (33, 1, 4), (320, 16, 1)]
)
def test_workers_get_equal_batches_and_no_clip_is_left_out(num_clips: int, batch_size: int, world_size: int) -> None:
    hands = [
        list(epoch_batches(num_clips, batch_size, seed=3, epoch=5, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    sizes = [[len(batch) for batch in hand] for hand in hands]
    assert all(hand == sizes[0] for hand in sizes)
    assert len(sizes[0]) == steps_per_epoch(num_clips, batch_size, world_size)
    assert max(sizes[0]) <= batch_size and max(sizes[0]) - min(sizes[0]) <= 1
    seen = [index for hand in hands for batch in hand for index in batch]
    assert set(seen) == set(range(num_clips))
    assert len(seen) - num_clips < world_size


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(epoch_batches(20, 4, seed=seed, epoch=epoch, rank=0, world_size=1))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) != order(2, 3)


def token_set(size: int, num_views: int = 1) -> TokenSet:
    """Clips of three classes whose views begin at different codes."""
    views = [
        [(pattern(number % 3, 12) + view).astype(np.uint16) % 8 for view in range(num_views)] for number in range(size)
    ]
    return TokenSet.of(views, [number % 3 for number in range(size)])


def small_run(epochs: int = 3, num_views: int = 1, **changes: Any) -> TrainingRun:
    architecture = ModelConfig(
        width=16, depth=1, heads=2, kernel=3, dropout=0.1, num_levels=2, codebook_size=8, num_classes=3
    )
    config = TrainingConfig(batch_size=4, epochs=epochs, lr=1e-2, crop_frames=8, **changes)
    return TrainingRun(architecture, config, token_set(9, num_views), token_set(3), device=torch.device("cpu"))


def test_the_log_has_the_learning_rate_of_the_last_step_of_the_epoch() -> None:
    training = small_run()
    used: list[float] = []
    training.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    while not training.is_finished:
        training.run_epoch()
    assert [row["lr"] for row in training.rows] == pytest.approx(used[2::3])  # 9 clips in batches of at most 4


@pytest.mark.parametrize("settings", [{}, {"num_views": 4, "schedule": "trapezoid"}], ids=["recordings", "views"])
def test_a_state_saved_between_epochs_continues_exactly(settings: dict[str, Any]) -> None:
    whole = small_run(**settings)
    whole.run_epoch()
    state = whole.state_dict()
    resumed = small_run(**settings)
    resumed.load_state_dict(copy.deepcopy(state))  # as from a file
    for training in (whole, resumed):
        while not training.is_finished:
            training.run_epoch()
    for key in ("train_loss", "val_loss", "lr", "step"):
        assert [row[key] for row in resumed.rows] == [row[key] for row in whole.rows]
    assert all(
        torch.equal(value, whole.averaged().state_dict()[name])
        for name, value in resumed.averaged().state_dict().items()
    )


def test_an_epoch_passes_over_the_clips_once_however_many_views_there_are() -> None:
    recordings, views = small_run(), small_run(num_views=4)
    assert views.total_steps == recordings.total_steps == 9  # 9 clips in batches of at most 4, 3 epochs
    recordings.run_epoch()
    views.run_epoch()
    assert views.rows[0]["train_loss"] != recordings.rows[0]["train_loss"]
    only_recorded = small_run(num_views=4, recorded_share=1.0)
    only_recorded.run_epoch()
    assert only_recorded.rows[0]["train_loss"] == recordings.rows[0]["train_loss"]


def test_a_clip_is_seen_in_another_view_in_another_epoch_and_in_the_same_one_by_every_worker() -> None:
    clips = token_set(9, num_views=4)

    def seen(seed: int, epoch: int) -> list[int]:
        return [int(clips.sample_view(index, 0.3, seed, epoch)[0, 0]) for index in range(len(clips))]

    assert seen(1, 2) == seen(1, 2)
    assert seen(1, 2) != seen(1, 3) != seen(2, 3)


def place_run(epochs: int = 3, weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> TrainingRun:
    """A run of order `places` that generates the first of the two levels unless told otherwise."""
    settings = {"num_levels": 1, "generated_levels": 1} | changes
    architecture = ModelConfig(
        width=16,
        depth=1,
        heads=2,
        kernel=3,
        codebook_size=8,
        num_classes=3,
        order="places",
        centroids=True,
        centroid_dim=8,
        head_width=16,
        **settings,
    )
    clips = token_set(9)
    if weights is None:
        centroids = Centroids(architecture.num_levels, 8, 8)
        centroids.take(torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1)))
        shares_QK = log_counts((view for views in clips.views for view in views), architecture.num_levels, 8)
        weights = {f"centroids.{name}": value for name, value in centroids.state_dict().items()} | {
            "head.head_bias": shares_QK
        }
    config = TrainingConfig(batch_size=4, epochs=epochs, lr=1e-2, crop_frames=8, head_share=0.7, noise_share=0.05)
    return TrainingRun(architecture, config, clips, token_set(3), device=torch.device("cpu"), weights=weights)


@pytest.mark.parametrize(
    "levels", [{}, {"num_levels": 2, "generated_levels": None}], ids=["the first level", "all levels"]
)
def test_a_run_of_order_places_continues_exactly_from_a_saved_state(levels: dict[str, Any]) -> None:
    whole = place_run(**levels)
    whole.run_epoch()
    resumed = place_run(**levels)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for training in (whole, resumed):
        while not training.is_finished:
            training.run_epoch()
    assert [row["val_loss"] for row in resumed.rows] == [row["val_loss"] for row in whole.rows]
    assert all(
        torch.equal(value, whole.averaged().state_dict()[name])
        for name, value in resumed.averaged().state_dict().items()
    )
    assert ("val_level_1" in whole.rows[-1]) == (levels != {})


def test_a_run_of_order_places_learns() -> None:
    training = place_run(epochs=30, num_levels=2, generated_levels=None)
    while not training.is_finished:
        training.run_epoch()
    assert float(training.rows[-1]["train_loss"] or 0) < 0.85 * float(training.rows[0]["train_loss"] or 0)


def test_a_network_of_centroids_that_is_given_none_is_refused() -> None:
    with pytest.raises(SoundStormError, match="but none were given"):
        place_run(weights={})
    with pytest.raises(ValueError, match="weights of another network: head_weight"):
        place_run(weights={"head_weight": torch.zeros(1)})


def test_a_state_of_another_network_is_refused() -> None:
    state = small_run().state_dict()
    del state["network"]["head_bias"]
    with pytest.raises(SoundStormError, match=r"not of this network.*--overwrite"):
        small_run().load_state_dict(state)


def test_classes_are_carried_over_by_name_and_new_ones_start_as_no_class() -> None:
    model = SoundStorm(ModelConfig(width=8, depth=1, heads=2, num_levels=2, codebook_size=8, num_classes=2))
    weights = weights_for_categories(model, ["rain", "wind"], ["siren", "wind", "rain"])
    old = model.class_embedding.weight
    assert torch.equal(weights["class_embedding.weight"], old[[2, 1, 0, 2]])
    assert torch.equal(weights["head_weight"], model.head_weight)


def test_classes_are_carried_over_under_another_spelling_and_one_of_the_same_spelling_goes_first() -> None:
    model = SoundStorm(ModelConfig(width=8, depth=1, heads=2, num_levels=2, codebook_size=8, num_classes=2))
    old = model.class_embedding.weight
    for new, rows in ((["Crying-Baby", "wind"], [0, 1, 2]), (["wind", "crying baby"], [1, 0, 2])):
        weights = weights_for_categories(model, ["crying_baby", "wind"], new)
        assert torch.equal(weights["class_embedding.weight"], old[rows])
    weights = weights_for_categories(model, ["sea-waves", "sea_waves"], ["sea_waves", "sea-waves"])
    assert torch.equal(weights["class_embedding.weight"], old[[1, 0, 2]])
