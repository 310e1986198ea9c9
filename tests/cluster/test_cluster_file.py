"""The file for `ray up` is valid for this Ray, and agrees with the packages."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def test_the_file_passes_the_schema_of_ray(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_a_misspelt_setting_would_not_pass(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(config | {"max_wokers": 2}))


def test_the_image_has_the_ray_that_the_packages_ask_for(config: dict[str, Any]) -> None:
    minor = ".".join(ray.__version__.split(".")[:2])
    assert f"rayproject/ray:{minor}." in config["docker"]["image"]
    assert "-py311" in config["docker"]["image"]


def test_one_gpu_worker_stays_and_more_come_with_the_work(config: dict[str, Any]) -> None:
    workers = config["available_node_types"]["gpu"]
    assert 1 == workers["min_workers"] < workers["max_workers"]
    assert "GPU" not in config["available_node_types"][config["head_node_type"]]["resources"]


def test_the_dashboard_is_not_public_and_asks_for_a_token(config: dict[str, Any]) -> None:
    [start] = config["head_start_ray_commands"]
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start
