"""What differs between the nodes of a cluster is named, node by node."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from cluster import storage
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs.diagnostics.nodes import NodeReport, ask_nodes, check_storage, problems_of

VERSIONS = {"python": "3.11.9", "torch": "2.11.0"}
FINE = NodeReport(
    name="10.0.0.1", versions=VERSIONS, skew_s=0.2, free_gb=50.0, gpus=(), token_required=True, storage_problem=""
)


def test_nodes_that_are_alike_have_no_problem() -> None:
    assert problems_of([FINE, replace(FINE, name="10.0.0.2", gpus=("H100",))], [], VERSIONS) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": VERSIONS | {"torch": "2.10.0"}}, "10.0.0.1 has torch 2.10.0, but this machine has 2.11.0"),
        ({"versions": {"python": "3.11.9"}}, "10.0.0.1 has torch none, but this machine has 2.11.0"),
        ({"skew_s": -400.0}, "the clock of 10.0.0.1 is 400 s behind"),
        ({"free_gb": 0.3}, "10.0.0.1 has 0.3 GB for temporary files"),
        ({"storage_problem": "s3://b: access denied"}, "10.0.0.1 cannot use the storage: s3://b: access denied"),
    ],
)
def test_a_node_with_a_problem_is_named_with_it(changes: dict[str, object], words: str) -> None:
    [problem] = problems_of([replace(FINE, **changes), replace(FINE, name="10.0.0.2")], [], VERSIONS)  # type: ignore[arg-type]
    assert words in problem


def test_a_node_that_does_not_answer_is_named() -> None:
    assert problems_of([FINE], ["10.0.0.7"], VERSIONS) == [
        "10.0.0.7 does not answer: see `ray status` and the logs there"
    ]


def test_a_real_node_tells_its_versions_and_tries_the_storage(ray_session: None, s3_bucket: Callable[[], str]) -> None:
    bucket = s3_bucket()
    reports, silent = ask_nodes(bucket)
    [node] = [node for node in ray.nodes() if node["Alive"]]
    assert silent == [] and [report.name for report in reports] == [node["NodeManagerAddress"]]
    [report] = reports
    assert report.versions == records.versions() and report.token_required
    assert abs(report.skew_s) < 5 and report.free_gb > 0
    assert report.storage_problem == "" and storage.list_objects(bucket) == []


def test_storage_that_works_is_left_as_it_was(storage_root: str) -> None:
    storage.write_bytes(f"{storage_root}/mine", b"1")
    check_storage(storage_root)
    assert [entry.uri.rpartition("/")[2] for entry in storage.list_objects(storage_root)] == ["mine"]


def test_storage_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="exists and is a file, not a folder"):
        check_storage(str(tmp_path / "file" / "below"))
