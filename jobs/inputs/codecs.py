"""Which codec a job uses, decided once on the driver; actors get the weights through Ray's object store."""

import hashlib
import logging
import os
from pathlib import Path

import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.transfer.http_download import fetch
from jobs.console.command import print_warning
from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.codec.codec import OFFICIAL_FILE, OFFICIAL_SIZE, OFFICIAL_URL, Codec
from soundstorm.codec.files import OFFICIAL_SHA256, load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.hub import OFFLINE

logger = logging.getLogger(__name__)


def choose_codec(
    option: str | None, expected: CodecFingerprint | None = None, where: str = "", beside: str | None = None
) -> tuple[bytes, Codec]:
    """The weights of the codec to use, as the content of a file that `soundstorm.codec.files.load_codec` takes, and the
    codec itself.

    In this order: what `--codec` names; the codec that `expected` asks for, if it lies beside the checkpoint, in the
    package or in the cache; the official EnCodec weights from the cache or a download; the codec in the package, with a
    warning.

    Args:
        option: the value of `--codec`, a path or URI, or None.
        expected: fingerprint that the result must have, of a table or checkpoint.
        where: what `expected` was read from, for the error.
        beside: file with the codec that was shared with a checkpoint; `jobs.inputs.checkpoints.codec_beside` finds it.

    Raises:
        SoundStormError: the weights are damaged, or none with the fingerprint `expected` are available.
        ClusterError: what `--codec` names cannot be read.
    """
    if option is not None:
        weights = storage.read_bytes(option)
    elif expected is not None:
        weights = _matching_codec(expected, where, beside)
    else:
        weights = _default_codec()
    try:
        codec = load_codec(weights)
    except SoundStormError as error:
        raise SoundStormError(f"--codec {option}: {error}" if option else str(error)) from error
    if codec.sample_rate != SAMPLE_RATE:
        raise SoundStormError(
            f"--codec {option} works at {codec.sample_rate} Hz: everything here is compared at {SAMPLE_RATE} Hz, give "
            "a codec of that rate"
        )
    if expected is not None:
        expected.require_equal(codec.fingerprint, where)
    return weights, codec


def codec_of_samples(uri: str) -> tuple[CodecFingerprint | None, str]:
    """Fingerprint of the codec that made generated clips, from their manifest, and the manifest's name; None where
    there is no manifest.

    Args:
        uri: the clips: the output of `generate`, its manifest, or anything else.
    """
    for place in (uri, storage.join(uri, "samples.parquet")):
        if place.endswith(".parquet") and storage.exists(place):
            metadata = tables.table_info(place).metadata
            if "codec_sha256" in metadata:
                return CodecFingerprint.from_metadata(metadata, place, "generate"), place
    return None, ""


def _default_codec() -> bytes:
    official = official_codec_bytes()
    if official is not None:
        return official
    print_warning(
        "the official EnCodec weights are not available (no file, and no download); using the codec "
        "that "
        f"ships with this package. For the official one, put {OFFICIAL_FILE} into {official_cache().parent} or give "
        "--codec PATH"
    )
    return packaged_codec_bytes()


def official_cache() -> Path:
    """Where the official weights are kept: the cache of torch.hub, which the `encodec` package uses too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / OFFICIAL_FILE


def official_codec_bytes(
    url: str = OFFICIAL_URL, sha256: str = OFFICIAL_SHA256, size: int = OFFICIAL_SIZE
) -> bytes | None:
    """The official EnCodec 24 kHz weights from the cache, downloaded once if need be; None where neither works."""
    path = official_cache()
    if not path.exists():
        if os.environ.get(OFFLINE):
            return None
        try:
            fetch(url, path, sha256=sha256, size=size)
        except ClusterError as error:
            logger.info("no official EnCodec weights: %s", error)
            return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SoundStormError(
            f"{path}: not the official EnCodec weights (another SHA-256): delete the file so that it is downloaded "
            "again"
        )
    return data


def _matching_codec(expected: CodecFingerprint, where: str, beside: str | None) -> bytes:
    if beside is not None:
        shared = storage.read_bytes(beside)
        if hashlib.sha256(shared).hexdigest() == expected.sha256:
            return shared
    packaged = packaged_codec_bytes()
    if hashlib.sha256(packaged).hexdigest() == expected.sha256:
        return packaged
    if expected.sha256 == OFFICIAL_SHA256:
        official = official_codec_bytes()
        if official is not None:
            return official
    raise SoundStormError(
        f"{where} was made with codec '{expected.name}' ({expected.sha256[:12]}), which is neither in this package "
        "nor in the cache: "
        "give --codec the path of its weights"
    )
