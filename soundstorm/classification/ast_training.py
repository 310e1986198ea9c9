"""Training of the AST classifier: recordings in, a better classifier out, one step at a time.

The recipe is that of the paper for ESC-50 (Gong et al., arXiv 2104.01778): masked bands and frames, Adam, and a
learning rate that falls from the sixth epoch on. A frozen network is heard once for each clip; then its head alone is
trained. `AstTrainer` knows nothing of Ray.

Legend: B batch, T frames, M mel bands, D width, C categories.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from soundstorm.classification.ast_classifier import BATCH_CLIPS, filled, filter_bank, scaled
from soundstorm.classification.ast_network import AstClassifier
from soundstorm.classification.trainer import ClassifierTrainer, Examples
from soundstorm.optimization.precision import autocast

Mode = Literal["fine-tuned", "frozen", "scratch"]
PEAK_LR: dict[Mode, float] = {"fine-tuned": 1e-5, "frozen": 1e-3, "scratch": 1e-4}


@dataclass(kw_only=True, frozen=True)
class AstTrainingConfig:
    """How an AST classifier is trained; the defaults are those of the paper for ESC-50."""

    mode: Mode = "fine-tuned"
    """frozen: only the head is trained; scratch: the network starts from random weights."""
    epochs: int = 25
    """Passes over the clips."""
    batch_size: int = 48
    """Clips a step on each worker."""
    lr: float | None = None
    """Highest learning rate of Adam; None: 1e-5 fine-tuned, 1e-3 frozen, 1e-4 from scratch."""
    full_epochs: int = 5
    """Epochs at that rate."""
    lr_decay: float = 0.85
    """The rate of each later epoch as a share of the one before it."""
    betas: tuple[float, float] = (0.95, 0.999)
    """Decay of Adam's two averages."""
    weight_decay: float = 5e-7
    """Of Adam."""
    max_length: int = 512
    """Frames of 10 ms that the network hears at once: somewhat more than 5 s; an example shows so many of a longer
    clip."""
    mask_bands: int = 24
    """Largest number of neighbouring bands that are masked in an example; none where the network is frozen."""
    mask_frames: int = 96
    """Largest number of neighbouring frames that are masked."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` computes in bfloat16 where the device has instructions for it."""
    seed: int = 0
    """Seed of order, variations and initial weights."""

    @property
    def peak_lr(self) -> float:
        """The highest learning rate."""
        return PEAK_LR[self.mode] if self.lr is None else self.lr


class AstTrainer(ClassifierTrainer):
    model: AstClassifier
    config: AstTrainingConfig

    """Holds the network and optimizer of one run and makes steps; the next step depends on the state and nothing else.

    Args:
        model: the network to train, on its device.
        config: length, rates and variations.
        clips: recordings to train on, int16 (N,) at 24 kHz, of any lengths; their features are kept in memory.
        labels: category of each.
        rank: index of this worker.
        num_workers: workers that share each step.
        wrap: applied to the network, e.g. Ray Train's `prepare_model`.

    Raises:
        SoundStormError: there is no clip, a clip has no samples, or a label is not one of the network's.
    """

    def __init__(
        self,
        model: AstClassifier,
        config: AstTrainingConfig,
        clips: Sequence[np.ndarray],
        labels: Sequence[int],
        *,
        rank: int = 0,
        num_workers: int = 1,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        super().__init__(model, config, clips, labels, rank, num_workers)
        self.banks = [filter_bank(clip, model.config) for clip in clips]
        self.frozen = config.mode == "frozen"
        if self.frozen:
            model.network.audio_spectrogram_transformer.requires_grad_(False)
            self.pooled_XD = self._pooled_features()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.peak_lr, betas=config.betas, weight_decay=config.weight_decay)
        scorer = _Scorer(model, self.frozen)
        self.network = scorer if wrap is None else wrap(scorer)

    @property
    def peak_lr(self) -> float:
        return self.config.peak_lr

    def learning_rate(self) -> float:
        """That of the next step."""
        epoch = self.step_count // self.steps_per_epoch
        return float(self.config.peak_lr * self.config.lr_decay ** max(0, epoch - self.config.full_epochs + 1))

    @torch.no_grad()
    def _pooled_features(self) -> Tensor:
        """What the head gets of each clip, (clips, D); of a clip longer than the network hears at once, of its
        beginning."""
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
        """As many frames of a clip as the network hears, from anywhere in it, with a stretch of bands and one of frames
        masked; scaled."""
        config = self.model.config
        start = int(rng.integers(0, max(0, len(bank_TM) - config.max_length) + 1))
        shown_TM = filled(bank_TM[start:], config).clone()
        for axis, most in ((1, self.config.mask_bands), (0, self.config.mask_frames)):
            total = shown_TM.shape[axis]
            width = int(rng.integers(0, min(most, total) + 1))
            shown_TM.narrow(axis, int(rng.integers(0, total - width + 1)), width).zero_()
        return scaled(shown_TM, config)


class _Scorer(nn.Module):
    """The classifier as training calls it: from features, or from what a frozen network made of them, to scores."""

    def __init__(self, model: AstClassifier, frozen: bool) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen

    def forward(self, shown: Tensor) -> Tensor:
        return self.model.score(shown) if self.frozen else self.model(shown)
