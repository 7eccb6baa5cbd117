"""What a node tells of its files and directories, and the directories that it makes."""

import base64
import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from hermes_nodes.errors import CallFailed, FileMissing, FilePermission, HermesNodesError, PathNotAllowed
from hermes_nodes.node.allowlist import Allowlist, error_name
from hermes_nodes.node.directories import Listing, make_dir, stat_path
from tests.node.support import NOBODY, names
from tests.support import attempts, in_background, mode


def listed(allowlist: Allowlist, path: object) -> dict[str, dict[str, Any]]:
    listing = Listing.open(allowlist, str(path))
    try:
        lines = b"".join(iter(lambda: listing.chunk(100), b"")).splitlines()
    finally:
        listing.close()
        listing.close()
    entries = [json.loads(line) for line in lines]
    return {os.fsdecode(base64.b64decode(entry.pop("name_b64"))): entry for entry in entries}


def test_stat_tells_kind_size_permissions_and_time(allowlist: Allowlist, inside: Path) -> None:
    (inside / "file").chmod(0o4751)
    os.utime(inside / "file", ns=(0, 1_700_000_000_123_999_999))
    assert stat_path(allowlist, "file")[:4] == ("file", 6, 0o4751, "2023-11-14T22:13:20.123Z")
    assert stat_path(allowlist, ".").kind == "dir"
    os.mkfifo(inside / "fifo")
    assert stat_path(allowlist, "fifo").kind == "other"


def test_a_directory_is_the_same_however_it_is_come_by(allowlist: Allowlist, inside: Path) -> None:
    made = make_dir(allowlist, "folder")
    (inside / "link").symlink_to("folder")
    assert {stat_path(allowlist, path).identity for path in ("folder", "./folder", "link")} == {made}
    assert listed(allowlist, ".")["folder"]["identity"] == made
    assert stat_path(allowlist, ".").identity != made
    assert stat_path(allowlist, "file").identity is None


@pytest.mark.parametrize("seconds", [-1, -(2**40), 2**34, 2**36])
def test_a_time_of_any_year_is_told(allowlist: Allowlist, inside: Path, seconds: int) -> None:
    os.utime(inside / "file", (0, seconds))
    assert stat_path(allowlist, "file").mtime.endswith("Z")


