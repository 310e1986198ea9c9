"""Storage behaves the same on a disk and on two unlike S3 servers, and says in one sentence what is wrong."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import storage
from cluster.errors import ClusterError

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["a.txt", "folder/b.bin", "folder/deep/ü and space #1?.txt", "fold/c+d=e%20.txt"]


def write_synced(root: str) -> None:
    for number, name in enumerate(NAMES):
        storage.write_bytes(storage.join(root, name), bytes([number]) * (number + 1))


def one_sentence(error: pytest.ExceptionInfo[ClusterError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text
    return text


# ---- names


@pytest.mark.parametrize("part", ["..", "a/../b", "/etc/passwd", "", "a//b", "a/", ".", "a\nb", "a\x00b", "\x9b"])
@pytest.mark.parametrize("root", ["s3://bucket/prefix", "/some/folder"])
def test_a_name_cannot_lead_out_of_its_folder(root: str, part: str) -> None:
    with pytest.raises(ClusterError, match="cannot be a name below"):
        storage.join(root, "fine", part)


def test_join_keeps_a_prefix_whole_and_makes_local_paths_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.join("s3://bucket", "a", "b/c") == "s3://bucket/a/b/c"
    assert storage.join("s3://bucket/p/", "a") == "s3://bucket/p/a"
    assert storage.join("out", "a") == f"{tmp_path}/out/a"
    assert storage.join("~", "a") == str(Path.home() / "a")
    assert storage.join(Path("/x"), "a") == "/x/a"
    assert storage.absolute("file:///tmp/a%20b") == storage.absolute("FILE:///tmp/a%20b") == "/tmp/a b"
    assert storage.absolute("./s3:notes").endswith("/s3:notes")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gs://bucket/a", "'gs:' is not supported"),
        ("https://host/a", "'https:' is not supported"),
        ("s3:/bucket/a", "two slashes"),
        ("s3:bucket/a", "s3:bucket/a: an S3 address starts with 's3://'"),
        ("S3://bucket/a", "in small letters"),
        ("s3:///a", "not an S3 address"),
        ("s3://bucket/a\nb", "control characters"),
        ("", "not a path"),
    ],
)
def test_an_address_that_is_none_is_refused(uri: str, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        storage.read_bytes(uri)


# ---- the same everywhere


def test_what_is_written_is_read_back(storage_root: str) -> None:
    uri = storage.join(storage_root, "folder", "ü and space.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"first")
    storage.write_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"second"
    assert storage.exists(uri) and storage.exists(storage_root) and storage.exists(storage.join(storage_root, "folder"))
    assert not storage.exists(storage.join(storage_root, "fold"))  # a prefix of a name is no folder
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""


def test_a_listing_has_every_file_below_sorted_with_its_size(storage_root: str) -> None:
    assert storage.list_objects(storage_root) == []
    write_synced(storage_root)
    found = storage.list_objects(storage_root)
    assert [(entry.uri, entry.size) for entry in found] == sorted(
        (storage.join(storage_root, name), n + 1) for n, name in enumerate(NAMES)
    )
    assert [entry.uri for entry in storage.list_objects(storage.join(storage_root, "fold"))] == [
        storage.join(storage_root, NAMES[3])
    ]
    assert [entry.uri for entry in storage.list_objects(storage_root, ".bin")] == [storage.join(storage_root, NAMES[1])]


def test_a_folder_is_listed_without_what_lies_deeper(storage_root: str) -> None:
    write_synced(storage_root)
    assert storage.list_folder(storage_root) == ["a.txt"]
    assert storage.list_folder(f"{storage_root}/folder") == ["b.bin"]
    assert storage.list_folder(f"{storage_root}/fol") == []


def test_a_listing_longer_than_a_page_is_complete(storage_root: str) -> None:
    root = storage.join(storage_root, "many")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.write_bytes(storage.join(root, f"{n:04d}"), b""), range(1005)))
    assert [entry.uri[-4:] for entry in storage.list_objects(root)] == [f"{n:04d}" for n in range(1005)]
    storage.delete(root)
    assert not storage.exists(root)


def test_delete_removes_a_folder_and_nothing_beside_it(storage_root: str) -> None:
    write_synced(storage_root)
    storage.delete(storage.join(storage_root, "folder"))
    storage.delete(storage.join(storage_root, "never", "was"))
    assert [entry.uri for entry in storage.list_objects(storage_root)] == sorted(
        storage.join(storage_root, NAMES[n]) for n in (0, 3)
    )


def test_create_leaves_alone_what_is_there(storage_root: str) -> None:
    uri = storage.join(storage_root, "once")
    assert storage.create_bytes(uri, b"mine")
    assert not storage.create_bytes(uri, b"theirs")
    assert storage.read_bytes(uri) == b"mine"


@pytest.mark.parametrize("storage_root", ["disk", "moto"], indirect=True)
def test_of_many_creators_at_once_one_wins(storage_root: str) -> None:
    storage.write_bytes(storage.join(storage_root, "other"), b"")
    assert_one_wins(storage.join(storage_root, "race"))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_on_a_disk_without_hard_links_one_of_many_creators_wins_too(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert_one_wins(str(tmp_path / "race"))
    assert [path.name for path in tmp_path.iterdir()] == ["race"]


def assert_one_wins(uri: str) -> None:
    """Eight threads create `uri` at once."""
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return storage.create_bytes(uri, str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert storage.read_bytes(uri) == str(won.index(True)).encode()


def test_folders_go_there_whole(storage_root: str, tmp_path: Path) -> None:
    write_synced(str(tmp_path))
    assert storage.copy_from_local(tmp_path, storage_root) == sorted(storage.join(storage_root, name) for name in NAMES)
    for name in NAMES:
        assert storage.read_bytes(storage.join(storage_root, name)) == (tmp_path / name).read_bytes()


def test_large_content_goes_up_in_parts_and_arrives_whole(
    storage_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.storage.s3_objects.PART_BYTES", 5 * 2**20)
    content = os.urandom(11 * 2**20)
    (tmp_path / "file").write_bytes(content)
    storage.write_bytes(storage.join(storage_root, "bytes"), memoryview(content))
    storage.write_file(storage.join(storage_root, "file"), tmp_path / "file")
    assert storage.read_bytes(storage.join(storage_root, "bytes")) == content
    assert storage.read_bytes(storage.join(storage_root, "file")) == content


def test_a_link_gives_the_content_to_whoever_has_it(storage_root: str) -> None:
    uri = storage.join(storage_root, "ü and space.txt")
    storage.write_bytes(uri, b"heard")
    assert urllib.request.urlopen(storage.presign(uri, expires_s=60), timeout=10).read() == b"heard"


def test_pyarrow_sees_the_same_files_also_after_pickling(storage_root: str) -> None:
    uri = storage.join(storage_root, "odd ü #?%20.bin")
    storage.write_bytes(uri, b"content")
    filesystem, path = storage.filesystem(uri)
    with pickle.loads(pickle.dumps(filesystem)).open_input_file(path) as file:  # noqa: S301
        assert file.read() == b"content"
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "?").encode() not in pickle.dumps(filesystem)


def test_a_writable_place_passes_and_is_left_clean(storage_root: str) -> None:
    storage.check_writable(storage_root)
    assert storage.list_objects(storage_root) == []


def test_reading_nothing_names_it(storage_root: str) -> None:
    with pytest.raises(ClusterError) as error:
        storage.read_bytes(storage.join(storage_root, "nothing.txt"))
    assert "nothing.txt does not exist" in one_sentence(error)


# ---- S3 alone


@pytest.mark.parametrize("storage_root", ["moto", "rclone"], indirect=True)
def test_a_missing_bucket_is_named(storage_root: str) -> None:
    for action in (
        storage.check_writable,
        storage.list_objects,
        storage.exists,
        lambda uri: storage.read_bytes(uri + "/x"),
    ):
        with pytest.raises(ClusterError) as error:
            action("s3://no-such-bucket/prefix")
        assert "there is no bucket 'no-such-bucket'" in one_sentence(error)


@pytest.mark.parametrize(
    ("variable", "wrong"), [("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2"), ("AWS_ACCESS_KEY_ID", "nobody-knows-me")]
)
@pytest.mark.parametrize("storage_root", ["rclone"], indirect=True)
def test_wrong_credentials_are_told_without_showing_them(
    storage_root: str, variable: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, wrong)
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for action in (storage.check_writable, storage.list_objects, storage.read_bytes, storage.exists):
        with pytest.raises(ClusterError) as error:
            action(storage_root)
        text = one_sentence(error)
        assert "credentials" in text
        assert wrong not in text and secret not in text


@pytest.mark.parametrize("storage_root", ["moto"], indirect=True)
def test_missing_credentials_are_told(storage_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ClusterError, match="no usable S3 credentials"):
        storage.check_writable(storage_root)


@pytest.mark.parametrize("storage_root", ["moto"], indirect=True)
def test_a_server_that_is_not_there_is_told_soon_and_without_the_password_in_its_address(
    storage_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ClusterError) as error:
        storage.check_writable(storage_root)
    text = one_sentence(error)
    assert "cannot be reached" in text and "AWS_ENDPOINT_URL" in text and "hunter2" not in text
    assert time.monotonic() - began < 60
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(ClusterError, match="AWS_ENDPOINT_URL is not an address"):
        storage.exists(storage_root)


@pytest.mark.parametrize("uri", ["s3://no-such-bucket", "/", "~"])
def test_delete_refuses_a_whole_bucket_disk_or_home(uri: str) -> None:
    with pytest.raises(ClusterError, match="is a whole"):
        storage.delete(uri)


# ---- disks alone


def test_a_failed_write_leaves_the_old_content_and_no_scrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(tmp_path / "file", b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ClusterError, match="Input/output error"):
        storage.write_bytes(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_that_cannot_be_written_is_named_and_not_the_file_that_was_tried() -> None:
    with pytest.raises(ClusterError) as error:
        storage.check_writable("/proc/nowhere")
    assert "/proc/nowhere" in one_sentence(error) and "write-check" not in str(error.value)


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        storage.check_writable(disk)
        with pytest.raises(ClusterError) as error:
            storage.write_bytes(disk / "big", bytes(2**20))
        assert "the disk is full" in one_sentence(error) and "big" in str(error.value)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid() != 0:
        with pytest.raises(ClusterError, match="permission denied"):
            storage.check_writable(folder)
        return
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("root may write everywhere, and a read-only disk could not be mounted")
    try:
        with pytest.raises(ClusterError, match="the disk is read-only"):
            storage.check_writable(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ClusterError, match="exists and is a file, not a folder"):
        storage.check_writable(tmp_path / "file")


def test_a_file_being_written_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.0123.tmp").write_bytes(b"half")
    (tmp_path / "x").write_bytes(b"whole")
    assert [entry.uri for entry in storage.list_objects(tmp_path)] == [str(tmp_path / "x")]


def test_new_files_have_the_permissions_of_ordinary_files(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "ours", b"")
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


FORK = """
import os, sys
from cluster.storage import s3_client; from cluster import storage

mine = s3_client.client()
storage.write_bytes(sys.argv[1], b"parent")
if os.fork() == 0:
    os._exit(0 if s3_client.client() is not mine and storage.read_bytes(sys.argv[1]) == b"parent" else 1)
assert os.wait()[1] == 0
assert s3_client.client() is mine
os.environ["AWS_REGION"] = "eu-central-1"
assert s3_client.client() is not mine
"""


def test_a_forked_process_and_changed_variables_get_a_client_of_their_own(s3_bucket: Callable[[], str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, f"{s3_bucket()}/a"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
