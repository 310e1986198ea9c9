"""Recipe of the convolutional network on log-mel spectrograms; every worker holds all training recordings."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch

from jobs.inputs.datasets import index_digest, rows_of_folds
from jobs.inputs.provenance import combined, decoded_recordings
from jobs.inputs.recordings import training_recordings, usable_recordings
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig, save_classifier
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainer, AudioClassifierTrainingConfig
from soundstorm.data.datasets import Index
from soundstorm.optimization.worker import Worker
from soundstorm.serialization.provenance import TrainedOn


@dataclass(frozen=True)
class CnnWorker:
    """What a worker needs to train the convolutional network."""

    categories: list[str]
    config: AudioClassifierTrainingConfig

    def trainer(self, worker: Worker, device: torch.device) -> AudioClassifierTrainer:
        torch.manual_seed(self.config.seed)
        model = AudioClassifier(len(self.categories)).to(device)
        clips, labels = zip(*usable_recordings(ray.train.get_dataset_shard("recordings")), strict=True)
        return AudioClassifierTrainer(model, self.config, clips, labels, worker=worker)


class CnnRecipe:
    """A `jobs.classification.recipe.Recipe`.

    Args:
        index: the dataset.
        dataset: its name.
        location: folder or URI of the dataset.
        fold: the test fold.
        config: settings of the training.
        max_duration_s: seconds of a recording that are used.
    """

    trained_on: TrainedOn
    """Set by `data`."""

    def __init__(
        self,
        index: Index,
        *,
        dataset: str,
        location: str,
        fold: int,
        config: AudioClassifierTrainingConfig,
        max_duration_s: float,
    ) -> None:
        self.index, self.dataset, self.location, self.fold, self.config = index, dataset, location, fold, config
        self.max_duration_s = max_duration_s
        self.categories = index.categories
        self.leaks: list[str] = []
        self.settings = {
            "data_dir": location,
            "clips": index_digest(index.clips),
            "training": asdict(config),
            "network": AudioClassifierConfig().to_dict(),
        }

    def describe(self) -> str:
        return "convolutional network on log-mel spectrograms"

    def open_weights(self) -> None:
        """Does nothing: it starts from random weights."""

    def data(self) -> tuple[dict[str, "ray.data.Dataset"], int]:
        """All recordings but those of the test fold, decoded; raises SoundStormError if none can be used."""
        training, usable = training_recordings(self.index.clips, self.fold, self.location, self.max_duration_s)
        self.trained_on = combined(decoded_recordings(self.index.clips, training))
        return {"recordings": training}, usable

    def for_workers(self) -> CnnWorker:
        return CnnWorker(self.categories, self.config)

    def test_clips(self) -> pa.Table:
        return rows_of_folds(self.index.clips, {self.fold})

    def save(self, path: Path, state: dict[str, Any], accuracy: float | None) -> None:
        model = AudioClassifier(len(self.categories))
        model.load_state_dict(state["model"])
        about: dict[str, Any] = {
            "dataset": self.dataset,
            "held_out_fold": self.fold,
            "accuracy": accuracy,
            "trained_on": self.trained_on,
        }
        save_classifier(path, model, categories=self.categories, **about)

    def files(self) -> dict[str, bytes]:
        return {}
