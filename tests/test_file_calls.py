"""What a program gets of a node's files through the client."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes.client import Client
from hermes_nodes.errors import CallFailed, FileMissing, PathNotAllowed
from hermes_nodes.file_calls import DirectoryEntry, FileFacts
from tests.harness import Home
from tests.support import mode

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("files"))
    with home.gateway() as gateway, home.node(gateway, "laptop", allow=[home.folder]):
        yield home


@pytest.fixture
def client(home: Home) -> Client:
    return home.client


@pytest.fixture
def folder(home: Home) -> Path:
    path = home.folder / os.urandom(4).hex()
    path.mkdir()
    (path / "file").write_bytes(CONTENT)
    (path / "file").chmod(0o640)
    os.utime(path / "file", ns=(0, 1_700_000_000_123_000_000))
    return path


def test_stat_tells_what_is_at_a_path(client: Client, folder: Path) -> None:
    facts = FileFacts("file", len(CONTENT), 0o640, "2023-11-14T22:13:20.123Z")
    assert client.stat("laptop", f"{folder}/file") == facts
    assert client.stat("laptop", str(folder)).kind == "dir"


def test_failures_are_those_of_read_and_write(client: Client, folder: Path) -> None:
    with pytest.raises(FileMissing):
        client.stat("laptop", f"{folder}/none")
    with pytest.raises(PathNotAllowed):
        client.stat("laptop", "/etc")
    with pytest.raises(PathNotAllowed):
        client.make_dir("laptop", "/etc/hermes-test")
    with pytest.raises(FileMissing):
        client.make_dir("laptop", f"{folder}/no/new")
    with pytest.raises(CallFailed, match="is not a directory"):
        client.list_dir("laptop", f"{folder}/file", print)


def test_a_listing_comes_entry_by_entry_with_any_name(client: Client, folder: Path) -> None:
    odd = os.fsdecode(b"\xff\n")
    (folder / odd).symlink_to("file")
    found: list[DirectoryEntry] = []
    client.list_dir("laptop", str(folder), found.append)
    assert {entry.name: entry.facts.kind for entry in found} == {"file": "file", odd: "link"}
    empty = folder / "empty"
    client.make_dir("laptop", str(empty), perm=0o750)
    client.make_dir("laptop", str(empty))
    assert mode(empty) == 0o750
    client.list_dir("laptop", str(empty), found.append)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("offset", "length"), [(0, None), (100, None), (0, 10), (500_000, 99), (511_999, 5), (512_000, None)]
)
def test_a_part_of_a_file_is_read_and_verified(
    client: Client, folder: Path, offset: int, length: int | None
) -> None:
    content = bytearray()
    result = client.read("laptop", f"{folder}/file", content.extend, offset=offset, length=length)
    part = CONTENT[offset:] if length is None else CONTENT[offset : offset + length]
    assert bytes(content) == part
    assert (result.size_bytes, result.sha256) == (len(part), hashlib.sha256(part).hexdigest())


def test_who_has_the_beginning_compares_the_whole(client: Client, folder: Path) -> None:
    content = bytearray()
    before = hashlib.sha256(CONTENT[:1000])
    result = client.read("laptop", f"{folder}/file", content.extend, offset=1000, before=before)
    assert bytes(content) == CONTENT[1000:]
    assert result.sha256 == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(CallFailed, match="altered"):
        client.read("laptop", f"{folder}/file", len, offset=1000, before=hashlib.sha256(b"other"))


def test_a_write_has_the_size_that_was_announced_or_is_none(client: Client, folder: Path) -> None:
    client.write("laptop", f"{folder}/new", b"12345", size_bytes=5, perm=0o600)
    assert ((folder / "new").read_bytes(), mode(folder / "new")) == (b"12345", 0o600)
    with pytest.raises(CallFailed, match="6 bytes were announced, 5 came"):
        client.write("laptop", f"{folder}/new", b"54321", size_bytes=6)
    with pytest.raises(FileMissing, match="go on from"):
        client.write("laptop", f"{folder}/new", b"345", size_bytes=5, offset=2)
    assert (folder / "new").read_bytes() == b"12345"
