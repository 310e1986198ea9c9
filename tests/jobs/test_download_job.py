"""`soundstorm download` against a real server with archives laid out as the published ones."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import storage
from cluster.errors import ClusterError
from jobs.console.command import run_command
from jobs.download import Options, run
from soundstorm.audio.files import encode_audio
from soundstorm.data.datasets import DATASETS, ESC10_TARGETS, ESC50_CATEGORIES, URBANSOUND8K_CATEGORIES, index_dataset
from soundstorm.errors import SoundStormError

CLIP = encode_audio(0.1 * np.random.default_rng(0).standard_normal(50), 44_100, "wav")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """The tests' output stays clean."""


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "website"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def esc50_zip(path: Path, clip: Callable[[int], bytes] = lambda number: CLIP, clips_per_class: int = 40) -> Path:
    """An archive as GitHub makes it: one top folder, clips, table, and files that nobody needs."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50 * clips_per_class):
            fold, target = number % 5 + 1, number // clips_per_class
            filename, category = f"{fold}-{number}-A-{target}.wav", ESC50_CATEGORIES[target]
            rows.append(f"{filename},{fold},{target},{category},{target in ESC10_TARGETS},{number},A")
            archive.writestr(f"ESC-50-master/audio/{fold}-{number}-A-{target}.wav", clip(number))
        archive.writestr("ESC-50-master/meta/esc50.csv", "\n".join(rows) + "\n")
        for name in ("LICENSE", "README.md", "tests/test_dataset.py", "meta/esc50-human.xlsx", ".circleci/config.yml"):
            archive.writestr(f"ESC-50-master/{name}", "text")
    return path


def options(tmp_path: Path, url: str, **settings: Any) -> Options:
    return Options(
        **{"output_dir": str(tmp_path / "data" / "here"), "cache_dir": str(tmp_path / "cache"), "url": url, **settings}
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_esc50_is_fetched_verified_unpacked_and_then_left_alone(website: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = website
    esc50_zip(folder / "master.zip")
    chosen = options(tmp_path, f"{address}/master.zip")
    summary = run(chosen)
    here = tmp_path / "data" / "here"
    assert summary["num_clips"] == 2000
    assert summary["message"].startswith(f"{here}: 2000 clips of ESC-50 (CC BY-NC 3.0; K. J. Piczak")
    assert names(here) == ["LICENSE", "README.md", "audio", "meta"]
    assert names(here / "meta") == ["esc50.csv"]
    assert names(tmp_path / "data") == ["here"]
    assert names(tmp_path / "cache") == []
    (folder / "master.zip").unlink()
    assert run(chosen)["message"].endswith(", nothing to do")


def test_esc10_is_the_tenth_part_of_the_same_archive(website: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = website
    esc50_zip(folder / "master.zip")
    run(options(tmp_path, f"{address}/master.zip", dataset="esc10", keep_archive=True))
    here = tmp_path / "data" / "here"
    assert len(names(here / "audio")) == 400
    assert len((here / "meta" / "esc50.csv").read_text().splitlines()) == 401
    assert names(tmp_path / "cache") == ["ESC-50.zip"]
    index = index_dataset("esc10", *storage.filesystem(here), str(here))
    assert (index.clips.num_rows, index.rejected.num_rows) == (400, 0)


def test_esc10_may_be_downloaded_into_s3(
    website: tuple[Path, str], tmp_path: Path, s3_bucket: Callable[[], str]
) -> None:
    folder, address = website
    esc50_zip(folder / "master.zip")
    uri = f"{s3_bucket()}/data/esc10"
    chosen = options(tmp_path, f"{address}/master.zip", dataset="esc10", output_dir=uri)
    assert run(chosen)["output_dir"] == uri
    assert len(storage.list_objects(uri, ".wav")) == 400
    assert names(tmp_path / "cache") == []
    assert run(chosen)["message"].endswith(", nothing to do")


def urbansound_tar(path: Path) -> Path:
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(f"UrbanSound8K/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for number in range(20):
            fold, label = number % 10 + 1, number % 10
            rows.append(f"{number}-{label}-0-0.wav,{number},0.0,4.0,1,{fold},{label},{URBANSOUND8K_CATEGORIES[label]}")
            add(f"audio/fold{fold}/{number}-{label}-0-0.wav", CLIP)
            add(f"audio/fold{fold}/.DS_Store", b"x")
        add("metadata/UrbanSound8K.csv", "\n".join(rows).encode())
        add("UrbanSound8K_README.txt", b"read me")
    return path


def test_urbansound8k_is_checked_against_its_published_checksum(
    website: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = website
    archive = urbansound_tar(folder / "us8k.tar.gz")
    chosen = options(tmp_path, f"{address}/us8k.tar.gz", dataset="urbansound8k")
    with pytest.raises(ClusterError, match=r"its MD5 is .*, not 9aa69802bbf37fb986f71ec1483a196e"):
        run(chosen)
    assert names(tmp_path / "data") == names(tmp_path / "cache") == []
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(DATASETS, "urbansound8k", replace(DATASETS["urbansound8k"], md5=checksum, num_clips=20))
    assert run(chosen)["num_clips"] == 20
    here = tmp_path / "data" / "here"
    assert names(here) == ["UrbanSound8K_README.txt", "audio", "metadata"]
    assert names(here / "audio" / "fold3") == ["12-2-0-0.wav", "2-2-0-0.wav"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(esc50_zip, clips_per_class=39), "holds 1950 clips, but ESC-50 has 2000"),
        (
            partial(esc50_zip, clip=lambda number: CLIP[:-10] if number == 77 else CLIP),
            r"3-77-A-1.wav is not a complete recording \(truncated",
        ),
        (lambda path: path.write_bytes(b"<html>try later</html>"), "damaged or not an archive"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("ESC-50-master/README.md", "text"), "esc50.csv is missing"),
    ],
)
def test_an_archive_that_is_not_the_whole_data_set_leaves_nothing(
    website: tuple[Path, str], tmp_path: Path, build: Callable[[Path], Any], message: str
) -> None:
    folder, address = website
    build(folder / "master.zip")
    with pytest.raises((SoundStormError, ClusterError), match=message):
        run(options(tmp_path, f"{address}/master.zip"))
    assert names(tmp_path / "data") == names(tmp_path / "cache") == []


def test_an_archive_put_into_the_cache_by_hand_is_used_and_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    esc50_zip(tmp_path / "cache" / "ESC-50.zip")
    assert run(options(tmp_path, "http://127.0.0.1:9/unreachable.zip"))["num_clips"] == 2000
    assert names(tmp_path / "cache") == ["ESC-50.zip"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    here = tmp_path / "data" / "here"
    here.mkdir(parents=True)
    (here / "thesis.txt").write_text("x")
    with pytest.raises(SoundStormError, match="has 0 of the 2000 clips of ESC-50: delete it, or give another folder"):
        run(options(tmp_path, "http://127.0.0.1:9/unreachable.zip"))
    assert names(here) == ["thesis.txt"]


def test_a_published_address_is_the_default() -> None:
    assert DATASETS["esc50"].url == "https://github.com/karolpiczak/ESC-50/archive/master.zip"
    assert DATASETS["urbansound8k"].url == "https://zenodo.org/record/1203745/files/UrbanSound8K.tar.gz"


def test_problems_on_the_command_line_are_a_sentence_and_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Options, run, ["--dataset", "synthetic"]) == 1
    assert "--dataset is 'synthetic': give one of esc50, esc10, urbansound8k" in capsys.readouterr().err
    arguments = [
        "--output-dir",
        str(tmp_path / "new"),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--url",
        "http://127.0.0.1:9/master.zip",
    ]
    assert run_command(Options, run, arguments) == 1
    message = capsys.readouterr().err
    assert "http://127.0.0.1:9/master.zip cannot be downloaded: the host cannot be reached" in message
    assert f"put the file at {tmp_path / 'cache' / 'ESC-50.zip'}" in message
    assert not (tmp_path / "new").exists()
