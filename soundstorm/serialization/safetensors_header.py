"""The metadata in the header of a safetensors file: reading without its tensors, and writing in a fixed order."""

import json


def read_metadata(data: bytes) -> dict[str, str]:
    """Metadata of a file with this content.

    Raises:
        ValueError: it is not a safetensors file, or has no metadata.
    """
    try:
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("it has no safetensors header with metadata") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata in its header is not text")
    return metadata


def with_sorted_notes(data: bytes) -> bytes:
    """The content of a safetensors file with its metadata in alphabetical order.

    The library writes it in an order that differs between processes, so that equal weights would have different SHA-256
    sums.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors must begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]
