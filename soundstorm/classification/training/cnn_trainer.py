"""Training of the convolutional classifier.

The powers of the mel bands are computed once per clip, and all augmentation works on them: a circular window from
anywhere in the clip, played faster or slower and shifted in pitch; a random equalizer; two clips mixed ("between-class"
examples, Tokozume et al., arXiv 1711.10282); and masked bands and frames (SpecAugment, Park et al., arXiv 1904.08779).

Legend: B batch, N samples, M mel bands, T frames, C categories.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.classification.cnn import AudioClassifier
from soundstorm.classification.training.trainer import ClassifierTrainer, Examples
from soundstorm.optimization.schedules import cosine_between, warm_up
from soundstorm.optimization.weight_decay import parameter_groups
from soundstorm.optimization.worker import ALONE, Worker
from soundstorm.settings import Amount, Count, NotNegative, Positive, Seed, Settings, Share, ShareBelow1

SILENCE = 1e-12
"""Added to powers before their logarithm is stored."""
MIN_RMS = 1e-6
"""Level that counts as silence, as the root of a power."""
EQUALIZER_KNOTS = 6
GRAD_CLIP, WARMUP_SHARE = 5.0, 0.1


@dataclass(kw_only=True, frozen=True)
class AudioClassifierTrainingConfig(Settings):
    """Settings of the training; the defaults are those of the weights in the package."""

    epochs: Count = 200
    """Passes over the clips."""
    batch_size: Count = 32
    """Clips per step and worker."""
    lr: Positive = 3e-3
    """Peak learning rate of AdamW; it rises during the first tenth of all steps, then falls along a cosine to 0."""
    weight_decay: Amount = 0.05
    """Decoupled weight decay."""
    window_s: Positive = 5.0
    """Length of an example in seconds; a shorter clip is repeated."""
    speed_octaves: Amount = 0.3
    """Examples are played up to this much faster or slower."""
    pitch_bands: Amount = 2.0
    """Examples are shifted by up to this many mel bands up or down."""
    gain_db: Amount = 10.0
    """Examples are up to this much louder or quieter."""
    equalizer_db: Amount = 3.0
    """Standard deviation of the gain at the knots of the random equalizer."""
    mix_share: Share = 0.5
    """Probability that another example is mixed into an example."""
    band_masks: NotNegative = 2
    """Number of masked band ranges per example."""
    mask_bands: NotNegative = 8
    """Maximum number of bands in such a range."""
    frame_masks: NotNegative = 2
    """Number of masked frame ranges per example."""
    mask_frames: NotNegative = 40
    """Maximum number of frames in such a range."""
    label_smoothing: ShareBelow1 = 0.05
    """Label smoothing: probability mass of the target that is spread over all categories."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bfloat16 if the device supports it in hardware."""
    seed: Seed = 0
    """Random seed of the order of clips, augmentation and initial weights."""


