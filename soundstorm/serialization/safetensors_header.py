"""The notes in the header of a safetensors file: read without its tensors, and written in one order."""

import json


def read_metadata(data: bytes) -> dict[str, str]:
    """The notes of a file with this content.

    Raises:
        ValueError: it is no safetensors file, or has none.
    """
    try:
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("it has no header of a safetensors file with notes") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the notes in its header are not text")
    return metadata


def with_sorted_notes(data: bytes) -> bytes:
    """The content of a safetensors file with its notes in alphabetical order.

    The library writes them in an order that differs from process to process, so that equal weights had different
    SHA-256 sums.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]
