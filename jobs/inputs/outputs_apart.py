"""Where the output of a job must not lie: among recordings, where the next run would take it for some of them."""

from itertools import islice

from cluster import storage
from soundstorm.audio.file_kinds import is_audio
from soundstorm.errors import SoundStormError

MAX_LOOKED_AT = 1000
"""Files of a folder that are looked at to tell whether its sub-folders hold recordings."""
LEAST_CLASSES = 2
"""A folder with so many sub-folders of audio is taken for one of recordings."""


def check_not_inside(output_dir: str, recordings: str, option: str, recordings_option: str) -> None:
    """Raise if `output_dir`, the value of `option`, is or lies within the folder `recordings`, the value of
    `recordings_option`.

    Raises:
        SoundStormError: it does.
    """
    if _below(output_dir).startswith(_below(recordings)):
        raise SoundStormError(
            f"{option} {output_dir} lies within {recordings_option} {recordings}: give a folder outside of it"
        )


def check_not_class_folder(output_dir: str, option: str = "--output-dir") -> None:
    """Raise if `output_dir` would be a class, or lie within one, of a folder of recordings.

    A folder is taken for one of recordings if it has several sub-folders beside `output_dir`, and all of them have
    audio right below them.

    Raises:
        SoundStormError: it would.
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
                f"{option} {output_dir} lies within {place}, a folder of recordings ({named}): give a folder outside "
                "of it"
            )


def _classes(folder: str) -> dict[str, bool]:
    """Names of the folders right below `folder`, and whether they have audio right below them, as far as its first
    files tell."""
    found: dict[str, bool] = {}
    for entry in islice(storage.iter_objects(folder), MAX_LOOKED_AT):
        name, *rest = entry.uri[len(folder) + 1 :].split("/")
        if rest:
            found[name] = found.get(name, False) or (len(rest) == 1 and is_audio(rest[0]))
    return found


def _below(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"
