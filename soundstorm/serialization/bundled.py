"""The weights that are shipped in the package, or in a folder beside it: a job that uploads its own copy of the code
need not upload them."""

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from soundstorm.errors import SoundStormError

WEIGHTS_VARIABLE = "SOUNDSTORM_WEIGHTS"


def bundled_file(name: str) -> Traversable:
    """The file or folder `name` of `soundstorm/weights`; if this copy of the package lacks it, that of the folder
    $SOUNDSTORM_WEIGHTS.

    Raises:
        SoundStormError: neither has it.
    """
    here = resources.files("soundstorm") / "weights" / name
    elsewhere = os.environ.get(WEIGHTS_VARIABLE)
    if here.is_file() or here.is_dir():
        return here
    if elsewhere and (Path(elsewhere) / name).exists():
        return Path(elsewhere) / name
    raise SoundStormError(
        f"{name} is not among the weights of this copy of the package "
        f"({here.parent if isinstance(here, Path) else here}), "
        f"and {WEIGHTS_VARIABLE} "
        f"{f'names {elsewhere}, where it is not either' if elsewhere else 'names no other folder'}: "
        "install the package whole"
    )
