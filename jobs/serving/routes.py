"""HTTP routes of the endpoint."""

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
from jobs.serving.sound_service import SoundService
from soundstorm import __version__
from soundstorm.data.categories import by_group
from soundstorm.editing.editor import KEPT_LEVELS
from soundstorm.editing.regions import parse_region
from soundstorm.errors import SoundStormError

RECIPE_HEADER = "X-SoundStorm-Recipe"
SECONDS_HEADER = "X-SoundStorm-Seconds"
MAX_HEADER = 8000
"""Maximum length of a header: what clients and proxies accept."""
MAX_NAME = 200
SEEDS = 1 << 31
"""Number of possible seeds if none is given."""
logger = logging.getLogger(__name__)

Category = Annotated[str, Form(max_length=MAX_NAME, description="Name of a class from GET /v1/classes")]
Recording = Annotated[UploadFile, File(description="A recording: WAV, FLAC, Ogg or MP3; its file name is ignored")]
Seed = Annotated[int | None, Form(description="The same seed gives the same sound; default: random")]
Loop = Annotated[bool, Form(description="Generate a loop that repeats without a click")]
Format = Literal["flac", "wav"]
FileFormat = Annotated[Format, Form(description="Format of the response, 16-bit mono")]
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing or wrong"},
    413: {"description": "The recording is too large"},
    422: {"description": "A value or a recording is invalid; `error` names it and the remedy"},
    429: {"description": "Too many concurrent requests; `Retry-After` says when to try again"},
    503: {"description": "No replica could generate the sound in time; `Retry-After` says when to try again"},
}
SOUND_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {f"audio/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("flac", "wav")},
        "description": "The sound",
        "headers": {
            RECIPE_HEADER: {"description": "JSON for `soundstorm generate --recipe`", "schema": {"type": "string"}},
            SECONDS_HEADER: {"description": "Seconds from request to response", "schema": {"type": "number"}},
        },
    },
    **ERRORS,
}


SOUND_ROUTE: dict[str, Any] = {"response_class": Response, "responses": SOUND_RESPONSES}


class NewSound(BaseModel):
    """Body of POST /v1/generate."""

    model_config = ConfigDict(extra="forbid")
    category: str = Field(max_length=MAX_NAME, description="Name of a class from GET /v1/classes")
    duration_s: float = Field(DURATION_S, description="Length in seconds")
    seed: int | None = Field(None, description="The same seed gives the same sound; default: random")
    loop: bool = Field(False, description="Generate a loop that repeats without a click")
    format: Format = Field("flac", description="Format of the response, 16-bit mono")


def build_routes(service: SoundService) -> FastAPI:
    """The application without access control."""
    app = FastAPI(
        title="SoundStorm for environmental sound",
        version=__version__,
        description="Generates, continues, in-paints and varies environmental sound.",
        docs_url=None,  # its pages load scripts of other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_error_handlers(app)
    _add_status_routes(app, service)
    _add_generation_routes(app, service)
    _add_editing_routes(app, service)
    return app


def _add_status_routes(app: FastAPI, service: SoundService) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the endpoint answers."""
        return {"status": "ok"}

    @app.get("/v1/classes")
    async def classes() -> dict[str, Any]:
        """Classes and limits."""
        names, limits = service.classes(), service.limits
        return {
            "classes": names,
            "groups": dict(by_group(names)),
            "sample_rate": service.sample_rate,
            "longest_s": limits.longest_s,
            "upload_bytes": limits.upload_bytes,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics of Ray Serve and of the endpoint, for Prometheus."""
        text = await asyncio.to_thread(published_metrics)
        return Response(text, media_type="text/plain; version=0.0.4")


def _add_generation_routes(app: FastAPI, service: SoundService) -> None:
    @app.post("/v1/generate", **SOUND_ROUTE)
    async def generate(body: NewSound) -> Response:
        """New sound of a class."""
        sound = await service.generate(
            body.category,
            duration_s=body.duration_s,
            seed=_seed(body.seed),
            loop=body.loop,
            audio_format=body.format,
        )
        return _sound_response(sound, body.format)

    @app.post("/v1/continue", **SOUND_ROUTE)
    async def continue_(
        recording: Recording,
        category: Category,
        prompt_duration_s: Annotated[float, Form(description="Seconds of the recording to continue")] = 1.0,
        duration_s: Annotated[float, Form(description="Length of the result in seconds")] = DURATION_S,
        seed: Seed = None,
        format: FileFormat = "flac",
    ) -> Response:
        """A sound that begins with the first seconds of a recording."""
        sound = await service.continue_(
            await recording.read(),
            category,
            prompt_duration_s=prompt_duration_s,
            duration_s=duration_s,
            seed=_seed(seed),
            audio_format=format,
        )
        return _sound_response(sound, format)


def _add_editing_routes(app: FastAPI, service: SoundService) -> None:
    @app.post("/v1/inpaint", **SOUND_ROUTE)
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
        """A recording with some regions replaced by new sound; all other samples are unchanged."""
        regions = [parse_region(text[:MAX_NAME]) for text in region or ()]
        sound = await service.inpaint(
            await recording.read(),
            category,
            regions=[(each.start_s, each.end_s) for each in regions],
            seed=_seed(seed),
            loop=loop,
            audio_format=format,
        )
        return _sound_response(sound, format)

    @app.post("/v1/vary", **SOUND_ROUTE)
    async def vary(
        recording: Recording,
        category: Category,
        strength: Annotated[
            float, Form(description="Fraction of the frames that are generated anew, 0 to 1")
        ] = STRENGTH,
        kept_levels: Annotated[int, Form(description="Number of levels that the other frames keep")] = KEPT_LEVELS,
        seed: Seed = None,
        loop: Loop = False,
        format: FileFormat = "flac",
    ) -> Response:
        """A variation of a recording."""
        sound = await service.vary(
            await recording.read(),
            category,
            strength=strength,
            kept_levels=kept_levels,
            seed=_seed(seed),
            loop=loop,
            audio_format=format,
        )
        return _sound_response(sound, format)


def _add_error_handlers(app: FastAPI) -> None:
    def json_error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        return Response(error_body(printable(sentence)), status, headers, "application/json")

    @app.exception_handler(SoundStormError)
    async def on_soundstorm_error(request: Request, error: SoundStormError) -> Response:
        if isinstance(error, BusyError):
            status = 503 if isinstance(error, UnavailableError) else 429
            return json_error(status, str(error), {"Retry-After": str(error.retry_after_s)})
        return json_error(413 if isinstance(error, UploadTooLargeError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        return json_error(422, _sentence(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path[:MAX_NAME]}: {error.detail}"
        return json_error(error.status_code, sentence, dict(error.headers or {}))


def _sentence(errors: Sequence[Any]) -> str:
    """The validation errors of a request as one sentence."""
    found = []
    for error in errors[:3]:
        name = ".".join(str(part) for part in error["loc"][1:])[:MAX_NAME] or "the request"
        found.append(f"{name}: {str(error['msg'])[:MAX_NAME]}")
    return "; ".join(found)


def _seed(given: int | None) -> int:
    return secrets.randbelow(SEEDS) if given is None else given


def _sound_response(sound: Sound, format: Format) -> Response:
    """The response with the audio file, and its recipe in a header."""
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
        logger.warning("a recipe of %d characters is too long for a header and is omitted", len(recipe))
    return Response(sound.audio, 200, headers, f"audio/{format}")