class AudioClassifierTrainer(ClassifierTrainer):
    """Trains an `AudioClassifier`; see `ClassifierTrainer`.

    Args:
        model: the network to train, on its device.
        config: settings of the training.
        clips: training recordings, int16 (N,) at 24 kHz, of any lengths.
        labels: label of each clip.
        worker: which of the workers this is.

    Raises:
        SoundStormError: there are no clips, a clip has no samples, or a label is not one of the network's.
    """

    model: AudioClassifier
    config: AudioClassifierTrainingConfig

    def __init__(
        self,
        model: AudioClassifier,
        config: AudioClassifierTrainingConfig,
        clips: Sequence[np.ndarray],
        labels: Sequence[int],
        *,
        worker: Worker = ALONE,
    ) -> None:
        super().__init__(model, config, clips, labels, worker)
        self.device, self.grad_clip, self.label_smoothing = model.device, GRAD_CLIP, config.label_smoothing
        self.log_powers = [self._log_power(clip) for clip in clips]
        scorer = _PowerScorer(model)
        self.network = worker.wrap(scorer)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), config.lr)

    @property
    def peak_lr(self) -> float:
        return self.config.lr

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        warm = warm_up(self.step_count, self.total_steps, WARMUP_SHARE)
        return self.config.lr * warm * cosine_between(1.0, 0.0, self.step_count / self.total_steps)

    @torch.no_grad()
    def _log_power(self, clip: np.ndarray) -> Tensor:
        """Natural logarithm of the powers of a clip, (M, T), in half precision."""
        power_MT = self.model.power(torch.from_numpy(from_pcm16(clip))[None].to(self.device))[0]
        return torch.log(power_MT + SILENCE).half()

    def _examples(self, chosen: np.ndarray, rng: np.random.Generator) -> Examples:
        """Varied powers (B, M, T) and the share of each category in them (B, C)."""
        varied_BMT = torch.stack([self._varied(self.log_powers[index], rng) for index in chosen])
        target_BC = F.one_hot(torch.from_numpy(self.labels[chosen]), self.model.num_categories).float().to(self.device)
        power_BMT, target_BC = self._mixed(varied_BMT.exp(), target_BC, rng)
        return Examples(inputs=(self._masked(power_BMT, rng),), target=target_BC)

    def _varied(self, log_MT: Tensor, rng: np.random.Generator) -> Tensor:
        """A circular window of a clip's log powers, varied in speed, pitch, gain and spectrum: (M, window)."""
        config, (bands, frames) = self.config, log_MT.shape
        length = max(1, round(config.window_s * SAMPLE_RATE / self.model.config.hop))
        speed = 2 ** rng.uniform(-config.speed_octaves, config.speed_octaves)
        time_T = torch.from_numpy(rng.integers(frames) + speed * np.arange(length)).to(log_MT.device)
        band_M = np.clip(np.arange(bands) + rng.uniform(-config.pitch_bands, config.pitch_bands), 0, bands - 1)
        band_M = torch.from_numpy(band_M).to(log_MT.device)
        below_T, below_M = time_T.floor().long(), band_M.floor().long()
        log_MT = log_MT.float()
        log_MT = torch.lerp(log_MT[:, below_T % frames], log_MT[:, (below_T + 1) % frames], (time_T - below_T).float())
        log_MT = torch.lerp(
            log_MT[below_M], log_MT[(below_M + 1).clamp(max=bands - 1)], (band_M - below_M).float()[:, None]
        )
        gain_db = rng.uniform(-config.gain_db, config.gain_db) + np.interp(
            np.arange(bands),
            np.linspace(0, bands - 1, EQUALIZER_KNOTS),
            rng.normal(0, config.equalizer_db, EQUALIZER_KNOTS),
        )
        return log_MT + torch.from_numpy(gain_db * math.log(10) / 10).float().to(log_MT.device)[:, None]

    def _mixed(self, power_BMT: Tensor, target_BC: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix some examples with their neighbours, at the loudness ratio of the target."""
        size = len(power_BMT)
        mixed = rng.random(size) < self.config.mix_share
        ratio_B = torch.from_numpy(np.where(mixed, rng.uniform(1e-3, 1, size), 1.0)).float().to(self.device)
        loudest_B = power_BMT.sum(1).amax(1).sqrt()
        audible_B = loudest_B > MIN_RMS  # mixing with silence would silence the other clip
        ratio_B = ratio_B.where(audible_B & audible_B.roll(1, 0), 1.0)
        level_B = loudest_B.clamp(min=MIN_RMS)
        share_B = 1 / (1 + level_B / level_B.roll(1, 0) * (1 - ratio_B) / ratio_B)  # amplitude ratio, as published
        norm_B = share_B.square() + (1 - share_B).square()
        own_B, other_B = (share_B.square() / norm_B)[:, None, None], ((1 - share_B).square() / norm_B)[:, None, None]
        mixed_BMT = own_B * power_BMT + other_B * power_BMT.roll(1, 0)
        return mixed_BMT, ratio_B[:, None] * target_BC + (1 - ratio_B)[:, None] * target_BC.roll(1, 0)

    def _masked(self, power_BMT: Tensor, rng: np.random.Generator) -> Tensor:
        """Set ranges of bands and of frames to zero."""
        config = self.config
        size, bands, frames = power_BMT.shape
        for count, longest, axis, total in (
            (config.band_masks, config.mask_bands, 1, bands),
            (config.frame_masks, config.mask_frames, 2, frames),
        ):
            for _ in range(count):
                width_B = rng.integers(0, min(longest, total) + 1, size)
                start_B = rng.integers(0, total - width_B + 1)
                position = np.arange(total)
                masked = torch.from_numpy(
                    (position >= start_B[:, None]) & (position < (start_B + width_B)[:, None])
                ).to(self.device)
                power_BMT = power_BMT.masked_fill(masked.unsqueeze(2 if axis == 1 else 1), 0.0)
        return power_BMT


class _PowerScorer(nn.Module):
    """The classifier as it is called in training: maps powers to logits."""

    def __init__(self, model: AudioClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, power_BMT: Tensor) -> Tensor:
        return self.model.head(self.model.features_of_power(power_BMT))
