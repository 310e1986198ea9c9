"""Measurements of clips that an earlier evaluation made, by content: the same file is measured once.

A measurement is one small file, named by a SHA-256 over all that it follows from: the clip's file, what of it is
measured, the networks, the kind of processor, and the source of the measures with the libraries that they call. Files
are written whole, so runs at once may share a folder; one that is damaged is a measurement that is not there.
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
"""Of measurements: of the clip, of the clip through the codec, and what distributions are compared by."""
MAX_FILE_BYTES = 64 * 1024**2
"""Of a file that is read as a whole to be known again; of a larger one nothing is kept."""
MEASURES = ("audio", "classification", "codec", "data", "evaluation")
LIBRARIES = ("numpy", "scipy", "soundfile", "torch")
Measurements = dict[str, dict[str, Any]]
"""The columns of each of KINDS that depend on the sound alone."""
logger = logging.getLogger(__name__)


def default_folder() -> str:
    """The folder in the user's cache, or in that which SOUNDSTORM_CACHE_DIR names, path or URI."""
    return storage.join(os.environ.get("SOUNDSTORM_CACHE_DIR") or Path.home() / ".cache" / "soundstorm", "measurements")


@cache
def measures_version() -> str:
    """SHA-256 over the source of the measures, the libraries that they call, and what decides the last bits of their
    sums."""
    root, found = Path(soundstorm.__file__).parent, hashlib.sha256()
    for path in sorted(path for room in MEASURES for path in (root / room).rglob("*.py")):
        found.update(path.read_bytes())
    for name in LIBRARIES:
        found.update(version(name).encode())
    found.update(f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}".encode())
    return found.hexdigest()


def wanted_of(item: MeasurementRequest) -> list[str]:
    """The KINDS of measurements that a request asks for."""
    is_wanted = (item.source is not None, item.source == Source.REAL, item.role is not None)
    return [kind for kind, is_one in zip(KINDS, is_wanted, strict=True) if is_one]


class MeasurementCache:
    """Measurements at a place.

    Args:
        folder: path or URI; None: nothing is found and nothing is kept.
        clip_settings: what decides which samples of a clip are measured.
        network_settings: what decides what `resynthesized` and `features` are made with.
    """

    def __init__(
        self, folder: str | None, clip_settings: Mapping[str, Any], network_settings: Mapping[str, Any]
    ) -> None:
        self._folder, self._clip, self._networks = folder, dict(clip_settings), dict(network_settings)

    def content(self, item: MeasurementRequest, reader: tars.TarMemberReader) -> str | None:
        """SHA-256 of the clip's file; None where it is not to be had, is too large, or nothing is kept."""
        if self._folder is None:
            return None
        try:
            if tars.is_member(item.clip.uri):
                return hashlib.sha256(reader.read(item.clip.uri)).hexdigest()
            with open_recording(split_window(item.clip.uri)[0]) as file:
                return _digest(file)
        except (RejectedAudio, ClusterError, OSError):  # whoever measures it says what is wrong
            return None

    def find(self, item: MeasurementRequest, content: str | None) -> Measurements | None:
        """All measurements that `item` asks for; None where one is missing."""
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
        """Keep measurements for later runs, where the folder takes them."""
        if self._folder is None or content is None:
            return
        for kind, columns in measured.items():
            try:
                body = json.dumps(columns, default=_plain, allow_nan=False).encode()
                digest = hashlib.sha256(body).hexdigest().encode()
                storage.write_bytes(self._uri(kind, item, content), digest + b"\n" + body)
            except (ClusterError, ValueError) as error:  # such as a full disk, or a figure that is not finite
                logger.warning("a measurement is not kept for later runs: %s", error)

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
        except (ClusterError, ValueError):  # not there, out of reach, or cut short
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
