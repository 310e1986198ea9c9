"""What `soundstorm serve` and the file for `serve deploy` may say, and who may be let in without a token."""

import subprocess
import sys
from typing import Any

import pytest

from jobs.serving import serve
from jobs.serving.application import TOKEN_VARIABLE, build, read_token
from jobs.serving.settings import EndpointSettings
from soundstorm.errors import SoundStormError
from tests.jobs.conftest import Command, assert_one_message


def test_the_options_of_the_command_are_the_arguments_of_the_application() -> None:
    options = serve.Options(candidates=1, longest=10, upload_mb=2.5, waiting=3, wait=9)
    settings = EndpointSettings.from_dict(options.of_endpoint(), "arguments")
    limits = settings.limits
    assert (limits.longest_s, limits.upload_bytes, limits.waiting, limits.wait_s) == (10, 2_500_000, 3, 9)
    assert settings.model.candidates == 1 and settings.model.checkpoint is None
    assert "port" not in options.of_endpoint()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"longest": 0}, "--longest is 0: give 0.05 to 3600 seconds"),
        ({"upload_mb": 0}, "--upload-mb is 0: give 0.001 to 10000 megabytes"),
        ({"waiting": 0}, "--waiting is 0: give at least 1"),
        ({"wait": 0}, "--wait is 0: give a number above 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"min_replicas": 3, "max_replicas": 2}, "--max-replicas is 2: give at least 3"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoundStormError) as refused:
        serve.Options(**settings)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "sound.example.org"])
def test_without_a_token_nothing_listens_where_others_reach_it(
    host: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert_one_message(command(serve, "--host", host), f"--host is {host}", TOKEN_VARIABLE)
    with pytest.raises(SoundStormError, match=f"the variable {TOKEN_VARIABLE} is not set"):
        build({})


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in its middle", "ümlautümlautümlaut", "line\nline-line-line"]
)
def test_a_token_that_cannot_be_a_token_is_refused_and_not_repeated(
    token: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    result = command(serve)
    assert_one_message(result, f"the token in {TOKEN_VARIABLE}", "openssl rand -hex 32")
    assert not token or token not in result[2]


def test_a_token_of_letters_and_digits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef")
    assert read_token() == "0123456789abcdef"


def test_an_unknown_argument_of_the_application_is_named() -> None:
    with pytest.raises(SoundStormError, match="unknown setting 'repliccas'"):
        build({"repliccas": 2})


def test_where_the_extra_is_not_installed_the_command_says_what_to_install() -> None:
    hide = "import sys; sys.modules['fastapi'] = None; import importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *rest: None if name == 'fastapi' else find(name, *rest)\n"
    run = "from jobs.console.command import run_command; from jobs.serving import serve\n"
    run += "sys.exit(run_command(serve.Options, serve.run, []))"
    ended = subprocess.run([sys.executable, "-c", hide + run], capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 1 and "pip install 'soundstorm-env[cluster,serve]'" in ended.stderr
    assert "fastapi" in ended.stderr and "Traceback" not in ended.stderr
