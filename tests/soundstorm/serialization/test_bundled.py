"""Weights are found in the package, else in the folder that SOUNDSTORM_WEIGHTS names, else it is said where they were
sought."""

from pathlib import Path

import pytest

from soundstorm.codec.files import PACKAGED_WEIGHTS
from soundstorm.errors import SoundStormError
from soundstorm.serialization.bundled import WEIGHTS_VARIABLE, bundled_file


def test_the_packages_own_weights_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGED_WEIGHTS).write_bytes(b"others")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert bundled_file(PACKAGED_WEIGHTS).read_bytes() != b"others"


def test_a_copy_of_the_code_without_weights_takes_those_of_the_folder_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_out.safetensors").write_bytes(b"weights")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert bundled_file("left_out.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("folder", [None, "/no/such/folder"])
def test_weights_that_are_nowhere_are_named_with_the_places(
    folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    if folder:
        monkeypatch.setenv(WEIGHTS_VARIABLE, folder)
    with pytest.raises(
        SoundStormError,
        match=rf"left_out.safetensors is not among.*{WEIGHTS_VARIABLE} names {folder or 'no other folder'}",
    ):
        bundled_file("left_out.safetensors")
