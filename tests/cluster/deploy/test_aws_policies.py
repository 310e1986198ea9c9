"""The policies of AWS allow what the code calls and nothing beyond."""

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

ROOT = Path(__file__).resolve().parents[3]

ACTIONS = {
    "head_object": "GetObject",
    "get_object": "GetObject",
    "generate_presigned_url": "GetObject",
    "put_object": "PutObject",
    "create_multipart_upload": "PutObject",
    "upload_part": "PutObject",
    "complete_multipart_upload": "PutObject",
    "abort_multipart_upload": "AbortMultipartUpload",
    "list_objects_v2": "ListBucket",
    "delete_objects": "DeleteObject",
}
"""The action that each call of the S3 client needs, after Amazon's table. `ListBucket` also makes a missing object a
404 instead of a 403."""


def policy(name: str) -> list[dict[str, Any]]:
    content = json.loads((ROOT / "cluster" / "deploy" / "aws" / name).read_text())
    assert content["Version"] == "2012-10-17"
    return list(content["Statement"])


def actions(statements: list[dict[str, Any]]) -> set[str]:
    return {action for statement in statements for action in statement["Action"]}


def client_calls() -> Iterator[str]:
    """Names of the calls in the files that know the S3 client that are its operations, or make a signed link to one."""
    model = botocore.session.get_session().get_service_model("s3")
    operations = {xform_name(name) for name in model.operation_names} | {
        "generate_presigned_url",
        "upload_file",
        "upload_fileobj",
        "download_file",
    }
    for path in (ROOT / "cluster" / "storage").glob("s3*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in operations:
                yield node.func.attr


def test_the_policy_of_the_bucket_has_every_action_that_the_code_needs_and_none_beyond() -> None:
    calls = set(client_calls())
    assert "list_objects_v2" in calls and calls <= set(ACTIONS), calls - set(ACTIONS)
    assert actions(policy("s3_policy.json")) == {f"s3:{ACTIONS[call]}" for call in calls}


def test_the_policy_of_the_bucket_is_for_one_bucket() -> None:
    for statement in policy("s3_policy.json"):
        assert statement["Effect"] == "Allow"
        of_bucket = statement["Action"] == ["s3:ListBucket"]
        assert statement["Resource"] == ("arn:aws:s3:::my-bucket" if of_bucket else "arn:aws:s3:::my-bucket/*")


MINE = {"ec2:ResourceTag/ray-cluster-name": "soundstorm"}
MARKED = {"aws:RequestTag/ray-cluster-name": "soundstorm"}
AT_LAUNCH = {"ec2:CreateAction": "RunInstances"}
NODE, DISK, IMAGE = (f"arn:aws:ec2:us-east-1:123456789012:{name}/x" for name in ("instance", "volume", "image"))


def allows(statements: list[dict[str, Any]], action: str, resource: str, context: dict[str, str]) -> bool:
    """Whether AWS would allow the action: a statement names it and the resource, and the request has all values that
    the statement asks for."""

    def names(statement: dict[str, Any]) -> bool:
        if "NotResource" in statement:
            return not fnmatchcase(resource, statement["NotResource"])
        return fnmatchcase(resource, statement["Resource"])

    def has_values(statement: dict[str, Any]) -> bool:
        asked = statement.get("Condition", {"StringEquals": {}})
        assert list(asked) == ["StringEquals"]
        return all(context.get(key) == value for key, value in asked["StringEquals"].items())

    return any(action in statement["Action"] and names(statement) and has_values(statement) for statement in statements)


def test_the_head_has_the_actions_that_ray_calls_and_none_beyond() -> None:
    statements = policy("head_policy.json")
    assert actions(statements) == {
        "ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "ssm:GetParameters",
        "iam:PassRole",
    }  # fmt: skip
    passing = next(statement for statement in statements if "iam:PassRole" in statement["Action"])
    assert passing["Resource"] == "arn:aws:iam::*:role/soundstorm-worker"


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:DescribeInstances", "*", {}),
        ("ec2:RunInstances", NODE, MARKED),
        ("ec2:RunInstances", DISK, {}),
        ("ec2:RunInstances", IMAGE, {}),
        ("ec2:CreateTags", NODE, MARKED | AT_LAUNCH),
        ("ec2:CreateTags", NODE, MINE),  # Ray notes the state of a node in its tags
        ("ec2:TerminateInstances", NODE, MINE),
    ],
)
def test_the_head_may_rent_mark_and_end_nodes_of_its_cluster(
    action: str, resource: str, context: dict[str, str]
) -> None:
    assert allows(policy("head_policy.json"), action, resource, context)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:RunInstances", NODE, {}),
        ("ec2:RunInstances", NODE, {"aws:RequestTag/ray-cluster-name": "another"}),
        ("ec2:CreateTags", NODE, MARKED),  # with which any instance of the account could be marked, and then be ended
        ("ec2:CreateTags", NODE, MARKED | {"ec2:ResourceTag/ray-cluster-name": "another"}),
        ("ec2:CreateTags", IMAGE, MARKED),
        ("ec2:TerminateInstances", NODE, {}),
        ("ec2:TerminateInstances", NODE, {"ec2:ResourceTag/ray-cluster-name": "another"}),
    ],
)
def test_the_head_may_neither_mark_nor_end_other_instances(action: str, resource: str, context: dict[str, str]) -> None:
    assert not allows(policy("head_policy.json"), action, resource, context)
