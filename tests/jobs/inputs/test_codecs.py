"""Which codec a job takes, in which order, and that weights are checked before they are opened."""

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encodec import EncodecModel

import jobs.inputs.codecs
from cluster import storage
from cluster.errors import ClusterError
from jobs.inputs.codecs import choose_codec, official_cache, official_codec_bytes
from soundstorm.codec.codec import OFFICIAL_FILE
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.hub import OFFLINE
from tests.jobs.conftest import synthetic_clip


@dataclass(frozen=True)
class Official:
    """A file of the same keys and shapes as the official weights."""

    content: bytes
    sha256: str


@pytest.fixture(scope="module")
def official() -> Official:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = EncodecModel.encodec_model_24khz(pretrained=False).state_dict()
    file = io.BytesIO()
    torch.save(weights, file)
    return Official(file.getvalue(), hashlib.sha256(file.getvalue()).hexdigest())


@dataclass
class Website:
    """A server of one file."""

    url: str = ""
    content: bytes = b""
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def website() -> Iterator[Website]:
    site = Website()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(site.content)))
            self.end_headers()
            self.wfile.write(site.content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The tests' output stays clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}/{OFFICIAL_FILE}"
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of torch.hub is an empty folder, whatever the developer has; returns where the official weights would
    be."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert official_cache() == tmp_path / "torch" / "hub" / "checkpoints" / OFFICIAL_FILE
    return official_cache()


def as_official(monkeypatch: pytest.MonkeyPatch, official: Official, url: str = "http://127.0.0.1:9/none") -> None:
    """From now on `official` counts as the official weights, to be had at `url`."""
    fetch = partial(official_codec_bytes, url=url, sha256=official.sha256, size=len(official.content))
    monkeypatch.setattr(jobs.inputs.codecs, "official_codec_bytes", fetch)
    monkeypatch.setattr(jobs.inputs.codecs, "OFFICIAL_SHA256", official.sha256)
    monkeypatch.setattr(jobs.inputs.codecs, "load_codec", partial(load_codec, official_sha256=official.sha256))


def put_into_cache(content: bytes) -> None:
    official_cache().parent.mkdir(parents=True)
    official_cache().write_bytes(content)


# ---- the order


def test_the_codec_that_is_named_comes_first(
    tiny_codec: Path, official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_official(monkeypatch, official)
    put_into_cache(official.content)
    weights, codec = choose_codec(str(tiny_codec))
    assert weights == tiny_codec.read_bytes()
    assert codec.fingerprint == load_codec(tiny_codec).fingerprint


def test_the_codec_that_is_named_may_lie_in_object_storage(tiny_codec: Path, s3_bucket: Any) -> None:
    uri = f"{s3_bucket()}/codecs/tiny.safetensors"
    storage.write_bytes(uri, tiny_codec.read_bytes())
    assert choose_codec(uri)[0] == tiny_codec.read_bytes()


def test_without_a_name_the_official_weights_in_the_cache_are_taken(
    official: Official, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    as_official(monkeypatch, official)
    put_into_cache(official.content)
    weights, codec = choose_codec(None)
    assert weights == official.content
    assert codec.fingerprint == CodecFingerprint(
        name="encodec-24khz",
        sha256=official.sha256,
        sample_rate=24_000,
        frame_rate=75,
        num_levels=8,
        codebook_size=1024,
    )
    assert capsys.readouterr().err == ""


def test_without_official_weights_the_codec_in_the_package_is_taken_with_one_warning(capsys: Any) -> None:
    weights, codec = choose_codec(None)
    assert weights == packaged_codec_bytes()
    assert codec.fingerprint == load_codec().fingerprint
    warning = " ".join(capsys.readouterr().err.split())
    assert warning.count("warning:") == 1
    assert OFFICIAL_FILE in warning and str(official_cache().parent) in warning and "--codec" in warning


def test_a_table_made_with_the_codec_in_the_package_gets_it_without_a_warning(
    official: Official, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    as_official(monkeypatch, official)
    put_into_cache(official.content)
    assert choose_codec(None, load_codec().fingerprint, "a table")[0] == packaged_codec_bytes()
    assert choose_codec(None, choose_codec(None)[1].fingerprint, "a table")[0] == official.content
    assert capsys.readouterr().err == ""


def test_a_codec_that_is_not_at_hand_is_asked_for_by_its_name(tiny_codec: Path) -> None:
    fingerprint = load_codec(tiny_codec).fingerprint
    with pytest.raises(
        SoundStormError, match=rf"runs/x was made with codec 'tiny' \({fingerprint.sha256[:12]}\).*--codec"
    ):
        choose_codec(None, fingerprint, "runs/x")
    assert choose_codec(str(tiny_codec), fingerprint, "runs/x")[1].fingerprint == fingerprint


def test_a_named_codec_that_does_not_fit_is_refused_with_both_fingerprints(tiny_codec: Path) -> None:
    packaged, tiny = load_codec().fingerprint, load_codec(tiny_codec).fingerprint
    with pytest.raises(
        SoundStormError,
        match=rf"runs/x was made with .*{packaged.sha256[:12]}.*but the codec in use is .*{tiny.sha256[:12]}",
    ):
        choose_codec(str(tiny_codec), packaged, "runs/x")


def test_tables_and_checkpoints_of_the_learned_codec_of_earlier_versions_are_refused_with_what_to_do() -> None:
    earlier = replace(load_codec().fingerprint, name="compact-24khz", sha256="ea8ef8f844fc" + 52 * "0").to_metadata()
    with pytest.raises(SoundStormError) as caught:
        CodecFingerprint.from_metadata(earlier, "runs/tokens")
    said = str(caught.value)
    assert said.startswith(
        "runs/tokens: its codec 'compact-24khz' (ea8ef8f844fc) is the learned codec of an earlier version"
    )
    assert "run `soundstorm tokenize` and `soundstorm train` again" in said


# ---- the official weights


def test_the_official_format_is_loaded_and_encodes(official: Official, tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    path.write_bytes(official.content)
    codec = load_codec(path, official_sha256=official.sha256)
    [codes] = codec.encode_clips([synthetic_clip("rain", 0.1)])
    assert codes.shape == (8, 8) and codes.max() < 1024
    [waveform] = codec.decode_clips([codes])
    assert waveform.shape == (8 * 320,) and np.isfinite(waveform).all()


def test_another_file_than_the_official_one_is_never_opened(official: Official, tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    path.write_bytes(official.content)
    with pytest.raises(SoundStormError, match=rf"--codec {path}: .*SHA-256 is {official.sha256}, but the official"):
        choose_codec(str(path))


def test_the_official_weights_are_downloaded_once_and_cached(
    official: Official, website: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OFFLINE)
    website.content = official.content
    as_official(monkeypatch, official, website.url)
    for _ in range(2):
        assert choose_codec(None)[0] == official.content
    assert len(website.requests) == 1
    assert official_cache().read_bytes() == official.content


def test_a_download_of_other_content_is_thrown_away_and_the_package_used(
    official: Official, website: Website, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv(OFFLINE)
    website.content = official.content[:100_000]
    as_official(monkeypatch, official, website.url)
    assert choose_codec(None)[0] == packaged_codec_bytes()
    assert "warning:" in capsys.readouterr().err
    assert website.requests and not official_cache().exists()


def test_nothing_is_downloaded_where_downloads_are_switched_off(
    official: Official, website: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    as_official(monkeypatch, official, website.url)
    assert choose_codec(None)[0] == packaged_codec_bytes()
    assert website.requests == []


def test_a_damaged_file_in_the_cache_is_named_and_not_replaced_by_another_codec(
    official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_official(monkeypatch, official)
    put_into_cache(official.content[:-1])
    with pytest.raises(SoundStormError, match=rf"{official_cache()}: not the official EnCodec weights.*delete"):
        choose_codec(None)


# ---- what is refused


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 no weights either", b"\xff" * 100])
def test_a_file_that_holds_no_weights_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(content)
    with pytest.raises(SoundStormError, match=f"--codec {path}: "):
        choose_codec(str(path))


def test_a_damaged_codec_is_refused(tiny_codec: Path, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(tiny_codec.read_bytes()[:-100])
    with pytest.raises(SoundStormError, match=f"--codec {path}: .*not a codec of this project"):
        choose_codec(str(path))


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"nothing\.safetensors does not exist"):
        choose_codec(str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ClusterError, match="is a folder"):
        choose_codec(str(tmp_path))
