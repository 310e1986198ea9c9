"""What the compact codec is trained to keep: log-mel spectra, band energies, the noisiness of each band, and silence.

Losses on the waveform or the complex spectrum shrink the energy wherever phase cannot be predicted, which in environmental
sound is nearly everywhere. The losses here look at magnitudes only; the adversarial one (`encodec.msstftd`) adds the texture.

Legend: B batch, N samples, F bins, T frames, M mel bands, P patches.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from soundstorm.mel_bands import mel_bands

FFT_SIZES = (256, 512, 1024, 2048)
"""Windows in samples of the log-mel loss, at a quarter of overlap."""
FLATNESS_FFT_SIZES = (1024, 8192)
"""Windows in samples over which band energy and spectral flatness are compared."""
LOG_FLOOR = 1e-3
"""Added to mel magnitudes before the logarithm: quieter detail than this is not worth codes."""


@lru_cache(maxsize=16)
def _mel_bank(n_fft: int, bands: int, sample_rate: int) -> Tensor:
    return mel_bands(n_fft, bands, sample_rate)


def magnitude_spectrum(waveform_BN: Tensor, n_fft: int, hop: int) -> Tensor:
    """Magnitudes (B, F, T) of a Hann-window short-time Fourier transform, smooth at zero so that gradients stay finite."""
    window = torch.hann_window(n_fft, device=waveform_BN.device)
    spectrum_BFT = torch.stft(waveform_BN, n_fft, hop, window=window, center=True, return_complex=True)
    return (spectrum_BFT.real.square() + spectrum_BFT.imag.square() + 1e-10).sqrt()


def mel_loss(real_BN: Tensor, decoded_BN: Tensor, sample_rate: int) -> Tensor:
    """Mean over window sizes of the L1 distance of log-mel magnitudes (nats) plus half the spectral convergence."""
    total = real_BN.new_zeros(())
    for n_fft in FFT_SIZES:
        bank_FM = _mel_bank(n_fft, max(20, n_fft // 16), sample_rate).to(real_BN.device)
        real_BFT = magnitude_spectrum(real_BN, n_fft, n_fft // 4)
        decoded_BFT = magnitude_spectrum(decoded_BN, n_fft, n_fft // 4)
        real_BTM = torch.log(real_BFT.transpose(1, 2) @ bank_FM + LOG_FLOOR)
        decoded_BTM = torch.log(decoded_BFT.transpose(1, 2) @ bank_FM + LOG_FLOOR)
        difference_B = (real_BFT - decoded_BFT).flatten(1).norm(dim=1)
        convergence = (difference_B / (real_BFT.flatten(1).norm(dim=1) + 1e-2)).mean()
        total = total + F.l1_loss(decoded_BTM, real_BTM) + 0.5 * convergence
    return total / len(FFT_SIZES)


def flatness_loss(real_BN: Tensor, decoded_BN: Tensor) -> Tensor:
    """L1 distance, over time-frequency patches, of log mean power and of mean log power (nats).

    The first keeps the energy of every band, which a distance of logarithms alone loses in noise. The difference of the two
    is the log spectral flatness of the patch: it tells noise from tones, and a smooth copy from the original.
    """
    total = real_BN.new_zeros(())
    for n_fft in FLATNESS_FFT_SIZES:
        patch = (n_fft // 32, max(1, 4096 // n_fft))
        moments = []
        for waveform_BN in (real_BN, decoded_BN):
            power_BFT = magnitude_spectrum(waveform_BN, n_fft, n_fft // 2).square()[:, 1:] / n_fft
            mean_power_BP = F.avg_pool2d(power_BFT, patch)
            mean_log_BP = F.avg_pool2d(torch.log(power_BFT + 1e-8), patch)
            moments.append((torch.log(mean_power_BP + 1e-8), mean_log_BP))
        (real_power, real_log), (decoded_power, decoded_log) = moments
        total = total + F.l1_loss(decoded_power, real_power) + F.l1_loss(decoded_log, real_log)
    return total / len(FLATNESS_FFT_SIZES)


def coherence_loss(real_BN: Tensor, decoded_BN: Tensor, n_fft: int = 1024) -> Tensor:
    """One minus the normalized correlation of complex spectra within time-frequency patches, loud patches counting more.

    It asks for the right phase where that can be had (tones, onsets), and being blind to scale it does not shrink the rest.
    """
    window = torch.hann_window(n_fft, device=real_BN.device)
    spectra = [torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True)[:, 1:] for x in (real_BN, decoded_BN)]
    real_BFT, decoded_BFT = spectra
    patch = (8, 4)
    product_BP = F.avg_pool2d(real_BFT.real * decoded_BFT.real + real_BFT.imag * decoded_BFT.imag, patch)
    power_BP, decoded_power_BP = (F.avg_pool2d(x.real.square() + x.imag.square(), patch) for x in (real_BFT, decoded_BFT))
    coherence_BP = product_BP / ((power_BP + 1e-6) * (decoded_power_BP + 1e-6)).sqrt()
    weight_BP = (power_BP + 1e-6).pow(0.25)
    return ((1 - coherence_BP) * weight_BP).sum() / weight_BP.sum()


def level_loss(real_BN: Tensor, decoded_BN: Tensor, segments: tuple[int, ...] = (1, 10)) -> Tensor:
    """L1 distance of the log RMS level (nats, floor -60 dB), over the whole crop and over tenths of it.

    The other losses count every patch alike, and most patches are quiet; this one keeps the loud part loud.
    """
    total = real_BN.new_zeros(())
    for count in segments:
        length = real_BN.shape[-1] // count
        levels = [0.5 * torch.log(x[:, : count * length].unflatten(-1, (count, length)).square().mean(-1) + 1e-6) for x in (real_BN, decoded_BN)]
        total = total + F.l1_loss(levels[1], levels[0])
    return total / len(segments)


def loudness_loss(real_BN: Tensor, decoded_BN: Tensor, segments: tuple[int, ...] = (1, 10)) -> Tensor:
    """How far the mean RMS amplitude of the batch is off, as a share of that of the recordings; over whole crops and over tenths of them.

    A distance of logarithms, passage by passage, comes to rest at the median. Tones that are now and then decoded far too quietly then leave
    the mean too low, which this term sees and moves. Loud passages count in proportion to how loud they are.
    """
    total = real_BN.new_zeros(())
    for count in segments:
        length = real_BN.shape[-1] // count
        means = [x[:, : count * length].unflatten(-1, (count, length)).square().mean(-1).add(1e-10).sqrt().mean() for x in (real_BN, decoded_BN)]
        total = total + (means[1] - means[0]).abs() / means[0]
    return total / len(segments)


def silence_loss(real_BN: Tensor, decoded_BN: Tensor, hop: int) -> Tensor:
    """How far (in decades) the decoded level exceeds 3e-6 in frames where the recording is exactly zero.

    A 16-bit file rounds anything below 1.5e-5 to zero, so digital silence then comes back as digital silence.
    """
    frames = real_BN.shape[-1] // hop
    silent_BT = real_BN[:, : frames * hop].unflatten(-1, (frames, hop)).abs().amax(-1) == 0
    level_BT = (decoded_BN[:, : frames * hop].unflatten(-1, (frames, hop)).square().mean(-1) + 1e-14).sqrt()
    excess_BT = F.relu(torch.log10(level_BT / 3e-6))
    return (excess_BT * silent_BT).sum() / silent_BT.sum().clamp(min=1)


@dataclass(kw_only=True, frozen=True)
class AdversarialLosses:
    """What one pass through the discriminator gives the codec."""

    fooling: Tensor
    feature_matching: Tensor


def adversarial_losses(discriminator: torch.nn.Module, real_BN: Tensor, decoded_BN: Tensor) -> AdversarialLosses:
    """Hinge loss of the codec and the relative L1 distance of discriminator features, averaged over scales."""
    logits, features = discriminator(decoded_BN[:, None])
    with torch.no_grad():
        _, real_features = discriminator(real_BN[:, None])
    fooling = torch.stack([F.relu(1 - logit).mean() for logit in logits]).mean()
    distances = [
        F.l1_loss(fake, real) / real.abs().mean().clamp(min=1e-4)
        for fakes, reals in zip(features, real_features, strict=True)
        for fake, real in zip(fakes, reals, strict=True)
    ]
    return AdversarialLosses(fooling=fooling, feature_matching=torch.stack(distances).mean())


def discriminator_loss(discriminator: torch.nn.Module, real_BN: Tensor, decoded_BN: Tensor) -> Tensor:
    """Hinge loss of the discriminator on real and decoded waveforms (B, N), averaged over scales."""
    real_logits, _ = discriminator(real_BN[:, None])
    fake_logits, _ = discriminator(decoded_BN.detach()[:, None])
    terms = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real_logits, fake_logits, strict=True)]
    return torch.stack(terms).mean()
