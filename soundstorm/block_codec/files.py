"""Block codecs in files: safetensors with the settings in the header."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from soundstorm.block_codec.blocks import BlockSpace
from soundstorm.block_codec.codebooks import Codebooks
from soundstorm.block_codec.codec import BlockCodec, BlockTables
from soundstorm.block_codec.config import BlockCodecConfig
from soundstorm.block_codec.fitting import FittingState, LevelReport
from soundstorm.provenance import KEY, TrainedOn
from soundstorm.safetensors_header import read_metadata, with_sorted_notes

FORMAT = "soundstorm-block-codec-2"
STATE_FORMAT = "soundstorm-block-codec-fitting-1"


def to_bytes(codec: BlockCodec, name: str, description: str, trained_on: TrainedOn | None = None) -> bytes:
    """The content of a codec's file.

    Args:
        codec: what to write.
        name: the codec's name in fingerprints.
        description: what it was fitted to and how, for people.
        trained_on: the same as data; None: not known, and every test of what hears by it is refused.
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
    """The codec in the content of a file.

    Args:
        data: the file's content.
        header: its metadata, as `header_of` gives it.

    Raises:
        ValueError: the content is damaged, or not that of a block codec.
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
    """What a fitting has found so far, as the content of a file."""
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
        raise ValueError(f"not the state of a fitting ({error})") from error
