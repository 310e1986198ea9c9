"""The manifests for KubeRay have the fields that its version 1 defines, of the right kinds, and agree with the image
and with cluster.yaml.

Fields as in the reference of the API `ray.io/v1` (KubeRay 1.5) and of Kubernetes' `v1` pods; another name would be
dropped or refused.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.runtime.connect import CLUSTER_PORT, MAX_GPUS
from jobs.cli import COMMANDS
from jobs.serving.application import TOKEN_VARIABLE, build
from jobs.serving.serve import PORT
from jobs.serving.settings import EndpointSettings
from tests.cluster.deploy.test_cluster_file import DASHBOARD_PORT

ROOT = Path(__file__).resolve().parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
Fields = dict[str, Any]

RAY_CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    "suspend", "managedBy",
    "headServiceAnnotations", "gcsFaultToleranceOptions",
}  # fmt: skip
RAY_JOB = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "rayClusterSpec", "activeDeadlineSeconds",
    "clusterSelector", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "metadata",
    "runtimeEnvYAML", "submitterConfig",
    "submitterPodTemplate", "suspend", "managedBy", "deletionStrategy",
}  # fmt: skip
AUTOSCALER = {
    "version",
    "idleTimeoutSeconds",
    "upscalingMode",
    "resources",
    "image",
    "imagePullPolicy",
    "securityContext",
    "env",
    "envFrom",
    "volumeMounts",
}
HEAD_GROUP = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKER_GROUP = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "idleTimeoutSeconds",
    "numOfHosts",
    "rayStartParams",
    "scaleStrategy",
    "template",
}
POD = {
    "serviceAccountName",
    "restartPolicy",
    "containers",
    "volumes",
    "tolerations",
    "nodeSelector",
    "affinity",
    "imagePullSecrets",
    "securityContext",
}
CONTAINER = {
    "name",
    "image",
    "ports",
    "resources",
    "volumeMounts",
    "env",
    "envFrom",
    "command",
    "args",
    "imagePullPolicy",
    "securityContext",
    "lifecycle",
}
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")


def load(name: str) -> Fields:
    return dict(yaml.safe_load((ROOT / "cluster" / "deploy" / "kuberay" / name).read_text()))


@pytest.fixture
def spec() -> Fields:
    return dict(load("ray_cluster.yaml")["spec"])


def pods(spec: Fields) -> list[Fields]:
    return [
        spec["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in spec["workerGroupSpecs"]),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ray_cluster.yaml", "RayCluster"), ("ray_job.yaml", "RayJob"), ("ray_service.yaml", "RayService")],
)
def test_a_manifest_says_what_it_is(name: str, kind: str) -> None:
    manifest = load(name)
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    given = manifest["metadata"].get("name") or manifest["metadata"]["generateName"].removesuffix("-")
    assert re.fullmatch(
        r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", given
    )  # KubeRay adds to it, and a name of Kubernetes ends at 63


def test_all_fields_are_known(spec: Fields) -> None:
    assert set(spec) <= RAY_CLUSTER and set(load("ray_job.yaml")["spec"]) <= RAY_JOB
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER and spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) <= HEAD_GROUP and all(
        set(group) <= WORKER_GROUP for group in spec["workerGroupSpecs"]
    )
    for pod in pods(spec):
        assert set(pod) <= POD and all(set(container) <= CONTAINER for container in pod["containers"])


def test_parameters_of_ray_start_are_text_and_quantities_are_quantities(spec: Fields) -> None:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for pod in pods(spec):
        for container in pod["containers"]:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests == limits and {"cpu", "memory"} <= set(limits)
            assert all(isinstance(value, str) and QUANTITY.match(value) for value in limits.values())


def test_what_ray_is_told_is_what_the_pods_have(spec: Fields) -> None:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["rayStartParams"]["num-cpus"] == limits["cpu"]
        assert group["rayStartParams"].get("num-gpus", "0") == limits.get("nvidia.com/gpu", "0")


def test_volumes_and_their_mounts_match(spec: Fields) -> None:
    for pod in pods(spec):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert all(QUANTITY.match(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"])


def test_gpu_pods_come_from_none_to_as_many_as_the_head_tells_the_jobs(spec: Fields) -> None:
    [gpu] = spec["workerGroupSpecs"]
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 60 * aws["idle_timeout_minutes"]}
    assert (gpu["minReplicas"], gpu["replicas"], gpu["maxReplicas"]) == (0, 0, aws["max_workers"])
    [argument] = shlex.split(spec["headGroupSpec"]["rayStartParams"]["resources"])  # as the shell of the pod reads it
    assert json.loads(argument) == {MAX_GPUS: gpu["maxReplicas"] * int(gpu["rayStartParams"]["num-gpus"])}
    assert all(pod["restartPolicy"] == "Never" for pod in pods(spec))  # the autoscaler's version 2 replaces pods itself


def test_pods_run_the_image_of_this_version_under_the_account_with_the_role_and_are_not_public(spec: Fields) -> None:
    image = f"registry.example.org/soundstorm:{VERSION}"
    assert f"-t {image} ." in (ROOT / "cluster" / "deploy" / "docker" / "Dockerfile").read_text()
    assert {container["image"] for pod in pods(spec) for container in pod["containers"]} == {image}
    assert {pod["serviceAccountName"] for pod in pods(spec)} == {"soundstorm"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    ports = {port["name"]: port["containerPort"] for port in pods(spec)[0]["containers"][0]["ports"]}
    assert ports == {"gcs-server": CLUSTER_PORT, "dashboard": DASHBOARD_PORT, "client": 10001}


def test_the_job_runs_one_of_our_commands_on_the_same_cluster(spec: Fields) -> None:
    job = load("ray_job.yaml")["spec"]
    assert job["rayClusterSpec"] == spec
    program, flag, module, *options = shlex.split(job["entrypoint"])
    assert (program, flag) == ("python", "-m") and module.removeprefix("jobs.") in {
        name.replace("-", "_") for name in COMMANDS
    }
    assert {option for option in options if option.startswith("--")} == {
        "--dataset",
        "--data-dir",
        "--preset",
        "--output-dir",
    }
    assert job["shutdownAfterJobFinishes"] is True and job["submissionMode"] == "K8sJobMode"


def test_the_service_serves_what_the_file_for_serve_deploy_does_and_asks_for_a_token(spec: Fields) -> None:
    service = load("ray_service.yaml")["spec"]
    assert set(service) == {"serveConfigV2", "rayClusterConfig"}
    deployed = yaml.safe_load((ROOT / "cluster" / "deploy" / "serve.yaml").read_text())
    assert yaml.safe_load(service["serveConfigV2"]) == deployed
    [application] = ServeDeploySchema.model_validate(deployed).applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    EndpointSettings.from_dict(application.args, "args")
    config = service["rayClusterConfig"]
    for pod in pods(config):
        [container] = pod["containers"]
        [variable] = container.pop("env")
        assert variable["name"] == TOKEN_VARIABLE and "secretKeyRef" in variable["valueFrom"]
    port = pods(config)[0]["containers"][0]["ports"].pop()
    assert port == {"name": "serve", "containerPort": PORT} and deployed["http_options"]["port"] == PORT
    assert config == spec  # but for the token and the port, the same cluster