def test_stat_follows_links_as_far_as_the_allowlist(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    (inside / "link").symlink_to("file")
    (inside / "out").symlink_to(outside / "file")
    (inside / "dangling").symlink_to("nothing")
    assert stat_path(allowlist, "link").kind == "file"
    with pytest.raises(PathNotAllowed):
        stat_path(allowlist, "out")
    with pytest.raises(FileMissing):
        stat_path(allowlist, "dangling")


def test_a_listing_has_every_entry_whatever_its_name(allowlist: Allowlist, inside: Path) -> None:
    odd = [b"\xff\xfe", b"a\nb", b"-rf", b"...", b" ", b"\x01", "é".encode(), b"x" * 255]
    for name in odd:
        (inside / os.fsdecode(name)).write_bytes(name)
    (inside / "folder").mkdir()
    (inside / "link").symlink_to("/etc/passwd")
    entries = listed(allowlist, ".")
    assert set(entries) == {"file", "folder", "link", *map(os.fsdecode, odd)}
    assert {name: entry["kind"] for name, entry in entries.items() if entry["kind"] != "file"} == {
        "folder": "dir",
        "link": "link",
    }
    assert entries["link"]["size_bytes"] == len("/etc/passwd")
    for name in odd:
        assert entries[os.fsdecode(name)]["size_bytes"] == len(name)


def test_a_hundred_thousand_entries_take_no_memory_to_speak_of(allowlist: Allowlist, inside: Path) -> None:
    many = inside / "many"
    many.mkdir()
    for number in range(100_000):
        (many / f"a-name-of-some-length-{number}").touch()
    listing = Listing.open(allowlist, "many")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # a MiB, as getrusage(2) counts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = 0
    while chunk := listing.chunk(64 * 1024):
        assert len(chunk) < 66 * 1024
        lines += chunk.count(b"\n")
    listing.close()
    assert lines == 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * unit


def test_only_directories_are_listed(allowlist: Allowlist, inside: Path) -> None:
    with pytest.raises(CallFailed, match="'file' is not a directory") as caught:
        Listing.open(allowlist, "file")
    assert error_name(caught.value) == "io_error"
    with pytest.raises(FileMissing):
        Listing.open(allowlist, "missing")


def test_a_directory_is_made_with_its_permissions(
    allowlist: Allowlist, inside: Path, no_umask: None
) -> None:
    make_dir(allowlist, "plain")
    make_dir(allowlist, "shut/", 0o500)
    make_dir(allowlist, "sticky", 0o1777)
    assert [mode(inside / name) for name in ("plain", "shut", "sticky")] == [0o777, 0o500, 0o1777]


def test_a_directory_that_is_there_is_fine(allowlist: Allowlist, inside: Path) -> None:
    make_dir(allowlist, "folder", 0o700)
    make_dir(allowlist, "folder")
    make_dir(allowlist, str(inside))
    assert mode(inside / "folder") == 0o700
    make_dir(allowlist, "folder", 0o750)
    assert mode(inside / "folder") == 0o750


def test_what_is_no_directory_or_has_no_parent_is_said(allowlist: Allowlist, inside: Path) -> None:
    with pytest.raises(CallFailed, match="is not a directory"):
        make_dir(allowlist, "file")
    with pytest.raises(FileMissing, match="missing"):
        make_dir(allowlist, "no/such/folder")
    with pytest.raises(CallFailed, match="permission bits"):
        make_dir(allowlist, "new", 0o10000)
    (inside / "dangling").symlink_to("nothing")
    make_dir(allowlist, "dangling")
    assert names(inside) == {"file", "dangling", "nothing"}


@pytest.mark.parametrize("path", ["../outside", "../outside/new", "out", "out/new", "/etc", "..", "/"])
def test_nothing_outside_is_told_listed_or_made(
    allowlist: Allowlist, inside: Path, outside: Path, path: str
) -> None:
    (inside / "out").symlink_to(outside)
    for attempt in (stat_path, Listing.open, make_dir):
        with pytest.raises(PathNotAllowed):
            attempt(allowlist, path)
    assert names(outside) == {"file"}


def test_nothing_leaks_while_a_directory_is_swapped_for_a_symlink(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    (inside / "door").mkdir()
    (inside / "door" / "kept").touch()
    (inside / "fake").symlink_to(outside)
    aside = inside / "aside"

    def swap() -> None:
        os.rename(inside / "door", aside)
        os.rename(inside / "fake", inside / "door")
        os.rename(inside / "door", inside / "fake")
        os.rename(aside, inside / "door")

    seen: set[str] = set()
    with in_background(swap):
        for number in attempts(1500, until=lambda: {"kept", "path_not_allowed"} <= seen):
            try:
                seen.update(listed(allowlist, "door"))
                make_dir(allowlist, f"door/{number}")
                seen.add(stat_path(allowlist, "door/file").kind)
            except HermesNodesError as error:
                seen.add(error_name(error))
    assert {"kept", "path_not_allowed"} <= seen
    assert "file" not in seen
    assert names(outside) == {"file"}


def test_a_socket_is_something_else(
    allowlist: Allowlist, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert listed(allowlist, ".")["socket"]["kind"] == "other"


def test_what_the_node_s_user_may_not_do_is_refused(other_user: Path) -> None:
    allowlist = Allowlist([str(other_user)])
    (other_user / "shut").mkdir(mode=0o700)
    (other_user / "theirs").mkdir(mode=0o755)
    os.seteuid(NOBODY)
    for attempt in (
        lambda: Listing.open(allowlist, str(other_user / "shut")),
        lambda: make_dir(allowlist, str(other_user / "new")),
        lambda: make_dir(allowlist, str(other_user / "theirs"), 0o777),
        lambda: stat_path(allowlist, str(other_user / "shut" / "x")),
    ):
        with pytest.raises(FilePermission) as caught:
            attempt()
        assert error_name(caught.value) == "permission_denied"


def test_nothing_stays_open(allowlist: Allowlist, inside: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for path in (".", "file", "missing", "..", "new"):
        for attempt in (listed, stat_path, make_dir):
            try:
                attempt(allowlist, path)
            except HermesNodesError:
                continue
    assert len(os.listdir("/dev/fd")) == before
