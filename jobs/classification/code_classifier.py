"""Recipe of the token classifier, the generator's network on codes; every worker holds all training recordings, and
encodes augmented versions of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
from torch import Tensor

from cluster import storage
from jobs.caching.variation_cache import VariationCache, variations_folder
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.classifiers import CLASSIFIER_FILE, CODEC_FILE, classifier_files, classifier_place
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import rows_of_folds
from jobs.inputs.leakage import refuse_leaks
from jobs.inputs.provenance import combined, decoded_recordings
from jobs.inputs.recordings import training_recordings, usable_recordings
from jobs.inputs.tokens import Tokens, open_tokens
from jobs.training.generator_recipe import network_for
from soundstorm.classification.cnn import TrainedClassifier, load_classifier
from soundstorm.classification.token_classifier import Origin, save_token_classifier
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier
from soundstorm.classification.training.token_trainer import (
    TokenClassifierTrainer,
    TokenClassifierTrainingConfig,
    TokenMode,
)
from soundstorm.codec.files import OFFICIAL_SHA256, load_codec, packaged_codec_bytes, provenance_of_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.code_vectors import latent_dim
from soundstorm.model.config import ModelConfig
from soundstorm.model.generators import weights_for_categories
from soundstorm.model.presets import preset
from soundstorm.optimization.worker import Worker
from soundstorm.serialization.leakage import Learned
from soundstorm.serialization.provenance import Parent, Role, TrainedOn, as_parent

FROM_GENERATOR: tuple[TokenMode, ...] = ("fine-tuned", "frozen")
"""Modes that start from a generator."""
MAX_LISTED = 5
"""Categories named in an error."""


@dataclass(kw_only=True, frozen=True)
class TokenInputs:
    """Inputs of the training of a token classifier, checked for consistency; `open_token_inputs` creates it."""

    tokens_uri: str
    tokens: Tokens
    codec_weights: bytes
    generator: Checkpoint | None
    """Initial generator; None: random weights."""
    network: ModelConfig
    teacher: bytes | None
    """File of the teacher; None: no distillation."""
    origin: Origin
    parents: list[Parent]
    """Codec, generator and teacher with what they were trained on."""
    leaks: list[str]


def open_token_inputs(
    tokens_uri: str,
    fold: int | None,
    mode: TokenMode,
    *,
    checkpoint: str | None,
    codec: str | None,
    teacher: str | None,
    allow_leak: bool,
) -> TokenInputs:
    """Open tokens, codec, generator and teacher.

    Args:
        tokens_uri: output folder of `tokenize`.
        fold: the test fold; None = the last that has clips.
        mode: how the network starts.
        checkpoint: generator to start from; None = the one in the package. With random weights only its architecture is
            used, or that of the preset `hearing`.
        codec: the value of `--codec`.
        teacher: the value of `--teacher`.
        allow_leak: allow inputs that were trained on the test fold.

    Raises:
        SoundStormError: they do not fit together, or one of them has seen the test fold.
    """
    tokens = open_tokens(tokens_uri, fold)
    weights, opened = choose_codec(codec, tokens.fingerprint, tokens.uri, codec_beside(checkpoint))
    found = None
    if mode in FROM_GENERATOR or checkpoint is not None:
        found = open_checkpoint(checkpoint_files(checkpoint), uri=checkpoint)
        tokens.fingerprint.require_equal(found.fingerprint, tokens.uri)
    generator = found if mode in FROM_GENERATOR else None
    taught_by = None if teacher is None else _open_teacher(teacher, tokens.categories)
    origin = Origin(
        codec=tokens.fingerprint,
        mode=mode,
        generator_sha256=None if generator is None else generator.sha256,
        teacher_sha256=None if taught_by is None else taught_by[1].sha256,
    )
    where = f"the generator {checkpoint}" if checkpoint else "the generator in the package"
    codec_provenance = provenance_of_codec(weights)
    learned = [
        Learned(
            name=f"the codec '{opened.fingerprint.name}'", provenance=codec_provenance, sha256=opened.fingerprint.sha256
        )
    ]
    parents = [as_parent(Role.CODEC, opened.fingerprint.name, opened.fingerprint.sha256, codec_provenance)]
    if generator is not None:
        learned.append(Learned(name=where, provenance=generator.provenance, sha256=generator.sha256))
        parents.append(as_parent(Role.GENERATOR, "started from", generator.sha256, generator.provenance))
    if taught_by is not None:
        learned.append(
            Learned(name=f"the teacher {teacher}", provenance=taught_by[1].provenance, sha256=taught_by[1].sha256)
        )
        parents.append(as_parent(Role.TEACHER, "taught by", taught_by[1].sha256, taught_by[1].provenance))
    leaks = refuse_leaks(
        learned,
        [tokens.test()],
        remedy=f"train without it (`train-codec --test-fold {tokens.fold}`, `tokenize --codec ...`, `train --fold "
        f"{tokens.fold}`, "
        f"`train-classifier --model cnn --fold {tokens.fold}` for a teacher) or have "
        f"`cross-validate --fold {tokens.fold}` do all that",
        allowed=allow_leak,
    )
    return TokenInputs(
        tokens_uri=tokens_uri,
        tokens=tokens,
        codec_weights=weights,
        generator=generator,
        network=network_for(found.model.config if found else preset("hearing").model, tokens),
        teacher=None if taught_by is None else taught_by[0],
        origin=origin,
        parents=parents,
        leaks=leaks,
    )


def _open_teacher(uri: str, categories: list[str]) -> tuple[bytes, TrainedClassifier]:
    """File of a network on spectrograms that knows these categories, in this order, and what it is."""
    data = classifier_files(uri, "--teacher")[CLASSIFIER_FILE]
    try:
        teacher = load_classifier(data)
    except SoundStormError as error:
        remedy = "a teacher is a network on spectrograms, of `soundstorm train-classifier --model cnn`"
        raise SoundStormError(f"--teacher {classifier_place(uri, '--teacher')}: {remedy} ({error})") from error
    if teacher.categories != categories:
        differing = sorted(set(teacher.categories) ^ set(categories))
        mismatch = (
            f"its categories differ from those of the tokens: {_some(differing)}"
            if differing
            else "its categories are those of the tokens in another order"
        )
        raise SoundStormError(
            f"--teacher {uri}: {mismatch}: train it on the same dataset with `soundstorm train-classifier --model cnn`"
        )
    return data, teacher


def _some(names: list[str]) -> str:
    """The first of them, quoted."""
    return ", ".join(f"'{name}'" for name in names[:MAX_LISTED]) + (
        f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    )


@dataclass(kw_only=True, frozen=True)
class TokenWorker:
    """What a worker needs to train the token classifier."""

    categories: list[str]
    config: TokenClassifierTrainingConfig
    mode: TokenMode
    network: ModelConfig
    readout: ReadoutConfig
    teacher: bytes | None
    """Content of the teacher's file."""
    codec: "ray.ObjectRef[bytes]"
    """Content of the codec's file."""
    generator: "ray.ObjectRef[Mapping[str, Tensor]] | None"
    """Weights to start from."""
    cache: str | None
    """Folder of the cached variations of all recordings; None: the cache is off."""

    def trainer(self, worker: Worker, device: torch.device) -> TokenClassifierTrainer:
        torch.manual_seed(self.config.seed)
        model, codec = (
            TokenClassifier(len(self.categories), self.network, self.readout),
            load_codec(ray.get(self.codec), str(device)),
        )
        if self.generator is not None:
            model.load_generator(ray.get(self.generator))
        model.set_codebook_embeddings(codec)
        recordings, labels = zip(*usable_recordings(ray.train.get_dataset_shard("recordings")), strict=True)
        teacher = None if self.teacher is None else load_classifier(self.teacher, str(device)).model
        trainer = TokenClassifierTrainer(
            model.to(device), codec, self.mode, self.config, recordings, labels, teacher=teacher, worker=worker
        )
        if self.cache is not None:
            trainer.varied.store = VariationCache(variations_folder(self.cache, trainer.varied, self.teacher, device))
        return trainer


