"""Compiled libraries that cannot be imported together are named, with the command that fixes it, whatever else cannot
be imported for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BROKEN = "import ctypes, pathlib\nctypes.CDLL(str(pathlib.Path(__file__).with_name('library.so')))\n"
"""A package whose shared library is no such thing: the loader of the system refuses it."""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Stands before the installed libraries: a torchaudio that the loader refuses, and a soundfile that ends its
    process."""
    for name, code in (("torchaudio", BROKEN), ("soundfile", "import os\nos.abort()\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        (tmp_path / name / "library.so").write_bytes(bytes(100))
    return tmp_path


def python(*arguments: str, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*([str(before)] if before else []), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_libraries_that_load_are_told_with_their_versions() -> None:
    done = python("-m", "jobs.console.compiled_libraries")
    assert done.returncode == 0, done.stderr
    assert "torch 2." in done.stdout and done.stdout.endswith(": all can be imported together\n")


def test_which_two_do_not_fit_and_what_mends_it_is_one_sentence(broken: Path) -> None:
    done = python("-m", "jobs.console.compiled_libraries", before=broken)
    assert (done.returncode, done.stdout) == (1, "")
    audio, sound = done.stderr.splitlines()
    assert (
        audio.startswith("error: torchaudio 2.") and " does not load beside torch 2." in audio and "library.so" in audio
    )
    assert "pip install --force-reinstall" in audio and audio.endswith(" torch torchaudio`")
    assert sound.startswith("error: soundfile 0.") and "its process ended with -6" in sound


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "jobs.doctor"),
        ("-c", "import sys; sys.argv = ['soundstorm', 'train']; from jobs.cli import main; main()"),
    ],
)
def test_every_command_says_it_in_place_of_a_traceback(command: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(BROKEN)
    (tmp_path / "torch" / "library.so").write_bytes(b"no library")
    done = python(*command, before=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: torch 2.") and "does not load beside numpy 2." in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_a_command_without_the_extra_says_which_install_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    done = python("-m", "jobs.doctor", before=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert (
        done.stderr.startswith("error: the commands need ray, which is not installed")
        and "'soundstorm-env[cluster]'" in done.stderr
    )
