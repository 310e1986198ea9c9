"""Cache of varied recordings, so that the trainings of a fold that see the same sounds encode them once.

A folder holds the variations of one set of recordings with one codec and one teacher; its name is a SHA-256 over all
that they depend on. Each worker adds a safetensors file for an epoch in which it made some, named by the SHA-256 of its
content; a damaged file counts as missing. Nothing is deleted: a folder that is no longer of use may be.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from safetensors.numpy import load, save

from cluster import storage
from cluster.errors import ClusterError, StorageUnavailableError
from jobs.caching.result_cache import code_version
from soundstorm.classification.training.varied import VariedRecording, VariedRecordings
from soundstorm.optimization.precision import uses_bf16

SUFFIX = ".safetensors"
FORMAT = 1
"""Increased whenever the content of a file changes its form."""
ROOMS = ("audio", "classification", "codec", "optimization", "serialization")
"""Packages of soundstorm on whose code a variation depends."""
logger = logging.getLogger(__name__)


def variations_folder(folder: str, varied: VariedRecordings, teacher: bytes | None, device: torch.device) -> str:
    """The folder for variations of recordings, within `folder`.

    Args:
        folder: path or URI.
        varied: the recordings, the codec, and how they are varied.
        teacher: content of the teacher's file; None: there is none.
        device: where the variations are made.
    """
    found = hashlib.sha256()
    for samples_N, label in zip(varied.recordings, varied.labels, strict=True):
        found.update(f"{len(samples_N)} {label} ".encode())
        found.update(np.ascontiguousarray(samples_N).data)
    about = {
        "format": FORMAT,
        "code": code_version(*ROOMS),
        "recordings": found.hexdigest(),
        "num_categories": varied.num_categories,
        "codec": varied.codec.fingerprint.sha256,
        "teacher": None if teacher is None else hashlib.sha256(teacher).hexdigest(),
        "computed": [
            device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
            uses_bf16(device, varied.precision),
        ],
        "config": asdict(varied.config),
    }
    return storage.join(folder, hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


@dataclass
class VariationCache:
    """A `VariationStore` in a folder. A storage that does not answer is given up, and a folder that cannot be written
    to is only read, each with a warning.

    Args:
        folder: path or URI, of `variations_folder`.
    """

    folder: str
    reads: bool = True
    writes: bool = True

    def load(self, number: int) -> dict[int, VariedRecording]:
        """Variation `number` of the recordings that have it, by index."""
        found: dict[int, VariedRecording] = {}
        if not self.reads:
            return found
        try:
            for entry in storage.list_objects(self._place(number), SUFFIX):
                found |= self._read(entry.uri)
        except ClusterError as error:
            self.reads = self.writes = False
            logger.warning("the cache of varied recordings is off: %s", error)
        return found

    def save(self, number: int, made: Mapping[int, VariedRecording]) -> None:
        """Add variation `number` of some recordings, by index."""
        if not self.writes:
            return
        data = _packed(made)
        try:
            storage.write_bytes(storage.join(self._place(number), hashlib.sha256(data).hexdigest() + SUFFIX), data)
        except ClusterError as error:
            self.writes = False
            logger.warning("varied recordings are no longer cached: %s", error)

    def _place(self, number: int) -> str:
        return storage.join(self.folder, f"{number:04d}")

    def _read(self, uri: str) -> dict[int, VariedRecording]:
        try:
            return _unpacked(storage.read_bytes(uri), uri)
        except StorageUnavailableError:
            raise
        except ClusterError:  # deleted since the folder was listed, or unreadable
            return {}


def _packed(made: Mapping[int, VariedRecording]) -> bytes:
    examples = list(made.values())
    tensors = {
        "index_N": np.fromiter(made, np.int64),
        "frames_N": np.array([example.codes_QT.shape[1] for example in examples]),
        "codes_QS": np.ascontiguousarray(np.concatenate([example.codes_QT for example in examples], axis=1)),
        "target_NC": np.stack([example.target_C for example in examples]),
    }
    logits = [example.teacher_C for example in examples if example.teacher_C is not None]
    return save(tensors | ({"teacher_NC": np.stack(logits)} if logits else {}))


def _unpacked(data: bytes, uri: str) -> dict[int, VariedRecording]:
    if hashlib.sha256(data).hexdigest() != uri.rpartition("/")[2].removesuffix(SUFFIX):
        return {}
    tensors = load(data)
    codes = np.split(tensors["codes_QS"], np.cumsum(tensors["frames_N"])[:-1], axis=1)
    teacher_NC = tensors.get("teacher_NC")
    return {
        index: VariedRecording(  # copies, which do not hold the whole file in memory
            codes_QT=codes[row].copy(),
            target_C=tensors["target_NC"][row].copy(),
            teacher_C=None if teacher_NC is None else teacher_NC[row].copy(),
        )
        for row, index in enumerate(tensors["index_N"].tolist())
    }
