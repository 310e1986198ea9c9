"""What a person or a program asks for sound: the page and the HTTP routes both call it."""

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
"""At a sound whose replica dies: the same seed makes the same sound on another one."""
PAUSE_S = 0.2
"""Between two attempts."""
STAGE = "serve"
"""Of the metrics."""
logger = logging.getLogger(__name__)


class Studio:
    """Makes sound on replicas of the generator.

    Every method raises SoundStormError, with a sentence, for input that cannot be used; `BusyError` (one of those)
    where as many wait already as may wait, `UnavailableError` where no replica could make the sound.

    Args:
        replicas: handle of the deployment of `jobs.serving.generator_replica.GeneratorReplica`.
        about: the model that its replicas have.
        limits: what a request may ask for.
        options: of `generate`, with the places of the model.
    """

    def __init__(self, replicas: DeploymentHandle, about: ModelInfo, limits: Limits, options: Options) -> None:
        self.about, self.limits = about, limits
        self._replicas, self._parser = replicas, RequestParser(about=about, limits=limits, options=options)
        self._busy, self._mean_s = 0, 1.0

    @property
    def sample_rate(self) -> int:
        """Samples per second of all sound here."""
        return self.about.sample_rate

    def classes(self) -> list[str]:
        """Names of the classes that can be made."""
        return list(self.about.categories)

    def retry_after_s(self) -> int:
        """Seconds after which a request may come again that was too many: as long as one took lately."""
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
        return await self._made(request)

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
        return await self._made(request)

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
        """A recording whose `regions`, from and to seconds, are made anew; every other sample stays as it is."""
        request = partial(
            self._parser.inpainted,
            upload,
            category,
            regions=regions,
            seed=seed,
            loop=loop,
            audio_format=audio_format,
        )
        return await self._made(request)

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
        """A variation of a recording, a share `strength` of whose frames is drawn anew."""
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
        return await self._made(request)

    async def _made(self, parse_request: Callable[[], SoundRequest]) -> Sound:
        """The sound of a request, which is parsed first."""
        began_s = time.monotonic()
        with self._place():
            request = await asyncio.to_thread(parse_request)  # decodes the recording
            made = await self._from_a_replica(request)
            if isinstance(made, str):
                raise SoundStormError(made)
            audio, samples_N, recipe = made
            seconds = time.monotonic() - began_s
            self._mean_s += 0.2 * (seconds - self._mean_s)
            metrics.increment(STAGE, "sounds_made", 1)
            return Sound(audio=audio, samples_N=samples_N, sample_rate=self.sample_rate, recipe=recipe, seconds=seconds)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places of those that wait."""
        if self._busy >= self.limits.waiting:
            metrics.increment(STAGE, "requests_refused", 1)
            raise BusyError(
                f"{self._busy} requests are being made or wait, and no more may: try again in some seconds",
                self.retry_after_s(),
            )
        self._busy += 1
        metrics.set_gauge(STAGE, "requests_waiting", self._busy)
        try:
            yield
        finally:
            self._busy -= 1
            metrics.set_gauge(STAGE, "requests_waiting", self._busy)

    async def _from_a_replica(self, request: SoundRequest) -> Any:
        """What the first replica that lives to its end answers."""
        deadline_s = time.monotonic() + self.limits.wait_s
        for _ in range(ATTEMPTS):
            response = self._replicas.make.remote(request)
            try:
                return await asyncio.wait_for(response, max(deadline_s - time.monotonic(), 0.1))
            except RayTaskError as error:
                logger.exception("a replica failed at a sound")
                raise RuntimeError("a replica failed at a sound") from error
            except asyncio.CancelledError:
                response.cancel()  # frees the place at the replica
                raise
            except TimeoutError:
                response.cancel()
                break
            except (RayError, RayServeException) as error:
                logger.warning("a replica was lost and its sound is begun again: %s", type(error).__name__)
                metrics.increment(STAGE, "retries", 1)
                await asyncio.sleep(PAUSE_S)
        raise UnavailableError("the sound could not be made now: try again in some seconds", self.retry_after_s())
