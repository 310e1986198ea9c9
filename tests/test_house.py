"""The house that the packages make: imports only point down, one concept a file, and the science stands alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"soundstorm": set(), "cluster": set(), "jobs": {"soundstorm", "cluster"}, "tune": {"soundstorm", "cluster", "jobs"}}
"""Each package with those that it may import beside itself."""
NOT_IN_SCIENCE = {"ray", "boto3", "botocore", "tyro", "argparse", "click"}
MAX_LINES = 350
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

FILES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every absolute import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def test_the_four_floors_are_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_only_point_down(package: str) -> None:
    above = set(FLOORS) - FLOORS[package] - {package} | {"tests"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if path.is_relative_to(ROOT / package)
        for line, name in imported(path)
        if name in above
    ]
    assert wrong == []


def test_the_science_knows_no_cluster_no_storage_and_no_command_line() -> None:
    science = [path for path in FILES if path.is_relative_to(ROOT / "soundstorm")]
    assert [f"{path.name}:{line} imports {name}" for path in science for line, name in imported(path) if name in NOT_IN_SCIENCE] == []


def test_only_one_part_of_the_cluster_knows_object_storage() -> None:
    assert {path.name for path in FILES if any(name == "boto3" for _, name in imported(path))} == {"s3_client.py"}


def test_importing_the_science_loads_neither_ray_nor_boto3() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.is_relative_to(ROOT / "soundstorm")]
    lines = [f"import {module.removesuffix('.__init__')}" for module in modules]
    check = "import sys\nloaded = {'ray', 'boto3', 'botocore', 'tyro'} & sys.modules.keys()\nassert not loaded, loaded"
    ended = subprocess.run([sys.executable, "-c", "\n".join([*lines, check])], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (0, "")


def test_encodec_is_loaded_only_where_its_weights_are_used() -> None:
    assert {path.name for path in FILES if any(name == "encodec" for _, name in imported(path))} == {"encodec_network.py"}
    check = "import sys; from soundstorm.codec.files import load_codec; load_codec(); assert not {'encodec', 'torchaudio'} & sys.modules.keys()"
    ended = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_concept_says_which_and_is_soon_read(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    assert path.stem not in VAGUE_NAMES
    assert not text.strip() or ast.get_docstring(ast.parse(text))
