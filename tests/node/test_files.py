"""What is read and written of a machine's files, and what is left when that goes wrong."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileAlreadyThere, FileMissing, FilePermission
from hermes_nodes.node.allowlist import Allowlist, error_name
from hermes_nodes.node.files import Reader, Writer
from tests.node.support import NOBODY, names, read, write


@pytest.fixture
def plain_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({}, b"0123456789"),
        ({"offset": 7}, b"789"),
        ({"length": 3}, b"012"),
        ({"offset": 2, "length": 5}, b"23456"),
        ({"offset": 8, "length": 5}, b"89"),
        ({"offset": 10}, b""),
        ({"offset": 99}, b""),
        ({"length": 0}, b""),
    ],
)
def test_a_part_of_a_file_is_read(
    allowlist: Allowlist, inside: Path, options: dict[str, int], content: bytes
) -> None:
    (inside / "digits").write_bytes(b"0123456789")
    assert read(allowlist, "digits", **options) == content
    with Reader.open(allowlist, "digits", **options) as reader:
        assert reader.size_bytes == 10


@pytest.mark.parametrize("options", [{"offset": -1}, {"length": -1}])
def test_a_part_before_the_beginning_is_refused(allowlist: Allowlist, options: dict[str, int]) -> None:
    with pytest.raises(CallFailed, match="negative"):
        Reader.open(allowlist, "file", **options)


def test_reading_ends_where_the_file_ended_when_it_was_opened(allowlist: Allowlist, inside: Path) -> None:
    with Reader.open(allowlist, "file") as reader, open(inside / "file", "ab") as log:
        log.write(b"more")
        log.flush()
        assert reader.chunk(100) == b"inside"
        assert reader.chunk(100) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_that_claims_to_be_empty_is_read_to_its_end() -> None:
    assert b"Linux" in read(Allowlist(["/proc/version"]), "/proc/version")


def test_a_missing_file_is_named(allowlist: Allowlist) -> None:
    with pytest.raises(FileMissing, match="'missing'") as caught:
        Reader.open(allowlist, "missing")
    assert error_name(caught.value) == "file_not_found"


@pytest.mark.parametrize(
    ("name", "kind"), [("fifo", "a FIFO"), ("folder", "a directory"), ("socket", "a socket")]
)
def test_only_files_are_read_and_written(
    allowlist: Allowlist, inside: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    os.mkfifo(inside / "fifo")
    (inside / "folder").mkdir()
    # A socket's path may have no more than some hundred bytes.
    monkeypatch.chdir(inside)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for attempt in (
            lambda: Reader.open(allowlist, name),
            lambda: Writer.open(allowlist, name),
            lambda: Writer.open(allowlist, name, "append"),
        ):
            with pytest.raises(CallFailed, match=f"'{name}' is {kind}, not a file") as caught:
                attempt()
            assert error_name(caught.value) == "io_error"
    assert names(inside) == {"file", "fifo", "folder", "socket"}


def test_a_device_is_not_a_file() -> None:
    with pytest.raises(CallFailed, match="a device"):
        Reader.open(Allowlist(["/dev"]), "/dev/null")


def test_a_closed_reader_says_so(allowlist: Allowlist) -> None:
    reader = Reader.open(allowlist, "file")
    reader.close()
    reader.close()
    with pytest.raises(CallFailed):
        reader.chunk(1)


# --- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"short", bytes(range(256)) * 40])
@pytest.mark.parametrize("mode", ["overwrite", "create", "append"])
def test_a_new_file_has_the_content_and_what_the_umask_leaves(
    allowlist: Allowlist, inside: Path, plain_umask: None, content: bytes, mode: str
) -> None:
    write(allowlist, "new", content, mode, size_bytes=len(content))
    assert (inside / "new").read_bytes() == content
    assert (inside / "new").stat().st_mode & 0o7777 == 0o640
    assert names(inside) == {"file", "new"}


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_an_existing_file_keeps_its_mode_and_owner(allowlist: Allowlist, inside: Path, mode: str) -> None:
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(inside / "file", owner, -1)
    (inside / "file").chmod(0o604)
    write(allowlist, "file", b"new", mode)
    assert (inside / "file").read_text() == ("insidenew" if mode == "append" else "new")
    assert (inside / "file").stat().st_mode & 0o7777 == 0o604
    assert (inside / "file").stat().st_uid == owner


@pytest.mark.parametrize("name", ["file", "new"])
@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_mode_that_is_asked_for_is_set(
    allowlist: Allowlist, inside: Path, plain_umask: None, name: str, mode: str
) -> None:
    write(allowlist, name, b"x", mode, perm=0o777)
    assert (inside / name).stat().st_mode & 0o7777 == 0o777


def test_a_mode_with_unknown_bits_is_refused(allowlist: Allowlist) -> None:
    with pytest.raises(CallFailed, match="permission bits"):
        Writer.open(allowlist, "new", perm=0o10000)


@pytest.mark.parametrize("perm", [None, 0o666])
def test_nobody_else_can_read_what_has_not_all_come(
    allowlist: Allowlist, inside: Path, plain_umask: None, perm: int | None
) -> None:
    with Writer.open(allowlist, "new", perm=perm) as writer:
        writer.feed(b"half")
        (part,) = names(inside) - {"file"}
        assert part.startswith(".hermes-")
        assert part.endswith(".part")
        assert (inside / part).stat().st_mode & 0o7777 == 0o600


def test_the_target_of_a_symlink_is_replaced_and_not_the_link(allowlist: Allowlist, inside: Path) -> None:
    (inside / "link").symlink_to("file")
    (inside / "dangling").symlink_to("made")
    write(allowlist, "link", b"new")
    write(allowlist, "dangling", b"made", "create")
    assert (inside / "link").is_symlink()
    assert (inside / "file").read_text() == "new"
    assert (inside / "made").read_text() == "made"


def test_create_refuses_what_exists_at_the_start_or_at_the_end(allowlist: Allowlist, inside: Path) -> None:
    with pytest.raises(FileAlreadyThere, match="'file'") as caught:
        Writer.open(allowlist, "file", "create")
    assert error_name(caught.value) == "file_exists"
    with Writer.open(allowlist, "new", "create") as writer:
        (inside / "new").write_text("theirs")
        with pytest.raises(FileAlreadyThere):
            writer.finish()
    assert (inside / "new").read_text() == "theirs"
    assert names(inside) == {"file", "new"}


def test_of_eight_who_create_the_same_file_exactly_one_wins(allowlist: Allowlist, inside: Path) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> str:
        with Writer.open(allowlist, "new", "create") as writer:
            writer.feed(b"%d" % number * 1000)
            start.wait()
            try:
                writer.finish()
            except FileAlreadyThere:
                return ""
            return str(number)

    with ThreadPoolExecutor(8) as pool:
        won = "".join(pool.map(create, range(8)))
    assert len(won) == 1
    assert (inside / "new").read_text() == won * 1000
    assert names(inside) == {"file", "new"}


def test_all_who_append_to_a_missing_file_are_in_it(allowlist: Allowlist, inside: Path) -> None:
    start = threading.Barrier(8)

    def append(number: int) -> None:
        with Writer.open(allowlist, "new", "append") as writer:
            writer.feed(b"%d" % number)
            start.wait()
            writer.finish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))
    assert sorted((inside / "new").read_text()) == list("01234567")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("file", "overwrite"),
        ("file", "append"),
        ("new", "overwrite"),
        ("new", "append"),
        ("new", "create"),
    ],
)
def test_an_aborted_transfer_leaves_nothing(
    allowlist: Allowlist, inside: Path, name: str, mode: str
) -> None:
    writer = Writer.open(allowlist, name, mode)  # type: ignore[arg-type]
    writer.feed(b"half")
    writer.abort()
    writer.abort()
    assert names(inside) == {"file"}
    assert (inside / "file").read_text() == "inside"
    for step in (writer.finish, lambda: writer.feed(b"x")):
        with pytest.raises(CallFailed, match="over"):
            step()


@pytest.mark.parametrize("content", [b"short", b"far too long"])
@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_content_of_another_size_than_announced_changes_nothing(
    allowlist: Allowlist, inside: Path, content: bytes, mode: str
) -> None:
    with pytest.raises(CallFailed, match="8 bytes were announced"):
        write(allowlist, "file", content, mode, size_bytes=8)
    assert names(inside) == {"file"}
    assert (inside / "file").read_text() == "inside"


def test_a_missing_directory_is_named(allowlist: Allowlist, inside: Path) -> None:
    with pytest.raises(FileMissing) as caught:
        Writer.open(allowlist, "no/such/file")
    assert f"the directory '{inside}/no' is missing" in caught.value.message


def test_a_directory_that_vanishes_meanwhile_is_an_error(allowlist: Allowlist, inside: Path) -> None:
    (inside / "folder").mkdir()
    with Writer.open(allowlist, "folder/file", "create") as writer:
        for name in names(inside / "folder"):
            (inside / "folder" / name).unlink()
        (inside / "folder").rmdir()
        with pytest.raises(FileMissing):
            writer.finish()


def test_a_directory_put_in_the_target_s_place_is_an_error(allowlist: Allowlist, inside: Path) -> None:
    for mode in ("overwrite", "append"):
        with Writer.open(allowlist, f"new-{mode}", mode) as writer:
            (inside / f"new-{mode}").mkdir()
            with pytest.raises(CallFailed, match="is a directory"):
                writer.finish()
    assert names(inside) == {"file", "new-overwrite", "new-append"}


FULL_DISK = """
    import resource, signal, sys
    from hermes_nodes.errors import HermesNodesError
    from hermes_nodes.node.allowlist import Allowlist, error_name
    from hermes_nodes.node.files import Writer
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    folder, mode, size = sys.argv[1:]
    try:
        with Writer.open(Allowlist([folder]), folder + "/file", mode) as writer:
            for _ in range(int(size)):
                writer.feed(bytes(100_000))
            writer.finish()
    except HermesNodesError as error:
        print(error_name(error), error)
