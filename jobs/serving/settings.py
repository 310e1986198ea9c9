"""Settings of an endpoint: options of `soundstorm serve`, and arguments of the application in
`cluster/deploy/serve.yaml`."""

from dataclasses import fields
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from jobs.console.options import Allowed, Count, NotNegative, Rate
from jobs.generation.options import DURATIONS, MAX_DURATION_S, MIN_DURATION_S, Options
from jobs.serving.limits import Limits
from soundstorm.settings import Settings, ShareAbove0

MODEL_OPTIONS = ("checkpoint", "codec", "listener", "config", "candidates", "accept_probability")
"""Options that `generate` has, too."""


@dataclass(kw_only=True, frozen=True)
class EndpointSettings(Settings):
    """Settings of the model, the limits and the replicas."""

    NAMED: ClassVar[str] = "--{option}"
    REMEDY: ClassVar[str] = "give"

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder, path or URI that every node can read; default: the one in the
    package, trained on ESC-50."""
    codec: str | None = None
    """Weights of the codec, path or URI; default: the codec that the checkpoint was trained with."""
    listener: str | None = None
    """Classifier that chooses among the --candidates, path or URI; default: the one in the package."""
    config: str | None = None
    """JSON or TOML file, path or URI, whose table "sampler" overrides the checkpoint's settings."""
    candidates: Count | None = None
    """Maximum number of candidates of each sound, of which the reranker keeps one: 1 is fastest; default: the
    checkpoint's."""
    accept_probability: ShareAbove0 | None = None
    """Keep a candidate to whose class the reranker gives at least this probability without generating more; default:
    the checkpoint's."""
    longest: Annotated[float, Ge(MIN_DURATION_S), Le(MAX_DURATION_S), DURATIONS] = Limits.longest_s
    """Maximum duration of a generated or edited sound in seconds."""
    upload_mb: Annotated[float, Ge(0.001), Le(10_000), Allowed("0.001 to 10000 megabytes")] = Limits.upload_bytes / 1e6
    """Maximum size of a recording in megabytes."""
    waiting: Count = Limits.waiting
    """Maximum number of concurrent requests; further ones are answered with 429."""
    wait: Rate = Limits.wait_s
    """Time limit of a request in seconds, after which it is answered with 503."""
    batch_size: Count = 8
    """Maximum number of requests of one kind and length per batch; 1: no batches."""
    batch_wait_ms: NotNegative = 20
    """Milliseconds that a request waits for others if nothing is being generated."""
    min_replicas: Count = 1
    """Minimum number of generator replicas, each with one core or half a GPU."""
    max_replicas: Count | None = None
    """Maximum number of replicas under load; default: one per core, or two per GPU."""
    page: bool = True
    """Serve the page at / (if Gradio is installed)."""

    def __post_init__(self) -> None:
        is_enough = self.max_replicas is None or self.max_replicas >= self.min_replicas
        self.check(is_enough, "max_replicas", f"at least {self.min_replicas}, which is --min-replicas")

    @property
    def limits(self) -> Limits:
        """Limits of requests."""
        return Limits(
            longest_s=self.longest,
            upload_bytes=round(self.upload_mb * 1e6),
            waiting=self.waiting,
            wait_s=self.wait,
        )

    @property
    def model(self) -> Options:
        """The options of `generate` that name the model.

        Raises:
            SoundStormError: they cannot be combined.
        """
        return Options(**{name: getattr(self, name) for name in MODEL_OPTIONS})

    def of_endpoint(self) -> dict[str, Any]:
        """These settings without those of subclasses, as arguments of the application."""
        return {field.name: getattr(self, field.name) for field in fields(EndpointSettings)}
