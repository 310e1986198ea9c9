"""Generates sound for the HTTP routes and the page: checks requests, limits their number, and sends them to
replicas."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster import metrics
from jobs.generation.options import DURATION_S, Options
from jobs.serving.limits import Limits
from jobs.serving.sound import BusyError, Sound, UnavailableError
from jobs.serving.sound_request import AudioFormat, ModelInfo, RequestParser, SoundRequest
from soundstorm.errors import SoundStormError

ATTEMPTS = 5
"""Maximum number of attempts if replicas die; the same seed gives the same sound on another one."""
PAUSE_S = 0.2
"""Pause between attempts."""
STAGE = "serve"
"""Name of the stage in metrics."""
logger = logging.getLogger(__name__)


class SoundService:
    """Generates sound on replicas of the generator.

    Every method raises SoundStormError for invalid input; `BusyError`, a subclass, if the limit of concurrent requests
    is reached; and `UnavailableError` if no replica could generate the sound in time.

    Args:
        replicas: handle of the deployment of `jobs.serving.generator_replica.GeneratorReplica`.
        model_info: properties of their model.
        limits: limits of requests.
        options: options of `generate` with the files of the model.
    """

    def __init__(self, replicas: DeploymentHandle, model_info: ModelInfo, limits: Limits, options: Options) -> None:
        self.model_info, self.limits = model_info, limits
        self._replicas, self._parser = replicas, RequestParser(model_info=model_info, limits=limits, options=options)
        self._busy, self._mean_s = 0, 1.0

    @property
    def sample_rate(self) -> int:
        """Sample rate of all sounds."""
        return self.model_info.sample_rate

    def classes(self) -> list[str]:
        """Names of the classes of the model."""
        return list(self.model_info.categories)

    def retry_after_s(self) -> int:
        """Seconds after which to retry a refused request: the recent mean time per request."""
        return max(1, math.ceil(self._mean_s))

    async def generate(
        self,
        category: str,
        *,
        duration_s: float = DURATION_S,
        seed: int,
        loop: bool = False,
        audio_format: AudioFormat = "flac",
    ) -> Sound:
        """New sound of a class."""
        request = partial(
            self._parser.new, category, duration_s=duration_s, seed=seed, loop=loop, audio_format=audio_format
        )
        return await self._generate(request)

    async def continue_(
        self,
        upload: bytes,
        category: str,
        *,
        prompt_duration_s: float = 1.0,
        duration_s: float = DURATION_S,
        seed: int,
        audio_format: AudioFormat = "flac",
    ) -> Sound:
        """A sound that begins with the first `prompt_duration_s` of a recording."""
        request = partial(
            self._parser.continued,
            upload,
            category,
            prompt_duration_s=prompt_duration_s,
            duration_s=duration_s,
            seed=seed,
            audio_format=audio_format,
        )
        return await self._generate(request)

    async def inpaint(
        self,
        upload: bytes,
        category: str,
        *,
        regions: Sequence[tuple[float, float]],
        seed: int,
        loop: bool = False,
        audio_format: AudioFormat = "flac",
    ) -> Sound:
        """A recording with new sound in `regions`, each start and end in seconds; all other samples are unchanged."""
        request = partial(
            self._parser.inpainted,
            upload,
            category,
            regions=regions,
            seed=seed,
            loop=loop,
            audio_format=audio_format,
        )
        return await self._generate(request)

    async def vary(
        self,
        upload: bytes,
        category: str,
        *,
        strength: float | None = None,
        kept_levels: int | None = None,
        seed: int,
        loop: bool = False,
        audio_format: AudioFormat = "flac",
    ) -> Sound:
        """A variation of a recording; the fraction `strength` of its frames is generated anew."""
        request = partial(
            self._parser.varied,
            upload,
            category,
            strength=strength,
            kept_levels=kept_levels,
            seed=seed,
            loop=loop,
            audio_format=audio_format,
        )
        return await self._generate(request)

    async def _generate(self, parse_request: Callable[[], SoundRequest]) -> Sound:
        """Parse a request and generate its sound."""
        began_s = time.monotonic()
        with self._slot():
            request = await asyncio.to_thread(parse_request)  # decodes the recording
            made = await self._call_replica(request)
            if isinstance(made, str):
                raise SoundStormError(made)
            audio, samples_N, recipe = made
            seconds = time.monotonic() - began_s
            self._mean_s += 0.2 * (seconds - self._mean_s)
            metrics.increment(STAGE, "sounds_made", 1)
            return Sound(audio=audio, samples_N=samples_N, sample_rate=self.sample_rate, recipe=recipe, seconds=seconds)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the limited slots of concurrent requests."""
        if self._busy >= self.limits.waiting:
            metrics.increment(STAGE, "requests_refused", 1)
            raise BusyError(
                f"all {self._busy} places for requests are taken: try again in some seconds",
                self.retry_after_s(),
            )
        self._busy += 1
        metrics.set_gauge(STAGE, "requests_waiting", self._busy)
        try:
            yield
        finally:
            self._busy -= 1
            metrics.set_gauge(STAGE, "requests_waiting", self._busy)

    async def _call_replica(self, request: SoundRequest) -> Any:
        """The response of the first replica that survives the request."""
        deadline_s = time.monotonic() + self.limits.wait_s
        for _ in range(ATTEMPTS):
            response = self._replicas.generate.remote(request)
            try:
                return await asyncio.wait_for(response, max(deadline_s - time.monotonic(), 0.1))
            except RayTaskError as error:
                logger.exception("a replica failed")
                raise RuntimeError("a replica failed") from error
            except asyncio.CancelledError:
                response.cancel()  # frees the slot of the replica
                raise
            except TimeoutError:
                response.cancel()
                break
            except (RayError, RayServeException) as error:
                logger.warning("a replica was lost, the request is retried: %s", type(error).__name__)
                metrics.increment(STAGE, "retries", 1)
                await asyncio.sleep(PAUSE_S)
        raise UnavailableError(
            "no replica could generate the sound in time: try again in some seconds", self.retry_after_s()
        )
