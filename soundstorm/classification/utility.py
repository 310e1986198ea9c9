"""Utility of generated clips as training data: the accuracy on recordings of a classifier that is trained on them.

Two questions. Trained on generated clips alone, how much of the accuracy is left that as many recordings give
("classification accuracy score", Ravuri and Vinyals, "Classification accuracy score for conditional generative
models", arXiv 1905.10887)? And are recordings and generated clips together better than those recordings alone, when
recordings are few?

The convolutional network of `soundstorm.classification.cnn` is trained from random weights with the same number of
steps for every training set. Where both kinds are together, recordings are repeated until they are at least half of
the examples. The test recordings are the same throughout.

Legend: N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from soundstorm.classification.cnn import AudioClassifier, TrainedClassifier
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainer, AudioClassifierTrainingConfig
from soundstorm.errors import SoundStormError

CLIPS_PER_CLASS = (5, 10, 32)
"""Default numbers of recordings per class."""
SEEDS = 3
STEPS = 1000
"""Default length of each training, in optimizer steps."""


class TrainingSet(StrEnum):
    """What a classifier is trained on."""

    GENERATED = "generated"
    RECORDINGS = "recordings"
    BOTH = "recordings and generated"


@dataclass(kw_only=True, frozen=True)
class Case:
    """One training."""

    training_set: TrainingSet
    clips_per_class: int
    """Recordings of each class; of GENERATED alone: the generated clips of each."""
    seed: int
    """Random seed of the recordings that are drawn, the initial weights, the order and the variations."""


@dataclass(kw_only=True, frozen=True)
class LabelledClips:
    """Clips int16 (N,) at 24 kHz with the label of each."""

    clips: Sequence[np.ndarray]
    labels: Sequence[int]

    def __post_init__(self) -> None:
        if not self.clips or len(self.clips) != len(self.labels):
            raise SoundStormError(
                f"{len(self.clips)} clips and {len(self.labels)} labels: give as many of one as of the other"
            )


def cases(recordings: int, generated: int, sizes: Sequence[int] = CLIPS_PER_CLASS, seeds: int = SEEDS) -> list[Case]:
    """The trainings, in order.

    Args:
        recordings: of the class that has the fewest to train on.
        generated: clips of the class that has the fewest.
        sizes: numbers of recordings per class; those that are not there are left out.
        seeds: trainings of each kind.

    Raises:
        SoundStormError: a class has no recording or no generated clip, or there is nothing to repeat.
    """
    if min(recordings, generated, seeds) < 1:
        raise SoundStormError(
            f"{recordings} recordings and {generated} generated clips of the rarest class, {seeds} seeds: give at "
            "least one of each"
        )
    found = []
    for seed in range(seeds):
        found.append(Case(training_set=TrainingSet.GENERATED, clips_per_class=generated, seed=seed))
        alone = {size for size in (*sizes, generated) if size <= recordings} or {recordings}
        together = {size for size in sizes if size <= recordings} or {recordings}
        found += [Case(training_set=TrainingSet.RECORDINGS, clips_per_class=size, seed=seed) for size in sorted(alone)]
        found += [Case(training_set=TrainingSet.BOTH, clips_per_class=size, seed=seed) for size in sorted(together)]
    return found


def drawn(labels: Sequence[int], clips_per_class: int, seed: int) -> list[int]:
    """Indices of `clips_per_class` clips of each label, or of all that there are; fewer are a subset of more.

    Args:
        labels: of all clips.
        clips_per_class: how many to draw of each label.
        seed: of the draw.
    """
    order = np.random.default_rng([seed, 7]).permutation(len(labels))
    taken: dict[int, list[int]] = {}
    for index in order.tolist():
        taken.setdefault(labels[index], []).append(index)
    return sorted(index for indices in taken.values() for index in indices[:clips_per_class])


def mixture(recordings: int, generated: int) -> list[int]:
    """How often each of `recordings` recordings and then each of `generated` clips stands in a training set of both:
    recordings are repeated until they are at least half."""
    return [max(1, math.ceil(generated / recordings))] * recordings + [1] * generated


def accuracy_after_training(
    training: LabelledClips,
    test: LabelledClips,
    num_categories: int,
    seed: int,
    *,
    steps: int = STEPS,
    config: AudioClassifierTrainingConfig | None = None,
    device: str = "cpu",
) -> float:
    """Train the convolutional network and test it.

    Args:
        training: what it learns from.
        test: recordings that it is tested on.
        num_categories: labels are from 0 to one less.
        seed: of initial weights, order and variations.
        steps: length of the training.
        config: of the training; `epochs` and `seed` are ignored.
        device: where to train.

    Returns:
        The share of the test clips that it names correctly.

    Raises:
        SoundStormError: the training diverged.
    """
    config = config or AudioClassifierTrainingConfig()
    epochs = math.ceil(steps / math.ceil(len(training.clips) / config.batch_size))
    torch.manual_seed(seed)
    model = AudioClassifier(num_categories).to(device)
    trainer = AudioClassifierTrainer(model, replace(config, epochs=epochs, seed=seed), training.clips, training.labels)
    trainer.total_steps = steps
    while trainer.step_count < steps:
        trainer.step()
    classifier = TrainedClassifier(
        model=model.eval().requires_grad_(False),
        categories=[str(label) for label in range(num_categories)],
        dataset="",
        held_out_fold=None,
        accuracy=None,
        sha256="",
    )
    predicted = classifier.predict(test.clips).argmax(1)
    return float(np.mean(predicted == np.asarray(test.labels)))
