"""Training of SoundStorm on one worker of Ray Train: all epochs, with a report and a checkpoint after each."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import get_checkpoint
from ray.train.torch import get_device, prepare_model

from jobs.inputs.checkpoints import CHECKPOINT_FOLDER
from jobs.inputs.tokens import Tokens
from jobs.training.generator_trainer import TrainingRun
from jobs.training.ray_trainer import use_threads
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


def train_on_worker(settings: dict[str, Any]) -> str | None:
    """Training loop of Ray Train: run all epochs, with a report after each. Returns why training stopped early, or
    None."""
    use_threads(settings["cpus"], settings["threads"])
    context = ray.train.get_context()
    fingerprint = CodecFingerprint(**settings["codec"])
    training, validation = ray.get(settings["tokens"])  # its arrays are those in the node's object store
    config = TrainingConfig.from_dict(settings["training"], "training")
    run = TrainingRun(
        ModelConfig.from_dict(settings["architecture"], "architecture"),
        replace(config, batch_size=settings["batch_size"]),
        training,
        validation,
        device=get_device(),
        weights=None if settings["weights"] is None else ray.get(settings["weights"]),
        worker=Worker(
            rank=context.get_world_rank(),
            num_workers=context.get_world_size(),
            # the buffers are centroids, which are constant
            wrap=partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False}),
        ),
    )
    checkpoint = get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            run.load_state_dict(load_training_state(Path(folder)))
    while not run.is_finished:
        try:
            run.run_epoch()
        # the gradient is not finite, on all workers, and a restart would not change that
        except SoundStormError as error:
            return str(error)
        _report(run, settings, fingerprint)
        if run.problem():
            return run.problem()
    return None


def _report(run: TrainingRun, settings: dict[str, Any], fingerprint: CodecFingerprint) -> None:
    """Report the log so far. Rank 0 adds a checkpoint if one is due and the loss has not diverged, so that a good
    checkpoint is never replaced by a bad one."""
    is_due = run.is_good and (run.is_finished or run.epochs_done % settings["checkpoint_every"] == 0)
    with tempfile.TemporaryDirectory(prefix="soundstorm-train-") as scratch:
        saved = None
        if is_due and run.worker.rank == 0:
            folder = Path(scratch) / CHECKPOINT_FOLDER
            save_checkpoint(
                folder,
                run.averaged(),
                CheckpointInfo(
                    training=TrainingConfig.from_dict(settings["training"], "training"),
                    categories=settings["categories"],
                    fingerprint=fingerprint,
                    step=run.step,
                    sampler=SamplerSettings.from_dict(settings["sampler"], "sampler"),
                    extra={
                        "epoch": run.epochs_done,
                        "dataset": settings["dataset"],
                        "test_fold": settings["fold"],
                        "val_loss": run.rows[-1]["val_loss"],
                    },
                ),
                trained_on=TrainedOn.from_dict(settings["trained_on"]),
                training_state=run.state_dict(),
            )
            saved = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"rows": list(run.rows)}, checkpoint=saved)


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
