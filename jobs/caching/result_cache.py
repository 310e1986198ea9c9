"""Cache of results of earlier evaluations, by all that they depend on.

A result is a small file named by a SHA-256 over what its kind needs, and over the source code, the versions of the
libraries and the kind of processor that computed it. Files are written atomically, so that concurrent runs can share a
folder; a damaged file counts as missing.
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
from typing import Any

import numpy as np
import torch

import soundstorm
from cluster import storage
from cluster.errors import ClusterError, StorageUnavailableError

MEASURES = ("audio", "classification", "codec", "data", "evaluation")
"""Packages of soundstorm on whose code a measurement depends."""
LIBRARIES = ("numpy", "scipy", "soundfile", "torch")
logger = logging.getLogger(__name__)


def cache_folder(kind: str, is_on: bool, given: str | None) -> str | None:
    """Folder of a cache, as URI: the value of `--cache-dir`, by default that of this kind in SOUNDSTORM_CACHE_DIR or in
    the user's cache; None: the cache is off."""
    if not is_on:
        return None
    root = os.environ.get("SOUNDSTORM_CACHE_DIR") or Path.home() / ".cache" / "soundstorm"
    return storage.absolute(given or storage.join(root, kind))


@cache
def code_version(*rooms: str) -> str:
    """SHA-256 over the source code of packages of soundstorm, the versions of the libraries, and the processor features
    that affect rounding."""
    root, found = Path(soundstorm.__file__).parent, hashlib.sha256()
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        found.update(path.read_bytes())
    for name in LIBRARIES:
        found.update(version(name).encode())
    found.update(f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}".encode())
    return found.hexdigest()


class ResultCache:
    """Results in a folder.

    Args:
        folder: path or URI; None: the cache is off.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder

    @property
    def is_on(self) -> bool:
        return self._folder is not None

    def find(self, kind: str, about: Mapping[str, Any]) -> Any:
        """The result of this kind that depends on `about`; None if there is none, or if it cannot be read."""
        if self._folder is None:
            return None
        try:
            digest, _, body = storage.read_bytes(self._uri(kind, about)).partition(b"\n")
            return json.loads(body) if hashlib.sha256(body).hexdigest().encode() == digest else None
        except StorageUnavailableError as error:
            self._give_up(error)
        except (ClusterError, ValueError):  # missing, or damaged
            pass
        return None

    def keep(self, kind: str, about: Mapping[str, Any], result: Any) -> None:
        """Keep a result, plain values and arrays, for later runs, if the folder is writable."""
        if self._folder is None:
            return
        try:
            body = json.dumps(result, default=_plain, allow_nan=False).encode()
            digest = hashlib.sha256(body).hexdigest().encode()
            storage.write_bytes(self._uri(kind, about), digest + b"\n" + body)
        except ClusterError as error:  # such as a full disk
            self._give_up(error)
        except ValueError as error:
            logger.warning("a result that is not finite is not cached: %s", error)

    def _give_up(self, error: ClusterError) -> None:
        """Leave the folder alone from now on: each further attempt may take as long."""
        logger.warning("the cache of results is off: %s", error)
        self._folder = None

    def _uri(self, kind: str, about: Mapping[str, Any]) -> str:
        assert self._folder is not None
        named = json.dumps([kind, code_version(*MEASURES), dict(about)], sort_keys=True)
        name = hashlib.sha256(named.encode()).hexdigest()
        return storage.join(self._folder, kind, name[:2], f"{name}.json")


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy as JSON writes them, to the bit."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a result of {type(value).__name__}")
