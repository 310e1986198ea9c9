"""The house that the packages make: imports only point down, rooms of few files, one concept a file, and the science
stands alone."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("soundstorm", "cluster", "jobs", "tune")
MAX_AT_THE_TOP = {"soundstorm": 4, "cluster": 4, "jobs": 15, "tune": 5}
"""Python files of a floor that lie in no room."""
MAX_IN_A_FOLDER = 16
MAX_LINES = 350
MAX_FUNCTION_LINES = 60
"""Without its docstring."""
MAX_PARAMETERS = 8
"""Of a function, with or without a default."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
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


def test_imports_keep_the_contracts() -> None:
    """Of floors and rooms, as pyproject.toml has them: imports only point down, and nothing goes in a circle."""
    lint = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("package", FLOORS)
def test_a_folder_is_seen_at_a_glance(package: str) -> None:
    assert sum(path.parent == ROOT / package for path in FILES) <= MAX_AT_THE_TOP[package]
    inside = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in inside)
    assert {folder: count for folder, count in counts.items() if count > MAX_IN_A_FOLDER} == {}


def test_importing_the_science_loads_neither_ray_nor_boto3() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.is_relative_to(ROOT / "soundstorm")
    ]
    lines = [f"import {module.removesuffix('.__init__')}" for module in modules]
    check = "import sys\nloaded = {'ray', 'boto3', 'botocore', 'tyro'} & sys.modules.keys()\nassert not loaded, loaded"
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, check])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (ended.returncode, ended.stderr.strip()) == (0, "")


def test_encodec_is_loaded_only_where_its_weights_are_used() -> None:
    assert {path.name for path in FILES if any(name == "encodec" for _, name in imported(path))} == {"encodec.py"}
    check = (
        "import sys; from soundstorm.codec.files import load_codec; load_codec(); assert not {'encodec', "
        "'torchaudio'} & sys.modules.keys()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert (ended.returncode, ended.stderr.strip()) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_concept_says_which_and_is_soon_read(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    assert path.stem not in VAGUE_NAMES
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


def num_lines(function: Function) -> int:
    """Of a function, its docstring left out."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    told = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - told


def num_parameters(function: Function) -> int:
    """Parameters, save for `self` and `cls`."""
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(named) + bool(given.vararg) + bool(given.kwarg) - (named[:1] in (["self"], ["cls"]))


def test_a_function_fits_on_a_screen_and_asks_for_few_things() -> None:
    found = {f"{path.relative_to(ROOT)}:{each.lineno} {each.name}": each for path in FILES for each in functions(path)}
    assert {name: lines for name, each in found.items() if (lines := num_lines(each)) > MAX_FUNCTION_LINES} == {}
    assert {name: count for name, each in found.items() if (count := num_parameters(each)) > MAX_PARAMETERS} == {}


def test_what_is_private_to_a_file_is_not_imported_from_it() -> None:
    private = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}.{alias.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FLOORS
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []
