"""`soundstorm doctor` says what there is, and names what is missing."""

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster.errors import ClusterError
from jobs import doctor
from jobs.diagnostics import nodes
from soundstorm.codec.files import load_codec
from tests.jobs.conftest import Command

SUBJECTS = ["processor", "GPU", "libraries", "compiled", "audio files", "codec", "EnCodec weights", "disk"]
CLUSTER = ["Ray", "nodes", "authentication", "metrics"]


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However full the disk of this machine is, and whatever its caches hold."""
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 0.0)
    monkeypatch.setattr(nodes, "MIN_FREE_GB", 0.0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_a_machine_that_has_everything_is_ready(ray_session: None, tmp_path: Path, command: Command) -> None:
    summary = doctor.run(doctor.Options(output_dir=str(tmp_path / "out")))
    assert list(summary["findings"]) == [*SUBJECTS, "storage", "submission", *CLUSTER]
    assert load_codec().fingerprint.sha256[:12] in summary["findings"]["codec"]
    assert "4 CPUs" in summary["findings"]["Ray"]
    assert "not here" in summary["findings"]["EnCodec weights"]
    assert summary["findings"]["storage"] == f"{tmp_path / 'out'} can be written, listed, read and deleted"
    assert summary["findings"]["nodes"].startswith("1 with the same libraries as this process, ")
    assert summary["findings"]["authentication"].startswith("on:")
    assert (
        requests.get(
            f"http://{summary['findings']['metrics'].removeprefix('for Prometheus at ')}/metrics", timeout=60
        ).status_code
        == 200
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_a_node_that_is_not_as_this_process_is_named(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(doctor.records, "LIBRARIES", ("numpy",))  # here, and not on the node
    code, _, err = command(doctor)
    assert code == 1 and re.search(
        r"nodes \S+ has \S+ \S+, but this machine has none: install the same version", " ".join(err.split())
    )


def test_storage_that_cannot_be_written_is_named_with_the_reason(ray_session: None, s3: Any, command: Command) -> None:
    code, out, err = command(doctor, "--output-dir", "s3://no-such-bucket-here/x")
    assert code == 1 and out == ""
    text = " ".join(err.split())
    assert "lacks storage" in text and "there is no bucket 'no-such-bucket-here'" in text
    assert "not ready: see storage above" in text and "Traceback" not in err


def test_everything_that_lacks_is_named_at_once(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def refuse(address: str | None, **options: Any) -> Any:
        raise ClusterError(f"the cluster '{address}' does not answer")

    monkeypatch.setattr(doctor, "connect", refuse)
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    monkeypatch.setattr(doctor, "LIBRARIES", ("numpy", "no-such-library"))
    code, _, err = command(doctor, "--address", "somewhere:1")
    text = " ".join(err.split())
    assert code == 1
    assert "see libraries, disk, Ray above" in text
    assert (
        "missing: no-such-library" in text
        and "free at least" in text
        and "the cluster 'somewhere:1' does not answer" in text
    )