class TokenRecipe:
    """A `jobs.classification.recipe.Recipe`.

    Args:
        inputs: tokens, codec and generator.
        config: of the training.
        max_duration_s: seconds of a recording that are used.
        cache: folder of the cached variations; None: the cache is off.
    """

    trained_on: TrainedOn
    """Set by `data`."""

    def __init__(
        self, inputs: TokenInputs, config: TokenClassifierTrainingConfig, max_duration_s: float, cache: str | None
    ) -> None:
        tokens, origin = inputs.tokens, inputs.origin
        self.cache = cache
        self.inputs, self.config, self.max_duration_s, self.leaks = inputs, config, max_duration_s, inputs.leaks
        self.mode, self.network = origin.mode, inputs.network
        self.dataset, self.fold, self.categories = tokens.dataset, tokens.fold, tokens.categories
        # A frozen network shows what the generator's own features contain, and one that starts from random weights is
        # the baseline without any knowledge of sounds; both therefore get no codec latents. On a frozen network, a
        # linear layer alone names a fifth fewer recordings than with a block before it.
        self.readout = ReadoutConfig(
            latent_dim=latent_dim(load_codec(inputs.codec_weights)) if origin.mode in ("fine-tuned", "codec") else 0,
            blocks=1 if origin.mode == "frozen" else 0,
        )
        self.settings: dict[str, Any] = {
            "tokens": storage.absolute(inputs.tokens_uri),
            "tokens_made": tokens.made,
            "mode": origin.mode,
            "codec_sha256": origin.codec.sha256,
            "teacher_sha256": origin.teacher_sha256,
            "checkpoint_sha256": origin.generator_sha256,
            "training": asdict(config),
            "network": inputs.network.to_dict(),
            "readout": self.readout.to_dict(),
        }

    def describe(self) -> str:
        starts: dict[TokenMode, str] = {
            "fine-tuned": "from the generator",
            "frozen": "as the generator left it",
            "codec": "from random weights and the codec's vectors",
            "scratch": "from random weights",
        }
        network = self.inputs.network
        taught = "" if self.inputs.teacher is None else ", with a teacher"
        return (
            f"SoundStorm network of {network.depth} blocks of width {network.width} on codes, "
            f"{starts[self.inputs.origin.mode]}{taught}"
        )

    def for_workers(self) -> TokenWorker:
        inputs, generator = self.inputs, self.inputs.generator
        weights = (
            None
            if generator is None
            else weights_for_categories(generator.model, generator.categories, self.categories)
        )
        return TokenWorker(
            categories=self.categories,
            config=self.config,
            mode=self.mode,
            network=self.network,
            readout=self.readout,
            teacher=inputs.teacher,
            codec=ray.put(inputs.codec_weights),
            generator=None if weights is None else ray.put(weights),
            cache=self.cache,
        )

    def open_weights(self) -> None:
        """Does nothing: they are checked with the other inputs."""

    def data(self) -> tuple[dict[str, "ray.data.Dataset"], int]:
        """All recordings but those of the test fold, decoded; raises SoundStormError if none can be used."""
        clips = self.inputs.tokens.clips()
        training, usable = training_recordings(clips, self.fold, self.inputs.tokens_uri, self.max_duration_s)
        self.trained_on = combined(decoded_recordings(clips, training), *self.inputs.parents)
        return {"recordings": training}, usable

    def test_clips(self) -> pa.Table:
        return rows_of_folds(self.inputs.tokens.clips(), {self.fold})

    def save(self, path: Path, state: dict[str, Any], accuracy: float | None) -> None:
        model = TokenClassifier(len(self.categories), self.inputs.network, self.readout)
        model.load_state_dict(state["model"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(state["ema"]["average"][name])
        about: dict[str, Any] = {
            "dataset": self.dataset,
            "held_out_fold": self.fold,
            "accuracy": accuracy,
            "trained_on": self.trained_on,
        }
        save_token_classifier(path, model, categories=self.categories, origin=self.inputs.origin, **about)

    def files(self) -> dict[str, bytes]:
        weights = self.inputs.codec_weights
        at_hand = self.inputs.origin.codec.sha256 == OFFICIAL_SHA256 or weights == packaged_codec_bytes()
        return {} if at_hand else {CODEC_FILE: weights}
