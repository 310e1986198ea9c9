"""Training of the token classifier: codes of clips in several views in, a better classifier out, one step at a time.

An example is a circular window from anywhere in a view of a clip, with stretches of frames and sometimes the upper levels masked. Two examples in
one are the mixed sequences of what their codes are taken in as ("mixup", Zhang et al., arXiv 1710.09412). `TokenClassifierTrainer` knows nothing of
Ray; `jobs/train_token_classifier.py` distributes it.

Legend: B batch, Q levels, T codec frames, D width, C categories.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.batching import collate
from soundstorm.ema import EMA
from soundstorm.errors import SoundStormError
from soundstorm.token_classifier import Embedded, Mode, TokenClassifier
from soundstorm.training import autocast


@dataclass(kw_only=True, frozen=True)
class TokenClassifierTrainingConfig:
    """How a token classifier is trained; the defaults are those of the preset `ours`."""

    epochs: int = 30
    """Passes over the clips, each in one view."""
    batch_size: int = 16
    """Clips a step on each worker, at least 2."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of Adam's two averages."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; 0 makes AdamW the plain Adam."""
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises; then it falls along a cosine to 0."""
    window_frames: int | None = 225
    """Frames of a clip that an example shows; a shorter clip is repeated. None: as many as the longest view of the step has."""
    mix_share: float = 0.5
    """Share of examples that another one is mixed into."""
    frame_masks: int = 2
    """Stretches of frames that are masked in an example."""
    mask_share: float = 0.15
    """Longest of such a stretch, as a share of the window."""
    level_drop_share: float = 0.3
    """Share of examples in which the levels above one drawn are masked."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all categories."""
    ema_decay: float = 0.99
    """Decay of the averaged weights, which are published; 0: the last ones are."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` computes linear layers in bfloat16 where the device has instructions for it."""
    seed: int = 0
    """Seed of order, variations and initial weights."""


PRESETS: dict[str, TokenClassifierTrainingConfig] = {
    "ours": TokenClassifierTrainingConfig(),
    # The published settings of the generator's classifier: one learning rate, Adam, none of the variations of ours but the views of the tokens.
    "published": TokenClassifierTrainingConfig(
        epochs=50,
        batch_size=32,
        lr=5e-5,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        warmup_share=0.0,
        window_frames=None,
        mix_share=0.0,
        frame_masks=0,
        level_drop_share=0.0,
        label_smoothing=0.0,
        ema_decay=0.0,
    ),
}


