"""Opening checkpoints by URI, as output of `train` or as a folder; actors get them as bytes."""

import functools

from cluster import storage
from cluster.tables import stage_record as records
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import (
    CONFIG_FILE,
    PACKAGED_FOLDER,
    WEIGHTS_FILE,
    Checkpoint,
    packaged_checkpoint_files,
    parse_checkpoint,
)
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.hub import fetch_from_hub, is_hub_address

CHECKPOINT_FOLDER = "checkpoint"
"""Name of the checkpoint's folder in the output of `train`."""
CODEC_FILE = "codec.safetensors"
"""Name of the codec in a folder that `soundstorm export` wrote."""


def checkpoint_files(uri: str | None) -> dict[str, bytes]:
    """The files that generation needs, of the checkpoint at `uri` or in the folder `checkpoint` below it; None = the
    one in the package.

    Raises:
        SoundStormError: there is no checkpoint, or none yet.
    """
    if uri is None:
        return packaged_checkpoint_files()
    place = checkpoint_place(uri)
    return {name: storage.read_bytes(storage.join(place, name)) for name in (CONFIG_FILE, WEIGHTS_FILE)}


def checkpoint_place(uri: str) -> str:
    """The folder that holds the checkpoint's files: `uri`, or the folder `checkpoint` below it; for an address of the
    Hugging Face Hub, the local folder that it was fetched to.

    Raises:
        SoundStormError: there is no checkpoint.
    """
    if is_hub_address(uri):
        return _hub_folder(uri)
    for place in (uri, storage.join(uri, CHECKPOINT_FOLDER)):
        if storage.exists(storage.join(place, CONFIG_FILE)):
            return place
    if records.is_begun(uri, "train"):
        raise SoundStormError(
            f"--checkpoint {uri}: the training there is not finished: wait for its end, or run the same "
            "`soundstorm train` again to resume it"
        )
    raise SoundStormError(
        f"--checkpoint {uri}: no {CONFIG_FILE} there; give the --output-dir of `soundstorm train`, or its folder "
        "'checkpoint'"
    )


@functools.cache
def _hub_folder(address: str) -> str:
    """The local folder of a repository. The hub is queried once, so that all files are of one revision."""
    return str(fetch_from_hub(address, (CONFIG_FILE, WEIGHTS_FILE), (CODEC_FILE,)))


def codec_beside(uri: str | None) -> str | None:
    """The codec file beside the checkpoint at `uri`, as written by `soundstorm export`; None if there is none."""
    file = None if uri is None else storage.join(checkpoint_place(uri), CODEC_FILE)
    return file if file is not None and storage.exists(file) else None


def open_checkpoint(files: dict[str, bytes], device: str = "cpu", uri: str | None = None) -> Checkpoint:
    """The checkpoint whose files are `files`, as `checkpoint_files` returned them for `uri`; errors name the file that
    is damaged."""
    return parse_checkpoint(files, str(bundled_file(PACKAGED_FOLDER)) if uri is None else checkpoint_place(uri), device)
