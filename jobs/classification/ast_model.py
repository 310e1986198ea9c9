"""Recipe of the Audio Spectrogram Transformer; every worker holds the features of all training recordings (0.5 MB per
10 s)."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch

from cluster import storage
from cluster.errors import ClusterError
from cluster.transfer.http_download import fetch
from jobs.inputs.datasets import index_digest, rows_of_folds
from jobs.inputs.leakage import refuse_leaks
from jobs.inputs.provenance import combined, decoded_recordings, test_of
from jobs.inputs.recordings import training_recordings, usable_recordings
from soundstorm.classification.ast_classifier import save_ast_classifier
from soundstorm.classification.ast_network import (
    AstClassifier,
    AstConfig,
    pretrained_ast,
    read_ast_config,
    require_transformers,
)
from soundstorm.classification.training.ast_trainer import AstTrainer, AstTrainingConfig
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.optimization.worker import Worker
from soundstorm.serialization.hub import OFFLINE
from soundstorm.serialization.leakage import Learned
from soundstorm.serialization.provenance import KEY, Provenance, Role, TrainedOn, as_parent, parse_provenance

HUB_NAME = "MIT/ast-finetuned-audioset-10-10-0.4593"
HUB_REVISION = "f826b80d28226b62986cc218e5cec390b1096902"
HUB_URL = f"https://huggingface.co/{HUB_NAME}/resolve/{HUB_REVISION}/model.safetensors"
HUB_SHA256 = "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d"
HUB_SIZE = 346_404_948
CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE = "config.json", "preprocessor_config.json", "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class AstWorker:
    """What a worker needs to train the AST."""

    categories: list[str]
    config: AstTrainingConfig
    start: AstConfig
    """Architecture of the weights to start from."""
    weights: "ray.ObjectRef[bytes] | None"
    """Content of their file; None: random weights."""
    where: str
    """Their name in errors."""

    def trainer(self, worker: Worker, device: torch.device) -> AstTrainer:
        torch.manual_seed(self.config.seed)
        num_categories, max_length = len(self.categories), self.config.max_length
        if self.weights is None:
            model = AstClassifier(num_categories, replace(self.start, max_length=max_length))
        else:
            model = pretrained_ast(num_categories, ray.get(self.weights), self.start, max_length, self.where)
        clips, labels = zip(*usable_recordings(ray.train.get_dataset_shard("recordings")), strict=True)
        return AstTrainer(model.to(device), self.config, clips, labels, worker=worker)


class AstRecipe:
    """A `jobs.classification.recipe.Recipe`.

    Args:
        index: the dataset.
        dataset: its name.
        location: folder or URI of the dataset.
        fold: the test fold.
        config: of the training.
        max_duration_s: seconds of a recording that are used.
        weights: the value of `--weights`, a folder; None: the published ones, which a finished run does not need. Not
            read from scratch, where it gives the architecture alone.
        allow_leak: allow weights that were, or may have been, trained on the test fold.

    Raises:
        SoundStormError: `transformers` is not installed, there are no weights, they are not those of an AST, or they
            have seen the test fold.
        ClusterError: the weights cannot be read.
    """

    trained_on: TrainedOn
    """Known once `data` was called."""

    def __init__(
        self,
        index: Index,
        *,
        dataset: str,
        location: str,
        fold: int,
        config: AstTrainingConfig,
        max_duration_s: float,
        weights: str | None,
        allow_leak: bool = False,
    ) -> None:
        require_transformers()
        self.index, self.dataset, self.location, self.fold, self.config = index, dataset, location, fold, config
        self.max_duration_s, self.weights = max_duration_s, weights
        self.categories = index.categories
        self.start = AstConfig() if weights is None else _read_config(weights)
        self.weights_sha256: str | None = HUB_SHA256
        if weights is not None or config.mode == "scratch":
            self.weights_sha256 = None if self.content is None else hashlib.sha256(self.content).hexdigest()
        self.start_provenance = self._start_provenance()
        self.leaks = refuse_leaks(
            []
            if self.weights_sha256 is None
            else [Learned(name=self.where, provenance=self.start_provenance, sha256=self.weights_sha256)],
            [test_of(index.clips, fold)],
            remedy=f"state in its {CONFIG_FILE} under '{KEY}' what it was trained on (docs/provenance.md)",
            allowed=allow_leak,
        )
        self.settings = {
            "data_dir": location,
            "clips": index_digest(index.clips),
            "training": asdict(config),
            "network": replace(self.start, max_length=config.max_length).to_dict(),
            "weights_sha256": self.weights_sha256,
        }

    def open_weights(self) -> None:
        """Raises where the weights are unusable, before anything is started."""
        _ = self.content

    @cached_property
    def content(self) -> bytes | None:
        """File of the weights, checked once; None: random weights."""
        if self.config.mode == "scratch":
            return None
        content = _hub_weights() if self.weights is None else _read_weights(self.weights)
        pretrained_ast(1, content, self.start, self.config.max_length, self.where)
        return content

    @property
    def where(self) -> str:
        """The weights' name in errors."""
        return HUB_NAME if self.weights is None else f"--weights {self.weights}"

    def describe(self) -> str:
        start = "random weights" if self.weights_sha256 is None else self.where
        return f"Audio Spectrogram Transformer, {self.config.mode}, from {start}"

    def data(self) -> tuple[dict[str, "ray.data.Dataset"], int]:
        """All recordings but those of the test fold, decoded; raises SoundStormError if none can be used."""
        training, usable = training_recordings(self.index.clips, self.fold, self.location, self.max_duration_s)
        start = (
            None
            if self.weights_sha256 is None
            else as_parent(Role.START, self.where, self.weights_sha256, self.start_provenance)
        )
        self.trained_on = combined(decoded_recordings(self.index.clips, training), start)
        return {"recordings": training}, usable

    def for_workers(self) -> AstWorker:
        weights = None if self.content is None else ray.put(self.content)
        return AstWorker(self.categories, self.config, self.start, weights, self.where)

    def test_clips(self) -> pa.Table:
        return rows_of_folds(self.index.clips, {self.fold})

    def save(self, path: Path, state: dict[str, Any], accuracy: float | None) -> None:
        model = self._network()
        model.load_state_dict(state["model"])
        about: dict[str, Any] = {
            "dataset": self.dataset,
            "held_out_fold": self.fold,
            "accuracy": accuracy,
            "trained_on": self.trained_on,
        }
        save_ast_classifier(path, model, categories=self.categories, **about)

    def files(self) -> dict[str, bytes]:
        return {}

    def _start_provenance(self) -> Provenance:
        """What the weights to start from were trained on: the published ones are known, and others say it in their
        config.json."""
        if self.weights is None or self.weights_sha256 == HUB_SHA256:
            return TrainedOn(outside=("audioset",))
        return parse_provenance(json.loads(storage.read_bytes(storage.join(self.weights, CONFIG_FILE))).get(KEY))

    def _network(self) -> AstClassifier:
        return AstClassifier(len(self.categories), replace(self.start, max_length=self.config.max_length))


