"""Cache of measurements by content: each file is measured once.

A measurement is a small file named by a SHA-256 over everything it depends on: the clip's file, the measured part, the
networks, the kind of processor, the source code of the metrics, and the versions of their libraries. Files are written
atomically, so that concurrent runs can share a folder; a damaged file counts as missing.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

import soundstorm
from cluster import storage
from cluster.errors import ClusterError
from cluster.tables import tar_shards as tars
from jobs.evaluation.selection import MeasurementRequest
from jobs.inputs.audio_files import open_recording
from soundstorm.audio.files import RejectedAudio
from soundstorm.data.clip_windows import split_window
from soundstorm.schemas import Source

KINDS = ("metrics", "resynthesized", "features")
"""Kinds of measurements: metrics of the clip, metrics of the clip through the codec, and features."""
MAX_FILE_BYTES = 64 * 1024**2
"""Maximum size of a file that is hashed; measurements of larger files are not cached."""
MEASURES = ("audio", "classification", "codec", "data", "evaluation")
LIBRARIES = ("numpy", "scipy", "soundfile", "torch")
Measurements = dict[str, dict[str, Any]]
"""The measured columns of each of KINDS."""
logger = logging.getLogger(__name__)


def default_folder() -> str:
    """Default folder: in the user's cache, or in SOUNDSTORM_CACHE_DIR, path or URI."""
    return storage.join(os.environ.get("SOUNDSTORM_CACHE_DIR") or Path.home() / ".cache" / "soundstorm", "measurements")


@cache
def measures_version() -> str:
    """SHA-256 over the source code of the metrics, the versions of their libraries, and the processor features that
    affect rounding."""
    root, found = Path(soundstorm.__file__).parent, hashlib.sha256()
    for path in sorted(path for room in MEASURES for path in (root / room).rglob("*.py")):
        found.update(path.read_bytes())
    for name in LIBRARIES:
        found.update(version(name).encode())
    found.update(f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}".encode())
    return found.hexdigest()


def wanted_of(item: MeasurementRequest) -> list[str]:
    """The KINDS that a request needs."""
    is_wanted = (item.source is not None, item.source == Source.REAL, item.role is not None)
    return [kind for kind, is_one in zip(KINDS, is_wanted, strict=True) if is_one]


class MeasurementCache:
    """Measurements in a folder.

    Args:
        folder: path or URI; None: the cache is off.
        clip_settings: settings that determine which samples of a clip are measured.
        network_settings: settings that determine `resynthesized` and `features`.
    """

    def __init__(
        self, folder: str | None, clip_settings: Mapping[str, Any], network_settings: Mapping[str, Any]
    ) -> None:
        self._folder, self._clip, self._networks = folder, dict(clip_settings), dict(network_settings)

    def content(self, item: MeasurementRequest, reader: tars.TarMemberReader) -> str | None:
        """SHA-256 of the clip's file; None if it cannot be read or is too large, or if the cache is off."""
        if self._folder is None:
            return None
        try:
            if tars.is_member(item.clip.uri):
                return hashlib.sha256(reader.read(item.clip.uri)).hexdigest()
            with open_recording(split_window(item.clip.uri)[0]) as file:
                return _digest(file)
        except (RejectedAudio, ClusterError, OSError):  # reported when the clip is measured
            return None

    def find(self, item: MeasurementRequest, content: str | None) -> Measurements | None:
        """All measurements that `item` needs; None if one is missing."""
        if self._folder is None or content is None:
            return None
        found: Measurements = {}
        for kind in wanted_of(item):
            measured = self._read(self._uri(kind, item, content))
            if measured is None:
                return None
            found[kind] = measured
        return found

    def keep(self, item: MeasurementRequest, content: str | None, measured: Measurements) -> None:
        """Store measurements for later runs, if the folder is writable."""
        if self._folder is None or content is None:
            return
        for kind, columns in measured.items():
            try:
                body = json.dumps(columns, default=_plain, allow_nan=False).encode()
                digest = hashlib.sha256(body).hexdigest().encode()
                storage.write_bytes(self._uri(kind, item, content), digest + b"\n" + body)
            except (ClusterError, ValueError) as error:  # such as a full disk, or a figure that is not finite
                logger.warning("a measurement could not be cached: %s", error)

    def _uri(self, kind: str, item: MeasurementRequest, content: str) -> str:
        assert self._folder is not None
        _, window = split_window(item.clip.uri)
        about: dict[str, Any] = {
            "measures": measures_version(),
            "content": content,
            "window": None if window is None else [window.start_s, window.duration_s],
            "dataset": item.clip.dataset,
            **self._clip,
        }
        if kind != "metrics":
            about |= self._networks
        if kind == "features":
            about["through_codec"] = item.through_codec
        name = hashlib.sha256(json.dumps([kind, about], sort_keys=True).encode()).hexdigest()
        return storage.join(self._folder, kind, name[:2], f"{name}.json")

    @staticmethod
    def _read(uri: str) -> dict[str, Any] | None:
        try:
            digest, _, body = storage.read_bytes(uri).partition(b"\n")
            found = json.loads(body) if hashlib.sha256(body).hexdigest().encode() == digest else None
        except (ClusterError, ValueError):  # missing, unreachable, or damaged
            return None
        return found if isinstance(found, dict) else None


def _digest(file: BinaryIO) -> str | None:
    found, size = hashlib.sha256(), 0
    while part := file.read(1 << 20):
        found.update(part)
        size += len(part)
        if size > MAX_FILE_BYTES:
            return None
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy as JSON writes them, to the bit."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a measurement of {type(value).__name__}")
