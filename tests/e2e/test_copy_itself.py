"""`cp -r` of a directory into itself, by whatever way: it is said, and comes to an end."""

import os
from pathlib import Path

import pytest

from tests.harness import Home, NodeProcess


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    """A folder that the node allows, with a tree `x` and links into it."""
    path = home.folder / "itself" / os.urandom(4).hex()
    (path / "x" / "deep").mkdir(parents=True)
    (path / "x" / "file").write_text("content")
    (path / "link").symlink_to("x")
    (path / "link-deep").symlink_to("x/deep")
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("x", "x/new"),
        ("x", "./x/new"),
        ("x", "/x//new"),
        ("x", "x/deep"),
        ("x", "link/new"),
        ("x", "link"),
        ("link", "x/new"),
        ("link/.", "x"),
        ("x", "x/../x/new"),
    ],
)
def test_what_is_known_beforehand_is_refused(home: Home, folder: Path, source: str, target: str) -> None:
    before = tree(folder)
    done = home.run("cp", "-r", f"laptop:{folder}/{source}", f"laptop:{folder}/{target}")
    assert done.returncode == 1
    assert b"can't be copied into itself" in done.stderr
    assert tree(folder) == before


@pytest.mark.parametrize("target", ["laptop:{}/link-deep", "{}/x/deep", "{}/link-deep"])
def test_what_a_copy_writes_to_is_not_copied(home: Home, folder: Path, target: str) -> None:
    """Also where one side is the machine itself, and the other a node on it."""
    done = home.run("cp", "-r", f"laptop:{folder}/x", target.format(folder))
    assert done.returncode == 1
    assert done.stderr.count(b"error:") == 1
    assert b"x/deep' can't be copied into itself" in done.stderr
    assert tree(folder / "x") == {"file", "deep", "deep/x", "deep/x/file"}
