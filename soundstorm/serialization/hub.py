"""Checkpoints that are shared on the Hugging Face Hub, by address: `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

A repository there contains what `soundstorm export` writes: `config.json`, `model.safetensors`, the codec and a model
card. `huggingface_hub` caches downloads, uses the server $HF_ENDPOINT if that is set, and sends the user's token for
private repositories.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from soundstorm.errors import SoundStormError

SCHEME = "hf://"
OFFLINE = "SOUNDSTORM_OFFLINE"
"""Environment variable: if it is 1, only cached files are used."""
_ADDRESS = re.compile(rf"{SCHEME}(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?/?")


def is_hub_address(place: object) -> bool:
    """Whether `place` is text that starts like an address of the hub."""
    return isinstance(place, str) and place.startswith(SCHEME)


def fetch_from_hub(address: str, files: Iterable[str], optional: Iterable[str] = ()) -> Path:
    """A local folder with files of a repository, all of the same revision; cached files are not downloaded again.

    Args:
        address: `hf://OWNER/NAME[@REVISION]`; a revision is a branch, a tag or a commit; default: `main`.
        files: names of required files.
        optional: names of files that are downloaded if they exist.

    Raises:
        SoundStormError: `huggingface_hub` is not installed, the address is malformed, or the repository, its revision
            or a file is not available.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise SoundStormError(f"{address}: give an address such as hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise SoundStormError(
            f"{address}: the package huggingface_hub is not installed: pip install 'soundstorm-env[hub]'"
        ) from error
    revision, folder = match["revision"], None
    wanted = [(name, True) for name in files] + [(name, False) for name in optional]
    for name, is_needed in wanted:
        try:
            found = Path(
                hf_hub_download(
                    match["repository"], name, revision=revision, local_files_only=bool(os.environ.get(OFFLINE))
                )
            )
        except EntryNotFoundError as error:
            if is_needed:
                raise SoundStormError(f"{address}: {_reason(error, name)}") from error
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise SoundStormError(f"{address}: {_reason(error, name)}") from error
        folder = found.parent
        revision = folder.name  # the commit, so that all files are of the same revision
    if folder is None:
        raise SoundStormError(f"{address}: no file was asked for")
    return folder


def _reason(error: Exception, name: str) -> str:
    """Why a file of the hub is not available, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{name} is not in the cache, and the hub cannot be reached: check the network, or copy the folder here "
            "and give its path"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"there is no {name}: the repository holds something else than `soundstorm export` wrote"
    if isinstance(error, errors.GatedRepoError):
        return "its owner asks for consent first: give it on the repository's page, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such branch, tag or commit: leave out what follows @, or correct it"
    return f"{name} cannot be fetched ({str(error).splitlines()[0]}): try again later, or copy the folder here"
