"""The Ray Serve application: one ingress that receives requests, and the replicas of the generator.

`soundstorm serve` runs it; `serve deploy cluster/deploy/serve.yaml` and a RayService of KubeRay build it with
`jobs.serving.application:build`.
"""

import logging
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.runtime.connect import MAX_GPUS
from jobs.serving.access_control import AccessControl, App
from jobs.serving.generator_replica import GeneratorReplica
from jobs.serving.model import open_model
from jobs.serving.routes import build_routes
from jobs.serving.settings import EndpointSettings
from jobs.serving.sound_request import ModelInfo
from jobs.serving.sound_service import SoundService
from soundstorm.errors import SoundStormError

NAME = "soundstorm"
TOKEN_VARIABLE = "SOUNDSTORM_TOKEN"
MIN_TOKEN_LENGTH = 16
"""Minimum length of a token."""
OTHER_CONNECTIONS = 1000
"""Connections of the ingress beside the requests for sound, such as open pages."""
SCALE_UP_S, SCALE_DOWN_S, LOOK_BACK_S = 5.0, 300.0, 15.0
"""Delays of scaling up and down, and the period over which the queue length is averaged, in seconds."""
REPLICAS_PER_GPU = 2
logger = logging.getLogger(__name__)


class Ingress:
    """Receives requests: access control, routes and the page.

    Args:
        replicas: handle of the generator replicas.
        model_info: properties of their model.
        settings: settings of the endpoint.
        token: the token of requests; None: none is needed.
    """

    def __init__(
        self, replicas: DeploymentHandle, model_info: ModelInfo, settings: EndpointSettings, token: str | None
    ) -> None:
        self._settings, self._token = settings, token
        self._service = SoundService(replicas, model_info, settings.limits, settings.model)

    def __serve_build_asgi_app__(self) -> App:
        app: Any = build_routes(self._service)
        if self._settings.page and find_spec("gradio") is not None:
            import_module("jobs.serving.page.mounting").mount_page(app, self._service)
        limits = self._settings.limits
        return AccessControl(app, self._token, limits.upload_bytes, limits.waiting, self._service.retry_after_s)


def build(arguments: dict[str, Any]) -> serve.Application:
    """Build the application for `serve deploy` and KubeRay, where a token is mandatory.

    Args:
        arguments: settings of `EndpointSettings`, by name.

    Raises:
        SoundStormError: a setting is invalid, or the variable SOUNDSTORM_TOKEN is missing or invalid.
        ClusterError: the model cannot be read.
    """
    settings = EndpointSettings.from_dict(arguments, "the arguments of the application")
    token = read_token()
    if token is None:
        raise SoundStormError(f"the variable {TOKEN_VARIABLE} is not set: set it to the token that requests must send")
    return application(settings, token)


def read_token() -> str | None:
    """The token in the variable SOUNDSTORM_TOKEN; None if it is not set.

    Raises:
        SoundStormError: it is too short, or has characters that a header cannot contain.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None or (
        len(token) >= MIN_TOKEN_LENGTH and token.isascii() and token.isprintable() and " " not in token
    ):
        return token
    raise SoundStormError(
        f"the token in {TOKEN_VARIABLE} has {len(token)} characters: give at least {MIN_TOKEN_LENGTH} letters and "
        "digits, "
        "such as those of `openssl rand -hex 32`"
    )


def application(settings: EndpointSettings, token: str | None) -> serve.Application:
    """Build the application on a connected Ray.

    Args:
        settings: settings of the endpoint.
        token: the token of requests; None: none is needed, for an endpoint that only this machine can reach.

    Raises:
        SoundStormError, ClusterError: the model cannot be read, or its files do not match.
    """
    model_info = open_model(settings.model, "cpu").model_info
    resources = ray.cluster_resources()
    gpus = int(max(resources.get("GPU", 0), resources.get(MAX_GPUS, 0)))
    most = settings.max_replicas or max(
        settings.min_replicas, gpus * REPLICAS_PER_GPU if gpus else int(resources.get("CPU", 1))
    )
    generator = serve.deployment(
        GeneratorReplica,
        name="Generator",
        max_ongoing_requests=2 * settings.batch_size,  # the batch that is processed, and the next one
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 / REPLICAS_PER_GPU if gpus else 0},
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "initial_replicas": settings.min_replicas,
            "max_replicas": most,
            "target_ongoing_requests": settings.batch_size,
            "upscale_delay_s": SCALE_UP_S,
            "downscale_delay_s": SCALE_DOWN_S,
            "look_back_period_s": LOOK_BACK_S,
        },
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=settings.waiting + OTHER_CONNECTIONS,
        ray_actor_options={"num_cpus": 0},
    )
    wait_s = settings.batch_wait_ms / 1000
    replicas = generator.bind(settings.model, model_info, settings.batch_size, wait_s, "cuda" if gpus else "cpu")
    return ingress.bind(replicas, model_info, _endpoint_settings(settings), token)


def _endpoint_settings(settings: EndpointSettings) -> EndpointSettings:
    """The settings of the endpoint without those of the command."""
    return EndpointSettings(**settings.of_endpoint())
