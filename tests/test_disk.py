"""Private files and directories, and what a crash or a full disk leaves of them."""

import errno
import os
from pathlib import Path

import pytest

from hermes_nodes import disk
from tests.support import files_limited_to, mode


def test_made_directories_are_private_and_found_ones_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    disk.make_directory(tmp_path / "a" / "b")
    disk.make_directory(tmp_path / "a" / "b")
    modes = [mode(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o700, 0o700]


def test_an_opened_file_is_private_whatever_the_umask_and_its_old_mode(
    no_umask: None, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "file"
    for _ in range(2):
        os.close(disk.open_private(path))
        assert (mode(path.parent), mode(path)) == (0o700, 0o600)
        path.chmod(0o644)


def test_a_device_opened_by_a_link_keeps_its_mode(tmp_path: Path) -> None:
    before = mode(Path("/dev/null"))
    (tmp_path / "link").symlink_to("/dev/null")
    os.close(disk.open_private(tmp_path / "link"))
    assert mode(Path("/dev/null")) == before


def test_a_file_is_replaced_in_one_step_and_left_private(no_umask: None, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    disk.write_atomically(path, b"old")
    with path.open("rb") as reader:
        disk.write_atomically(path, b"new")
        assert (reader.read(), path.read_bytes()) == (b"old", b"new")
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    assert os.listdir(path.parent) == ["file"]


def test_a_file_that_can_not_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with files_limited_to(10), pytest.raises(OSError, match="File too large"):
        disk.write_atomically(tmp_path / "file", b"x" * 20)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def failing_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_name_that_may_be_lost_is_an_error(tmp_path: Path, failing_fsync: None, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.sync_directory(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_a_directory_that_can_not_be_synced_is_none(tmp_path: Path, failing_fsync: None) -> None:
    disk.sync_directory(tmp_path)
