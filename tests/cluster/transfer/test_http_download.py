"""Downloads from a real HTTP server that can break connections, change its file, ignore ranges and lie."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cluster.errors import ClusterError
from cluster.transfer.http_download import Patience, _require_kept_secure, _Transfer, fetch, progress_bar

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Serves one file, with the faults that a test asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True
        self.chunked = False
        self.break_after: list[int] = []
        """Bytes after which the next connections are cut, one entry each."""
        self.statuses: list[int] = []
        """Statuses that the next requests are answered with, before all else."""
        self.silent_s = 0.0
        self.drip_s = 0.0
        """Seconds before each single byte of a body."""
        self.announced: int | None = None
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/data.bin"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""

    def ranges_asked(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """The tests' output stays clean."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers.items()))
        time.sleep(server.silent_s)
        if server.statuses:
            return self.refuse(server.statuses.pop(0))
        body, start = server.content, 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, server.etag)
        if match and server.ranges and same:
            start = int(match.group(1))
            if start >= len(body):
                return self.refuse(416, {"Content-Range": f"bytes */{len(body)}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(server.announced or len(body)))
        self.end_headers()
        limit = server.break_after.pop(0) if server.break_after else None
        if server.chunked:
            pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        for position in range(len(body) if server.drip_s else 0):
            time.sleep(server.drip_s)
            self.wfile.write(body[position : position + 1])
        self.wfile.write(body[:limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True
        return None

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: FileServer, destination: Path, retries: int = 5, timeout_s: float = 5.0, **settings: Any) -> Path:
    patience = Patience(retries=retries, timeout_s=timeout_s, first_backoff_s=0.01)
    return fetch(server.url, destination, patience=patience, **settings)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "new" / "data.bin"


def test_a_file_arrives_whole_and_verified_with_nothing_beside_it(server: FileServer, destination: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    path = get(
        server,
        destination,
        sha256=SHA256,
        md5=MD5.upper(),
        size=len(CONTENT),
        on_progress=lambda *step: steps.append(step),
    )
    assert path == destination
    assert path.read_bytes() == CONTENT
    assert names(destination.parent) == ["data.bin"]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_file_that_is_there_and_verifies_is_not_asked_for_again(server: FileServer, destination: Path) -> None:
    get(server, destination)
    get(server, destination, sha256=SHA256, size=len(CONTENT))
    assert len(server.requests) == 1


@pytest.mark.parametrize("expected", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 5}])
def test_another_file_at_the_destination_is_named_and_left_alone(
    server: FileServer, destination: Path, expected: dict[str, Any]
) -> None:
    destination.parent.mkdir()
    destination.write_bytes(b"mine")
    with pytest.raises(ClusterError, match=r"data\.bin is not the file of http://127.*; delete it"):
        get(server, destination, **expected)
    assert destination.read_bytes() == b"mine"
    assert server.requests == []


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, destination: Path) -> None:
    server.break_after = [983_040, 524_288]
    get(server, destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, "bytes=983040-", "bytes=1507328-"]
    assert server.requests[1]["If-Range"] == '"one"'


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: FileServer, destination: Path) -> None:
    server.break_after = [655_360]
    with pytest.raises(ClusterError, match="the connection broke after 655,360 bytes"):
        get(server, destination, retries=0)
    assert names(destination.parent) == ["data.bin.part", "data.bin.part.etag"]
    get(server, destination)
    assert destination.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, "bytes=655360-"]
    assert names(destination.parent) == ["data.bin"]


@pytest.mark.parametrize("etag", ['"two"', 'W/"two"', None])
def test_a_file_that_changed_at_its_source_is_begun_anew(
    server: FileServer, destination: Path, etag: str | None
) -> None:
    server.break_after = [655_360]
    with pytest.raises(ClusterError):
        get(server, destination, retries=0)
    server.content, server.etag = CONTENT[::-1], etag
    get(server, destination)
    assert destination.read_bytes() == CONTENT[::-1]


def test_a_weakly_tagged_file_is_resumed_only_while_the_tag_is_the_same(server: FileServer, destination: Path) -> None:
    server.etag = 'W/"weak"'
    server.break_after = [655_360]
    get(server, destination)
    assert destination.read_bytes() == CONTENT
    assert "If-Range" not in server.requests[1]
    assert server.ranges_asked() == [None, "bytes=655360-"]


