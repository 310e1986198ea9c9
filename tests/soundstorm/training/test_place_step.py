"""What a network of order `places` is asked: which places are hidden, how many are asked for, what is stray, and how
levels are weighted."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from soundstorm.model.config import TrainingConfig
from soundstorm.training.batches import Batch, collate
from soundstorm.training.place_step import MaskedPlaces, place_losses, training_places

TRAINING = TrainingConfig(batch_size=8, epochs=1, lr=1e-3, prompt_share=0.0, precision="fp32")
CLIPS, LEVELS, PLACES, CODES = 200, 4, 40, 30


@pytest.fixture(scope="module")
def batch() -> Batch:
    drawn = torch.Generator().manual_seed(0)
    lengths = [PLACES if index % 2 else PLACES // 2 for index in range(CLIPS)]
    return collate(
        [torch.randint(CODES, (LEVELS, length), generator=drawn) for length in lengths],
        [index % 3 for index in range(CLIPS)],
    )


def masks(batch: Batch, **changes: object) -> MaskedPlaces:
    return training_places(batch, torch.Generator().manual_seed(1), replace(TRAINING, **changes))  # type: ignore[arg-type]


def test_the_masked_share_follows_the_cosine_schedule_and_padding_is_neither_known_nor_asked_for(batch: Batch) -> None:
    masked = masks(batch)
    assert torch.equal(masked.known_BT | masked.asked_BT, batch.valid_BT)
    assert not bool((masked.known_BT & masked.asked_BT).any())
    share_B = masked.asked_BT.sum(1) / batch.valid_BT.sum(1)
    assert float(share_B.mean()) == pytest.approx(2 / torch.pi, abs=0.06)
    assert bool((masked.asked_BT.sum(1) >= 1).all())
    assert torch.equal(masked.codes_BQT, batch.codes_BQT)


def test_a_prompted_clip_shows_its_beginning(batch: Batch) -> None:
    masked = masks(batch, prompt_share=1.0)
    first_hidden_B = masked.asked_BT.float().argmax(1)
    assert float(first_hidden_B.float().mean()) > 8  # 0.4 without prompts
    assert float(masks(batch).asked_BT.float().argmax(1).float().mean()) < 3


def test_hidden_places_may_lie_in_spans(batch: Batch) -> None:
    masked_BT = masks(batch, span_share=1.0, span_frames=8).asked_BT
    single_BT = masks(batch).asked_BT
    changes, single_changes = (
        (valid_BT[1::2, 1:] != valid_BT[1::2, :-1]).float().sum(1).mean() for valid_BT in (masked_BT, single_BT)
    )
    assert float(changes) < 0.45 * float(single_changes)


def test_the_head_is_asked_for_the_share_of_the_hidden_places_that_is_wished(batch: Batch) -> None:
    every, some = masks(batch), masks(batch, head_share=0.25)
    assert torch.equal(every.known_BT, some.known_BT)
    assert bool((some.asked_BT <= every.asked_BT).all())
    assert int(some.asked_BT.sum()) == int(0.25 * int(every.asked_BT.sum()))
    assert float(some.asked_BT[:, :20].sum() / some.asked_BT.sum()) == pytest.approx(
        float(every.asked_BT[:, :20].sum() / every.asked_BT.sum()), abs=0.05
    )


def test_stray_codes_are_visible_ones_of_another_clip_from_a_level_on(batch: Batch) -> None:
    masked = masks(batch, noise_share=0.2, prompt_share=0.3)
    random_BQT = masked.codes_BQT != batch.codes_BQT
    assert not bool(random_BQT.transpose(1, 2)[~masked.known_BT].any())
    is_random_BT = random_BQT.any(1)
    assert (
        0.1 < float(is_random_BT.sum() / masked.known_BT.sum()) < 0.22
    )  # 0.2 of those after a prompt; some codes are the same by chance
    by_level = random_BQT.sum((0, 2))
    assert bool((by_level[1:] > 1.2 * by_level[:-1]).all())


class Sure(nn.Module):
    """Gives each level logits that make every right code cost the level's number in nats."""

    def forward(
        self,
        codes_BQT: Tensor,
        known_BT: Tensor,
        label_B: Tensor,
        valid_BT: Tensor,
        asked_BT: Tensor,
        timbre_BS: Tensor | None,
    ) -> Tensor:
        target_QN = codes_BQT.transpose(1, 2)[asked_BT].T
        cost_Q = torch.arange(1.0, LEVELS + 1)
        right_Q = -cost_Q
        wrong_Q = torch.log((1 - right_Q.exp()) / (CODES - 1))
        right = nn.functional.one_hot(target_QN, CODES).bool()
        return torch.where(right, right_Q[:, None, None], wrong_Q[:, None, None])


def test_levels_have_the_weight_in_the_loss_that_the_settings_give_them(batch: Batch) -> None:
    masked = masks(batch)
    outcome = place_losses(Sure(), batch, masked, batch.label_B, replace(TRAINING, first_level_share=0.4))
    assert outcome.levels.per_level() == pytest.approx([1, 2, 3, 4], abs=1e-4)
    assert outcome.levels.frames_Q.tolist() == [int(masked.asked_BT.sum())] * LEVELS
    assert float(outcome.loss) == pytest.approx(0.4 * 1 + 0.2 * (2 + 3 + 4), abs=1e-4)
