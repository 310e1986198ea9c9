"""Training of the token classifier.

An example is a variation of a recording (`varied.py`), of whose codes some ranges of frames, and sometimes the upper
levels, are masked. Optionally, a teacher, a network on spectrograms, classifies the same variation, and the classifier
also learns from its output (distillation, Hinton et al., arXiv 1503.02531; that both see the same input is essential,
Beyer et al., arXiv 2106.05237).

Legend: B batch, Q levels, T codec frames, C categories.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from soundstorm.audio.augmentation import Variation
from soundstorm.classification.cnn import AudioClassifier
from soundstorm.classification.token_network import TokenClassifier, TokenMode
from soundstorm.classification.training.trainer import ClassifierTrainer, Examples
from soundstorm.classification.training.varied import VariationConfig, VariedRecordings
from soundstorm.codec.codec import Codec
from soundstorm.errors import SoundStormError
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.schedules import cosine_between, warm_up
from soundstorm.optimization.weight_decay import parameter_groups
from soundstorm.optimization.worker import ALONE, Worker
from soundstorm.settings import Amount, Betas, Count, NotNegative, Positive, Seed, Settings, Share, ShareBelow1
from soundstorm.training.batches import collate


@dataclass(kw_only=True, frozen=True)
class TokenClassifierTrainingConfig(Settings):
    """How a token classifier is trained; the defaults are those of the preset `ours`."""

    epochs: Count = 60
    """Number of passes over the recordings."""
    batch_size: Count = 16
    """Clips per step and worker, at least 2."""
    lr: Positive = 1e-3
    """Peak learning rate of Adam."""
    betas: Betas = (0.9, 0.98)
    """Decay rates of Adam's two moment estimates."""
    weight_decay: Amount = 0.05
    """Decoupled weight decay of matrices; with 0, AdamW is Adam."""
    warmup_share: Share = 0.1
    """Fraction of all steps in which the learning rate rises; then it falls along a cosine to 0."""
    window_s: Positive | None = 3.0
    """Length of an excerpt in seconds; a shorter recording is repeated. None: the whole recording."""
    variations: Count = 10
    """Number of variations of each recording; from one epoch to the next another is used, and after the last the first
    again, with new masks."""
    speed_octaves: Amount = 0.3
    """Excerpts are played up to this much faster or slower."""
    gain_db: Amount = 10.0
    """Excerpts are up to this much louder or quieter."""
    equalizer_db: Amount = 3.0
    """Standard deviation of the gain at the knots of the random equalizer."""
    mix_share: Share = 0.5
    """Probability that another recording is mixed into a variation."""
    frame_masks: NotNegative = 2
    """Number of masked time stretches per example (SpecAugment)."""
    mask_share: Share = 0.15
    """Longest masked stretch, as a fraction of the window."""
    level_drop_share: Share = 0.3
    """Probability that the levels above a random one are masked in an example."""
    label_smoothing: ShareBelow1 = 0.1
    """Label smoothing: probability mass of the target that is spread over all categories."""
    teacher_share: Share = 0.7
    """Weight of the distillation loss, if there is a teacher."""
    teacher_temperature: Positive = 2.0
    """Temperature of the distillation: both logits are divided by it."""
    ema_decay: ShareBelow1 = 0.99
    """Decay of the moving average of the weights, which is saved; 0: the last weights are saved."""
    grad_clip: Positive = 1.0
    """Maximum norm of the gradient, to which it is clipped."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: linear layers in bfloat16 if the device supports it in hardware."""
    seed: Seed = 0
    """Random seed of the order of clips, augmentation and initial weights."""


TRAINING_PRESETS: dict[str, TokenClassifierTrainingConfig] = {
    "ours": TokenClassifierTrainingConfig(),
    # The published settings of the generator's classifier: constant learning rate, Adam, no augmentation.
    "published": TokenClassifierTrainingConfig(
        epochs=50,
        batch_size=32,
        lr=5e-5,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        warmup_share=0.0,
        window_s=None,
        variations=1,
        speed_octaves=0.0,
        gain_db=0.0,
        equalizer_db=0.0,
        mix_share=0.0,
        frame_masks=0,
        level_drop_share=0.0,
        label_smoothing=0.0,
        ema_decay=0.0,
    ),
}


