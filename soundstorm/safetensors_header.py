"""The notes in the header of a safetensors file, read without its tensors."""

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
