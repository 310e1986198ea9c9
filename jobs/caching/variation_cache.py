"""Cache of varied recordings, so that the trainings of a fold that see the same sounds encode them once.

A folder holds the variations of one set of recordings with one codec and one teacher; its name is a SHA-256 over all
that they depend on. Each worker adds a safetensors file for an epoch in which it made some, named by the SHA-256 of its
content; a damaged file counts as missing.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cluster import storage
from cluster.errors import ClusterError
from jobs.caching.result_cache import code_version
from soundstorm.classification.training.varied import VariedRecording, VariedRecordings
from soundstorm.optimization.precision import uses_bf16

SUFFIX = ".safetensors"
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
        "code": code_version(),
        "recordings": found.hexdigest(),
        "num_categories": varied.num_categories,
        "codec": varied.codec.fingerprint.sha256,
        "teacher": None if teacher is None else hashlib.sha256(teacher).hexdigest(),
        "computed": [device.type, uses_bf16(device, varied.precision)],
        "config": asdict(varied.config),
    }
    return storage.join(folder, hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


@dataclass
class VariationCache:
    """A `VariationStore` in a folder; a folder that cannot be used is given up with a warning.

    Args:
        folder: path or URI, of `variations_folder`.
    """

    folder: str
    _read: set[str] = field(default_factory=set)

    def load(self, number: int) -> dict[int, VariedRecording]:
        """Variation `number` of recordings, by index, from files that were not yet read or written here."""
        found: dict[int, VariedRecording] = {}
        if not self.folder:
            return found
        try:
            for entry in storage.list_objects(self._place(number), SUFFIX):
                if entry.uri not in self._read:
                    self._read.add(entry.uri)
                    found.update(_unpacked(storage.read_bytes(entry.uri), entry.uri))
        except ClusterError as error:
            self._give_up(error)
        return found

    def save(self, number: int, made: Mapping[int, VariedRecording]) -> None:
        """Add variation `number` of some recordings, by index."""
        if not self.folder:
            return
        data = _packed(made)
        uri = storage.join(self._place(number), hashlib.sha256(data).hexdigest() + SUFFIX)
        try:
            storage.write_bytes(uri, data)
            self._read.add(uri)
        except ClusterError as error:
            self._give_up(error)

    def _place(self, number: int) -> str:
        return storage.join(self.folder, f"{number:04d}")

    def _give_up(self, error: ClusterError) -> None:
        logger.warning("the cache of varied recordings is off: %s", error)
        self.folder = ""


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
    try:
        tensors = load(data)
    except SafetensorError:
        return {}
    codes = np.split(tensors["codes_QS"], np.cumsum(tensors["frames_N"])[:-1], axis=1)
    teacher_NC = tensors.get("teacher_NC", [None] * len(codes))
    rows = zip(tensors["index_N"].tolist(), codes, tensors["target_NC"], teacher_NC, strict=True)
    return {
        index: VariedRecording(codes_QT=codes_QT, target_C=target_C, teacher_C=teacher_C)
        for index, codes_QT, target_C, teacher_C in rows
    }
