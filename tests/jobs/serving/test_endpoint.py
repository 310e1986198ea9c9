"""The endpoint, on a real Ray Serve, over real HTTP: what it makes, what it refuses, and who it does not lose."""

import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import soundfile
from ray import serve

from jobs import generate
from jobs.actors.generator import Generator, sample_seed
from jobs.generation.request import request_of
from jobs.serving.access_control import SMALL_BODY
from jobs.serving.application import NAME, TOKEN_VARIABLE
from jobs.serving.serve import Options, served
from soundstorm.audio.files import encode_audio, to_pcm16
from soundstorm.audio.synthesis import CLASSES
from tests.conftest import free_port
from tests.jobs.conftest import noise, synthetic_clip, wav
from tests.support.malformed_requests import Bad, requests
from tests.support.replicas import makers

TOKEN = "a-token-of-the-tests-0123456789"
RATE, UPLOAD_BYTES, WAITING, LONGEST_S = 24_000, 400_000, 60, 40.0
RAIN = CLASSES.index("rain")
Ask = Callable[..., httpx.Response]


@dataclass(frozen=True)
class Endpoint:
    """One that runs."""

    url: str
    client: httpx.Client

    def generate(self, **asked: Any) -> httpx.Response:
        """A short sound of rain, unless something else is asked for."""
        return self.client.post("/v1/generate", json={"category": "rain", "duration_s": 0.5, "seed": 1} | asked)

    def edit(self, path: str, recording: bytes, name: str = "recording.wav", **fields: Any) -> httpx.Response:
        """An edit of a recording."""
        return self.client.post(
            f"/v1/{path}", files={"recording": (name, recording)}, data={"category": "rain"} | fields
        )


@pytest.fixture(scope="module")
def endpoint(checkpoint: str, ray_session: None) -> Iterator[Endpoint]:
    """What `soundstorm serve` runs, with two replicas."""
    options = Options(
        checkpoint=checkpoint,
        port=free_port(),
        min_replicas=2,
        max_replicas=2,
        longest=LONGEST_S,
        upload_mb=UPLOAD_BYTES / 1e6,
        waiting=WAITING,
        page=False,
    )
    limits = httpx.Limits(max_connections=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, TOKEN)
        with (
            served(options) as url,
            httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=240, limits=limits
            ) as client,
        ):
            yield Endpoint(url, client)


def recipe_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(json.loads(response.headers["x-soundstorm-recipe"]))


def samples_of(response: httpx.Response) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(response.content), dtype="int16")
    assert rate == RATE and samples.ndim == 1
    return samples


def sha256_of(response: httpx.Response) -> str:
    return hashlib.sha256(response.content).hexdigest()


def made_again(recipe: dict[str, Any], folder: Path, recording: bytes | None = None) -> str:
    """SHA-256 of the clip that the actor of `generate` makes from a recipe."""
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    place = None if recording is None else str(folder / "recording")
    if place is not None:
        Path(place).write_bytes(recording or b"")
    options = generate.Options(recipe=str(folder / "recipe.json"), recording=place, output_dir=str(folder / "out"))
    request = request_of(options)
    assert request.again is not None
    job = {
        "output_dir": options.output_dir,
        "layout": "files",
        "format": request.options.format,
        "duration_s": request.duration_s,
        "seed": 0,
        "own_seed": request.again.seed,
        "batch_size": request.again.batch_size,
        "settings": "",
    }
    model = ray.put((request.files, request.codec_file, request.reranker))
    Generator([model], request.sampler, request.edit, job, "cpu").generate_shard(
        ("part.parquet", request.items(range(1)))
    )
    [audio] = (folder / "out" / "audio").rglob(f"*.{request.options.format}")
    return hashlib.sha256(audio.read_bytes()).hexdigest()


# ---- what it makes


