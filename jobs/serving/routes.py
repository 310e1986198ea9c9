"""The addresses of the endpoint: what they take, and what they answer."""

import asyncio
import json
import logging
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from jobs.console.command import printable
from jobs.generation.options import DURATION_S, STRENGTH
from jobs.serving.access_control import error_body
from jobs.serving.limits import MAX_REGIONS
from jobs.serving.published_metrics import published_metrics
from jobs.serving.sound import BusyError, Sound, UnavailableError, UploadTooLargeError
from jobs.serving.studio import Studio
from soundstorm import __version__
from soundstorm.data.categories import by_group
from soundstorm.errors import SoundStormError
from soundstorm.generation.editing import KEPT_LEVELS
from soundstorm.generation.regions import parse_region

RECIPE_HEADER = "X-SoundStorm-Recipe"
SECONDS_HEADER = "X-SoundStorm-Seconds"
MAX_HEADER = 8000
"""Characters of a header: what clients and proxies take."""
MAX_NAME = 200
SEEDS = 1 << 31
"""Of a seed that is not given."""
logger = logging.getLogger(__name__)

Category = Annotated[str, Form(max_length=MAX_NAME, description="Class, by name, as GET /v1/classes has them")]
Recording = Annotated[UploadFile, File(description="A recording, in any format that is known; its name is not used")]
Seed = Annotated[int | None, Form(description="The same seed makes the same sound; default: one that is drawn")]
Loop = Annotated[bool, Form(description="End and beginning fit, so that the sound repeats without a click")]
Format = Literal["flac", "wav"]
FileFormat = Annotated[Format, Form(description="Of the file that is answered, 16-bit mono")]
FAILURES: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing or another one"},
    413: {"description": "The recording is too large"},
    422: {"description": "A value or a recording cannot be used; `error` says which, and the remedy"},
    429: {"description": "As many wait already as may wait; `Retry-After` says when to try again"},
    503: {"description": "No replica could make the sound; `Retry-After` says when to try again"},
}
MAKES_SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {f"audio/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("flac", "wav")},
        "description": "The sound",
        "headers": {
            RECIPE_HEADER: {"description": "JSON for `soundstorm generate --recipe`", "schema": {"type": "string"}},
            SECONDS_HEADER: {"description": "How long it took", "schema": {"type": "number"}},
        },
    },
    **FAILURES,
}


ANSWERS_SOUND: dict[str, Any] = {"response_class": Response, "responses": MAKES_SOUND}


class NewSound(BaseModel):
    """What POST /v1/generate takes."""

    model_config = ConfigDict(extra="forbid")
    category: str = Field(max_length=MAX_NAME, description="Class, by name, as GET /v1/classes has them")
    duration_s: float = Field(DURATION_S, description="Length in seconds")
    seed: int | None = Field(None, description="The same seed makes the same sound; default: one that is drawn")
    loop: bool = Field(False, description="End and beginning fit, so that the sound repeats without a click")
    format: Format = Field("flac", description="Of the file that is answered, 16-bit mono")