class TokenClassifierTrainer(ClassifierTrainer):
    """Trains a `TokenClassifier`; see `ClassifierTrainer`.

    Args:
        model: the network to train, on its device.
        codec: encodes the examples, on the same device.
        mode: how the network was initialized; `frozen` does not train the generator's weights.
        config: settings of the training.
        recordings: training recordings, int16 (N,) at the codec's rate, of any lengths.
        labels: label of each recording.
        teacher: a network on spectrograms with the same categories, in evaluation mode and on the same device; None:
            train on labels alone.
        worker: which of the workers this is.

    Raises:
        SoundStormError: there are no recordings, one has no samples, a label is not one of the network's, or a batch is
            too small.
    """

    model: TokenClassifier
    config: TokenClassifierTrainingConfig

    def __init__(
        self,
        model: TokenClassifier,
        codec: Codec,
        mode: TokenMode,
        config: TokenClassifierTrainingConfig,
        recordings: Sequence[np.ndarray],
        labels: Sequence[int],
        *,
        teacher: AudioClassifier | None = None,
        worker: Worker = ALONE,
    ) -> None:
        super().__init__(model, config, recordings, labels, worker)
        if config.batch_size < 2:
            raise SoundStormError(
                f"the batch size is {config.batch_size}: the token classifier normalizes over the clips of a step, "
                "give at least 2"
            )
        if mode == "frozen" and model.readout.latent_dim:
            raise SoundStormError(
                f"a frozen classifier uses only the generator's embeddings: latent_dim is {model.readout.latent_dim}, "
                "give 0"
            )
        self.mode, self.grad_clip, self.label_smoothing = mode, config.grad_clip, config.label_smoothing
        self.varied = VariedRecordings(
            recordings,
            labels,
            model.num_categories,
            codec,
            teacher,
            VariationConfig(
                augmentation=Variation(
                    speed_octaves=config.speed_octaves, gain_db=config.gain_db, equalizer_db=config.equalizer_db
                ),
                window_s=config.window_s,
                mix_share=config.mix_share,
                seed=config.seed,
            ),
            config.precision,
        )
        self.optimizer = self._optimizer()
        self.ema = EMA(model, config.ema_decay)
        self.network = worker.wrap(model)

    def _stateful(self) -> dict[str, Any]:
        return super()._stateful() | {"ema": self.ema}

    def step(self) -> dict[str, float]:
        """Make one optimizer step and update the moving average of the weights; see `ClassifierTrainer.step`."""
        figures = super().step()
        self.ema.update(self.model)
        if self.step_count % self.steps_per_epoch == 0:
            self.varied.save()
        return figures

    @property
    def peak_lr(self) -> float:
        return self.config.lr

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        warm = warm_up(self.step_count, self.total_steps, self.config.warmup_share)
        return self.config.lr * (warm * cosine_between(1.0, 0.0, self.step_count / self.total_steps))

    def averaged(self) -> TokenClassifier:
        """The network with the averaged weights, in evaluation mode."""
        return self.ema.averaged(self.model)

    def _train_mode(self) -> None:
        self.network.train()
        if self.mode == "frozen":
            self.model.backbone.eval()

    def _optimizer(self) -> torch.optim.AdamW:
        """AdamW with weight decay on matrices only; frozen weights have no gradient."""
        config, model = self.config, self.model
        if self.mode == "frozen":
            model.backbone.requires_grad_(False)
            model.stage_weight.requires_grad_(False)
        groups = parameter_groups(model, config.weight_decay)
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)

    def _examples(self, chosen: np.ndarray, rng: np.random.Generator) -> Examples:
        epoch, used_again = self.step_count // self.steps_per_epoch, self.config.variations < self.config.epochs
        varied = self.varied(chosen.tolist(), epoch % self.config.variations, keep=used_again)
        batch = collate([self._masked(example.codes_QT, rng) for example in varied], self.labels[chosen].tolist())
        batch = batch.to(self.model.device)
        logits = [example.teacher_C for example in varied if example.teacher_C is not None]
        return Examples(
            inputs=(batch.codes_BQT, batch.valid_BT),
            target=self._stacked([example.target_C for example in varied]),
            teacher_BC=self._stacked(logits) if logits else None,
        )

    def _stacked(self, rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.model.device)

    def _loss(self, logits_BC: Tensor, examples: Examples) -> Tensor:
        loss = super()._loss(logits_BC, examples)
        if examples.teacher_BC is None:
            return loss
        return torch.lerp(loss, self._distillation_loss(logits_BC, examples.teacher_BC), self.config.teacher_share)

    def _distillation_loss(self, logits_BC: Tensor, teacher_BC: Tensor) -> Tensor:
        """Kullback-Leibler divergence (nats) from the teacher, times the squared temperature, which keeps its gradient
        comparable."""
        temperature = self.config.teacher_temperature
        own_BC, other_BC = ((scores_BC / temperature).log_softmax(1) for scores_BC in (logits_BC, teacher_BC))
        return temperature**2 * F.kl_div(own_BC, other_BC, log_target=True, reduction="batchmean")

    def _masked(self, codes_QT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy with some ranges of frames, and sometimes the upper levels, masked."""
        config, (levels, frames) = self.config, codes_QT.shape
        codes_QT = codes_QT.astype(np.int64)
        for _ in range(config.frame_masks):
            width = int(rng.integers(0, int(config.mask_share * frames) + 1))
            start = int(rng.integers(0, frames - width + 1))
            codes_QT[:, start : start + width] = self.model.backbone.mask_id
        if rng.random() < config.level_drop_share:
            codes_QT[int(rng.integers(1, levels + 1)) :] = self.model.backbone.mask_id
        return codes_QT
