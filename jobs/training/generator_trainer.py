"""The training of a generator on one worker: the order of clips and views, steps, validation, and the state for
resuming.

`jobs/train.py` runs it on several workers, `tune/` in one process per trial; both give the same results for the same
settings.
"""

import time
from typing import Any

import torch
from torch import Tensor

from jobs.training.batches import epoch_batches, steps_per_epoch
from jobs.training.training_log import Row
from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, TrainingConfig
from soundstorm.model.generators import GeneratorNetwork, make_generator
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.worker import ALONE, Worker
from soundstorm.serialization.damaged import one_line
from soundstorm.training.batches import collate, crop, fill, seeded_generator
from soundstorm.training.step import (
    LevelLosses,
    apply_gradients,
    build_optimizer,
    build_schedule,
    evaluate_loss,
    lr_factor,
    mixed_loss,
    training_step,
)
from soundstorm.training.token_set import TokenSet


class TrainingRun:
    """A network in training, and its averaged weights.

    All random numbers depend on (seed, epoch, step, worker) only, so a run that is resumed after an epoch continues
    exactly as without the interruption. With another number of workers it resumes from the same epoch, with other
    batches.

    Args:
        architecture: settings of the network.
        config: settings of the training.
        training: training clips.
        validation: validation clips.
        device: where to compute.
        weights: initial weights; missing ones are initialized randomly.
        worker: which of the workers this is; losses are summed over the default process group, if there is one.
    """

    def __init__(
        self,
        architecture: ModelConfig,
        config: TrainingConfig,
        training: TokenSet,
        validation: TokenSet,
        *,
        device: torch.device,
        weights: dict[str, Tensor] | None = None,
        worker: Worker = ALONE,
    ) -> None:
        self.config, self.training, self.validation = config, training, validation
        self.device, self.worker = device, worker
        torch.manual_seed(config.seed)
        self.network = make_generator(architecture)
        _load_initial_weights(self.network, weights)
        self.network.to(device)
        self.model = worker.wrap(self.network)
        self.ema = EMA(self.network, config.ema_decay)
        self.steps_per_epoch = steps_per_epoch(len(training), config.batch_size, worker.num_workers)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimizer = build_optimizer(self.network, config)
        self.schedule = build_schedule(self.optimizer, config, self.total_steps)
        self.epochs_done = 0
        self.rows: list[Row] = []

    @property
    def num_levels(self) -> int:
        """Number of levels that the network generates."""
        return self.network.config.num_levels

    @property
    def is_finished(self) -> bool:
        return self.epochs_done >= self.config.epochs

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.epochs_done * self.steps_per_epoch

    def averaged(self) -> GeneratorNetwork:
        """The network with the averaged weights."""
        return self.ema.averaged(self.network)

    def run_epoch(self) -> Row:
        """Train one epoch, validate, and add a row to the log; returns the row.

        Raises:
            SoundStormError: the loss or its gradient is not finite, on all workers alike.
        """
        began = time.monotonic()
        trained = _sum_over_workers(self._train())
        validated = _sum_over_workers(self._validate())
        self.epochs_done += 1
        row: Row = {
            "epoch": self.epochs_done,
            "step": self.step,
            "train_loss": mixed_loss(trained, self.config),
            "val_loss": mixed_loss(validated, self.config),
            # of the last step of the epoch
            "lr": self.config.lr * lr_factor(self.step - 1, self.total_steps, self.config),
            "seconds": time.monotonic() - began,
        }
        row |= {f"train_level_{level}": loss for level, loss in enumerate(trained.per_level())}
        row |= {f"val_level_{level}": loss for level, loss in enumerate(validated.per_level())}
        self.rows.append(row)
        return row

    def _train(self) -> LevelLosses:
        config, epoch = self.config, self.epochs_done
        # dropout uses the global generator
        torch.manual_seed(seeded_generator(config.seed, epoch, self.worker.rank).initial_seed())
        self.model.train()
        total: LevelLosses | None = None
        batches = epoch_batches(
            len(self.training),
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            rank=self.worker.rank,
            world_size=self.worker.num_workers,
        )
        for number, members in enumerate(batches):
            views = [self.training.sample_view(index, config.recorded_share, config.seed, epoch) for index in members]
            clips = [
                crop(codes_QT, config.crop_frames, config.seed, epoch, index)
                for codes_QT, index in zip(views, members, strict=True)
            ]
            clips = [fill(codes_QT[: self.num_levels], config.filled_frames) for codes_QT in clips]
            batch = collate(clips, [self.training.labels[index] for index in members]).to(self.device)
            outcome = training_step(
                self.model, batch, seeded_generator(config.seed, epoch, number, self.worker.rank), config
            )
            apply_gradients(self.model, outcome.loss, self.optimizer, self.schedule, config, self.ema)
            total = outcome.levels if total is None else total + outcome.levels
        assert total is not None  # a run has at least one clip, so an epoch has at least one batch
        return total

    def _validate(self) -> LevelLosses:
        """Losses of this worker's validation clips under fixed masks."""
        mine = range(self.worker.rank, len(self.validation), self.worker.num_workers)
        size = self.config.batch_size
        batches = (
            collate(
                [self.validation.recorded(index)[: self.num_levels] for index in part],
                [self.validation.labels[index] for index in part],
            )
            for part in (mine[start : start + size] for start in range(0, len(mine), size))
        )
        return evaluate_loss(
            self.averaged(), batches, self.config, first=self.worker.rank, stride=self.worker.num_workers
        )

    def state_dict(self) -> dict[str, Any]:
        """State for `load_state_dict`: tensors and plain values only."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "epochs_done": self.epochs_done,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the epoch at which `state_dict` was called.

        Raises:
            SoundStormError: the state is of another network.
        """
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            self.epochs_done, self.rows = int(state["epochs_done"]), list(state["rows"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise SoundStormError(
                f"the training state is not of this network ({one_line(error)}): start again with --overwrite"
            ) from error
        self.schedule.last_epoch = self.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.step, self.total_steps, self.config)


def _load_initial_weights(network: GeneratorNetwork, weights: dict[str, Tensor] | None) -> None:
    """Load weights by name.

    Raises:
        SoundStormError: the network needs the codec's centroids, and they are not among the weights.
        ValueError: there are weights of another network.
    """
    result = network.load_state_dict(weights or {}, strict=False)
    if result.unexpected_keys:
        raise ValueError(f"weights of another network: {', '.join(result.unexpected_keys[:3])}")
    if any(name.startswith("centroids.") for name in result.missing_keys):
        raise SoundStormError(
            "the network needs the codec's centroids, but none were given: train with the codec of the tokens"
        )


def _sum_over_workers(losses: LevelLosses) -> LevelLosses:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(losses.nats_Q)
        torch.distributed.all_reduce(losses.frames_Q)
    return losses
