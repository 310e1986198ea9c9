"""How differently a classifier hears a recording and what a codec makes of it.

Spectra of noise never match patch by patch, and a decoder that is only asked for them settles on their average: the buzz of a saw and the
beat of a rotor go. What the inner layers of a classifier respond to, and how often, survives the randomness (deep features: Johnson et al.,
arXiv 1603.08155; statistics of a texture: McDermott and Simoncelli, doi 10.1016/j.neuron.2011.06.032).

Legend: B batch, N samples, D channels, M bands, T frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from soundstorm.audio_classifier import AudioClassifier


@dataclass(kw_only=True, frozen=True)
class PerceptualLosses:
    """Two distances, in units of each channel's mean response to the recordings, averaged over the stages of the classifier."""

    matching: Tensor
    """L1 distance of the responses, place by place."""
    texture: Tensor
    """L1 distances of their mean over time and of their standard deviation over time, added."""


def perceptual_losses(listener: AudioClassifier, real_BN: Tensor, decoded_BN: Tensor) -> PerceptualLosses:
    """Distances of waveforms at 24 kHz as `listener`, which is in evaluation mode and not trained, hears them."""
    with torch.no_grad():
        real_stages = listener.stages_of_power(listener.power(real_BN))
    matching, texture = [], []
    for real_BDMT, decoded_BDMT in zip(real_stages, listener.stages_of_power(listener.power(decoded_BN)), strict=True):
        scale_D11 = real_BDMT.mean((0, 2, 3))[:, None, None] + 1e-3
        matching.append(((real_BDMT - decoded_BDMT).abs() / scale_D11).mean())
        moments = [(x.mean(3), (x.var(3) + 1e-6).sqrt()) for x in (real_BDMT, decoded_BDMT)]
        texture.append(sum(((real - decoded).abs() / scale_D11[..., 0]).mean() for real, decoded in zip(*moments, strict=True)))
    return PerceptualLosses(matching=torch.stack(matching).mean(), texture=torch.stack(texture).mean())