def test_a_sound_has_the_class_length_and_format_asked_for_and_says_how_it_was_made(endpoint: Endpoint) -> None:
    response = endpoint.generate(
        category="Sea-waves" if "sea_waves" in CLASSES else "Waves", format="wav", duration_s=1.25
    )
    recipe = recipe_of(response)
    assert len(samples_of(response)) == round(1.25 * RATE) and response.content[:4] == b"RIFF"
    assert (recipe["category"], recipe["duration_s"], recipe["recipe"]["audio_format"]) == ("waves", 1.25, "wav")
    assert recipe["sha256"] == sha256_of(response)
    assert recipe["seed"] == sample_seed(1, CLASSES.index("waves"), 0)
    assert (
        response.headers["content-type"] == "audio/wav"
        and "waves-0000000.wav" in response.headers["content-disposition"]
    )
    assert 0 < float(response.headers["x-soundstorm-seconds"]) < 60
    assert len(response.headers["x-soundstorm-recipe"]) < 8000


def test_the_recipe_of_the_endpoint_makes_the_same_bytes_in_the_job(endpoint: Endpoint, tmp_path: Path) -> None:
    response = endpoint.generate(seed=11, duration_s=0.7)
    (tmp_path / "rain.json").write_text(response.headers["x-soundstorm-recipe"])
    generate.run(generate.Options(recipe=str(tmp_path / "rain.json"), output_dir=str(tmp_path / "again")))
    [again] = (tmp_path / "again" / "audio").rglob("*.flac")
    assert again.read_bytes() == response.content


def test_what_the_same_seed_makes_is_what_generate_makes_first(endpoint: Endpoint, checkpoint: str) -> None:
    response = endpoint.generate(seed=5, duration_s=1.0)
    assert recipe_of(response)["seed"] == sample_seed(5, RAIN, 0)
    assert sha256_of(response) == sha256_of(endpoint.generate(seed=5, duration_s=1.0))
    assert sha256_of(response) != sha256_of(endpoint.generate(seed=6, duration_s=1.0))


def test_a_mended_recording_keeps_every_sample_outside_of_its_regions(endpoint: Endpoint, tmp_path: Path) -> None:
    recording = encode_audio(synthetic_clip("rain", 1.5), RATE, "flac")
    response = endpoint.edit("inpaint", recording, region=["0.5-0.8", "1.0-1.2"], seed="3")
    before, after = soundfile.read(io.BytesIO(recording), dtype="int16")[0], samples_of(response)
    changed = before != after
    inside = np.zeros(len(before), bool)
    inside[12_000:19_200] = inside[24_000:28_800] = True
    assert not changed[~inside].any() and changed[inside].mean() > 0.9
    recipe = recipe_of(response)
    assert recipe["recipe"]["regions"] == ["0.5-0.8", "1-1.2"]
    assert recipe["recipe"]["parents"] == [{"uri": "uploaded", "sha256": hashlib.sha256(recording).hexdigest()}]
    assert made_again(recipe, tmp_path / "inpaint", recording) == sha256_of(response)


