"""Names that come from data stay inside their folder or prefix, or are refused."""

import itertools
import posixpath
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import storage
from cluster.errors import ClusterError

NASTY = [
    "..",
    ".",
    "",
    "/",
    "\\",
    "\x00",
    "\n",
    "\x7f",
    "\x85",
    "\ud800",
    "\uffff",
    "a",
    "ü",
    "%2e%2e",
    "%2F",
    "~",
    "$HOME",
    "?x=1",
    "#",
    "&<>",
    "+",
    " ",
    "‮",
]
names = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(st.sampled_from(NASTY), max_size=8).map("".join),
    st.lists(st.sampled_from(NASTY), max_size=6).map("/".join),
    st.lists(st.sampled_from(NASTY), max_size=6).map("\\".join),
)
numbers = itertools.count()


@given(name=names, root=st.sampled_from(["s3://bucket", "s3://bucket/some/prefix", "/some/folder"]))
@settings(max_examples=1000, deadline=None)
def test_a_name_below_a_place_stays_below_it_or_is_refused(name: str, root: str) -> None:
    try:
        uri = storage.join(root, name)
    except ClusterError as error:
        assert "\n" not in str(error) and "cannot be a name below" in str(error)
        return
    assert uri == f"{root}/{name}"
    assert posixpath.normpath(uri.removeprefix("s3:/")) == uri.removeprefix("s3:/")
    assert uri.encode().isascii() or uri.isprintable() or not any(ord(character) < 32 for character in uri)


@given(key=names)
@settings(max_examples=500, deadline=None)
def test_an_address_means_one_object_or_is_refused(key: str) -> None:
    try:
        uri = storage.absolute(f"s3://bucket/{key}")
    except ClusterError as error:
        assert "\n" not in str(error)
        return
    assert uri == f"s3://bucket/{key.strip('/')}".rstrip("/")
    assert not {"..", "."} & set(uri.split("/"))


@given(name=names)
@settings(max_examples=100, deadline=None)
def test_a_file_is_written_inside_its_folder_or_not_at_all(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    top = tmp_path_factory.getbasetemp() / f"names-{next(numbers)}"
    root = top / "root"
    root.mkdir(parents=True)
    try:
        storage.write_bytes(storage.join(root, name), b"here")
    except ClusterError:
        written = []
    else:
        written = [root / name]
    assert sorted(path for path in top.rglob("*") if not path.is_dir()) == written


@pytest.mark.parametrize("storage_root", ["moto", "rclone"], indirect=True)
def test_an_object_is_written_inside_its_prefix_or_not_at_all(storage_root: str) -> None:
    bucket = storage_root.rsplit("/", 2)[0]

    @given(name=names.filter(lambda name: name.strip(" /") == name))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(name: str) -> None:
        storage.delete(storage_root)
        try:
            uri = storage.join(storage_root, name)
            storage.write_bytes(uri, b"here")
        except ClusterError:
            assert storage.list_objects(bucket) == []
            return
        assert [entry.uri for entry in storage.list_objects(bucket)] == [uri]
        assert storage.read_bytes(uri) == b"here"

    check()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a/../b",
        "s3://bucket/..",
        "s3://bucket/a//b",
        "s3://bucket/./a",
        "s3://bucket/a\x00b",
        f"s3://bucket/{'x' * 1025}",
    ],
)
@pytest.mark.parametrize(
    "action",
    [
        storage.read_bytes,
        storage.exists,
        storage.delete,
        storage.list_objects,
        storage.filesystem,
        storage.check_writable,
    ],
)
def test_an_address_that_could_lead_elsewhere_is_refused_before_anything_is_asked(
    uri: str, action: Callable[[str], object]
) -> None:
    with pytest.raises(ClusterError, match=r"(correct it|without control characters|choose a shorter one)$"):
        action(uri)


def test_a_name_too_long_for_the_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the name is too long"):
        storage.write_bytes(tmp_path / ("x" * 300), b"")
