"""Loads codecs of either kind from files, and stores block codecs as safetensors files with their settings in the
header."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from soundstorm.codec.block_codec import BlockCodec, BlockTables
from soundstorm.codec.blocks import BlockSpace
from soundstorm.codec.codebooks import Codebooks
from soundstorm.codec.codec import Codec
from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.fitting import FittingState, LevelReport
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.damaged import refusing_damaged
from soundstorm.serialization.provenance import KEY, Provenance, TrainedOn, provenance_of_weights
from soundstorm.serialization.safetensors_header import read_metadata, with_sorted_notes

OFFICIAL_SHA256 = "d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf"
PACKAGED_WEIGHTS = "codec.safetensors"
EARLIER_FORMATS = ("soundstorm-compact-codec-1", "soundstorm-block-codec-1")
"""Formats of codecs that earlier versions wrote."""

FORMAT = "soundstorm-block-codec-2"
STATE_FORMAT = "soundstorm-block-codec-fitting-1"


def to_bytes(codec: BlockCodec, name: str, description: str, trained_on: TrainedOn | None = None) -> bytes:
    """The content of a codec's weights file.

    Args:
        codec: the codec to store.
        name: the codec's name in fingerprints.
        description: what it was fitted to and how, for people.
        trained_on: the same as data; None: unknown, and then no model that uses this codec can be tested.
    """
    tables = codec.tables
    tensors = {
        "bank": tables.bank_FM,
        "center": tables.space.center_V.astype(np.float32),
        "axes": tables.space.axes_VD,
        "codes": tables.codebooks.codes_QKD,
        "multiplier": tables.codebooks.multiplier_QD,
        "texture": tables.texture_M,
    }
    header = {"format": FORMAT, "name": name, "description": description, "config": json.dumps(codec.config.to_dict())}
    if trained_on is not None:
        header[KEY] = trained_on.to_json()
    stored = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    return with_sorted_notes(safetensors.numpy.save(stored, metadata=header))


def from_bytes(data: bytes, header: dict[str, Any]) -> BlockCodec:
    """The codec stored in the content of a file.

    Args:
        data: the file's content.
        header: its metadata.

    Raises:
        ValueError: the content is damaged, or is not that of a block codec.
        SoundStormError: a setting is out of range.
    """
    if header.get("format") != FORMAT:
        raise ValueError(f"its format is '{header.get('format')}', expected '{FORMAT}'")
    config = BlockCodecConfig(**json.loads(header["config"]))
    try:
        tensors = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    levels, size, dims = config.num_levels, config.codebook_size, config.dims
    expected = {
        "bank": ((config.num_bins, config.bands), np.float32),
        "center": ((config.block_size,), np.float32),
        "axes": ((config.block_size, dims), np.int16),
        "codes": ((levels, size, dims), np.int8),
        "multiplier": ((levels, dims), np.int32),
        "texture": ((config.bands,), np.float32),
    }
    for key, (shape, kind) in expected.items():
        if key not in tensors or tensors[key].shape != shape or tensors[key].dtype != kind:
            found = f"{tensors[key].dtype} {tensors[key].shape}" if key in tensors else "missing"
            raise ValueError(f"'{key}' is {found}, expected {np.dtype(kind).name} {shape}")
        if not np.isfinite(tensors[key]).all():
            raise ValueError(f"'{key}' holds values that are not finite")
    return BlockCodec(
        config,
        BlockTables(
            bank_FM=tensors["bank"],
            space=BlockSpace(tensors["center"].astype(np.float64), tensors["axes"]),
            codebooks=Codebooks(tensors["codes"], tensors["multiplier"]),
            texture_M=tensors["texture"],
        ),
    )


def state_to_bytes(state: FittingState) -> bytes:
    """The content of a file with the state of an unfinished fit."""
    assert state.space is not None
    tensors: dict[str, np.ndarray] = {"center": state.space.center_V, "axes": state.space.axes_VD}
    for level, (codes_KD, multiplier_D) in enumerate(state.packed):
        tensors |= {f"codes.{level}": codes_KD, f"multiplier.{level}": multiplier_D}
    header = {"format": STATE_FORMAT, "reports": json.dumps([asdict(report) for report in state.reports])}
    stored = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    return with_sorted_notes(safetensors.numpy.save(stored, metadata=header))


def state_from_bytes(data: bytes) -> FittingState:
    """The inverse of `state_to_bytes`.

    Raises:
        ValueError: the content is not that of such a file.
    """
    try:
        header = read_metadata(data)
        if header["format"] != STATE_FORMAT:
            raise ValueError(f"its format is '{header['format']}', expected '{STATE_FORMAT}'")
        tensors = safetensors.numpy.load(data)
        reports = [LevelReport(**values) for values in json.loads(header["reports"])]
        return FittingState(
            space=BlockSpace(tensors["center"], tensors["axes"]),
            packed=[(tensors[f"codes.{level}"], tensors[f"multiplier.{level}"]) for level in range(len(reports))],
            reports=reports,
        )
    except (SafetensorError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not the state of an unfinished fit ({error})") from error


def packaged_codec_bytes() -> bytes:
    """Content of the codec's weights file that is shipped in the package."""
    return bundled_file(PACKAGED_WEIGHTS).read_bytes()


def load_codec(
    source: bytes | Path | str | None = None, device: str = "cpu", official_sha256: str = OFFICIAL_SHA256
) -> Codec:
    """Load a codec from its weights.

    Args:
        source: content or path of a weights file; None: the codec in the package.
        device: device to run on.
        official_sha256: SHA-256 that a `.th` file must have.

    Raises:
        SoundStormError: the file is missing, damaged, of another kind, or not the official one.
    """
    if source is None:
        data, where = packaged_codec_bytes(), PACKAGED_WEIGHTS
    elif isinstance(source, bytes):
        data, where = source, "codec weights"
    else:
        where = str(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise SoundStormError(
                f"{where}: cannot read codec weights ({error.strerror}): give --codec a .safetensors or .th file"
            ) from error
    if data[:2] == b"PK" or where.endswith(".th"):
        from soundstorm.codec.encodec import official_codec  # imported only here: its libraries are heavy

        return official_codec(data, where, device, official_sha256)
    return _own_codec(data, where, device)


def provenance_of_codec(data: bytes) -> Provenance:
    """What the codec was trained on, from the content of its weights file."""
    if hashlib.sha256(data).hexdigest() == OFFICIAL_SHA256:
        return TrainedOn(outside=("encodec",))
    return provenance_of_weights(data)


def _own_codec(data: bytes, where: str, device: str) -> Codec:
    remedy = "give --codec a file that `soundstorm train-codec` wrote"
    try:
        header = read_metadata(data)
        if header["format"] in EARLIER_FORMATS:
            raise SoundStormError(
                f"{where}: the codec '{header.get('name')}' was written by an earlier version ({header['format']}), "
                "and this version cannot read it: fit a codec with `soundstorm train-codec`, or use the one in the "
                "package, then run `soundstorm tokenize` and `soundstorm train` again"
            )
    except (ValueError, LookupError) as error:
        raise SoundStormError(f"{where}: not a codec of this project ({error}): {remedy}") from error
    with refusing_damaged(where, "a codec of this project", remedy):
        network = from_bytes(data, header)
        fingerprint = CodecFingerprint(
            name=header["name"],
            sha256=hashlib.sha256(data).hexdigest(),
            sample_rate=network.config.sample_rate,
            frame_rate=network.config.column_rate,
            num_levels=network.config.num_levels,
            codebook_size=network.config.codebook_size,
        )
    return Codec(network.eval().to(device), fingerprint)
