"""What a classifier hears of a codec's errors."""

import torch

from soundstorm.audio_classifier import load_classifier
from soundstorm.perceptual import perceptual_losses

SAMPLES = 48_000


def noise(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(seed))


def test_a_perfect_copy_is_at_no_distance() -> None:
    losses = perceptual_losses(load_classifier().model, noise(0), noise(0))
    assert float(losses.matching) == 0.0 and float(losses.texture) == 0.0


def test_another_draw_of_the_same_noise_is_near_and_one_that_beats_is_far() -> None:
    listener = load_classifier().model
    other = perceptual_losses(listener, noise(0), noise(1))
    pulses = 1.0 + torch.sin(2 * torch.pi * 8 * torch.arange(SAMPLES) / 24_000)  # 8 beats a second, at the same power
    beating = perceptual_losses(listener, noise(0), noise(1) * pulses / pulses.square().mean().sqrt())
    assert float(beating.texture) > 3 * float(other.texture)
    assert float(beating.matching) > 3 * float(other.matching)


def test_gradients_reach_the_decoded_sound_and_are_finite_in_silence() -> None:
    decoded = noise(1).index_fill(0, torch.tensor([2]), 0.0).requires_grad_()
    losses = perceptual_losses(load_classifier().model, noise(0), decoded)
    (losses.matching + losses.texture).backward()
    assert decoded.grad is not None and bool(decoded.grad.isfinite().all())
    assert float(decoded.grad[:2].abs().max()) > 0
