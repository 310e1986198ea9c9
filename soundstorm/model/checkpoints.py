"""Checkpoints: folders with `model.safetensors`, `config.json` and, for resuming, `training_state.pt`.

Nothing is unpickled: weights are safetensors, and the training state is read with `weights_only=True`.
"""

import hashlib
import json
import pickle
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import GeneratorNetwork, make_generator
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.hub import fetch_from_hub, is_hub_address
from soundstorm.serialization.int8 import quantize
from soundstorm.serialization.provenance import KEY, Provenance, TrainedOn, agreeing, parse_provenance
from soundstorm.serialization.state_dicts import read_weights
from soundstorm.serialization.without_memory import without_memory

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TRAINING_STATE_FILE = "training_state.pt"
FORMAT = 1
PACKAGED_FOLDER = "esc50"
"""Folder of the checkpoint in the package, below its weights."""
STACKED = ("head_weight", "head.project_QHL")
"""Tensors with one matrix per level."""
CENTROIDS = ("vectors_QKL", "timbre.basis_FS", "timbre.entries_ES")
"""Ends of the names of matrices that are not quantized: their small dimensions would be lost beside the large ones."""
KEYS = ("format", "architecture", "training", "categories", "codec", "step", "sampler", "weights_sha256", "extra")


@dataclass(kw_only=True, frozen=True)
class CheckpointInfo:
    """What a checkpoint says of its network."""

    categories: list[str]
    """Name of each class, by label."""
    fingerprint: CodecFingerprint
    """Codec whose codes the network was trained on."""
    step: int
    """Number of optimizer steps."""
    training: TrainingConfig
    sampler: SamplerSettings
    extra: dict[str, Any] = field(default_factory=dict)
    """Further metadata of the trainer: plain JSON values, among them `dataset`, `test_fold` and `epoch`. The first two
    must agree with the provenance, otherwise that counts as unknown."""


@dataclass(kw_only=True, frozen=True)
class Checkpoint(CheckpointInfo):
    """A loaded checkpoint."""

    model: GeneratorNetwork
    """The network, in evaluation mode."""
    sha256: str
    """SHA-256 of the weights file."""
    provenance: Provenance
    """What it was trained on, as recorded in `config.json`."""