def test_a_recording_of_another_rate_is_continued_and_varied_and_its_recipe_needs_it(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    recording = wav(noise(0.8, 44_100, channels=2), 44_100)
    going_on = endpoint.edit("continue", recording, prompt_duration_s="0.4", duration_s="1", seed="8", format="wav")
    varied = endpoint.edit("vary", recording, strength="0.5", kept_levels="2", loop="true", seed="8")
    assert len(samples_of(going_on)) == RATE and len(samples_of(varied)) == round(0.8 * RATE)
    assert recipe_of(going_on)["recipe"]["edit"] == "prompt" and recipe_of(varied)["recipe"]["loop"] is True
    for name, response in (("continue", going_on), ("vary", varied)):
        assert made_again(recipe_of(response), tmp_path / name, recording) == sha256_of(response)


def test_the_name_of_an_upload_says_nothing(endpoint: Endpoint) -> None:
    recording = encode_audio(synthetic_clip("rain", 0.6), RATE, "flac")
    names = ("a.wav", "a.mp3", "../../a", "a.exe")
    answers = {sha256_of(endpoint.edit("vary", recording, name, seed="2")) for name in names}
    assert len(answers) == 1


def test_the_endpoint_says_what_it_can_make_and_how_to_ask(endpoint: Endpoint) -> None:
    about = endpoint.client.get("/v1/classes").json()
    assert about["classes"] == list(CLASSES) and about["sample_rate"] == RATE
    assert about["longest_s"] == LONGEST_S and about["upload_bytes"] == UPLOAD_BYTES
    described = endpoint.client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/healthz", "/metrics", "/v1/classes", "/v1/continue", "/v1/generate", "/v1/inpaint", "/v1/vary",
    }  # fmt: skip
    assert {"200", "413", "422", "429", "503"} <= set(described["paths"]["/v1/vary"]["post"]["responses"])


def test_figures_of_serve_and_of_the_endpoint_are_published(endpoint: Endpoint) -> None:
    endpoint.generate()
    deadline = time.monotonic() + 40
    wanted = ("ray_soundstorm_sounds_made_total{", "ray_serve_num_http_requests_total{")
    while not all(name in (text := endpoint.client.get("/metrics").text) for name in wanted):
        assert time.monotonic() < deadline, text[:2000]
        time.sleep(0.5)
    assert "ray_node_cpu" not in text


# ---- many at once


def test_fifty_clients_at_once_each_get_their_own_sound(endpoint: Endpoint, tmp_path: Path) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda seed: endpoint.generate(seed=seed), range(50)))
    recipes = [recipe_of(answer) for answer in answers]
    assert [recipe["seed"] for recipe in recipes] == [sample_seed(seed, RAIN, 0) for seed in range(50)]
    assert [recipe["sha256"] for recipe in recipes] == [sha256_of(answer) for answer in answers]
    assert len({sha256_of(answer) for answer in answers}) == 50
    together = max(range(50), key=lambda number: recipes[number]["batch_size"])
    assert recipes[together]["batch_size"] > 1
    assert made_again(recipes[together], tmp_path / "together") == sha256_of(answers[together])


def test_more_than_may_wait_are_told_when_to_come_again(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(WAITING + 30) as pool:
        answers = list(pool.map(lambda seed: endpoint.generate(seed=seed), range(WAITING + 30)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) <= 30 and {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 and "try again" in answer.json()["error"] for answer in refused)
    assert endpoint.generate().status_code == 200


def test_who_went_away_frees_the_place(endpoint: Endpoint) -> None:
    began_s = time.monotonic()
    assert endpoint.generate(duration_s=LONGEST_S).status_code == 200
    long_s = time.monotonic() - began_s

    def leave(seed: int) -> None:
        asked = {"category": "rain", "duration_s": LONGEST_S, "seed": seed}
        with pytest.raises(httpx.ReadTimeout):
            endpoint.client.post("/v1/generate", json=asked, timeout=httpx.Timeout(60, read=0.5))

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(leave, range(30)))
    began_s = time.monotonic()
    assert endpoint.generate().status_code == 200
    assert time.monotonic() - began_s < 3 * long_s  # all thirty take several times that


# ---- replicas that die


def are_running(count: int) -> bool:
    """Whether the generator has this many replicas and all of them have started."""
    replicas = serve.status().applications[NAME].deployments["Generator"].replica_states
    return replicas == {"RUNNING": count}


def test_a_replica_that_is_killed_loses_no_request(endpoint: Endpoint, tmp_path: Path) -> None:
    killed: list[int] = []
    started: set[int] = set()
    answers: list[httpx.Response] = []
    ended = threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not ended.wait(0.7):
            alive = [pid for pid in makers() if pid not in killed]
            if are_running(len(alive)):
                started.update(alive)
            ready = [pid for pid in alive if pid in started]  # Serve logs a traceback of one that dies as it starts
            if ready:
                os.kill(ready[0], signal.SIGKILL)
                killed.append(ready[0])

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: endpoint.generate(seed=seed, duration_s=3.0), range(100, 132)))
    ended.set()
    killer.join()
    assert killed
    recipes = [recipe_of(answer) for answer in answers]
    assert [recipe["seed"] for recipe in recipes] == [sample_seed(seed, RAIN, 0) for seed in range(100, 132)]
    assert [recipe["sha256"] for recipe in recipes] == [sha256_of(answer) for answer in answers]
    assert made_again(recipes[0], tmp_path / "again") == sha256_of(answers[0])


