"""What a training example shows and hides, and how clips become batches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from soundstorm.model.config import TrainingConfig
from soundstorm.model.mask_schedule import cosine_share, num_still_masked
from soundstorm.model.presets import preset
from soundstorm.training.batches import PADDING
from soundstorm.training.masking import MaskedBatch, level_shares, training_masks

MASK_ID = 100
B, Q, T = 400, 4, 60
NUM_FRAMES_B = torch.arange(B) % T + 1
MASK_BT = torch.arange(T) < NUM_FRAMES_B[:, None]
CODES_BQT = torch.randint(MASK_ID, (B, Q, T), generator=torch.Generator().manual_seed(0)).masked_fill(
    ~MASK_BT[:, None, :], PADDING
)
CONFIG = replace(preset("tiny").training, prompt_share=0.0, first_level_share=0.25)


def masks(config: TrainingConfig = CONFIG, seed: int = 0) -> MaskedBatch:
    return training_masks(CODES_BQT, MASK_BT, torch.Generator().manual_seed(seed), config, MASK_ID)


def test_levels_below_are_visible_levels_above_are_all_masked() -> None:
    masked = masks()
    for row in range(B):
        level = int(masked.level_B[row])
        real = MASK_BT[row]
        seen_QT, codes_QT = masked.input_codes_BQT[row][:, real], CODES_BQT[row][:, real]
        assert torch.equal(seen_QT[:level], codes_QT[:level])
        assert bool((seen_QT[level + 1 :] == MASK_ID).all())
        hidden_T = masked.loss_mask_BT[row][real]
        assert torch.equal(seen_QT[level] == MASK_ID, hidden_T)
        assert torch.equal(seen_QT[level][~hidden_T], codes_QT[level][~hidden_T])
        assert torch.equal(masked.target_BT[row][real], codes_QT[level])


def test_at_least_one_frame_is_hidden_and_never_padding() -> None:
    masked = masks(replace(CONFIG, prompt_share=1.0, span_share=0.5))
    assert int(masked.loss_mask_BT.sum(1).min()) >= 1
    assert not bool((masked.loss_mask_BT & ~MASK_BT).any())


def test_the_hidden_share_follows_the_cosine_schedule() -> None:
    masked = masks()
    long = NUM_FRAMES_B > 40
    shares = (masked.loss_mask_BT.sum(1) / NUM_FRAMES_B)[long]
    assert abs(float(shares.mean()) - 2 / math.pi) < 0.06  # the mean of cos over a quarter of a turn
    assert abs(float((shares > math.cos(math.pi / 4)).float().mean()) - 0.5) < 0.1


def test_levels_are_drawn_in_the_configured_shares() -> None:
    counts = torch.bincount(masks(replace(CONFIG, first_level_share=0.7)).level_B, minlength=Q) / B
    assert abs(float(counts[0]) - 0.7) < 0.08
    assert float(counts[1:].min()) > 0.05
    torch.testing.assert_close(
        level_shares(Q, replace(CONFIG, first_level_share=0.7)), torch.tensor([0.7, 0.1, 0.1, 0.1])
    )


def test_a_prefix_is_visible_at_every_level_and_outside_the_loss() -> None:
    masked = masks(replace(CONFIG, prompt_share=1.0, first_level_share=1.0))
    lengths = []
    for row in range(B):
        assert int(masked.level_B[row]) == 0
        real = MASK_BT[row]
        visible_T = (masked.input_codes_BQT[row][1:, real] != MASK_ID).all(0)
        length = int(visible_T.sum())
        lengths.append(length / int(real.sum()))
        assert bool(visible_T[:length].all())
        assert torch.equal(masked.input_codes_BQT[row][:, :length], CODES_BQT[row][:, :length])
        assert not bool(masked.loss_mask_BT[row, :length].any())
    assert 0.4 < float(np.mean(lengths)) < 0.55
    assert max(lengths) < 1


def test_unprompted_clips_show_nothing_above_their_level() -> None:
    masked = masks(replace(CONFIG, first_level_share=1.0))
    assert bool((masked.input_codes_BQT[:, 1:].transpose(1, 2)[MASK_BT] == MASK_ID).all())


def test_spans_hide_frames_in_longer_runs() -> None:
    def mean_run(masked: MaskedBatch) -> float:
        masked_BT = masked.loss_mask_BT[NUM_FRAMES_B == T].int()
        starts = int((masked_BT.diff(dim=1, prepend=torch.zeros(len(masked_BT), 1, dtype=torch.int32)) == 1).sum())
        return int(masked_BT.sum()) / starts

    config = replace(CONFIG, span_frames=10)
    assert NUM_FRAMES_B.eq(T).sum() >= 6
    assert mean_run(masks(replace(config, span_share=1.0))) > 2 * mean_run(masks(config))


def test_masks_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = masks(seed=1), masks(seed=1), masks(seed=2)
    assert torch.equal(first.input_codes_BQT, again.input_codes_BQT)
    assert torch.equal(first.level_B, again.level_B)
    assert not torch.equal(first.input_codes_BQT, other.input_codes_BQT)


def test_one_level_and_one_frame_work() -> None:
    codes_BQT = torch.tensor([[[7]]])
    masked = training_masks(
        codes_BQT, torch.ones(1, 1, dtype=torch.bool), torch.Generator(), replace(CONFIG, prompt_share=1.0), MASK_ID
    )
    assert masked.input_codes_BQT.item() == MASK_ID
    assert masked.target_BT.item() == 7


def test_cosine_share_has_its_known_values() -> None:
    torch.testing.assert_close(
        cosine_share(torch.tensor([0.0, 0.5, 2 / 3, 1.0])),
        torch.tensor([1.0, math.sqrt(0.5), 0.5, 0.0], dtype=torch.float64),
    )


@pytest.mark.parametrize("num_unknown", [1, 2, 11, 375])
@pytest.mark.parametrize("iterations", [1, 2, 12, 50])
def test_the_decoding_schedule_falls_to_none_in_the_last_pass_and_not_before(num_unknown: int, iterations: int) -> None:
    counts = [num_unknown] + [num_still_masked(num_unknown, iteration, iterations) for iteration in range(iterations)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    assert min(counts[:-1]) >= 1
    if num_unknown == 375 and iterations == 12:
        assert counts[4] == math.floor(375 * math.cos(math.pi / 6))


def test_noise_replaces_a_share_of_the_visible_codes_of_the_trained_level_by_real_codes_of_other_clips() -> None:
    config = replace(CONFIG, prompt_share=0.5, noise_share=0.2)
    clean, noisy = masks(replace(config, noise_share=0.0)), masks(config)
    assert torch.equal(noisy.loss_mask_BT, clean.loss_mask_BT) and torch.equal(noisy.target_BT, clean.target_BT)
    changed_BQT = noisy.input_codes_BQT != clean.input_codes_BQT
    at_level_BQT = torch.arange(Q)[None, :, None] == noisy.level_B[:, None, None]
    assert not bool((changed_BQT & ~at_level_BQT).any())
    assert bool((noisy.input_codes_BQT[changed_BQT] < MASK_ID).all()) and bool(
        (noisy.input_codes_BQT[changed_BQT] >= 0).all()
    )
    changed_BT = changed_BQT.any(1)
    assert not bool((changed_BT & (noisy.loss_mask_BT | ~MASK_BT)).any())
    prefix_BT = (clean.input_codes_BQT[:, -1] != MASK_ID) & (noisy.level_B < Q - 1)[:, None] & MASK_BT
    assert bool(prefix_BT.any()) and not bool((changed_BT & prefix_BT).any())
    visible_BT = MASK_BT & ~noisy.loss_mask_BT & ~prefix_BT & (noisy.level_B < Q - 1)[:, None]
    assert abs(float(changed_BT[visible_BT].float().mean()) - 0.2) < 0.03


def test_noise_is_of_the_trained_level_and_of_the_clip_before() -> None:
    clips, levels = 8, 4
    codes_BQT = (10 * torch.arange(levels)[None, :, None] + torch.arange(clips)[:, None, None]).expand(clips, levels, T)
    config = replace(CONFIG, noise_share=0.4, prompt_share=0.0)
    masked = training_masks(
        codes_BQT, torch.ones(clips, T, dtype=torch.bool), torch.Generator().manual_seed(1), config, MASK_ID
    )
    level_B1T = masked.level_B[:, None, None].expand(-1, 1, T)
    input_BT, own_BT = (codes.gather(1, level_B1T).squeeze(1) for codes in (masked.input_codes_BQT, codes_BQT))
    random_BT = (input_BT != own_BT) & (input_BT != MASK_ID)
    before_BT = codes_BQT.roll(1, 0).gather(1, level_B1T).squeeze(1)
    assert bool(random_BT.any()) and bool((input_BT == before_BT)[random_BT].all())