def save_checkpoint(
    folder: Path,
    model: GeneratorNetwork,
    info: CheckpointInfo,
    *,
    trained_on: TrainedOn | None = None,
    training_state: dict[str, Any] | None = None,
    packed: bool = False,
) -> str:
    """Write a checkpoint atomically, replacing an existing one; returns the SHA-256 of its weights.

    Args:
        folder: the folder to write; its content is written beside it and renamed, so that readers never see a part of
            it.
        model: the network to publish, such as the averaged one.
        info: what the checkpoint says of it.
        trained_on: provenance of its training data; None: unknown, and every evaluation that needs it is refused.
        training_state: state for resuming: tensors, numbers, text, and lists and dictionaries of these.
        packed: quantize the weights with `soundstorm.serialization.int8`, for publishing, not for further training.

    Raises:
        SoundStormError: the categories or the codec do not match the network, or writing failed.
    """
    _check_fit(model.config, len(info.categories), info.fingerprint, str(folder))
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = safetensors.torch.save(quantize(tensors, keep=CENTROIDS, stacked=STACKED) if packed else tensors)
    sha256 = hashlib.sha256(weights).hexdigest()
    config = {
        "format": FORMAT,
        "architecture": model.config.to_dict(),
        "training": info.training.to_dict(),
        "categories": list(info.categories),
        "codec": asdict(info.fingerprint),
        "step": info.step,
        "sampler": info.sampler.to_dict(),
        "weights_sha256": sha256,
        "extra": info.extra,
        **({KEY: trained_on.to_dict()} if trained_on else {}),
    }
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir(parents=True)
        (partial / WEIGHTS_FILE).write_bytes(weights)
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if training_state is not None:
            torch.save(training_state, partial / TRAINING_STATE_FILE)
        _replace_folder(partial, folder)
    except (OSError, RuntimeError) as error:
        raise SoundStormError(
            f"{folder}: the checkpoint could not be written ({error}): check the free space and the permissions"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sha256


def pack_checkpoint(source: Path | Checkpoint, target: Path, sampler: SamplerSettings | None = None) -> str:
    """Write the checkpoint `source` with quantized weights, a third of the size; returns the SHA-256 of the new
    weights.

    Its samples differ from those of the source, but its measured quality does not; see `soundstorm.serialization.int8`.

    Args:
        source: folder of the checkpoint, or the checkpoint.
        target: folder to write.
        sampler: default sampler settings; None: those of the checkpoint.
    """
    checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
    extra = checkpoint.extra | {"packed_from_sha256": checkpoint.sha256}
    info = replace(checkpoint, sampler=sampler or checkpoint.sampler, extra=extra)
    trained_on = checkpoint.provenance if isinstance(checkpoint.provenance, TrainedOn) else None
    return save_checkpoint(target, checkpoint.model, info, trained_on=trained_on, packed=True)


def packaged_checkpoint_files() -> dict[str, bytes]:
    """WEIGHTS_FILE and CONFIG_FILE of the checkpoint that ships in the package, trained on ESC-50."""
    folder = bundled_file(PACKAGED_FOLDER)
    return {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}


def _replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`. An existing folder is restored if that fails, and deleted if it succeeds."""
    previous = target.parent / f"{source.name}.previous"
    if target.exists():
        target.replace(previous)
    try:
        source.replace(target)
    except OSError:
        if previous.exists():
            previous.replace(target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def load_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; the caller compares its fingerprint with the codec in use.

    Args:
        folder: a local folder, or an address of the Hugging Face Hub (`soundstorm.serialization.hub`).
        device: device of the network.

    Raises:
        SoundStormError: a file is missing or malformed, or the weights do not match `config.json`.
    """
    if isinstance(folder, str):
        folder = fetch_from_hub(folder, (CONFIG_FILE, WEIGHTS_FILE)) if is_hub_address(folder) else Path(folder)
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    remedy = "give the folder of a complete checkpoint of `soundstorm train`"
    files = {}
    for path in (config_path, weights_path):
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise SoundStormError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    return parse_checkpoint(files, str(folder), device)


def parse_checkpoint(files: Mapping[str, bytes], where: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Parse a checkpoint from the content of its CONFIG_FILE and WEIGHTS_FILE; `where` is their source, for errors.

    Raises:
        SoundStormError: a file is malformed, or the weights do not match `config.json`.
    """
    config_path, weights_path, weights = f"{where}/{CONFIG_FILE}", f"{where}/{WEIGHTS_FILE}", files[WEIGHTS_FILE]
    config = _read_config(files[CONFIG_FILE], config_path)
    architecture = ModelConfig.from_dict(config["architecture"], f"{config_path}: architecture")
    training = TrainingConfig.from_dict(config["training"], f"{config_path}: training")
    sampler = SamplerSettings.from_dict(config["sampler"], f"{config_path}: sampler")
    fingerprint = _read_fingerprint(config["codec"], config_path)
    _check_fit(architecture, len(config["categories"]), fingerprint, config_path)
    sha256 = hashlib.sha256(weights).hexdigest()
    with without_memory():  # memory is allocated after the shapes of the weights are checked
        model = make_generator(architecture)
    model.load_state_dict(
        read_weights(weights, weights_path, {name: value.shape for name, value in model.state_dict().items()}),
        assign=True,
    )
    if sha256 != config["weights_sha256"]:
        raise SoundStormError(
            f"{weights_path} (SHA-256 {sha256[:12]}) does not belong to its {CONFIG_FILE}: copy the whole checkpoint "
            "again"
        )
    return Checkpoint(
        model=model.to(device).eval(),
        categories=config["categories"],
        fingerprint=fingerprint,
        step=config["step"],
        training=training,
        sampler=sampler,
        sha256=sha256,
        provenance=_provenance(config),
        extra=config["extra"],
    )


def load_training_state(folder: Path) -> dict[str, Any]:
    """The `training_state` of `save_checkpoint`, on the CPU; raises SoundStormError if it is missing or damaged."""
    path = folder / TRAINING_STATE_FILE
    if not path.is_file():
        raise SoundStormError(f"{path} is missing: this checkpoint can generate, but not resume training")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise SoundStormError(
            f"{path} is not a training state, or is damaged: delete the file, or restart the training"
        ) from error
    if not isinstance(state, dict):
        raise SoundStormError(
            f"{path} holds {type(state).__name__}, not a training state: delete the file, or restart the training"
        )
    return state


def _check_fit(architecture: ModelConfig, num_categories: int, fingerprint: CodecFingerprint, where: str) -> None:
    if num_categories != architecture.num_classes:
        raise SoundStormError(
            f"{where}: {num_categories} categories, but the network has {architecture.num_classes} classes"
        )
    num_levels = architecture.generated_levels or fingerprint.num_levels
    if num_levels > fingerprint.num_levels or (num_levels, fingerprint.codebook_size) != (
        architecture.num_levels,
        architecture.codebook_size,
    ):
        raise SoundStormError(
            f"{where}: the codec '{fingerprint.name}' has {fingerprint.num_levels}x{fingerprint.codebook_size} codes, "
            f"but the network {architecture.num_levels}x{architecture.codebook_size}"
        )


def _read_config(content: bytes, path: str) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SoundStormError(f"{path} is not JSON ({error}): copy the checkpoint again") from error
    if not isinstance(config, dict):
        raise SoundStormError(f"{path} is not the configuration of a checkpoint: copy the checkpoint again")
    for key in KEYS:
        if key not in config:
            raise SoundStormError(f"{path}: '{key}' is missing: copy the checkpoint again, or train with this version")
    if config["format"] != FORMAT:
        raise SoundStormError(
            f"{path}: format {config['format']!r}, but this version reads format {FORMAT}: train again, or use the "
            "version that wrote it"
        )
    categories = config["categories"]
    if (
        not isinstance(categories, list)
        or not all(isinstance(name, str) for name in categories)
        or len(set(categories)) != len(categories)
    ):
        raise SoundStormError(f"{path}: categories is not a list of different names")
    if not isinstance(config["step"], int) or isinstance(config["step"], bool) or config["step"] < 0:
        raise SoundStormError(f"{path}: step is {config['step']!r}, not a whole number of 0 or more")
    if not isinstance(config["weights_sha256"], str) or not isinstance(config["extra"], dict):
        raise SoundStormError(f"{path}: weights_sha256 is not text, or extra is not a table")
    return config


def _provenance(config: Mapping[str, Any]) -> Provenance:
    notes, codec = config["extra"], config["codec"]["sha256"]
    return agreeing(
        parse_provenance(config.get(KEY)),
        dataset=notes.get("dataset"),
        held_out_fold=notes.get("test_fold"),
        codec=codec,
    )


def _read_fingerprint(values: object, path: str) -> CodecFingerprint:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SoundStormError(f"{path}: codec is not a table")
    for key in ("name", "sha256"):
        if not isinstance(values.get(key, ""), str):
            raise SoundStormError(f"{path}: {key} of the codec is {values[key]!r}, not text")
    return CodecFingerprint.from_metadata(
        {f"codec_{key}": str(value) for key, value in values.items()}, f"{path}: codec", "train"
    )