# ---- who does not get in, and what is refused


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"])
def test_without_the_token_nothing_but_the_health_is_told(endpoint: Endpoint, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    for method, path in (("GET", "/v1/classes"), ("POST", "/v1/generate"), ("GET", "/metrics"), ("GET", "/")):
        response = httpx.request(method, f"{endpoint.url}{path}", headers=headers)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in response.json()["error"]
    assert httpx.get(f"{endpoint.url}/healthz", headers=headers).json() == {"status": "ok"}


def test_a_recording_that_is_too_large_is_refused_whether_or_not_its_size_is_told(endpoint: Endpoint) -> None:
    large = wav(noise(6.0), 44_100)
    assert len(large) > UPLOAD_BYTES + SMALL_BODY
    told = endpoint.edit("vary", large)
    assert told.status_code == 413 and str(UPLOAD_BYTES + SMALL_BODY) in told.json()["error"]
    request = endpoint.client.build_request("POST", "/v1/vary", files={"recording": large}, data={"category": "rain"})
    content = request.read()
    in_parts = endpoint.client.post(
        "/v1/vary",
        content=(content[first : first + 65_536] for first in range(0, len(content), 65_536)),
        headers={"content-type": request.headers["content-type"]},
    )
    assert in_parts.status_code == 413
    a_little = endpoint.edit("vary", wav(noise(4.6), 44_100))
    assert a_little.status_code == 413 and f"at most {UPLOAD_BYTES}" in a_little.json()["error"]
    long_asked = endpoint.client.post("/v1/generate", content=b" " * (SMALL_BODY + 1))
    assert long_asked.status_code == 413


def test_a_recording_that_is_too_long_is_refused_with_what_is_allowed(endpoint: Endpoint) -> None:
    long = encode_audio(np.zeros(round((LONGEST_S + 1) * 4_000)), 4_000, "flac")
    response = endpoint.edit("vary", long)
    assert response.status_code == 422 and f"at most {LONGEST_S:g} s" in response.json()["error"]


@pytest.mark.parametrize("bad", requests(), ids=str)
def test_a_malformed_request_gets_a_sentence(endpoint: Endpoint, bad: Bad) -> None:
    response = endpoint.client.post(f"/v1/{bad.path}", **bad.arguments)
    assert 400 <= response.status_code < 500, response.text[:500]
    sentence = response.json()["error"]
    assert response.headers["content-type"] == "application/json" and len(sentence) > 10
    assert "Traceback" not in sentence and 'File "' not in sentence and len(sentence) < 2_100


def test_after_all_that_there_is_no_traceback_in_the_log_and_sound_is_still_made(endpoint: Endpoint) -> None:
    assert len(requests()) >= 300
    logs = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    texts = {path.name: path.read_text(errors="replace") for path in logs.iterdir() if path.is_file()}
    assert any("Ingress" in name for name in texts)
    assert [name for name, text in texts.items() if "Traceback" in text and "Generator" not in name] == []
    assert np.array_equal(
        samples_of(endpoint.generate(seed=5)),
        to_pcm16(soundfile.read(io.BytesIO(endpoint.generate(seed=5).content))[0]),
    )