def _read_config(folder: str) -> AstConfig:
    preprocessor = storage.join(folder, PREPROCESSOR_FILE)
    config = storage.join(folder, CONFIG_FILE)
    if folder.lower().endswith(PICKLES) or not storage.exists(config):
        raise SoundStormError(f"--weights {folder}: give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return read_ast_config(
        storage.read_bytes(config),
        storage.read_bytes(preprocessor) if storage.exists(preprocessor) else None,
        f"--weights {folder}",
    )


def _read_weights(folder: str) -> bytes:
    """The content of the safetensors file in the folder; nothing else is opened."""
    uri = storage.join(folder, WEIGHTS_FILE)
    if storage.exists(uri):
        return storage.read_bytes(uri)
    pickled = [entry.uri.rpartition("/")[2] for entry in storage.list_objects(folder) if entry.uri.endswith(PICKLES)]
    instead = (
        f", only {pickled[0]}, which would have to be unpickled: save the model again with safe_serialization=True"
        if pickled
        else ""
    )
    raise SoundStormError(f"--weights {folder}: there is no {WEIGHTS_FILE}{instead}")


def _hub_weights() -> bytes:
    """The published weights from the cache of torch.hub, downloaded once if need be."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{HUB_NAME.rpartition('/')[2]}.safetensors"
    remedy = (
        f"give --weights a folder with the {CONFIG_FILE} and {WEIGHTS_FILE} of {HUB_NAME}, or put its "
        f"{WEIGHTS_FILE} at {path}"
    )
    if not path.exists() and os.environ.get(OFFLINE):
        raise SoundStormError(
            f"the weights of {HUB_NAME} are not available, and {OFFLINE} forbids downloading them: {remedy}"
        )
    try:
        return fetch(HUB_URL, path, sha256=HUB_SHA256, size=HUB_SIZE).read_bytes()
    except ClusterError as error:
        raise SoundStormError(f"{error}. Without a network {remedy}") from error
