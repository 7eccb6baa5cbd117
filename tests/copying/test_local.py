"""Files of this machine that are copied while others do something to them."""

import fcntl
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hermes_nodes.copying.local import BLOCK, LocalSource, LocalTarget
from hermes_nodes.errors import CallFailed, FileMissing, FilePermission, HermesNodesError, NodeDisconnected
from tests.support import mode

PART = ".target.hermes.part"


def open_target(folder: Path) -> LocalTarget:
    return LocalTarget(str(folder / "target"), os.open(folder, os.O_RDONLY), "target")


def break_off(folder: Path, error: BaseException) -> None:
    with open_target(folder).opened(resume=False) as part:
        part.add(memoryview(b"half"))
        raise error


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, BLOCK + 1)


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(3 * BLOCK))


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
def test_a_source_that_changes_while_it_is_read_is_no_source(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(3 * BLOCK))
    os.utime(path, (0, 0))
    with (
        closing(LocalSource.open(str(path), str(path))) as source,
        source.opened() as blocks,
    ):
        next(blocks)
        change(path)
        with pytest.raises(CallFailed, match="changed while it was read"):
            list(blocks)


def test_a_source_that_has_vanished_or_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        LocalSource.open("x", str(tmp_path / "none"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CallFailed, match="not a file"):
        LocalSource.open("x", str(tmp_path / "fifo"))
    (tmp_path / "link").symlink_to("fifo")
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(CallFailed):
        LocalSource.open("x", "link", folder)
    os.close(folder)


def test_what_has_come_stays_for_a_lost_connection_and_for_nothing_else(tmp_path: Path) -> None:
    for error, left in ((NodeDisconnected("x"), [PART]), (CallFailed("x"), []), (KeyboardInterrupt(), [])):
        with pytest.raises(type(error)):
            break_off(tmp_path, error)
        assert os.listdir(tmp_path) == left


def test_a_copy_takes_up_what_was_left_only_if_it_is_to(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"half")
    with open_target(tmp_path).opened(resume=True) as part:
        assert part.size_bytes == 4
        part.add(memoryview(b" and half"))
        part.finish(0o640)
    assert ((tmp_path / "target").read_bytes(), mode(tmp_path / "target")) == (b"half and half", 0o640)
    (tmp_path / PART).write_bytes(b"half")
    with open_target(tmp_path).opened(resume=False) as part:
        assert part.size_bytes == 0
        part.finish(None)
    assert mode(tmp_path / "target") == 0o640
    assert os.listdir(tmp_path) == ["target"]


def hard_link(part: Path, other: Path) -> None:
    part.hardlink_to(other)


def symlink(part: Path, other: Path) -> None:
    part.symlink_to(other)


def folder(part: Path, _: Path) -> None:
    part.mkdir()


@pytest.mark.parametrize("put", [hard_link, symlink, folder])
def test_what_somebody_has_put_in_a_parts_place_is_not_written_to(
    tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    put(tmp_path / PART, tmp_path / "precious")
    with open_target(tmp_path).opened(resume=True) as part:
        part.add(memoryview(b"new"))
        part.finish(None)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_part_that_another_copy_writes_is_left_to_it(tmp_path: Path) -> None:
    with (tmp_path / PART).open("wb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with open_target(tmp_path).opened(resume=False) as part:
            theirs.write(b"theirs")
            theirs.flush()
            part.add(memoryview(b"ours"))
            part.finish(None)
    assert (tmp_path / "target").read_bytes() == b"ours"
    assert (tmp_path / PART).read_bytes() == b"theirs"


def test_what_may_not_be_written_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(CallFailed, match="is a directory"):
        open_target(tmp_path).check()
    (tmp_path / "target").rmdir()
    os.mkfifo(tmp_path / "target")
    with pytest.raises(CallFailed, match="something special"):
        open_target(tmp_path).check()
    (tmp_path / "target").unlink()
    (tmp_path / "target").touch(0o444)
    try:
        open_target(tmp_path).check()
    except HermesNodesError as error:
        assert isinstance(error, FilePermission)  # noqa: PT017 - root may write to it