class TokenClassifierTrainer:
    """Holds the network and optimizer of one run and makes steps; the next step depends on the state and nothing else.

    Args:
        model: the network to train, on its device.
        mode: `frozen` trains only what the generator does not have; its network's output is kept in memory for each view (2 bytes a frame and
            channel), so that later epochs are fast.
        config: length, rates and variations.
        views: clips to train on, each in one or more views, codes (Q, T).
        labels: category of each clip.
        rank: index of this worker.
        num_workers: workers that share each step.
        wrap: applied to the network, e.g. Ray Train's `prepare_model`.

    Raises:
        SoundStormError: there is no clip, a clip has no frames, a label is not one of the network's, or a batch is too small.
    """

    def __init__(
        self,
        model: TokenClassifier,
        mode: Mode,
        config: TokenClassifierTrainingConfig,
        views: Sequence[Sequence[np.ndarray]],
        labels: Sequence[int],
        *,
        rank: int = 0,
        num_workers: int = 1,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        if not views or len(views) != len(labels) or not all(clip and all(view.shape[1] for view in clip) for clip in views):
            raise SoundStormError(f"{len(views)} clips and {len(labels)} labels to train on: give as many of one as of the other, none of them empty")
        if not all(0 <= label < model.num_categories for label in labels):
            raise SoundStormError(f"labels {min(labels)} to {max(labels)}: the classifier has {model.num_categories} categories, from 0")
        if config.batch_size < 2:
            raise SoundStormError(f"the batch size is {config.batch_size}: the token classifier normalizes over the clips of a step, give at least 2")
        if mode == "frozen" and model.readout.latent_dim:
            raise SoundStormError(f"a frozen classifier hears by the generator alone: latent_dim is {model.readout.latent_dim}, give 0")
        self.model, self.mode, self.config, self.views = model, mode, config, views
        self.rank, self.num_workers, self.labels = rank, num_workers, np.asarray(labels)
        self.steps_per_epoch = -(-len(views) // (config.batch_size * num_workers))
        self.total_steps = config.epochs * self.steps_per_epoch
        self.step_count = 0
        self.optimizer = self._optimizer()
        self.ema = EMA(model, config.ema_decay)
        scorer = _Scorer(model, from_frames=mode == "frozen")
        self.network = scorer if wrap is None else wrap(scorer)
        self.heard: dict[tuple[int, int], np.ndarray] = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything a later run needs to go on."""
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": self.ema.state_dict()}
        return states | {"step_count": self.step_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step_count = int(state["step_count"])

    def step(self) -> dict[str, float]:
        """Make one optimizer step; returns the loss (nats) and the share of examples whose main category was named.

        Raises:
            SoundStormError: the gradient is not finite; nothing was updated.
        """
        config = self.config
        rng = np.random.default_rng([config.seed, self.rank, self.step_count])
        chosen = self._chosen()
        shown, mask_BT = self._frames(chosen, rng) if self.mode == "frozen" else self._codes(chosen, rng)
        ratio_B = self._ratio(rng)
        target_BC = F.one_hot(torch.from_numpy(self.labels[chosen]), self.model.num_categories).float().to(self.model.device)
        target_BC = torch.lerp(target_BC.roll(1, 0), target_BC, ratio_B[:, None])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._train_mode()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), autocast(self.model.device, config.precision):
            torch.manual_seed(int(rng.integers(2**31)))  # of the dropout
            logits_BC = self.network(shown, mask_BT, ratio_B)
        loss = F.cross_entropy(logits_BC.float(), target_BC, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip))
        if not math.isfinite(norm):
            raise SoundStormError(f"the gradient is {norm} at a loss of {float(loss.detach()):.3f} nats: lower --lr (it is {config.lr})")
        self.optimizer.step()
        self.ema.update(self.model)
        self.step_count += 1
        named = logits_BC.argmax(1) == target_BC.argmax(1)
        return {"loss": float(loss.detach()), "accuracy": float(named.float().mean())}

    def learning_rate(self) -> float:
        """That of the next step."""
        return self.config.lr * self._lr_share()

    def averaged(self) -> TokenClassifier:
        """The network with the averaged weights, in evaluation mode."""
        return self.ema.averaged(self.model)

    def _lr_share(self) -> float:
        """Share of the peak learning rates at the next step."""
        warm = min(1.0, (self.step_count + 1) / max(1.0, self.config.warmup_share * self.total_steps))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step_count / self.total_steps)))

    def _train_mode(self) -> None:
        self.network.train()
        if self.mode == "frozen":
            self.model.backbone.eval()

    def _optimizer(self) -> torch.optim.AdamW:
        """AdamW, whose decay is of matrices; what is frozen has no gradient."""
        config, model = self.config, self.model
        if self.mode == "frozen":
            model.backbone.requires_grad_(False)
            model.stage_weight.requires_grad_(False)
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, value in model.named_parameters():
            is_matrix = value.ndim > 1 and "embedding" not in name and "depthwise" not in name
            if value.requires_grad:
                (decayed if is_matrix else others).append(value)
        groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)

    def _chosen(self) -> np.ndarray:
        """This worker's clips of the next step: an order that (seed, epoch) fix is dealt out, some clips twice to fill the last step."""
        epoch, step = divmod(self.step_count, self.steps_per_epoch)
        order = np.random.default_rng([self.config.seed, 1_000_003, epoch]).permutation(len(self.labels))
        shared = self.config.batch_size * self.num_workers
        return np.resize(order, self.steps_per_epoch * shared)[step * shared : (step + 1) * shared][self.rank :: self.num_workers]

    def _ratio(self, rng: np.random.Generator) -> Tensor:
        """Each example's share of itself (B,); the rest is its neighbour's."""
        size = self.config.batch_size
        ratio_B = np.where(rng.random(size) < self.config.mix_share, rng.random(size), 1.0)
        return torch.from_numpy(ratio_B).float().to(self.model.device)

    def _codes(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows of views, partly masked: codes (B, Q, T), and where their frames are real (B, T)."""
        drawn = [self.views[clip][int(rng.integers(len(self.views[clip])))] for clip in chosen.tolist()]
        windows = [self._masked(self._window(view, rng), rng) for view in drawn]
        batch = collate(windows, self.labels[chosen].tolist()).to(self.model.device)
        return batch.codes_BQT, batch.mask_BT

    def _frames(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows of what the network that stays as it is makes of views: (B, T, D), and where they are real (B, T)."""
        windows = [self._window(self._heard(clip, int(rng.integers(len(self.views[clip])))), rng) for clip in chosen.tolist()]
        longest = max(window.shape[1] for window in windows)
        shown_BDT = np.stack([np.pad(window, ((0, 0), (0, longest - window.shape[1]))) for window in windows])
        mask_BT = np.arange(longest) < np.array([[window.shape[1]] for window in windows])
        return torch.from_numpy(shown_BDT).to(self.model.device).float().transpose(1, 2), torch.from_numpy(mask_BT).to(self.model.device)

    @torch.no_grad()
    def _heard(self, clip: int, view: int) -> np.ndarray:
        """What the network makes of a view, (D, T) in half precision, kept for the next time."""
        if (clip, view) not in self.heard:
            self.model.eval()
            batch = collate([self.views[clip][view]], [0]).to(self.model.device)
            with autocast(self.model.device, self.config.precision):
                frames_BTD = self.model.frames(self.model.embed(batch.codes_BQT, batch.mask_BT))
            self.heard[clip, view] = frames_BTD[0].T.half().cpu().numpy()
        return self.heard[clip, view]

    def _window(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A circular window of a clip (..., T) from anywhere in it; the whole clip where there is no size of window."""
        if self.config.window_frames is None:
            return clip
        return np.take(clip, rng.integers(clip.shape[1]) + np.arange(self.config.window_frames), axis=1, mode="wrap")

    def _masked(self, codes_QT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy with stretches of frames, and sometimes the upper levels, masked."""
        config, (levels, frames) = self.config, codes_QT.shape
        codes_QT = codes_QT.astype(np.int64)
        for _ in range(config.frame_masks):
            width = int(rng.integers(0, int(config.mask_share * frames) + 1))
            start = int(rng.integers(0, frames - width + 1))
            codes_QT[:, start : start + width] = self.model.backbone.mask_id
        if rng.random() < config.level_drop_share:
            codes_QT[int(rng.integers(1, levels + 1)) :] = self.model.backbone.mask_id
        return codes_QT


class _Scorer(nn.Module):
    """The classifier as training calls it: from codes, or from what the generator's network made of them, to scores of mixed examples."""

    def __init__(self, model: TokenClassifier, from_frames: bool) -> None:
        super().__init__()
        self.model, self.from_frames = model, from_frames

    def forward(self, shown: Tensor, mask_BT: Tensor, ratio_B: Tensor) -> Tensor:
        model = self.model
        if self.from_frames:
            mixed = Embedded(x_BTD=shown, latent_BTL=shown[..., :0], mask_BT=mask_BT).mixed(ratio_B)
            return model.score(mixed.x_BTD, mixed.latent_BTL, mixed.mask_BT)
        mixed = model.embed(shown, mask_BT).mixed(ratio_B)
        return model.score(model.frames(mixed), mixed.latent_BTL, mixed.mask_BT)
