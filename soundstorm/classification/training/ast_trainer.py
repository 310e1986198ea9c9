"""Training of the AST classifier.

The recipe is that of the paper for ESC-50 (Gong et al., arXiv 2104.01778): masked bands and frames, Adam, and a
learning rate that decays from the sixth epoch on. The features of a frozen network are computed once per clip; then
only its head is trained.

Legend: B batch, T frames, M mel bands, D width, C categories.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from soundstorm.classification.ast_classifier import BATCH_CLIPS, filled, filter_bank, scaled
from soundstorm.classification.ast_network import AstClassifier
from soundstorm.classification.training.trainer import ClassifierTrainer, Examples
from soundstorm.optimization.precision import autocast
from soundstorm.optimization.worker import ALONE, Worker
from soundstorm.settings import Amount, Betas, Count, NotNegative, Positive, Seed, Settings, Share

AstMode = Literal["fine-tuned", "frozen", "scratch"]
PEAK_LR: dict[AstMode, float] = {"fine-tuned": 1e-5, "frozen": 1e-3, "scratch": 1e-4}


@dataclass(kw_only=True, frozen=True)
class AstTrainingConfig(Settings):
    """Settings of the training; the defaults are those of the paper for ESC-50."""

    mode: AstMode = "fine-tuned"
    """frozen: only the head is trained; scratch: training starts from random weights."""
    epochs: Count = 25
    """Passes over the clips."""
    batch_size: Count = 48
    """Clips per step and worker."""
    lr: Positive | None = None
    """Peak learning rate of Adam; None: 1e-5 fine-tuned, 1e-3 frozen, 1e-4 from scratch."""
    full_epochs: NotNegative = 5
    """Number of epochs at the peak learning rate."""
    lr_decay: Share = 0.85
    """Factor of the learning rate per later epoch."""
    betas: Betas = (0.95, 0.999)
    """Decay rates of Adam's two moment estimates."""
    weight_decay: Amount = 5e-7
    """Weight decay of Adam."""
    max_length: Count = 512
    """Input length in frames of 10 ms: slightly more than 5 s; an example is an excerpt of a longer clip."""
    mask_bands: NotNegative = 24
    """Maximum number of neighbouring bands that are masked in an example; none if the network is frozen."""
    mask_frames: NotNegative = 96
    """Maximum number of neighbouring frames that are masked."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bfloat16 if the device supports it in hardware."""
    seed: Seed = 0
    """Random seed of the order of clips, augmentation and initial weights."""

    @property
    def peak_lr(self) -> float:
        """Peak learning rate."""
        return PEAK_LR[self.mode] if self.lr is None else self.lr


class AstTrainer(ClassifierTrainer):
    """Trains an `AstClassifier`; see `ClassifierTrainer`.

    Args:
        model: the network to train, on its device.
        config: settings of the training.
        clips: training recordings, int16 (N,) at 24 kHz, of any lengths; their features are kept in memory.
        labels: label of each clip.
        worker: which of the workers this is.

    Raises:
        SoundStormError: there are no clips, a clip has no samples, or a label is not one of the network's.
    """

    model: AstClassifier
    config: AstTrainingConfig

    def __init__(
        self,
        model: AstClassifier,
        config: AstTrainingConfig,
        clips: Sequence[np.ndarray],
        labels: Sequence[int],
        *,
        worker: Worker = ALONE,
    ) -> None:
        super().__init__(model, config, clips, labels, worker)
        self.banks = [filter_bank(clip, model.config) for clip in clips]
        self.frozen = config.mode == "frozen"
        if self.frozen:
            model.network.audio_spectrogram_transformer.requires_grad_(False)
            self.pooled_XD = self._pooled_features()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.peak_lr, betas=config.betas, weight_decay=config.weight_decay)
        scorer = _FeatureScorer(model, self.frozen)
        self.network = worker.wrap(scorer)

    @property
    def peak_lr(self) -> float:
        return self.config.peak_lr

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        epoch = self.step_count // self.steps_per_epoch
        return float(self.config.peak_lr * self.config.lr_decay ** max(0, epoch - self.config.full_epochs + 1))

    @torch.no_grad()
    def _pooled_features(self) -> Tensor:
        """Input of the head for each clip, (clips, D); for a clip longer than the network's input, of its beginning."""
        config, pooled = self.model.config, []
        self.model.eval()
        for start in range(0, len(self.banks), BATCH_CLIPS):
            features_BTM = torch.stack(
                [scaled(filled(bank_TM, config), config) for bank_TM in self.banks[start : start + BATCH_CLIPS]]
            )
            with autocast(self.model.device, self.config.precision):
                pooled.append(self.model.pooled(features_BTM.to(self.model.device)).float())
        return torch.cat(pooled)

    def _examples(self, chosen: np.ndarray, rng: np.random.Generator) -> Examples:
        device = self.model.device
        if self.frozen:
            inputs = self.pooled_XD[torch.from_numpy(chosen).to(device)]
        else:
            inputs = torch.stack([self._example(self.banks[index], rng) for index in chosen.tolist()]).to(device)
        return Examples(inputs=(inputs,), target=torch.from_numpy(self.labels[chosen]).to(device))

    def _example(self, bank_TM: Tensor, rng: np.random.Generator) -> Tensor:
        """An excerpt of a clip of the network's input length, from a random position, with a masked range of bands and
        one of frames; normalized."""
        config = self.model.config
        start = int(rng.integers(0, max(0, len(bank_TM) - config.max_length) + 1))
        shown_TM = filled(bank_TM[start:], config).clone()
        for axis, most in ((1, self.config.mask_bands), (0, self.config.mask_frames)):
            total = shown_TM.shape[axis]
            width = int(rng.integers(0, min(most, total) + 1))
            shown_TM.narrow(axis, int(rng.integers(0, total - width + 1)), width).zero_()
        return scaled(shown_TM, config)


class _FeatureScorer(nn.Module):
    """The classifier as it is called in training: maps features, or the pooled features of a frozen network, to
    logits."""

    def __init__(self, model: AstClassifier, frozen: bool) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen

    def forward(self, shown: Tensor) -> Tensor:
        return self.model.score(shown) if self.frozen else self.model(shown)
