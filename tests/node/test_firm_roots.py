"""Below the root of a copy no symlink is followed: one on the way is refused, one at the end replaced."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileAlreadyThere, FileMissing, HermesNodesError, PathNotAllowed
from hermes_nodes.node.allowlist import Allowlist, error_name
from hermes_nodes.node.directories import make_dir
from hermes_nodes.node.files import Writer
from hermes_nodes.node.regular import Mode
from tests.node.support import names
from tests.support import attempts, in_background


def write(allowlist: Allowlist, path: str, root: str, mode: Mode = "overwrite") -> None:
    with Writer.open(allowlist, path, mode, root=root) as writer:
        writer.feed(b"new")
        writer.finish()


@pytest.mark.parametrize("target", ["file", "nothing", "../outside/file", "folder"])
def test_a_link_in_a_file_s_place_is_replaced_and_what_it_leads_to_untouched(
    allowlist: Allowlist, inside: Path, outside: Path, target: str
) -> None:
    (inside / "folder").mkdir()
    (inside / "link").symlink_to(target)
    write(allowlist, "link", ".")
    assert not (inside / "link").is_symlink()
    assert (inside / "link").read_bytes() == b"new"
    assert (inside / "file").read_text() == "inside"
    assert (outside / "file").read_text() == "outside"
    assert names(inside) == {"file", "folder", "link"}


@pytest.mark.parametrize("target", ["real", "../outside", "nothing", "file"])
def test_a_link_on_the_way_is_refused(
    allowlist: Allowlist, inside: Path, outside: Path, target: str
) -> None:
    (inside / "real" / "sub").mkdir(parents=True)
    (inside / "door").symlink_to(target)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: write(allowlist, "door/new", "."),
        lambda: write(allowlist, "door/sub/new", "."),
        lambda: make_dir(allowlist, "door/new", root="."),
        lambda: make_dir(allowlist, "door", 0o700, "."),
    )
    for attempt in attempts:
        with pytest.raises(CallFailed, match="door' is there and is not a directory"):
            attempt()
    assert names(inside / "real") == {"sub"}
    assert names(outside) == {"file"}


def test_up_to_the_root_links_are_followed(allowlist: Allowlist, inside: Path) -> None:
    (inside / "real").mkdir()
    (inside / "way").symlink_to("real")
    make_dir(allowlist, "way/sub", 0o700, "way")
    make_dir(allowlist, "way/sub", None, "way")
    write(allowlist, "way/sub/new", "way")
    write(allowlist, f"{inside}/way/sub/other", f"{inside}/way/")
    assert names(inside / "real" / "sub") == {"new", "other"}


@pytest.mark.parametrize(
    ("path", "root"),
    [("a", "a"), ("b/c", "a"), ("ab/c", "a"), ("a/../b", "a"), ("a/b/..", "a"), ("a/.", "a"), ("/a", "a")],
)
def test_what_is_not_below_its_root_is_refused(allowlist: Allowlist, path: str, root: str) -> None:
    with pytest.raises(CallFailed, match="is not a path below"):
        write(allowlist, path, root)


def test_the_allowlist_holds_below_a_root_as_elsewhere(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    (inside / "out").symlink_to(outside)
    for path, root in ((f"{outside}/new", str(outside)), ("out/new", "out"), ("/etc/new", "/")):
        with pytest.raises(PathNotAllowed):
            write(allowlist, path, root)
    with pytest.raises(FileMissing):
        write(allowlist, "no/new", "no")
    write(allowlist, f"{inside}/new", "/")  # a way that begins outside may lead in
    assert names(outside) == {"file"}


def test_only_an_overwrite_replaces_a_link(allowlist: Allowlist, inside: Path) -> None:
    (inside / "link").symlink_to("file")
    with pytest.raises(FileAlreadyThere):
        write(allowlist, "link", ".", "create")
    with pytest.raises(CallFailed, match="is a symbolic link, not a file"):
        write(allowlist, "link", ".", "append")
    assert (inside / "file").read_text() == "inside"


def test_nothing_gets_out_while_a_directory_is_swapped_for_a_symlink(
    allowlist: Allowlist, inside: Path, outside: Path
) -> None:
    other = inside / "other"
    other.mkdir()
    (inside / "door").mkdir()
    (inside / "fake").symlink_to("other")
    aside = inside / "aside"

    def swap() -> None:
        os.rename(inside / "door", aside)
        os.rename(inside / "fake", inside / "door")
        os.rename(inside / "door", inside / "fake")
        os.rename(aside, inside / "door")

    seen: set[str] = set()
    with in_background(swap):
        for number in attempts(1000, until=lambda: {"done", "io_error", "file_not_found"} <= seen):
            try:
                make_dir(allowlist, f"door/d{number}", root=".")
                Writer.open(allowlist, f"door/{number}", root=".").abort()
                seen.add("done")
            except HermesNodesError as error:
                seen.add(error_name(error))
    assert seen == {"done", "io_error", "file_not_found"}
    assert names(other) == set()
