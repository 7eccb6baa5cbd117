"""Which paths an allowlist lets through, and what it tells of the others."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileTooLarge, HermesNodesError, PathNotAllowed
from hermes_nodes.node.allowlist import Allowlist, error_name
from hermes_nodes.node.files import Reader, Writer
from tests.node.support import NOBODY, names, read, write
from tests.support import attempts, in_background


@pytest.mark.parametrize("spelling", ["file", "~/file", "./file", "{}/file", "{}//./file", "a/../file"])
def test_absolute_and_relative_paths_reach_the_same_file(
    allowlist: Allowlist, inside: Path, spelling: str
) -> None:
    (inside / "a").mkdir()
    assert read(allowlist, spelling.format(inside)) == b"inside"


@pytest.mark.parametrize(
    "path",
    [
        "../outside/file",
        "../outside/missing",
        "../outside/missing/deeper",
        "../outside/file/deeper",
        "../outside/circle",
        "../outside",
        "../missing",
        "..",
        "{}x/file",
        "/etc/passwd",
        "/no/such/place",
        "/",
        "link-to-file",
        "link-to-missing",
        "link-to-folder/file",
        "link-to-folder/missing",
        "link-to-link",
        "../outside/sub/../../inside/file",
        "../outside/nosub/../../inside/file",
        "~root/../../../../../../../../etc/passwd",
    ],
)
def test_what_is_outside_looks_the_same_whether_it_exists_or_not(
    allowlist: Allowlist, inside: Path, outside: Path, path: str
) -> None:
    (inside / "link-to-file").symlink_to(outside / "file")
    (inside / "link-to-missing").symlink_to(outside / "missing")
    (inside / "link-to-folder").symlink_to("../outside")
    (inside / "link-to-link").symlink_to("link-to-file")
    (inside / "~root").mkdir()
    (outside / "circle").symlink_to("circle")
    (outside / "sub").mkdir()
    path = path.format(inside)
    before = names(outside)
    for attempt in (Reader.open, Writer.open):
        with pytest.raises(PathNotAllowed) as caught:
            attempt(allowlist, path)
        assert caught.value.message == f"{path!r} is outside the paths this node allows"
        assert "allowed_paths" in caught.value.hint
        assert "config.toml" in caught.value.hint
        assert error_name(caught.value) == "path_not_allowed"
    assert names(outside) == before


def test_without_roots_nothing_is_allowed(tmp_path: Path) -> None:
    for path in (str(tmp_path), "/", "~", "x"):
        with pytest.raises(PathNotAllowed):
            Reader.open(Allowlist([]), path)


@pytest.mark.parametrize("link", ["{tmp}/inside", "../inside", "./../inside/.", "../outside/in"])
def test_a_symlink_to_an_allowed_place_is_followed_from_anywhere(
    allowlist: Allowlist, tmp_path: Path, inside: Path, outside: Path, link: str
) -> None:
    (outside / "in").symlink_to(inside)
    (outside / "way").symlink_to(link.format(tmp=tmp_path))
    (inside / "way").symlink_to(link.format(tmp=tmp_path))
    assert read(allowlist, outside / "way" / "file") == b"inside"
    assert read(allowlist, inside / "way" / "file") == b"inside"


def test_a_root_may_itself_be_a_symlink_or_a_single_file(tmp_path: Path, inside: Path) -> None:
    (tmp_path / "link").symlink_to("inside")
    assert read(Allowlist([str(tmp_path / "link")]), tmp_path / "link" / "file") == b"inside"
    (inside / "other").touch()
    single = Allowlist([str(inside / "file")])
    write(single, inside / "file", b"new")
    assert read(single, inside / "file") == b"new"
    with pytest.raises(PathNotAllowed):
        Reader.open(single, str(inside / "other"))


def test_the_root_directory_allows_everything(inside: Path) -> None:
    assert read(Allowlist(["/"]), inside / "file") == b"inside"
    with pytest.raises(CallFailed, match="a directory"):
        Reader.open(Allowlist(["/"]), "/")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("x" * 5000, "too long"),
        ("/".join(["x"] * 5000), "too long"),
        ("x" * 300, "name too long"),
        ("\ud800", "characters"),
        ("circle", "symbolic links"),
        ("circle/x", "symbolic links"),
        ("file/x", "not a directory"),
        ("file/", "a directory"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(
    allowlist: Allowlist, inside: Path, path: str, words: str
) -> None:
    (inside / "circle").symlink_to("circle2")
    (inside / "circle2").symlink_to("circle")
    with pytest.raises(CallFailed, match=words) as caught:
        Reader.open(allowlist, path)
    assert error_name(caught.value) == "io_error"


def test_forty_links_are_followed_and_one_more_is_not(allowlist: Allowlist, inside: Path) -> None:
    for number in range(41):
        (inside / f"l{number + 1}").symlink_to(f"l{number}" if number else "file")
    assert read(allowlist, "l40") == b"inside"
    with pytest.raises(CallFailed, match="symbolic links"):
        Reader.open(allowlist, "l41")


def swapping(real: Path, fake: Path) -> AbstractContextManager[None]:
    """Something real and a symlink take each other's place, over and over."""
    aside = real.with_name("aside")

    def swap() -> None:
        os.rename(real, aside)
        os.rename(fake, real)
        os.rename(real, fake)
        os.rename(aside, real)

    return in_background(swap)


