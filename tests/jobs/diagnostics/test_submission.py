"""What a submitted job would send is known before it is submitted, with the names of what is large."""

import logging
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from jobs.diagnostics.submission import what_is_sent
from tests.conftest import ROOT


def write(folder: Path, **sizes: int) -> None:
    for name, size in sizes.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Code, a folder of recordings that nobody ignores, and folders that are ignored in each of the ways."""
    write(
        tmp_path,
        code=1000,
        my_sounds__dog__bark=300 * 10**6,
        my_sounds__rain=600 * 10**6,
        runs__model=10**6,
        data__esc50=10**6,
        sub__deep__big=10**6,
    )
    write(tmp_path, takes=45 * 10**6, table=10**6)
    (tmp_path / ".gitignore").write_text("/runs/\n__pycache__\n")
    (tmp_path / ".rayignore").write_text("/data/\n")
    (tmp_path / "sub" / ".gitignore").write_text("deep/\n")
    return tmp_path


def test_the_largest_folders_and_files_are_named_with_what_to_do(folder: Path) -> None:
    sent = what_is_sent(folder)
    assert sent.largest[:3] == [("my_sounds/", 900 * 10**6), ("takes", 45 * 10**6), ("table", 10**6)]
    assert sent.is_much and sent.is_whole
    told = str(sent)
    assert (
        "would send 946 MB, and Ray refuses more than" in told
        and "my_sounds/ (900 MB), takes (45 MB), table (1 MB)" in told
    )
    assert "in .rayignore, as in .gitignore (`/my_sounds/`)" in told
    with (folder / ".rayignore").open("a") as file:
        file.write("/my_sounds/\n/takes\n")
    assert not what_is_sent(folder).is_much


def test_what_ray_would_pack_is_what_is_counted(folder: Path, tmp_path: Path) -> None:
    for name in ("my_sounds/rain", "my_sounds/dog/bark", "takes"):
        (folder / name).write_bytes(b"short")
    package = tmp_path.parent / f"{tmp_path.name}.zip"
    create_package(str(folder), package, include_gitignore=True, logger=logging.getLogger())
    packed = [entry for entry in zipfile.ZipFile(package).infolist() if not entry.is_dir()]
    assert what_is_sent(folder).num_bytes == sum(entry.file_size for entry in packed)


def test_this_checkout_is_small() -> None:
    sent = what_is_sent(ROOT, limit_s=60.0)
    assert sent.is_whole and {name for name, _ in sent.largest} >= {"jobs/", "soundstorm/", "cluster/", "tune/"}


def test_a_folder_that_takes_too_long_is_much(folder: Path) -> None:
    sent = what_is_sent(folder, limit_s=0.0)
    assert sent.is_much and "more than" in str(sent)
