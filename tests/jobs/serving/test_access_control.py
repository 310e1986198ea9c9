"""Who gets into the endpoint, with how much, and what never gets out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from jobs.serving.access_control import SMALL_BODY, AccessControl

TOKEN, UPLOAD = "letters-and-digits-0123456789", 1000


def inside() -> FastAPI:
    """An application that says how many bytes came, and fails where it is told to."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def any_address(request: Request, path: str) -> dict[str, int]:
        if path == "fail":
            raise RuntimeError("secret of the inside")
        return {"bytes": len(await request.body())}

    return app


def ask(
    token: str | None, method: str, path: str, url: str = "http://127.0.0.1:8000", **arguments: Any
) -> httpx.Response:
    """The answer of an endpoint with this access control."""

    async def asked() -> httpx.Response:
        guarded: Any = AccessControl(inside(), token, UPLOAD, waiting=2)
        transport = httpx.ASGITransport(app=guarded, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "http://localhost"]
)
def test_without_a_token_this_machine_is_answered_by_its_own_names(url: str) -> None:
    assert ask(None, "POST", "/v1/vary", url, content=b"12").json() == {"bytes": 2}


@pytest.mark.parametrize("url", ["http://evil.example", "http://127.0.0.1.evil.example:8000", "http://10.0.0.5:8000"])
def test_without_a_token_no_other_name_is_answered_as_a_name_of_another_may_lead_here(url: str) -> None:
    response = ask(None, "GET", "/v1/classes", url)
    assert response.status_code == 403 and "127.0.0.1" in response.json()["error"]


def test_without_a_token_a_page_of_another_site_cannot_make_a_browser_ask_for_sound() -> None:
    assert ask(None, "POST", "/v1/vary", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert ask(None, "POST", "/v1/vary", headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", f"bearer {TOKEN[:-1]}", f"Basic {TOKEN}", f"Bearer {TOKEN} x"]
)
def test_with_a_token_nobody_else_gets_in(authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = ask(TOKEN, "GET", "/v1/classes", "http://anywhere.example", headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_every_host_gets_in_and_the_health_is_told_to_all(scheme: str) -> None:
    headers = {"authorization": f"{scheme} {TOKEN}"}
    assert ask(TOKEN, "GET", "/v1/classes", "http://anywhere.example", headers=headers).status_code == 200
    assert ask(TOKEN, "GET", "/healthz", "http://anywhere.example").status_code == 200


def test_the_page_is_opened_with_the_token_once_and_a_cookie_that_no_script_reads_knows_the_browser() -> None:
    opened = ask(TOKEN, "GET", f"/?token={TOKEN}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert ask(TOKEN, "GET", "/", headers={"cookie": cookie.split(";")[0]}).status_code == 200
    assert ask(TOKEN, "GET", "/", headers={"cookie": "soundstorm=other"}).status_code == 401
    assert ask(TOKEN, "GET", "/?token=other").status_code == 401


@pytest.mark.parametrize(("path", "most"), [("/v1/vary", UPLOAD + SMALL_BODY), ("/v1/generate", SMALL_BODY)])
def test_no_more_bytes_get_in_than_are_allowed_whether_or_not_their_number_is_told(path: str, most: int) -> None:
    async def parts(number: int) -> AsyncIterator[bytes]:
        for first in range(0, number, 10_000):
            yield bytes(min(10_000, number - first))

    for content, expected in ((bytes(most), 200), (bytes(most + 1), 413)):
        assert ask(None, "POST", path, content=content).status_code == expected
        assert ask(None, "POST", path, content=parts(len(content))).status_code == expected
    assert str(most) in ask(None, "POST", path, content=bytes(most + 1)).json()["error"]


def test_what_fails_inside_is_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = ask(None, "GET", "/fail")
    assert response.status_code == 500 and set(response.json()) == {"error"}
    assert "secret" not in response.text and "secret of the inside" in caplog.text


def test_no_more_requests_for_sound_get_in_than_may_wait_before_their_recordings_have_come() -> None:
    is_enough = asyncio.Event()

    async def slow_upload() -> AsyncIterator[bytes]:
        yield b"1"
        await is_enough.wait()
        yield b"2"

    async def ask_at_once() -> list[httpx.Response]:
        guarded: Any = AccessControl(inside(), None, UPLOAD, waiting=2, retry_after_s=lambda: 7)
        transport = httpx.ASGITransport(app=guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            slow = [asyncio.create_task(client.post("/v1/vary", content=slow_upload())) for _ in range(2)]
            await asyncio.sleep(0.05)
            others = [await client.post("/v1/vary"), await client.get("/v1/classes"), await client.get("/healthz")]
            is_enough.set()
            return [*[await each for each in slow], *others, await client.post("/v1/vary")]

    answers = asyncio.run(ask_at_once())
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 200, 200]
    assert answers[2].headers["retry-after"] == "7" and "try again" in answers[2].json()["error"]


def test_who_never_ends_sending_does_not_hold_a_place_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.serving.access_control.UPLOAD_S", 0.1)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"1"
            await asyncio.sleep(0.03)

    response = ask(None, "POST", "/v1/vary", content=endless())
    assert response.status_code == 408 and "0.1 s" in response.json()["error"]
