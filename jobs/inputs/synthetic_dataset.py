"""Creates the synthetic dataset; it is always the same."""

import tempfile
from pathlib import Path

from cluster import storage
from cluster.storage.os_errors import file_error
from cluster.tables import stage_record as records
from soundstorm.data.synthetic import write_dataset

STAGE = "dataset"


def make_synthetic(folder: str, clips_per_class: int, seed: int = 0, overwrite: bool = False) -> str:
    """Write the synthetic dataset to `folder`, a path or s3:// URI, if it is not there; returns `folder`."""
    settings = {"clips_per_class": clips_per_class, "seed": seed}
    if records.start_stage(folder, STAGE, settings, overwrite=overwrite, outputs=("audio", "meta")) is None:
        if storage.is_remote(folder):
            with tempfile.TemporaryDirectory(prefix="soundstorm-") as name:
                write_dataset(Path(name), **settings)
                storage.copy_from_local(Path(name), folder)
        else:
            try:
                write_dataset(Path(folder), **settings)
            except OSError as error:
                raise file_error(folder, error) from error
        records.complete_stage(folder, STAGE, settings, {})
    return folder