def outcome(attempt: Callable[[], bytes | None]) -> bytes:
    try:
        return attempt() or b""
    except HermesNodesError as error:
        return error_name(error).encode()


def test_nothing_leaks_while_a_directory_is_swapped_for_a_symlink(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    (inside / "door").mkdir()
    (inside / "door/file").write_text("inside")
    (inside / "fake").symlink_to(outside)
    seen: set[bytes] = set()
    with swapping(inside / "door", inside / "fake"):
        for _ in attempts(2000, until=lambda: {b"inside", b"path_not_allowed"} <= seen):
            seen.add(outcome(lambda: read(allowlist, "door/file")))
        seen |= {outcome(lambda: write(allowlist, "door/file", b"inside")) for _ in range(500)}
    assert {b"inside", b"path_not_allowed"} <= seen
    assert b"outside" not in seen
    assert (outside / "file").read_text() == "outside"
    assert names(outside) == {"file"}


def test_nothing_leaks_while_a_file_is_swapped_for_a_symlink(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    (inside / "fake").symlink_to(outside / "file")
    seen: set[bytes] = set()
    with swapping(inside / "file", inside / "fake"):
        for _ in attempts(2000, until=lambda: {b"inside", b"path_not_allowed"} <= seen):
            seen.add(outcome(lambda: read(allowlist, "file")))
    assert {b"inside", b"path_not_allowed"} <= seen
    assert b"outside" not in seen


def test_nothing_stays_open_whatever_happens(allowlist: Allowlist, inside: Path, outside: Path) -> None:
    (inside / "out").symlink_to(outside)
    before = os.listdir("/dev/fd")
    for path in ("file", "out/file", "missing", "missing/x", "file/x", "..", "a\0b", "."):
        for attempt in (read, lambda *args: write(*args, b"x", "create")):
            try:
                attempt(allowlist, path)
            except HermesNodesError:
                continue
    assert len(os.listdir("/dev/fd")) == len(before)


def test_a_shut_directory_outside_looks_like_a_missing_one(other_user: Path) -> None:
    (other_user / "shut" / "deep").mkdir(parents=True)
    (other_user / "shut").chmod(0o700)
    (other_user / "open").mkdir()
    os.seteuid(NOBODY)
    for path in ("shut/deep/file", "shut/file", "missing/file"):
        with pytest.raises(PathNotAllowed):
            Reader.open(Allowlist([str(other_user / "open")]), str(other_user / path))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.ENOENT, "file_not_found"),
        (errno.EEXIST, "file_exists"),
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.EFBIG, "file_too_large"),
        (errno.ENOSPC, "io_error"),
        (errno.EDQUOT, "io_error"),
        (errno.EISDIR, "io_error"),
        (errno.EIO, "io_error"),
        (9999, "io_error"),
    ],
)
def test_every_error_of_the_system_has_a_name_on_the_wire(number: int, name: str) -> None:
    assert error_name(OSError(number, os.strerror(number))) == name


def test_every_error_of_ours_has_a_name_on_the_wire() -> None:
    assert error_name(FileTooLarge("x")) == "file_too_large"
    assert error_name(HermesNodesError("x")) == "io_error"