def test_without_version_and_checksum_a_rest_is_not_trusted(server: FileServer, destination: Path) -> None:
    server.etag = None
    server.break_after = [655_360]
    get(server, destination)
    assert server.ranges_asked() == [None, None]
    assert destination.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_the_file_anew(server: FileServer, destination: Path) -> None:
    server.ranges = False
    server.break_after = [2_000_000, 655_360]
    get(server, destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(server: FileServer, destination: Path) -> None:
    server.ranges = False
    server.break_after = [655_360] * 50
    with pytest.raises(ClusterError, match="cannot be downloaded: the connection"):
        get(server, destination, retries=3)
    assert len(server.requests) == 4
    assert not destination.exists()


def test_a_chunked_answer_of_unknown_length_is_checked_for_its_end(server: FileServer, destination: Path) -> None:
    server.chunked = True
    server.break_after = [1_500_000]
    get(server, destination)
    assert destination.read_bytes() == CONTENT


def test_a_part_file_that_is_complete_or_too_long_is_settled(server: FileServer, destination: Path) -> None:
    destination.parent.mkdir()
    part, tag = destination.with_name("data.bin.part"), destination.with_name("data.bin.part.etag")
    for content in (CONTENT, CONTENT + b"more"):
        part.write_bytes(content)
        tag.write_text('"one"')
        get(server, destination, sha256=SHA256)
        assert destination.read_bytes() == CONTENT
        assert names(destination.parent) == ["data.bin"]
        destination.unlink()
    assert server.ranges_asked() == ["bytes=3000000-", "bytes=3000004-", None]


def test_content_with_a_wrong_checksum_is_tried_once_more_and_never_kept(server: FileServer, destination: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ClusterError, match=r"two downloads failed the check: its SHA256 is .*, not .*--url"):
        get(server, destination, sha256=SHA256)
    assert len(server.requests) == 2
    assert names(destination.parent) == []


def test_a_corrupted_part_is_healed_by_the_second_try(server: FileServer, destination: Path) -> None:
    destination.parent.mkdir()
    destination.with_name("data.bin.part").write_bytes(b"x" * 1_000_000)
    get(server, destination, md5=MD5)
    assert destination.read_bytes() == CONTENT
    assert server.ranges_asked()[-1] is None


def test_a_source_of_the_wrong_size_is_refused_before_it_is_downloaded(server: FileServer, destination: Path) -> None:
    with pytest.raises(ClusterError, match="offers 3,000,000 bytes, but the file must have 93,171,529"):
        get(server, destination, size=93_171_529)
    assert names(destination.parent) == []


def test_a_disk_without_room_is_noticed_before_it_is_full(server: FileServer, destination: Path) -> None:
    server.announced = 10**18
    with pytest.raises(ClusterError, match=r"bytes free, but .* needs 1,000,000,000,000,000,000: make room"):
        get(server, destination)
    assert not destination.exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_refusal_is_waited_out(server: FileServer, destination: Path, status: int) -> None:
    server.statuses = [status] * 3
    get(server, destination)
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_final_refusal_is_told_at_once_with_address_and_remedy(
    server: FileServer, destination: Path, status: int
) -> None:
    server.statuses = [status]
    with pytest.raises(ClusterError) as caught:
        get(server, destination)
    assert f"{server.url} cannot be downloaded: the server answers {status}" in str(caught.value)
    assert f"put the file at {destination}" in str(caught.value)
    assert "--url" in str(caught.value)
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up_after_the_time_limit(server: FileServer, destination: Path) -> None:
    server.silent_s = 0.5
    with pytest.raises(ClusterError, match=r"the server sent nothing for 0.1 s"):
        get(server, destination, timeout_s=0.1, retries=1)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server: FileServer, destination: Path) -> None:
    server.drip_s = 0.05
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"the server sent only \d+ bytes in 1 s"):
        get(server, destination, timeout_s=0.5, retries=1)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("steps", "sha256", "is_refused"),
    [
        (["https://a/x", "http://b/x"], None, True),
        (["https://a/x", "http://b/x", "https://c/x"], None, True),
        (["https://a/x", "http://b/x"], SHA256, False),  # who sent it does not matter then
        (["https://a/x", "https://b/x"], None, False),
        (["http://a/x", "http://b/x"], None, False),
    ],
)
def test_a_secure_address_that_leads_to_an_insecure_one_is_refused_unless_the_content_is_verified(
    steps: list[str], sha256: str | None, is_refused: bool, destination: Path
) -> None:
    *history, response = [requests.Response() for _ in steps]
    for step, url in zip((*history, response), steps, strict=True):
        step.url = url
    response.history = history
    transfer = _Transfer(
        url=steps[0],
        destination=destination,
        size=None,
        trusted=bool(sha256),
        patience=Patience(),
        on_progress=lambda done, total: None,
    )
    with (
        pytest.raises(ClusterError, match=r"^https://a/x leads to http://b/x, which is not secure")
        if is_refused
        else contextlib.nullcontext()
    ):
        _require_kept_secure(transfer, response)


def test_a_host_that_is_not_there_is_told_after_two_tries_without_secrets(destination: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match="the host cannot be reached; is there a network") as caught:
        fetch(
            "http://user:secret@127.0.0.1:9/data.bin?signature=secret",
            destination,
            patience=Patience(first_backoff_s=0.01),
        )
    assert time.monotonic() - start < 30
    assert "http://127.0.0.1:9/data.bin cannot be downloaded" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert names(destination.parent) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "data.bin"])
def test_only_web_addresses_are_downloaded(url: str, destination: Path) -> None:
    with pytest.raises(ClusterError, match="give one that starts with https://"):
        fetch(url, destination)


def test_of_several_that_want_one_file_only_one_downloads_it(server: FileServer, destination: Path) -> None:
    server.silent_s = 0.1
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: get(server, destination, sha256=SHA256), range(6)))
    assert set(paths) == {destination}
    assert len(server.requests) == 1
    assert names(destination.parent) == ["data.bin"]


def test_a_folder_that_cannot_be_made_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ClusterError, match=r"file"):
        get(server, tmp_path / "file" / "data.bin")


def test_the_bar_shows_the_amount_on_standard_error(
    server: FileServer, destination: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("fetching it") as on_progress:
        get(server, destination, on_progress=on_progress)
    output = capfd.readouterr()
    assert output.out == ""
    assert "fetching it" in output.err
    assert "3.0/3.0 MB" in output.err
