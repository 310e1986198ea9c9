"""How a generator is trained on a worker of Ray Train: its network, first weights, data and checkpoints."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import torch
from ray.train.torch import get_device, prepare_model

from jobs.inputs.tokens import Tokens
from jobs.training.generator_trainer import TrainingRun
from soundstorm.codec.codec import Codec
from soundstorm.errors import SoundStormError
from soundstorm.model.centroids import log_counts
from soundstorm.model.checkpoints import Checkpoint, CheckpointInfo, load_training_state, save_checkpoint
from soundstorm.model.code_vectors import centroid_weights, centroids_of, latent_dim, start_embeddings
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import weights_for_categories
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.model.timbre import num_entries, timbre_weights
from soundstorm.optimization.worker import Worker
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.provenance import TrainedOn


@dataclass(kw_only=True, frozen=True)
class GeneratorSettings:
    """A generator to train, and what its checkpoints say of it."""

    architecture: ModelConfig
    training: TrainingConfig
    sampler: SamplerSettings
    categories: list[str]
    fingerprint: CodecFingerprint
    dataset: str
    fold: int
    """The test fold."""
    trained_on: TrainedOn

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        architecture: ModelConfig,
        training: TrainingConfig,
        sampler: SamplerSettings,
        init_checkpoint: Checkpoint | None = None,
    ) -> Self:
        """For training on `tokens`, from a checkpoint or from random weights."""
        return cls(
            architecture=architecture,
            training=training,
            sampler=sampler,
            categories=tokens.categories,
            fingerprint=tokens.fingerprint,
            dataset=tokens.dataset,
            fold=tokens.fold,
            trained_on=tokens.trained_on(init_checkpoint),
        )

    def save(self, folder: Path, run: TrainingRun, state: dict[str, Any] | None = None) -> None:
        """Write a checkpoint of the averaged network of `run`, and a state to resume from."""
        save_checkpoint(
            folder,
            run.averaged(),
            CheckpointInfo(
                training=self.training,
                categories=self.categories,
                fingerprint=self.fingerprint,
                step=run.step,
                sampler=self.sampler,
                extra={
                    "epoch": run.epochs_done,
                    "dataset": self.dataset,
                    "test_fold": self.fold,
                    "val_loss": run.rows[-1]["val_loss"],
                },
            ),
            trained_on=self.trained_on,
            training_state=state,
        )


class GeneratorRun(TrainingRun):
    """A run on a worker of Ray Train; a `jobs.training.fit.EpochTrainer`.

    Args:
        settings: of the generator.
        batch_size: clips per step of each worker; another than in `settings` if a run resumes with other workers.
        tokens: clips to train on and to validate with; their arrays stay in the object store of the worker's node.
        weights: result of `first_weights`.
    """

    loss = "train_loss"

    def __init__(
        self, settings: GeneratorSettings, batch_size: int, tokens: ray.ObjectRef, weights: ray.ObjectRef
    ) -> None:
        self.settings, context = settings, ray.train.get_context()
        self.num_choices = settings.architecture.codebook_size
        self.advice = f"{{}}: lower --lr (it is {settings.training.lr:g})"
        super().__init__(
            settings.architecture,
            replace(settings.training, batch_size=batch_size),
            *ray.get(tokens),
            device=get_device(),
            weights=ray.get(weights),
            worker=Worker(
                rank=context.get_world_rank(),
                num_workers=context.get_world_size(),
                # the buffers are centroids, which are constant
                wrap=partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False}),
            ),
        )

    def save(self, folder: Path) -> None:
        self.settings.save(folder, self, self.state_dict())

    def load(self, folder: Path) -> None:
        self.load_state_dict(load_training_state(folder))


def first_weights(
    architecture: ModelConfig, seed: int, tokens: Tokens, init_checkpoint: Checkpoint | None, codec: Codec | None
) -> dict[str, torch.Tensor] | None:
    """Initial weights of the network: from a checkpoint or the codec. Missing ones (all, if None is returned) are
    initialized randomly by each worker."""
    if init_checkpoint is not None:
        weights = weights_for_categories(init_checkpoint.model, init_checkpoint.categories, tokens.categories)
        if isinstance(init_checkpoint.model, PlaceNetwork) and init_checkpoint.model.timbre is not None:
            training = tokens.split()[0]
            weights |= timbre_weights(
                init_checkpoint.model.timbre,
                init_checkpoint.model.centroids,
                architecture,
                training.views,
                training.labels,
            )
        return weights
    if codec is None:
        return None
    if architecture.centroids:
        training = tokens.split()[0]
        views = (view for views in training.views for view in views)
        weights = centroid_weights(
            architecture, codec, log_counts(views, architecture.num_levels, architecture.codebook_size)
        )
        if architecture.timbre_dim:
            centroids = centroids_of(architecture, codec)
            weights |= timbre_weights(None, centroids, architecture, training.views, training.labels)
        return weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SoundStorm(architecture)
        start_embeddings(model, codec)
    return model.state_dict()


def network_for(architecture: ModelConfig, tokens: Tokens, codec: Codec | None = None) -> ModelConfig:
    """`architecture` with the levels, codes and classes of `tokens`, and with centroids of the size of those of
    `codec`."""
    fingerprint, most = tokens.fingerprint, architecture.generated_levels
    if most is not None and most > fingerprint.num_levels:
        raise SoundStormError(
            f"generated_levels is {most}: give at most {fingerprint.num_levels}, the levels of the codec of "
            f"{tokens.uri}"
        )
    return replace(
        architecture,
        num_levels=most or fingerprint.num_levels,
        codebook_size=fingerprint.codebook_size,
        num_classes=len(tokens.categories),
        timbre_entries=num_entries(tokens.training_labels()) if architecture.timbre_dim else 0,
        centroid_dim=latent_dim(codec) if architecture.centroids and codec is not None else architecture.centroid_dim,
    )
