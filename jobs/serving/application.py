"""The application on Ray Serve: one ingress, where requests arrive, and the replicas of the generator behind it.

`soundstorm serve` runs it; `serve deploy cluster/deploy/serve.yaml` and a RayService of KubeRay build it from
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
from jobs.serving.studio import Studio
from soundstorm.errors import SoundStormError

NAME = "soundstorm"
TOKEN_VARIABLE = "SOUNDSTORM_TOKEN"
LEAST_TOKEN = 16
"""Characters of a token."""
OTHER_CONNECTIONS = 1000
"""Connections of the ingress beside those that wait for sound: pages that are open, questions."""
SCALE_UP_S, SCALE_DOWN_S, LOOK_BACK_S = 5.0, 300.0, 15.0
"""After how long a queue, or its absence, changes the number of replicas."""
REPLICAS_PER_GPU = 2
logger = logging.getLogger(__name__)


class Ingress:
    """Where requests arrive: access control, routes and the page.

    Args:
        replicas: of the generator.
        about: their model.
        settings: of the endpoint.
        token: that is asked for; None: none.
    """

    def __init__(
        self, replicas: DeploymentHandle, about: ModelInfo, settings: EndpointSettings, token: str | None
    ) -> None:
        self._settings, self._token = settings, token
        self._studio = Studio(replicas, about, settings.limits, settings.model)

    def __serve_build_asgi_app__(self) -> App:
        app: Any = build_routes(self._studio)
        if self._settings.page and find_spec("gradio") is not None:
            import_module("jobs.serving.page.mounting").mount_page(app, self._studio)
        limits = self._settings.limits
        return AccessControl(app, self._token, limits.upload_bytes, limits.waiting, self._studio.retry_after_s)


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for `serve deploy` and KubeRay, which always asks for a token.

    Args:
        arguments: settings of `EndpointSettings`, by name.

    Raises:
        SoundStormError: a setting, or the token in the variable SOUNDSTORM_TOKEN, is not there or cannot be used.
        ClusterError: the model cannot be read.
    """
    settings = EndpointSettings.from_dict(arguments, "the arguments of the application")
    token = given_token()
    if token is None:
        raise SoundStormError(f"the variable {TOKEN_VARIABLE} is not set: it holds the token that requests must bring")
    return application(settings, token)


def given_token() -> str | None:
    """The token in the variable SOUNDSTORM_TOKEN; None where it is not set.

    Raises:
        SoundStormError: it is too short, or has characters that a header cannot have.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None or (len(token) >= LEAST_TOKEN and token.isascii() and token.isprintable() and " " not in token):
        return token
    raise SoundStormError(
        f"the token in {TOKEN_VARIABLE} has {len(token)} characters: give at least {LEAST_TOKEN} letters and digits, "
        "such as those of `openssl rand -hex 32`"
    )


def application(settings: EndpointSettings, token: str | None) -> serve.Application:
    """The application, on a Ray that is connected.

    Args:
        settings: of the endpoint.
        token: that is asked for; None: none, for an endpoint that this machine alone can reach.

    Raises:
        SoundStormError, ClusterError: the model cannot be read, or does not fit together.
    """
    about = open_model(settings.model, "cpu").about
    resources = ray.cluster_resources()
    gpus = int(max(resources.get("GPU", 0), resources.get(MAX_GPUS, 0)))
    most = settings.max_replicas or max(
        settings.min_replicas, gpus * REPLICAS_PER_GPU if gpus else int(resources.get("CPU", 1))
    )
    generator = serve.deployment(
        GeneratorReplica,
        name="Generator",
        max_ongoing_requests=2 * settings.batch_size,  # a batch, and the one that gathers meanwhile
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
    replicas = generator.bind(settings.model, about, settings.batch_size, wait_s, "cuda" if gpus else "cpu")
    return ingress.bind(replicas, about, _own(settings), token)


def _own(settings: EndpointSettings) -> EndpointSettings:
    """The settings of the endpoint alone, without those of a command."""
    return EndpointSettings(**settings.of_endpoint())
