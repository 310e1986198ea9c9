"""The way that the README's table of jobs shows, on small synthetic recordings: each command takes what the one before
it left where nothing else is said."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from cluster import tables
from tests.conftest import ROOT
from tests.jobs.conftest import Command

SMALLER = {
    "tokenize": "",
    "train": "--preset draft --epochs 1",
    "generate": "--duration 1 --iterations 2 --candidates 1",
    "evaluate": "--metrics acoustic --clips-per-class 1 --examples-per-class 0",
}
"""Command -> what is added to the README's line so that it takes seconds."""


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    """Command -> the arguments that the README's table has for it."""
    rows = re.findall(r"^\| `soundstorm ([\w-]+) ?([^`]*)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


def test_recordings_become_a_report_by_the_readmes_commands(
    documented: dict[str, str],
    synthetic_dataset: Path,
    ray_session: None,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/esc50").symlink_to(synthetic_dataset)
    for name, more in SMALLER.items():
        arguments = shlex.split(f"{documented[name].replace('esc10', 'synthetic')} {more}")
        code, _, err = command(import_module(f"jobs.{name}"), *arguments)
        assert code == 0, err
    assert tables.table_info("runs/tokens/tokens").num_rows == 50
    assert Path("runs/train/checkpoint/model.safetensors").is_file()
    assert len(list(Path("runs/samples/audio").rglob("*.flac"))) == 10
    assert tables.table_info("runs/evaluation/metrics.parquet").num_rows == 10 + 10 + 10
    assert "<html" in Path("runs/evaluation/report.html").read_text()