def build_routes(studio: Studio) -> FastAPI:
    """The application without access control."""
    app = FastAPI(
        title="SoundStorm for environmental sound",
        version=__version__,
        description="Makes, continues, mends and varies environmental sound.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_answers_to_failures(app)
    _add_questions(app, studio)
    _add_new_sounds(app, studio)
    _add_edited_sounds(app, studio)
    return app


def _add_questions(app: FastAPI, studio: Studio) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the endpoint answers."""
        return {"status": "ok"}

    @app.get("/v1/classes")
    async def classes() -> dict[str, Any]:
        """What can be made, and how much may be asked for."""
        names, limits = studio.classes(), studio.limits
        return {
            "classes": names,
            "groups": dict(by_group(names)),
            "sample_rate": studio.sample_rate,
            "longest_s": limits.longest_s,
            "upload_bytes": limits.upload_bytes,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures of Ray Serve and of the endpoint, for Prometheus."""
        text = await asyncio.to_thread(published_metrics)
        return Response(text, media_type="text/plain; version=0.0.4")


def _add_new_sounds(app: FastAPI, studio: Studio) -> None:
    @app.post("/v1/generate", **ANSWERS_SOUND)
    async def generate(asked: NewSound) -> Response:
        """New sound of a class."""
        made = await studio.generate(
            asked.category,
            duration_s=asked.duration_s,
            seed=_seed(asked.seed),
            loop=asked.loop,
            audio_format=asked.format,
        )
        return _sound_response(made, asked.format)

    @app.post("/v1/continue", **ANSWERS_SOUND)
    async def continue_(
        recording: Recording,
        category: Category,
        prompt_duration_s: Annotated[float, Form(description="Seconds of the recording that are kept")] = 1.0,
        duration_s: Annotated[float, Form(description="Length of the result in seconds")] = DURATION_S,
        seed: Seed = None,
        format: FileFormat = "flac",
    ) -> Response:
        """A sound that begins with the first seconds of a recording."""
        made = await studio.continue_(
            await recording.read(),
            category,
            prompt_duration_s=prompt_duration_s,
            duration_s=duration_s,
            seed=_seed(seed),
            audio_format=format,
        )
        return _sound_response(made, format)


def _add_edited_sounds(app: FastAPI, studio: Studio) -> None:
    @app.post("/v1/inpaint", **ANSWERS_SOUND)
    async def inpaint(
        recording: Recording,
        category: Category,
        region: Annotated[
            list[str] | None,
            Form(max_length=MAX_REGIONS, description="START-END in seconds, such as 1.2-2.0; may be given repeatedly"),
        ] = None,
        seed: Seed = None,
        loop: Loop = False,
        format: FileFormat = "flac",
    ) -> Response:
        """A recording with some stretches made anew; every other sample stays as it is."""
        regions = [parse_region(text[:MAX_NAME]) for text in region or ()]
        made = await studio.inpaint(
            await recording.read(),
            category,
            regions=[(each.start_s, each.end_s) for each in regions],
            seed=_seed(seed),
            loop=loop,
            audio_format=format,
        )
        return _sound_response(made, format)

    @app.post("/v1/vary", **ANSWERS_SOUND)
    async def vary(
        recording: Recording,
        category: Category,
        strength: Annotated[float, Form(description="Share of the frames that is drawn anew, 0 to 1")] = STRENGTH,
        kept_levels: Annotated[int, Form(description="First levels of codes that other frames keep")] = KEPT_LEVELS,
        seed: Seed = None,
        loop: Loop = False,
        format: FileFormat = "flac",
    ) -> Response:
        """A variation of a recording."""
        made = await studio.vary(
            await recording.read(),
            category,
            strength=strength,
            kept_levels=kept_levels,
            seed=_seed(seed),
            loop=loop,
            audio_format=format,
        )
        return _sound_response(made, format)


def _add_answers_to_failures(app: FastAPI) -> None:
    def said(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        return Response(error_body(printable(sentence)), status, headers, "application/json")

    @app.exception_handler(SoundStormError)
    async def of_ours(request: Request, error: SoundStormError) -> Response:
        if isinstance(error, BusyError):
            status = 503 if isinstance(error, UnavailableError) else 429
            return said(status, str(error), {"Retry-After": str(error.retry_after_s)})
        return said(413 if isinstance(error, UploadTooLargeError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: RequestValidationError) -> Response:
        return said(422, _sentence(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path[:MAX_NAME]}: {error.detail}"
        return said(error.status_code, sentence, dict(error.headers or {}))


def _sentence(errors: Sequence[Any]) -> str:
    """What is wrong with the values of a request, by the name of each."""
    found = []
    for error in errors[:3]:
        name = ".".join(str(part) for part in error["loc"][1:])[:MAX_NAME] or "the request"
        found.append(f"{name}: {str(error['msg'])[:MAX_NAME]}")
    return "; ".join(found)


def _seed(given: int | None) -> int:
    return secrets.randbelow(SEEDS) if given is None else given


def _sound_response(sound: Sound, format: Format) -> Response:
    """The file, and its recipe beside it in a header."""
    name = quote(f"{sound.recipe['sample_id']}.{format}")
    headers = {
        SECONDS_HEADER: f"{sound.seconds:.3f}",
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Cache-Control": "no-store",
    }
    recipe = json.dumps(sound.recipe, sort_keys=True)  # ASCII, and one line
    if len(recipe) <= MAX_HEADER:
        headers[RECIPE_HEADER] = recipe
    else:
        logger.warning("a recipe of %d characters is too long for a header and is left out", len(recipe))
    return Response(sound.audio, 200, headers, f"audio/{format}")
