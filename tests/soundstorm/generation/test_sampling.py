"""What decoding is made of: filters, draws, noise and orders, as pure functions."""

import math

import pytest
import torch

from soundstorm.generation.sampling import (
    filtered_probability,
    gumbel,
    keep_top_p,
    keep_typical,
    low_discrepancy_order,
    most_confident,
    sample_codes,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def keep_first(probability_K: torch.Tensor, order_K: torch.Tensor, mass: float) -> torch.Tensor:
    """The filter as it is defined: codes in their order, until their sum reaches the mass."""
    ordered_K = probability_K.gather(-1, order_K)
    kept_K = ordered_K.cumsum(-1) - ordered_K < mass * ordered_K.sum(-1, keepdim=True)
    kept_K[..., 0] = True
    return torch.zeros_like(probability_K).scatter_(-1, order_K, ordered_K * kept_K)


def test_top_p_keeps_the_smallest_set_that_holds_p() -> None:
    probability = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    assert keep_top_p(probability, 0.65).tolist() == [0.0, 0.4, 0.0, 0.3]
    assert keep_top_p(probability, 0.75).tolist() == [0.0, 0.4, 0.2, 0.3]
    assert keep_top_p(probability, 1e-9).tolist() == [0.0, 0.4, 0.0, 0.0]
    assert keep_top_p(probability, 1.0).tolist() == probability.tolist()


def test_the_likeliest_codes_are_found_without_their_order_bit_for_bit() -> None:
    for scale, top_p in ((0.3, 0.5), (3.0, 0.8), (30.0, 0.95)):
        probability_NK = torch.softmax(scale * torch.randn(50, 1024), -1)
        order_NK = probability_NK.argsort(dim=-1, descending=True, stable=True)
        kept_NK = keep_top_p(probability_NK, top_p)
        assert torch.equal(kept_NK, keep_first(probability_NK, order_NK, top_p))
        assert int((kept_NK > 0).sum(1).max()) > 1 or scale == 30.0


def test_of_codes_that_are_equally_likely_top_p_keeps_the_first() -> None:
    probability = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2], [0.1, 0.5, 0.2, 0.1, 0.1]])
    kept = keep_top_p(probability, 0.5) > 0
    assert kept.tolist() == [[True, True, True, False, False], [False, True, False, False, False]]


def test_typical_filtering_keeps_codes_near_the_entropy_not_the_likeliest() -> None:
    # Entropy 1.50 nats; information of the codes: 0.69, 2.08, 2.08, 2.08, 2.08. Nearest first: the four of 1/8 (0.58
    # away), then 1/2 (0.81).
    probability = torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125], dtype=torch.float64)
    assert keep_typical(probability, 0.3).tolist() == [0.0, 0.125, 0.125, 0.125, 0.0]
    assert keep_typical(probability, 0.6).tolist() == probability.tolist()


def test_filters_act_on_the_tempered_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    torch.testing.assert_close(filtered_probability(logits, 1.0, 0.6, 1.0), torch.tensor([0.5, 0.3, 0.0]))
    torch.testing.assert_close(filtered_probability(logits, 0.5, 0.6, 1.0), torch.tensor([0.25 / 0.38, 0.0, 0.0]))


def test_draws_follow_the_running_sum_and_skip_impossible_codes() -> None:
    probability = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0], dtype=torch.float64)  # 1 as rounding may make it
    assert sample_codes(probability.expand(6, 6), uniform).tolist() == [1, 1, 3, 3, 4, 4]
    assert sample_codes((3 * probability).expand(6, 6), uniform).tolist() == [1, 1, 3, 3, 4, 4]


def test_gumbel_noise_has_its_known_mean_and_spread_and_is_finite() -> None:
    noise = gumbel(torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert abs(float(noise.mean()) - 0.5772) < 0.03
    assert abs(float(noise.std()) - math.pi / math.sqrt(6)) < 0.03
    assert bool(gumbel(torch.tensor([0.0, 1.0])).isfinite().all())


def test_the_most_confident_are_taken_among_masked_frames_only() -> None:
    confidence = torch.tensor([[-1.0, -5.0, -0.1, -3.0], [-1.0, -1.0, -1.0, -1.0]])
    masked = torch.tensor([[True, True, False, True], [True, True, True, True]])
    kept = most_confident(confidence, masked, torch.tensor([2, 3]))
    assert kept.tolist() == [[True, False, False, True], [True, True, True, False]]


@pytest.mark.parametrize("num_frames", [8, 75, 375])
def test_any_share_of_the_even_order_lies_evenly_over_the_clip(num_frames: int) -> None:
    rank_BT = low_discrepancy_order(torch.tensor([0.0, 0.3, 0.99]), num_frames)
    for taken in range(2, num_frames):
        for rank_T in rank_BT:
            gaps = rank_T.argsort()[:taken].sort().values.diff()
            assert len(gaps.unique()) <= 3 + 2  # three distances, and two more where the clip cuts the pattern off
            assert gaps.max() <= 4 * num_frames / taken
