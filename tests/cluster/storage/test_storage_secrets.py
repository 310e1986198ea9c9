"""No key, token, password or signature is shown, whatever fails and however much is logged."""

import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.storage import retry as retries
from cluster.storage import s3_client, uris
from tests.conftest import ROOT, S3Server
from tests.support.flaky_proxy import PASSING, FlakyProxy

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7HUNTER2",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-hunter2-secret",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEJr-hunter2-session-token",
}
PASSWORD = "hunter2-password"


def attempts(root: str) -> list[Callable[[], object]]:
    """One of each operation."""
    return [
        lambda: storage.write_bytes(f"{root}/file.parquet", b"x"),
        lambda: storage.read_bytes(f"{root}/file.parquet"),
        lambda: storage.exists(root),
        lambda: storage.list_objects(root),
        lambda: storage.create_bytes(f"{root}/other", b"x"),
        lambda: storage.check_writable(root),
        lambda: storage.delete(root),
        lambda: tables.read_table(f"{root}/file.parquet"),
        lambda: storage.filesystem(root)[0].get_file_info(root.removeprefix("s3://")),
    ]


def everything_said(root: str) -> str:
    """Messages, tracebacks, reprs and pickles of what goes wrong; at least something must."""
    said = []
    for attempt in attempts(root):
        try:
            attempt()
        except ClusterError as error:
            said += [str(error), repr(error), repr(pickle.dumps(error)), "".join(traceback.format_exception(error))]
    assert said
    return "\n".join(
        [*said, repr(s3_client.client()), repr(storage.filesystem(root)), str(vars(s3_client.client().meta))]
    )


def assert_nothing_secret(text: str, *more: str) -> None:
    assert [secret for secret in (*SECRETS.values(), PASSWORD, *more) if secret in text] == []


@pytest.fixture
def secret_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "RETRY_BUDGET_S", 0.5)
    monkeypatch.setattr(retries, "SHORT_RETRY_BUDGET_S", 0.5)


def login_in(endpoint: str) -> str:
    return endpoint.replace("://", f"://user:{PASSWORD}@")


@pytest.mark.parametrize("trouble", ["refused credentials", "no server", "faults", "no bucket"])
def test_failing_operations_show_no_secret_even_at_debug(
    trouble: str,
    s3_bucket: Callable[[], str],
    rclone_s3: S3Server,
    s3: S3Server,
    secret_variables: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = f"{s3_bucket()}/prefix"  # by a client of the test's own, which hides nothing
    caplog.set_level(logging.DEBUG)
    with FlakyProxy(s3.endpoint, rate=0.9, seed=3, faults=PASSING) as proxy:
        endpoint = {
            "refused credentials": rclone_s3.endpoint,
            "no server": "http://127.0.0.1:9",
            "faults": proxy.endpoint,
            "no bucket": s3.endpoint,
        }
        monkeypatch.setenv("AWS_ENDPOINT_URL", login_in(endpoint[trouble]))
        said = everything_said("s3://no-such-bucket/prefix" if trouble == "no bucket" else root)
    printed = capfd.readouterr()
    logged = "\n".join(f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records)
    assert_nothing_secret("\n".join([said, caplog.text, logged, printed.out, printed.err]), "Signature=")


LOGGED_RUN = """
import logging, sys
logging.basicConfig(level=sys.argv[2])
from cluster import storage
from cluster.errors import ClusterError
storage.write_bytes(sys.argv[1], b"x")
assert storage.read_bytes(sys.argv[1]) == b"x"
assert len(storage.list_objects(sys.argv[1].rpartition("/")[0])) == 1
storage.presign(sys.argv[1])
storage.delete(sys.argv[1])
"""


def test_a_run_at_debug_prints_no_secret(s3_bucket: Callable[[], str], s3: S3Server) -> None:
    environment = {**os.environ, **SECRETS, "AWS_ENDPOINT_URL": login_in(s3.endpoint)}
    command = [sys.executable, "-c", LOGGED_RUN, f"{s3_bucket()}/a/b", "DEBUG"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "DEBUG" in done.stderr  # of urllib3, whose lines show which requests were made
    assert_nothing_secret(done.stdout + done.stderr, "Signature=")


def test_a_run_that_warns_only_says_nothing_of_where_keys_and_server_come_from(s3_bucket: Callable[[], str]) -> None:
    command = [sys.executable, "-c", LOGGED_RUN, f"{s3_bucket()}/a/b", "WARNING"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_link_holds_no_password_of_the_endpoint(
    s3_bucket: Callable[[], str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", login_in(s3.endpoint))
    link = storage.presign(f"{s3_bucket()}/file", expires_s=60)
    assert PASSWORD not in link and link.startswith(s3.endpoint)
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["60"]


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIAHUNTER2:{PASSWORD}@bucket/prefix",
        f"https://user:{PASSWORD}@host/file",
        f"gs://user:{PASSWORD}@bucket/file",
        f"https://bucket.example/file?X-Amz-Signature={PASSWORD}",
        f"s3:/user:{PASSWORD}@bucket/file",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(uri: str) -> None:
    for action in (storage.read_bytes, storage.absolute, storage.check_writable, storage.filesystem):
        with pytest.raises(ClusterError) as error:
            action(uri)
        assert_nothing_secret(str(error.value), "AKIAHUNTER2")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:pass@host:9000", "http://host:9000"),
        ("https://host/a/b?X-Amz-Signature=1", "https://host/a/b"),
        ("https://user:pa/ss@host/a", "https://host/a"),
        ("https://user@host/a@b", "https://b"),
        ("https://host/a@b/c", "https://host/a@b/c"),
        ("/a/b?c@d", "/a/b?c@d"),
    ],
)
def test_an_address_is_shown_without_login_and_signature(address: str, shown: str) -> None:
    assert uris.without_login(address) == shown
