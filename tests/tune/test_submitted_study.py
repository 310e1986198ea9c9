"""A study given to a cluster with `ray job submit`: its trials are runs of several workers, all that it leaves is in
object storage."""

import json
import subprocess
from pathlib import Path

import pytest

from cluster import storage, tables
from tests.conftest import ROOT, S3Server, use_server
from tests.support.ray_head import RAY, ray_head

STUDY_S = 240


@pytest.mark.timeout(2 * STUDY_S)
def test_a_submitted_study_of_two_workers_a_trial_is_whole(
    rclone_s3: S3Server, tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.py"
    space.write_text(
        'from tune.space import Choice, Range\nSPACE = {"lr": Range(1e-4, 1e-2, is_log=True), "width": Choice(16, '
        "32)}\n"
    )
    output = f"{rclone_s3.make_bucket()}/study"
    lengths = ["--epochs", "2", "--batch-size", "4", "--num-trials", "1", "--num-workers", "2"]
    study = [
        "jobs.tune",
        "training",
        "--tokens",
        tokens,
        "--space",
        str(space),
        "--preset",
        "tiny",
        *lengths,
        "--output-dir",
        output,
    ]
    with ray_head("--num-cpus=4", environment={"OMP_NUM_THREADS": "1"}) as head:
        variables = {"env_vars": rclone_s3.environment() | {"SOUNDSTORM_WEIGHTS": str(ROOT / "soundstorm" / "weights")}}
        submit = [
            *RAY,
            "job",
            "submit",
            "--working-dir",
            ".",
            "--runtime-env-json",
            json.dumps(variables),
            "--",
            "python",
            "-m",
            *study,
        ]
        done = subprocess.run(
            submit, cwd=ROOT, env=head.environment(), capture_output=True, text=True, timeout=STUDY_S, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    use_server(monkeypatch, rclone_s3)
    rows = tables.read_table(storage.join(output, "trials.parquet"))[0].to_pylist()
    assert [row["state"] for row in rows] == ["finished"], rows
    best = json.loads(storage.read_bytes(storage.join(output, "best.json")))
    assert best["training"]["lr"] == rows[0]["lr"], best
    assert any(entry.uri.endswith("report.html") for entry in storage.list_objects(output))
