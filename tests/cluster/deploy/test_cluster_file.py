"""The files for `ray up` are valid for this Ray, say what the README promises, and agree with the packages and with
each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.providers import _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.deploy.aws.node_provider import SpotFirstNodeProvider
from cluster.runtime.connect import CLUSTER_PORT, MAX_GPUS
from soundstorm.serialization.bundled import WEIGHTS_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = ["cluster.yaml", "cluster/deploy/on_premise.yaml"]
DASHBOARD_PORT = 8265
Config = dict[str, Any]


def load(name: str) -> Config:
    return dict(yaml.safe_load((ROOT / name).read_text()))


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> Config:
    return load(request.param)


@pytest.fixture
def aws() -> Config:
    return load("cluster.yaml")


def commands(config: Config, name: str) -> str:
    return "\n".join(config[name])


def test_the_file_passes_the_schema_of_ray(config: Config) -> None:
    validate_config(prepare_config(config))


def test_a_misspelt_setting_would_not_pass(config: Config) -> None:
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(config | {"max_wokers": 2}))


def test_all_files_name_the_ray_and_the_python_of_the_packages(aws: Config) -> None:
    manifests = [load(f"cluster/deploy/kuberay/{name}.yaml")["spec"] for name in ("ray_cluster", "ray_job")]
    base = re.search(r"^FROM (\S+)$", (ROOT / "cluster" / "deploy" / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None and base[1] == aws["docker"]["image"] == f"rayproject/ray:{ray.__version__}-py311-gpu"
    assert {manifests[0]["rayVersion"], manifests[1]["rayClusterSpec"]["rayVersion"]} == {ray.__version__}
    [ours] = [
        requirement for requirement in PROJECT["optional-dependencies"]["cluster"] if requirement.startswith("ray[")
    ]
    assert ours.endswith(f"~={'.'.join(ray.__version__.split('.')[:2])}.0")
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "python3.11 -m venv" in commands(load("cluster/deploy/on_premise.yaml"), "setup_commands")


def test_gpu_nodes_come_from_none_to_as_many_as_the_head_tells_the_jobs(aws: Config) -> None:
    head, workers = aws["available_node_types"]["head"], aws["available_node_types"]["gpu"]
    assert aws["head_node_type"] == "head" and "GPU" not in head["resources"]
    assert (workers["min_workers"], workers["max_workers"]) == (0, aws["max_workers"])
    assert head["resources"][MAX_GPUS] == workers["max_workers"] * workers["resources"]["GPU"]


def test_a_gpu_node_is_of_the_spot_market_and_on_demand_where_that_has_none(aws: Config) -> None:
    types = aws["available_node_types"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert _get_node_provider_cls(aws["provider"]) is SpotFirstNodeProvider


def test_the_bucket_is_reached_by_role_and_no_file_holds_a_key(aws: Config) -> None:
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in aws["available_node_types"].items()
    }
    assert profiles == {"head": "soundstorm-head", "gpu": "soundstorm-worker"}
    assert all(
        node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        for node in aws["available_node_types"].values()
    )
    for path in [
        ROOT / "cluster.yaml",
        *(ROOT / "cluster").rglob("*.yaml"),
        *(ROOT / "cluster").rglob("*.json"),
        ROOT / "cluster" / "deploy" / "docker" / "Dockerfile",
    ]:
        assert not re.search(r"AKIA|ASIA|(SECRET_ACCESS_KEY|SESSION_TOKEN|AUTH_TOKEN)=(?!\.\.\.)", path.read_text()), (
            path
        )


def test_the_dashboard_is_not_public_and_all_nodes_ask_for_the_same_token(config: Config) -> None:
    head, worker = commands(config, "head_start_ray_commands"), commands(config, "worker_start_ray_commands")
    assert f"--dashboard-host=127.0.0.1 --dashboard-port={DASHBOARD_PORT}" in head
    assert f"--port={CLUSTER_PORT}" in head and f"--address=$RAY_HEAD_IP:{CLUSTER_PORT}" in worker
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    [(target, source)] = [
        (target, source) for target, source in config["file_mounts"].items() if target.endswith("/.ray/auth_token")
    ]
    assert source == "~/.ray/auth_token"
    assert any(command.startswith("chmod 600") and target in command for command in config["setup_commands"])


def test_the_nodes_have_the_weights_that_a_jobs_own_copy_of_the_code_leaves_out(config: Config) -> None:
    [(code, _)] = [(target, source) for target, source in config["file_mounts"].items() if source == "."]
    everything = yaml.safe_dump(config, width=1000)
    assert f"{WEIGHTS_VARIABLE}={code}/soundstorm/weights" in everything
    assert f"pip install --quiet --constraint {code}/constraints.txt --editable {code}'[cluster]'" in commands(
        config, "setup_commands"
    )
    dockerfile = (ROOT / "cluster" / "deploy" / "docker" / "Dockerfile").read_text()
    assert (
        f"ENV {WEIGHTS_VARIABLE}=/home/ray/soundstorm/soundstorm/weights" in dockerfile
        and "WORKDIR /home/ray/soundstorm" in dockerfile
    )


def test_the_image_has_the_packages_in_a_layer_below_the_code_and_no_development_tools() -> None:
    dockerfile = (ROOT / "cluster" / "deploy" / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    steps = re.findall(r"^(COPY --chown=ray:users|RUN) (.*)$", dockerfile, re.MULTILINE)
    assert [kind[:3] for kind, _ in steps[:2]] == ["COP", "RUN"]
    (_, first), (_, packages_layer), *rest = steps
    assert first.split() == ["pyproject.toml", "constraints.txt", "./"]
    assert "--constraint constraints.txt" in packages_layer and "--requirements pyproject.toml" in packages_layer
    installed = {name for name in PROJECT["optional-dependencies"] if f"--extra {name}" in packages_layer}
    assert installed == {"cluster", "av", "serve"}
    assert [text for kind, text in rest if kind == "RUN"] == [
        "python -m pip install --quiet --no-cache-dir --no-deps --constraint constraints.txt "
        "--editable '.[cluster,av,serve]'"
    ]
    copied = " ".join(re.findall(r"^COPY --chown=ray:users (.*) \S+$", dockerfile, re.MULTILINE)).split()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(copied) == {
        "pyproject.toml",
        "constraints.txt",
        PROJECT["readme"],
        "LICENSE",
        *(name.rstrip("*") for name in packages),
    }
    assert f"soundstorm:{PROJECT['version']}" in dockerfile
    context = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert context[0] == "*" and {line[1:] for line in context if line[0] == "!"} == set(copied)
