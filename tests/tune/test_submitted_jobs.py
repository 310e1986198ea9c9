"""Jobs and studies given to a cluster with `ray job submit`, as the README says: what the code weighs, how they end,
what they leave in object storage, and who may give them."""

import json
import logging
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ray._private.runtime_env.packaging import create_package

from cluster import storage, tables
from tests.conftest import ROOT, S3Server, use_server
from tests.support.ray_head import RAY, Head, ray_head

JOB_S = 240
KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
WORKING_DIR_BYTES = 20 * 10**6


@pytest.fixture(scope="module")
def head(rclone_s3: S3Server) -> Iterator[Head]:
    """A head whose machine has the weights and the storage's keys, as those of `cluster/deploy/on_premise.yaml`
    have."""
    keys = {name: value for name, value in rclone_s3.environment().items() if name in KEYS}
    here = {"SOUNDSTORM_WEIGHTS": str(ROOT / "soundstorm" / "weights"), "OMP_NUM_THREADS": "1"}
    with ray_head("--num-cpus=4", environment=here | keys) as running:
        yield running


def place_of(server: S3Server) -> dict[str, str]:
    """The variables of a storage but for its keys."""
    return {name: value for name, value in server.environment().items() if name not in KEYS}


def ray_cli(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAY, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=JOB_S, check=False
    )


def submit(
    head: Head, name: str, *command: str, place: dict[str, str] | None = None, wait: bool = False
) -> subprocess.CompletedProcess[str]:
    """`ray job submit` of one of our jobs, with this checkout as the working directory and the storage's variables in
    the job's settings."""
    settings = ["--runtime-env-json", json.dumps({"env_vars": place or {}})]
    options = ["--submission-id", name, "--working-dir", ".", *settings, *([] if wait else ["--no-wait"])]
    return ray_cli("job", "submit", *options, "--", "python", "-m", *command, environment=head.environment())


def ask(head: Head, path: str) -> Any:
    answer = requests.get(
        f"{head.dashboard}/api/{path}", headers={"Authorization": f"Bearer {head.token_file.read_text()}"}, timeout=60
    )
    answer.raise_for_status()
    return answer.json()


def log_of(head: Head, name: str) -> str:
    return str(ask(head, f"jobs/{name}/logs")["logs"])


def wait_for(head: Head, name: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_S
    while (job := ask(head, f"jobs/{name}"))["status"] not in statuses:
        assert time.monotonic() < deadline and job["status"] in {"PENDING", "RUNNING"}, (job, log_of(head, name))
        time.sleep(0.5)
    return dict(job)


def test_the_code_that_a_job_brings_is_small_and_complete(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, logger=logging.getLogger())
    assert package.stat().st_size < WORKING_DIR_BYTES
    names = set(zipfile.ZipFile(package).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("soundstorm", "cluster", "jobs", "tune")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= names
    assert {name.split("/")[0] for name in names} <= {
        "soundstorm",
        "cluster",
        "jobs",
        "tune",
        "cluster.yaml",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    assert not [name for name in names if name.endswith(".safetensors")]


@pytest.mark.timeout(3 * JOB_S)
def test_jobs_are_followed_stopped_and_fail_with_their_message(head: Head, rclone_s3: S3Server) -> None:
    bucket, place = rclone_s3.make_bucket(), place_of(rclone_s3)
    generate = ["jobs.generate", "--num-samples", "100000", "--num-actors", "1", "--output-dir", f"{bucket}/many"]
    assert submit(head, "many", *generate, place=place).returncode == 0
    assert (
        submit(
            head,
            "wrong",
            "jobs.generate",
            "--checkpoint",
            f"{bucket}/nothing",
            "--output-dir",
            f"{bucket}/none",
            place=place,
        ).returncode
        == 0
    )

    deadline = time.monotonic() + JOB_S
    while "generate: 0/" not in log_of(head, "many"):  # its progress, which survives in the job's log
        assert time.monotonic() < deadline and ask(head, "jobs/many")["status"] in {"PENDING", "RUNNING"}, log_of(
            head, "many"
        )
        time.sleep(0.5)
    assert ray_cli("job", "stop", "many", environment=head.environment()).returncode == 0
    wait_for(head, "many", "STOPPED")

    failed = wait_for(head, "wrong", "FAILED")
    assert failed["driver_exit_code"] == 1
    assert f"{bucket}/nothing" in log_of(head, "wrong") and "Traceback" not in log_of(head, "wrong")

    followed = submit(head, "doctor", "jobs.doctor", "--output-dir", f"{bucket}/run", place=place, wait=True)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert (
        "1 nodes, 4 CPUs" in followed.stdout and "joined in" in followed.stdout
    )  # the cluster of the head, not another Ray
    assert f"{bucket}/run can be written" in followed.stdout
    assert "this machine is ready" in followed.stdout

    logs = [path for path in head.folder.rglob("*") if path.is_file() and path != head.token_file]
    assert any(
        "Running entrypoint for job doctor" in path.read_text(errors="replace")
        for path in logs
        if path.name.startswith("job-driver")
    )
    for secret in (rclone_s3.secret_key.encode(), head.token_file.read_bytes()):
        assert [path for path in logs if secret in path.read_bytes()] == []


@pytest.mark.timeout(2 * JOB_S)
def test_a_submitted_study_of_two_workers_a_trial_is_whole(
    head: Head, rclone_s3: S3Server, tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.py"
    space.write_text(
        'from tune.space import Choice, Range\nSPACE = {"lr": Range(1e-4, 1e-2, is_log=True), "width": Choice(16, '
        "32)}\n"
    )
    output = f"{rclone_s3.make_bucket()}/study"
    lengths = ["--epochs", "2", "--batch-size", "4", "--num-trials", "1", "--num-workers", "2"]
    study = ["training", "--tokens", tokens, "--space", str(space), "--preset", "tiny", "--output-dir", output]
    done = submit(head, "study", "jobs.tune", *study, *lengths, place=place_of(rclone_s3), wait=True)
    assert done.returncode == 0, done.stdout + done.stderr
    use_server(monkeypatch, rclone_s3)
    rows = tables.read_table(storage.join(output, "trials.parquet"))[0].to_pylist()
    assert [row["state"] for row in rows] == ["finished"], rows
    best = json.loads(storage.read_bytes(storage.join(output, "best.json")))
    assert best["training"]["lr"] == rows[0]["lr"], best
    assert any(entry.uri.endswith("report.html") for entry in storage.list_objects(output))


def test_nobody_gets_in_without_the_token(head: Head) -> None:
    for headers in ({}, {"Authorization": "Bearer " + 64 * "0"}):
        entry = {"entrypoint": "touch /tmp/should-not-be"}
        for answer in (
            requests.get(f"{head.dashboard}/api/jobs/", headers=headers, timeout=60),
            requests.get(f"{head.dashboard}/nodes?view=summary", headers=headers, timeout=60),
            requests.post(f"{head.dashboard}/api/jobs/", json=entry, headers=headers, timeout=60),
        ):
            assert answer.status_code in ({401} if not headers else {401, 403}), answer.url


def test_the_token_is_for_its_owner_alone(head: Head) -> None:
    assert head.token_file.stat().st_mode & 0o077 == 0
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [
        command for command in commands if head.token_file.read_bytes() in command
    ]  # what every user of the machine can see
