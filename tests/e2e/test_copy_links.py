"""`cp -r` over a tree that holds links: nothing is written through one, here or on a node."""

import os
from pathlib import Path

import pytest

from tests.harness import Home, NodeProcess
from tests.support import mode


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    """A tree to copy, what links lead to, and a target that is full of links."""
    top = home.folder / "links" / os.urandom(4).hex()
    for path in ("tree/st/deep", "tree/plain", "there/tree/plain", "elsewhere/deep"):
        (top / path).mkdir(parents=True)
    (top / "there" / "tree" / "plain").chmod(0o751)
    for name in ("st/in", "st/deep/in", "plain/file", "plain/new"):
        (top / "tree" / name).write_text("new")
    (top / "victim").write_text("untouched")
    (top / "there" / "tree" / "st").symlink_to(top / "elsewhere")
    (top / "there" / "tree" / "plain" / "file").symlink_to(top / "victim")
    (top / "there" / "tree" / "plain" / "new").symlink_to(top / "made")
    return top


@pytest.mark.parametrize("side", ["laptop:", ""])
def test_nothing_is_written_through_a_link_in_the_target_tree(home: Home, folder: Path, side: str) -> None:
    other = "" if side else "laptop:"
    done = home.run("cp", "-r", f"{other}{folder}/tree", f"{side}{folder}/there")
    assert done.returncode == 1
    assert done.stderr.count(b"error:") == 1
    assert b"/there/tree/st' is there and is not a directory" in done.stderr
    plain = folder / "there" / "tree" / "plain"
    for name in ("file", "new"):
        assert not (plain / name).is_symlink()
        assert (plain / name).read_text() == "new"
    assert mode(plain) == 0o751
    assert (folder / "victim").read_text() == "untouched"
    assert not (folder / "made").exists()
    assert [path.name for path in (folder / "elsewhere").rglob("*")] == ["deep"]


def test_what_is_named_on_the_command_line_may_be_a_link(home: Home, folder: Path) -> None:
    (folder / "way").symlink_to("elsewhere")
    (folder / "link").symlink_to("victim")
    home.ok("cp", "-r", f"{folder}/tree/plain", f"laptop:{folder}/way")
    home.ok("cp", f"{folder}/tree/plain/new", f"laptop:{folder}/link")
    assert (folder / "elsewhere" / "plain" / "new").read_text() == "new"
    assert (folder / "link").is_symlink()
    assert (folder / "victim").read_text() == "new"
