"""Cached measurements: each file is measured once, and each set of real clips compared with itself.

A measurement depends on the content of the clip's file, not on its name, on the measured part, and on the networks.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from cluster.errors import ClusterError
from cluster.tables import tar_shards as tars
from jobs.caching.result_cache import ResultCache
from jobs.evaluation.selection import MeasurementRequest
from jobs.inputs.audio_files import open_recording
from soundstorm.audio.files import RejectedAudio
from soundstorm.data.clip_windows import split_window
from soundstorm.schemas import Source

KINDS = ("metrics", "resynthesized", "features")
"""Kinds of measurements: metrics of the clip, metrics of the clip through the codec, and features."""
MAX_FILE_BYTES = 64 * 1024**2
"""Maximum size of a file that is hashed; measurements of larger files are not cached."""
Measurements = dict[str, dict[str, Any]]
"""The measured columns of each of KINDS."""


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
        self._results, self._clip, self._networks = ResultCache(folder), dict(clip_settings), dict(network_settings)

    def content(self, item: MeasurementRequest, reader: tars.TarMemberReader) -> str | None:
        """SHA-256 of the clip's file; None if it cannot be read or is too large, or if the cache is off."""
        if not self._results.is_on:
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
        if content is None:
            return None
        found: Measurements = {}
        for kind in wanted_of(item):
            measured = self._results.find(kind, self._about(kind, item, content))
            if not isinstance(measured, dict):
                return None
            found[kind] = measured
        return found

    def keep(self, item: MeasurementRequest, content: str | None, measured: Measurements) -> None:
        """Store measurements for later runs, if the folder is writable."""
        if content is None:
            return
        for kind, columns in measured.items():
            self._results.keep(kind, self._about(kind, item, content), columns)

    def _about(self, kind: str, item: MeasurementRequest, content: str) -> dict[str, Any]:
        _, window = split_window(item.clip.uri)
        about: dict[str, Any] = {
            "content": content,
            "window": None if window is None else [window.start_s, window.duration_s],
            "dataset": item.clip.dataset,
            **self._clip,
        }
        if kind != "metrics":
            about |= self._networks
        if kind == "features":
            about["through_codec"] = item.through_codec
        return about


class BaselineCache:
    """Baselines of distances in a folder: what `evaluate` computes from real clips alone, a `BaselineStore`.

    Args:
        folder: path or URI; None: the cache is off.
    """

    def __init__(self, folder: str | None) -> None:
        self._results = ResultCache(folder)

    def find(self, key: str) -> list[dict[str, float]] | None:
        """What was kept under `key`, if anything."""
        found = self._results.find("baselines", {"key": key})
        return found if isinstance(found, list) else None

    def keep(self, key: str, splits: list[dict[str, float]]) -> None:
        """Keep it for later runs, if the folder is writable."""
        self._results.keep("baselines", {"key": key}, splits)


def _digest(file: BinaryIO) -> str | None:
    found, size = hashlib.sha256(), 0
    while part := file.read(1 << 20):
        found.update(part)
        size += len(part)
        if size > MAX_FILE_BYTES:
            return None
    return found.hexdigest()
