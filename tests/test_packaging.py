"""What is installed: every set-up takes the same tested versions, and whatever the ranges allow besides loads together
and makes sound."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
SETUPS = ("Makefile", "cluster/deploy/docker/Dockerfile", "cluster.yaml", "cluster/deploy/on_premise.yaml")
INSTALL_S = 1800
CLIP_S = 600


def pinned() -> dict[str, list[str]]:
    """The versions that constraints.txt names for each distribution; more than one where they differ by Python."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        [exact] = requirement.specifier
        assert exact.operator == "==", line
        versions.setdefault(canonicalize_name(requirement.name), []).append(exact.version)
    return versions


@pytest.mark.parametrize("line", DECLARED)
def test_every_declared_range_has_a_tested_version_within_it(line: str) -> None:
    requirement = Requirement(line)
    versions = pinned()[canonicalize_name(requirement.name)]
    assert versions and all(requirement.specifier.contains(version) for version in versions)
    assert any(bound.operator in ("<", "~=") for bound in requirement.specifier), (
        "a range without an upper bound resolves into what nobody has tried"
    )


def test_the_tested_versions_name_no_host() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|^-|@", text, re.MULTILINE)


@pytest.mark.parametrize("name", SETUPS)
def test_every_set_up_installs_the_tested_versions(name: str) -> None:
    installs = re.findall(r"pip install .*--editable.*", (ROOT / name).read_text())
    assert installs and all(re.search(r"--constraint \S*constraints\.txt ", line) for line in installs)


def run(*command: str | Path, cwd: Path, timeout_s: float) -> str:
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(2 * INSTALL_S + CLIP_S)
@pytest.mark.parametrize("resolution", ["lowest-direct", "newest"])
def test_the_wheel_makes_a_clip_with_the_versions_at_both_ends_of_the_ranges(resolution: str, tmp_path: Path) -> None:
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        tmp_path,
        ROOT,
        cwd=tmp_path,
        timeout_s=INSTALL_S,
    )
    [wheel] = tmp_path.glob("soundstorm_env-*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path, timeout_s=INSTALL_S)
    options = []
    if resolution != "newest":
        lowest = tmp_path / "lowest.txt"
        uv = Path(sys.executable).with_name("uv")
        compile_lowest = [
            "pip",
            "compile",
            "--quiet",
            "--resolution",
            resolution,
            "--no-header",
            "--extra",
            "cluster",
            "--output-file",
            lowest,
        ]
        run(uv, *compile_lowest, ROOT / "pyproject.toml", cwd=tmp_path, timeout_s=INSTALL_S)
        options = ["--constraint", lowest]
    run(python, "-m", "pip", "install", "--quiet", *options, f"{wheel}[cluster]", cwd=tmp_path, timeout_s=INSTALL_S)
    run(python, "-c", "import encodec, torch, torchaudio", cwd=tmp_path, timeout_s=CLIP_S)
    made = tmp_path / "clips"
    command = [
        python.with_name("soundstorm"),
        "generate",
        "--num-samples",
        "1",
        "--duration",
        "1",
        "--output-dir",
        made,
    ]
    run(*command, cwd=tmp_path, timeout_s=CLIP_S)
    assert len(list(made.rglob("*.flac"))) == 1