"""


@pytest.mark.parametrize(
    ("mode", "size", "failing"),
    [
        ("overwrite", 40, "the spooled file"),
        ("append", 40, "the spooled file"),
        ("append", 28, "the target"),
    ],
)
def test_a_disk_that_fills_up_in_the_middle_leaves_the_target_as_it_was(
    inside: Path, mode: str, size: int, failing: str
) -> None:
    (inside / "file").write_bytes(b"x" * 1_000_000)
    # A limit on the size of files stands for a full disk: both fail inside a write.
    script = [sys.executable, "-c", textwrap.dedent(FULL_DISK)]
    done = subprocess.run(
        [*script, str(inside), mode, str(size)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("file_too_large "), failing
    assert (inside / "file").read_bytes() == b"x" * 1_000_000
    assert names(inside) == {"file"}


def test_what_the_node_s_user_may_not_do_is_refused(other_user: Path) -> None:
    allowlist = Allowlist([str(other_user)])
    secret, shared, shut = other_user / "secret", other_user / "shared", other_user / "shut"
    secret.touch(mode=0o600)
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "readable").touch(mode=0o644)
    shut.mkdir(mode=0o700)
    os.seteuid(NOBODY)
    for attempt in (
        lambda: Reader.open(allowlist, str(secret)),
        lambda: Writer.open(allowlist, str(other_user / "new")),
        lambda: Writer.open(allowlist, str(shared / "readable")),
        lambda: Reader.open(allowlist, str(shut / "file")),
        lambda: Reader.open(allowlist, str(shut / "deeper" / "file")),
    ):
        with pytest.raises(FilePermission) as caught:
            attempt()
        assert error_name(caught.value) == "permission_denied"
    write(allowlist, shared / "own", b"x")
    assert names(shared) == {"readable", "own"}
