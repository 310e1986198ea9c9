"""Keeps the output of a job out of folders of recordings, where the next run would read it as recordings."""

from itertools import islice

from cluster import storage
from soundstorm.audio.file_kinds import is_audio
from soundstorm.errors import SoundStormError

MAX_LOOKED_AT = 1000
"""Maximum number of files that are checked to decide whether sub-folders contain recordings."""
LEAST_CLASSES = 2
"""A folder with so many sub-folders of audio is taken for one of recordings."""


def check_not_inside(output_dir: str, recordings: str, option: str, recordings_option: str) -> None:
    """Check that `output_dir`, the value of `option`, is not inside `recordings`, the value of `recordings_option`.

    Raises:
        SoundStormError: it is.
    """
    if _below(output_dir).startswith(_below(recordings)):
        raise SoundStormError(
            f"{option} {output_dir} is inside {recordings_option} {recordings}: give a folder outside of it"
        )


def check_not_class_folder(output_dir: str, option: str = "--output-dir") -> None:
    """Check that `output_dir` is not a class, or inside one, of a folder of recordings.

    A folder counts as one of recordings if it has several sub-folders beside `output_dir`, and all of them directly
    contain audio.

    Raises:
        SoundStormError: it is.
    """
    output = storage.absolute(output_dir).rstrip("/")
    parent = output.rpartition("/")[0]
    for place, inner in ((parent, output), (parent.rpartition("/")[0], parent)):
        if place.rpartition("/")[0] in ("", "s3:", "s3:/") or not storage.exists(place):
            continue
        classes = _classes(place)
        if inner == output:
            classes.pop(output[len(place) + 1 :], None)
        elif not classes.get(inner[len(place) + 1 :]):
            continue
        if len(classes) >= LEAST_CLASSES and all(classes.values()):
            named = ", ".join(sorted(classes)[:3]) + (" and others" if len(classes) > 3 else "")
            raise SoundStormError(
                f"{option} {output_dir} is inside {place}, a folder of recordings ({named}): give a folder outside "
                "of it"
            )


def _classes(folder: str) -> dict[str, bool]:
    """Names of the sub-folders of `folder`, and whether they directly contain audio, judged by its first files."""
    found: dict[str, bool] = {}
    for entry in islice(storage.iter_objects(folder), MAX_LOOKED_AT):
        name, *rest = entry.uri[len(folder) + 1 :].split("/")
        if rest:
            found[name] = found.get(name, False) or (len(rest) == 1 and is_audio(rest[0]))
    return found


def _below(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"
